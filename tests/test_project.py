"""The rules of the house that no checker knows; every violation is told in one message."""

from __future__ import annotations

import ast
import functools
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import lepton_automl

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lepton_automl"
TREES = ("lepton_automl", "tests", "examples", "benchmarks")
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40
MAX_MEDIAN_FUNCTION_LINES = 9
MAY_PRINT = {"commands", "report"}
UNMIRRORED = {"contracts", "e2e", "examples", "benchmarks"}
PLUG_INS = {"layers", "sources", "objectives", "callbacks"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*trees: str) -> list[Path]:
    return sorted(p for tree in trees for p in (ROOT / tree).rglob("*.py"))


def parsed(*trees: str) -> Iterator[tuple[str, ast.Module]]:
    for path in python_files(*trees):
        yield str(path.relative_to(ROOT)), tree_of(path)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(tree: ast.AST) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def length(node: Function) -> int:
    """Lines without the docstring: the house asks for long ones."""
    first = node.body[0]
    documented = ast.get_docstring(node) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def body_length(node: Function) -> int:
    """Lines below the signature: a command's options, a line each, are its interface."""
    return length(node) - (node.body[0].lineno - node.lineno)


def files_too_long() -> Iterator[str]:
    for path in python_files(*TREES):
        lines = len(path.read_text().splitlines())
        if lines > MAX_FILE_LINES:
            yield f"{path.relative_to(ROOT)}: {lines} lines, at most {MAX_FILE_LINES}"


def functions_too_long() -> Iterator[str]:
    for name, tree in parsed("lepton_automl"):
        count = body_length if Path(name).parts[1] == "commands" else length
        for node in functions(tree):
            if count(node) > MAX_FUNCTION_LINES:
                yield (
                    f"{name}:{node.lineno}: {node.name} has {count(node)} lines, "
                    f"at most {MAX_FUNCTION_LINES}"
                )


def functions_too_long_in_the_middle() -> Iterator[str]:
    lengths = [length(node) for _, tree in parsed("lepton_automl") for node in functions(tree)]
    if statistics.median(lengths) > MAX_MEDIAN_FUNCTION_LINES:
        yield f"the median function has {statistics.median(lengths)} lines, at most 9"


def files_without_a_test() -> Iterator[str]:
    for path in python_files("lepton_automl"):
        inner = path.relative_to(PACKAGE)
        test = ROOT / "tests" / inner.parent / f"test_{inner.stem}.py"
        if not inner.stem.startswith("__") and not test.exists():
            yield f"lepton_automl/{inner}: {test.relative_to(ROOT)} is missing"


def orphaned_tests() -> Iterator[str]:
    for path in python_files("tests"):
        inner = path.relative_to(ROOT / "tests")
        if inner.parts[0] in UNMIRRORED or not path.name.startswith("test_"):
            continue
        stem = inner.stem.removeprefix("test_")
        wanted = [PACKAGE / inner.parent / f"{stem}.py"]
        if stem == "init":
            wanted.append(PACKAGE / inner.parent / "__init__.py")
        if inner != Path("test_house.py") and not any(file.exists() for file in wanted):
            yield f"tests/{inner}: {wanted[0].relative_to(ROOT)} does not exist"


def modules_without_a_word() -> Iterator[str]:
    for name, tree in parsed("lepton_automl", "benchmarks", "examples"):
        text = ast.get_docstring(tree) or ""
        first = text.split("\n\n")[0]
        if not first or len(first.splitlines()) > 3:
            yield f"{name}: a docstring of one to three lines stands on top"


