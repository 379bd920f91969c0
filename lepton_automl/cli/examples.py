"""Example command lines that `--help` shows."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "data": (
        "lepton data photos/",
        "lepton data photos/ --html report.html",
    ),
    "run": (
        "lepton run digits --budget 3m",
        "lepton run photos/ --max-size-kb 100 --max-drop 1 --budget 20m",
        "lepton run sounds/ --board nucleo-l432kc --budget 1h",
    ),
    "search": ("lepton search photos/ --max-size-kb 100 --budget 20m",),
    "compress": (
        "lepton compress runs/photos --max-size-kb 20",
        "lepton compress net.onnx --data photos/ --max-drop 0.5",
    ),
    "export": ("lepton export runs/photos --format c,litert",),
    "verify": ("lepton verify runs/photos",),
    "pick": (
        "lepton pick runs/photos",
        "lepton pick runs/photos --max-size-kb 20",
    ),
    "status": ("lepton status runs/photos --watch",),
    "predict": (
        "lepton predict runs/photos new/",
        "lepton predict runs/photos 'new/*.jpg' --rows csv",
    ),
    "inspect": ("lepton inspect runs/photos --svg net.svg",),
    "boards": ("lepton boards runs/photos",),
    "bench": (
        "lepton bench runs/photos other.onnx",
        "lepton bench --ops --out table.json",
    ),
}
"""Name of a command -> its examples."""
