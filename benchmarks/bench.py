"""Run one benchmark: `python benchmarks/bench.py NAME [args]`; without arguments list them all."""

from __future__ import annotations

import ast
import importlib
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDERS = ("speed", "quality", "gpu")
STUDY = "scheduler"
"""A folder of scripts with tables of its own: `bench.py scheduler simulate --seeds 30`."""


def names() -> dict[str, Path]:
    """Every benchmark: its name and its script, or its folder."""
    found = {path.stem: path for folder in FOLDERS for path in sorted((HERE / folder).glob("*.py"))}
    return found | {STUDY: study_folder()}


def study_folder() -> Path:
    """Where the scripts of the study are."""
    return HERE / STUDY


def summary(path: Path) -> str:
    """First line of the docstring; of the study: its steps."""
    if path.is_dir():
        steps = ", ".join(sorted(step.stem for step in path.glob("*.py")))
        return f"Samplers and promotion rules on recorded trainings: {steps}."
    return (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]


def main(arguments: list[str]) -> int:
    """Run the named benchmark with the other arguments; the exit status."""
    known = names()
    if not arguments or arguments[0] not in known:
        for name, path in known.items():
            print(f"{name:16}{summary(path)}")
        return 2 if arguments and arguments[0] not in {"-h", "--help"} else 0
    name, *rest = arguments
    if name == STUDY:
        return study(rest)
    module = importlib.import_module(f"benchmarks.{known[name].parent.name}.{name}")
    return module.main(rest) or 0


def study(arguments: list[str]) -> int:
    """Run one script of the study."""
    folder = study_folder()
    steps = sorted(path.stem for path in folder.glob("*.py"))
    if not arguments or arguments[0] not in steps:
        print(f"usage: bench.py {STUDY} STEP [args]; steps: {', '.join(steps)}")
        return 0 if arguments[:1] in ([], ["-h"], ["--help"]) else 2
    sys.path.insert(0, str(folder))
    sys.argv = [str(folder / f"{arguments[0]}.py"), *arguments[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))  # Scripts import `benchmarks.common`.
    sys.exit(main(sys.argv[1:]))
