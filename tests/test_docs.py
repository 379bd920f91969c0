"""README, CONTRIBUTING and docs/ are true: links, paths, packages, command lines, snippets."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from lepton_automl import api, errors
from lepton_automl.artifact.verdict import (
    FileMetrics,
    JudgedLimit,
    PairedDrop,
    Parity,
    TargetLatency,
    ValidationGap,
    Verdict,
)
from lepton_automl.cli.app import app
from lepton_automl.compress.steps import StepRecord
from lepton_automl.core.machine import Machine
from lepton_automl.pipeline.status import HostNow, RungNow, WorkerNow
from lepton_automl.pipeline.sweep_table import SweepRow
from tests.helpers.pages import EXAMPLES_PAGE, PAGES, ROOT, commands, fences, mentioned, prose

PACKAGE = ROOT / "lepton_automl"
CLI = (ROOT / "docs" / "cli.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
TREES = "lepton_automl|tests|benchmarks|examples|search_spaces|docs"


def slug(heading: str) -> str:
    """Anchor of a heading, as GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.strip().replace(" ", "-")


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    return frozenset(map(slug, re.findall(r"^#+ (.+)$", prose(page), re.M)))


def written_by_examples() -> set[str]:
    """Files that CONTRIBUTING's examples make; they are not in the project."""
    headings = re.findall(r"^### .*$", EXAMPLES_PAGE.read_text(), re.M)
    return {path for heading in headings for path in re.findall(r"`(\S+/\S+)`", heading)}