def printing() -> Iterator[str]:
    for name, tree in parsed("lepton_automl"):
        if Path(name).parts[1] in MAY_PRINT:
            continue
        found = {"print"} if runs_alone(tree) else {"print", "sys.stdout", "sys.stderr"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in found:
                yield f"{name}:{node.lineno}: {ast.unparse(node)}; tell an Event instead"
            imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(module.split(".")[0] in {"rich", "typer"} for module in imported):
                yield f"{name}:{node.lineno}: only commands/ and report/ write to the terminal"


def runs_alone(tree: ast.Module) -> bool:
    """The module is a process of its own: what it writes is an answer to the one that began it."""
    return any(
        (isinstance(node, ast.If) and "__main__" in ast.unparse(node))
        or (
            isinstance(node, ast.FunctionDef)
            and node.name == "main"
            and "sys.stdin" in ast.unparse(node)
        )
        for node in tree.body
    )


def local_imports() -> Iterator[str]:
    for name, tree in parsed("lepton_automl"):
        if Path(name).parts[1] in {*MAY_PRINT, "__init__.py", "api.py"}:
            continue
        for function in functions(tree):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield f"{name}:{node.lineno}: import at the top, downwards"


def unsorted_public_names() -> Iterator[str]:
    for name, tree in parsed("lepton_automl"):
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names = ast.literal_eval(node.value)
                if names != sorted(names, key=_kind_then_name):
                    yield f"{name}:{node.lineno}: __all__ is not sorted"


def _kind_then_name(name: str) -> tuple[int, str]:
    """Constants, classes, functions: the order ruff's RUF022 keeps."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def parked_work() -> Iterator[str]:
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    for path in python_files("lepton_automl", "benchmarks", "examples"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if words.search(line):
                yield f"{path.relative_to(ROOT)}:{number}: do it or file it: {line.strip()}"


def version_without_a_changelog_section() -> Iterator[str]:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    if headings[:1] != ["Unreleased"]:
        yield "CHANGELOG.md: the first section is not [Unreleased]"
    if lepton_automl.__version__ not in headings:
        yield f"CHANGELOG.md: no section for version {lepton_automl.__version__}"


def readme_tree_out_of_step() -> Iterator[str]:
    """README lists each file with the first line of its docstring; plug-ins need no line."""
    block = re.search(r"```\nlepton_automl/\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    said = dict(re.findall(r"^  ((?:\w+/)?\w+(?:\.py|/))\s+(.+)$", block[1] if block else "", re.M))
    for path in python_files("lepton_automl"):
        inner = path.relative_to(PACKAGE)
        if inner.parts[0] in PLUG_INS and inner.stem != "__init__":
            continue
        name = f"{inner.parent}/" if inner.stem == "__init__" else str(inner)
        listed = said.pop(name, None)
        if inner.stem.startswith("__") and inner.parent == Path():
            continue
        wanted = (ast.get_docstring(tree_of(path)) or "").split("\n")[0]
        if (listed is not None or len(inner.parts) == 1 or name.endswith("/")) and listed != wanted:
            yield f"README.md: the line should be  {name:20} {wanted}"
    for name in said:
        yield f"README.md: lists {name}, which does not exist"


RULES: tuple[Callable[[], Iterator[str]], ...] = (
    files_too_long,
    functions_too_long,
    functions_too_long_in_the_middle,
    files_without_a_test,
    orphaned_tests,
    modules_without_a_word,
    printing,
    local_imports,
    unsorted_public_names,
    parked_work,
    version_without_a_changelog_section,
    readme_tree_out_of_step,
)


def test_the_house_is_in_order():
    found = {rule.__name__.replace("_", " "): list(rule()) for rule in RULES}
    text = "".join(
        f"\n{rule}\n" + "".join(f"  {line}\n" for line in lines)
        for rule, lines in found.items()
        if lines
    )
    assert not text, text


def test_help_does_not_wait_for_torch():
    program = (
        "import sys\n"
        "from lepton_automl.cli.app import main\n"
        "sys.argv = ['lepton', '--help']\n"
        "try:\n    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'onnx', 'onnxruntime', 'optuna', 'sklearn', 'numpy', 'scipy'}\n"
        "    print('heavy:', *sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "verify" in done.stdout
    assert done.stderr.strip() == "heavy:"


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "lepton_automl", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == f"lepton {lepton_automl.__version__}\n"
