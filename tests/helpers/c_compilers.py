"""Options of gcc and clang under which generated C gives no warning."""

from __future__ import annotations

WARNINGS = tuple(
    f"-W{name}"
    for name in (
        "conversion",
        "sign-conversion",
        "shadow",
        "cast-align",
        "cast-qual",
        "strict-prototypes",
        "undef",
        "double-promotion",
        "vla",
    )
)
STRICT = ("-std=c99", "-pedantic", "-Werror", "-Wall", "-Wextra", *WARNINGS)