def contract() -> list[list[str]]:
    """Layers of the import contract, from the top."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (layers,) = [
        c["layers"] for c in config["tool"]["importlinter"]["contracts"] if c["type"] == "layers"
    ]
    return [line.split(" | ") for line in layers]


def on_disk() -> set[str]:
    """Packages and modules of the top level."""
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return found | {path.stem for path in PACKAGE.glob("*.py") if path.stem[0] != "_"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_of_the_project_exist(page):
    named = set(re.findall(rf"`((?:{TREES})/[\w./-]+)`", prose(page))) - written_by_examples()
    assert not sorted(path for path in named if not (ROOT / path).exists())


def test_the_architecture_page_shows_the_packages_that_there_are():
    tree = next(body for _, body in fences(ARCHITECTURE) if body.startswith("lepton_automl/"))
    shown = re.findall(r"^  (\w+)(?:/|\.py) ", tree, re.M)
    assert sorted(shown) == sorted(on_disk())


def test_the_import_contract_names_the_packages_that_there_are():
    assert sorted(name for line in contract() for name in line) == sorted(on_disk())


def test_the_architecture_page_shows_the_layers_of_the_import_contract():
    shown = next(body for _, body in fences(ARCHITECTURE) if body.startswith("cli\n"))
    assert [line.split(" | ") for line in shown.splitlines()] == contract()


def public() -> dict[str, set[str]]:
    """Public modules of each package as the architecture page lists them."""
    rows = re.findall(r"^\| ([\w, ]+) \| ([^|]+) \|$", ARCHITECTURE, re.M)
    return {
        package: set(re.split(r"; for `[\w.]+` also |, ", modules))
        for packages, modules in rows
        for package in packages.split(", ")
        if package in on_disk()
    }


def imports_between_packages() -> Iterator[tuple[str, str]]:
    """Importing file, and package and module that it imports, such as `search.finals.winner`."""
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            for alias in node.names:
                parts = [*node.module.split("."), alias.name]
                place = ROOT.joinpath(*parts)
                found = parts if place.with_suffix(".py").exists() or place.is_dir() else parts[:-1]
                if found[0] == PACKAGE.name and found[1:] and found[1] != own:
                    yield str(path.relative_to(ROOT)), ".".join(found[1:])


def test_the_public_modules_of_the_architecture_page_exist():
    modules = {f"{package}.{m}" for package, ms in public().items() for m in ms if m != "all"}
    assert len(modules) > 40
    paths = {module: PACKAGE.joinpath(*module.split(".")) for module in modules}
    missing = [m for m, p in paths.items() if not (p.is_dir() or p.with_suffix(".py").is_file())]
    assert not sorted(missing)


def test_packages_import_public_modules_of_other_packages_only():
    listed, hidden = public(), []
    for path, module in imports_between_packages():
        package, _, rest = module.partition(".")
        shown = listed.get(package, {"all"})
        if "all" not in shown and not any(f"{rest}.".startswith(f"{m}.") for m in shown):
            hidden.append(f"{path}: {module}")
    assert not hidden


@pytest.mark.parametrize(("page", "words"), [*commands()], ids=lambda one: str(one)[:60])
def test_commands_are_accepted_by_the_parser(page, words):
    group = typer.main.get_command(app)
    with group.make_context("lepton", list(words[1:])) as context:
        _, command, rest = group.resolve_command(context, list(words[1:]))
        with command.make_context(words[1], rest, parent=context) as inner:
            assert inner.params


def test_all_commands_and_no_others_are_named():
    named = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert mentioned() == named


def test_the_option_tables_hold_every_option_and_no_other():
    group = typer.main.get_command(app)
    options = {
        option
        for command in group.commands.values()
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
    }
    shown = re.findall(r"^\| `(--[a-z-]+)`", CLI, re.M)
    assert sorted(shown) == sorted(options)


def test_the_command_table_holds_every_option_of_each_command_and_no_other():
    group = typer.main.get_command(app)
    accepted = {
        name: {o for p in command.params for o in p.opts if o.startswith("--")}
        for name, command in group.commands.items()
    }
    limits = set(re.findall(r"`(--[a-z-]+)`", re.search(r"The limits are (.*?)\.\n", CLI, re.S)[1]))
    rows = {row[0]: row[1] for row in re.findall(r"^\| `([a-z]+)` \| (.*?) \| ", CLI, re.M)}
    assert rows.keys() == accepted.keys()
    assert accepted["search"] == accepted["run"] - {
        "--format",
        "--ship",
        "--reject",
    }  # Their options have a table of their own.
    for name in accepted.keys() - {"run", "search"}:
        shown = set(re.findall(r"`(--[a-z-]+)`", rows[name]))
        shown |= limits if "the limits" in rows[name] else set()
        assert (name, shown) == (name, accepted[name])
    table = CLI.partition("## Options of run and search")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(--[a-z-]+)`", table, re.M)) == accepted["run"]


@pytest.mark.parametrize(
    "kind",
    [
        Verdict,
        FileMetrics,
        TargetLatency,
        ValidationGap,
        JudgedLimit,
        PairedDrop,
        Parity,
        Machine,
        StepRecord,
        WorkerNow,
        HostNow,
        RungNow,
        SweepRow,
    ],
)
def test_every_json_key_of_a_record_is_shown(kind):
    keys = {field.name for field in dataclasses.fields(kind)}
    keys = {{"float32": "float", "status": "verdict"}.get(k, k) for k in keys}
    assert not sorted(key for key in keys if f"`{key}`" not in CLI)


def test_every_json_key_of_the_commands_is_shown():
    files = ["cli/report/json_output.py", "cli/report/__init__.py", "artifact/provenance.py"]
    files += ["cli/dashboard.py", "cli/bench.py", "cli/report/inspection_view.py"]
    files += ["cli/report/bench_view.py", "cli/report/predictions.py"]
    keys = {
        key.value
        for file in files
        for node in ast.walk(ast.parse((PACKAGE / file).read_text()))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    assert {"winner", "steps", "predictions", "fix", "picked", "url", "kit"} <= keys
    assert not sorted(key for key in keys if f"`{key}`" not in CLI)


def test_every_exit_code_is_shown():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.LeptonError)}
    shown = {int(code) for code in re.findall(r"^\| (\d+) \|", CLI, re.M)}
    assert shown == codes | {0, 2}


def test_make_targets_exist():
    of_artifacts = PACKAGE / "models/c_export/templates/Makefile"
    text = (ROOT / "Makefile").read_text() + of_artifacts.read_text()
    made = set(re.findall(r"^([\w-]+):", text, re.M))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.M)
    }
    assert {"demo", "check"} <= named
    assert named <= made


EXTRAS = {"ai_edge_litert", "distributed", "fsspec", "soundfile"}
"""Packages that pages may use where they are installed."""


def snippets() -> Iterator[tuple[str, str]]:
    """Page and text of each Python snippet that no other test executes."""
    for page in PAGES:
        if page != EXAMPLES_PAGE:
            for language, body in fences(page.read_text()):
                if language == "python":
                    yield page.name, body


@pytest.mark.parametrize(("page", "text"), [*snippets()], ids=lambda text: text[:30])
def test_python_snippets_use_names_and_options_that_exist(page, text):
    tree = ast.parse(text)
    try:
        names = imported(tree)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        pytest.skip(f"{error.name} is not installed")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = names.get(node.value.id)
            assert owner is None or hasattr(owner, node.attr), f"{page}: {ast.unparse(node)}"
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = resolved(call.func, names)
        if function is not None:
            keywords = {keyword.arg for keyword in call.keywords}
            assert keywords <= accepted(function), f"{page}: {ast.unparse(call)}"


def imported(tree: ast.Module) -> dict[str, object]:
    """Names that a snippet imports, with what they stand for."""
    names: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name] = importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):  # A module that is not imported yet.
                    importlib.import_module(f"{node.module}.{alias.name}")
                names[alias.asname or alias.name] = getattr(module, alias.name)
    return names


def resolved(node: ast.expr, names: dict[str, object]) -> object | None:
    """The function that a snippet calls, if it is one that it imported."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and (owner := resolved(node.value, names)) is not None:
        return getattr(owner, node.attr)
    return None


def accepted(function: object) -> set[str]:
    """Keywords that a function takes, those of `**options: Unpack[...]` included."""
    found = set()
    for name, parameter in inspect.signature(function).parameters.items():
        options = re.fullmatch(r"Unpack\[(\w+)\]", str(parameter.annotation))
        found |= set(getattr(api, options[1]).__annotations__) if options else {name}
    return found
