"""`--help` of commands: examples, and many options in sections, the usual ones first."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from lepton_automl.cli.examples import EXAMPLES
from lepton_automl.cli.options import Section
from lepton_automl.cli.plain_values import PlainValues

_MANY = 12
"""Fewer options are read at a glance, and sections would only make the list longer."""


class GroupedCommand(PlainValues, TyperCommand):
    """A command whose help lists its options by section (`options.option`).

    typer itself does so in tables of rich only, and importing rich takes longer than all else that
    `--help` does.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Words of the usage line; arguments that are required have no braces."""
        return [
            piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)
        ]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, the arguments, then the options of each section."""
        if examples := EXAMPLES.get(self.name or ""):
            with formatter.section("Examples"):
                for line in examples:  # Not wrapped, so that it can be copied.
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        parameters = self.get_params(ctx)
        is_sectioned = sum(p.param_type_name == "option" for p in parameters) >= _MANY
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        sections |= {section: [] for section in Section}
        for parameter in parameters:
            if (row := parameter.get_help_record(ctx)) is None:
                continue
            if parameter.param_type_name == "argument":
                sections["Arguments"].append((parameter.metavar or row[0], row[1]))
            else:
                own = getattr(parameter, "rich_help_panel", None) if is_sectioned else None
                sections[own or Section.USUAL].append(row)
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
