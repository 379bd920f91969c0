"""Rules of the project that no linter checks; every violation is listed in one message."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import lepton_automl

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lepton_automl"
MAY_PRINT = {"cli"}
MANY_MODULES = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*trees: str) -> list[Path]:
    return sorted(p for tree in trees for p in (ROOT / tree).rglob("*.py"))


def parsed(*trees: str) -> Iterator[tuple[str, ast.Module]]:
    for path in python_files(*trees):
        yield str(path.relative_to(ROOT)), tree_of(path)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def nodes(tree: ast.Module) -> list[ast.AST]:
    return list(ast.walk(tree))


def functions(tree: ast.Module) -> list[Function]:
    return [node for node in nodes(tree) if isinstance(node, Function)]


def dotted(node: ast.AST) -> str:
    """`a.b.c` of names, `.c` of an attribute of anything else; `ast.unparse` takes long."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def modules_without_a_docstring() -> Iterator[str]:
    for name, tree in parsed("lepton_automl", "benchmarks", "examples"):
        text = ast.get_docstring(tree) or ""
        first = text.split("\n\n")[0]
        if not first or len(first.splitlines()) > 3:
            yield f"{name}: a docstring of one to three lines stands on top"


def packages_without_a_map() -> Iterator[str]:
    """The docstring of a package of many modules says where each of them belongs."""
    for path in sorted((ROOT / "lepton_automl").rglob("__init__.py")):
        tree = tree_of(path)
        folders = [p.parent for p in path.parent.glob("*/__init__.py")]
        modules = [p for p in path.parent.glob("*.py") if p.stem[0] != "_"]
        if len(modules) + len(folders) < MANY_MODULES or len(tree.body) > 1:
            continue  # The base class of a plug-in folder explains its files.
        there = {*(p.stem for p in modules), *(f"{p.name}/" for p in folders)}
        named = set(re.findall(r"`([a-z_]+/?)[`.]", ast.get_docstring(tree) or ""))
        name = path.parent.relative_to(ROOT)
        yield from (f"{name}: `{each}` is not named" for each in sorted(there - named))
        yield from (f"{name}: there is no `{each}`" for each in sorted(named - there))


def documented_parameters_that_do_not_exist() -> Iterator[str]:
    for name, tree in parsed("lepton_automl"):
        for node in nodes(tree):
            if not isinstance(node, Function | ast.ClassDef):
                continue
            text = (ast.get_docstring(node) or "").partition("Parameters\n----------\n")[2]
            text = re.split(r"\n\n\S", text)[0]
            shown = {
                one
                for line in re.findall(r"^([*\w][*\w, ]*?)(?: : .*)?$", text, re.M)
                for one in re.findall(r"\w+", line)
            }
            made = [one for one in functions(node) if getattr(one, "name", "") == "__init__"]
            own = made[:1] if isinstance(node, ast.ClassDef) else [node]
            taken = {
                arg.arg for one in own for arg in ast.walk(one.args) if isinstance(arg, ast.arg)
            }
            if own and (others := sorted(shown - taken)):
                yield f"{name}: {node.name} has no parameter {', '.join(others)}"


def printing() -> Iterator[str]:
    for name, tree in parsed("lepton_automl"):
        if Path(name).parts[1] in MAY_PRINT:
            continue
        found = {"print"} if runs_alone(tree) else {"print", "sys.stdout", "sys.stderr"}
        for node in nodes(tree):
            if isinstance(node, ast.Name | ast.Attribute) and dotted(node) in found:
                yield f"{name}:{node.lineno}: {dotted(node)}; tell an Event instead"
            imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(module.split(".")[0] in {"rich", "typer"} for module in imported):
                yield f"{name}:{node.lineno}: only cli/ writes to the terminal"


def escaping() -> Iterator[str]:
    """Text reaches people through few modules, which escape it."""
    owners = {
        "print": "cli/streams.py",
        "typer.echo": "cli/streams.py",
        "sys.stdout.write": "cli/streams.py",
        "sys.stderr.write": "cli/streams.py",
        "rich.console.Console": "cli/report/console.py",
        "html.escape": "text.py",
        "rich.markup.escape": "text.py",
    }
    for name, tree in parsed("lepton_automl"):
        if runs_alone(tree):
            continue
        for node in nodes(tree):
            used = [dotted(node)]
            if isinstance(node, ast.ImportFrom):
                used += [f"{node.module}.{alias.name}" for alias in node.names]
            for use in owners.keys() & set(used):
                if not name.endswith(owners[use]):
                    yield f"{name}:{node.lineno}: {use} is used by {owners[use]} only"


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


LOADED_WHEN_USED = (
    *("scipy", "importlib.metadata", "lepton_automl.pipeline.export"),
    *("lepton_automl.artifact.format_predictor", "lepton_automl.data.layouts"),
)
"""What takes long to load and is needed by few commands and by no worker, or not by a refusal, or
not for the classes of pictures."""
IN_ANOTHER_PROCESS = ("compress/external/graph_process.py", "search/workers/dask_entry.py")
"""What reads these modules does without the modules that a function in them loads: the command, the
scheduler of a Dask cluster."""


def local_imports() -> Iterator[str]:
    for name, tree in parsed("lepton_automl"):
        if Path(name).parts[1] in {*MAY_PRINT, "__init__.py", "__main__.py", "api.py"}:
            continue
        if name.endswith(IN_ANOTHER_PROCESS):
            continue
        for function in functions(tree):
            for node in ast.walk(function):
                module = getattr(node, "module", None) or ""
                if isinstance(node, ast.ImportFrom) and module.startswith(LOADED_WHEN_USED):
                    continue
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


READS_ITSELF = {
    "artifact/consistency.py": "a value in metadata, any exception of which is caught",
    "artifact/lepton_device.py": "a program on a device, which has no lepton",
    "artifact/timing_server.py": "/proc",
    "artifact/verify.py": "requests of the parent process",
    "artifact/writer.py": "arrays of the cache, which data/pixel_cache checks; the device program",
    "cli/streams.py": "/dev/null in place of closed streams",
    "compress/external/static_quantization.py": "the file that the quantizer has just written",
    "core/files.py": "opened for writing",
    "core/held_folders.py": "the environment of a parent process",
    "core/limited_process.py": "requests of the parent process, /proc",
    "core/machine.py": "/proc",
    "core/network_disks.py": "/proc",
    "core/scratch.py": "locks on folders, without reading",
    "cost/device_bench.py": "a kit on a device, which has no lepton",
    "cost/kernels.py": "the profile that ONNX Runtime has just written",
    "cost/targets.py": "a file of the package",
    "core/memory.py": "files of the kernel in /proc and /sys",
    "core/large_arrays.py": "a deleted file that it has made itself",
    "data/picture_check.py": "answers of a child process, and tables whose digest is checked",
    "data/pictures/picture_files.py": "pictures that core/untrusted_files has opened",
    "data/decode_pool.py": "requests and answers of a child process; the file of pixels, to write",
    "data/picture_check_cache.py": "tables whose digest is checked",
    "data/pixel_cache.py": "arrays whose digest is checked",
    "data/signal_files.py": "lines of a text that core/untrusted_files has read",
    "data/sources/digits.py": "a file of scikit-learn",
    "pipeline/bench_ops.py": "a program of the package and the table it has just written",
    "models/c_export/project.py": "templates of the package",
    "models/c_export/source.py": "kernels of the package",
    "models/onnx_file.py": "the graph that ONNX Runtime has just written",
    "runs/definition.py": "text that core/untrusted_files has read and parsed before",
    "runs/ledger.py": "the ledger, which runs/ledger_check checks; its file is checked before",
    "runs/ledger_check.py": "the ledger, whose damage it finds",
    "runs/live_status.py": "the ledger, which runs/ledger_check checks",
    "runs/lock.py": "locks, without waiting for a pipe and without reading",
    "runs/test_set_uses.py": "a lock, without reading",
    "search/workers/blob_cache.py": "contents whose digest is checked",
    "search/workers/channel.py": "messages of the coordinator, which has started this process",
    "search/workers/launch.py": "parts of a group, written by the coordinator",
    "search/workers/handle.py": "answers of a worker and its log",
    "search/workers/measurement_lock.py": "locks, without reading",
    "search/workers/dask_task.py": "requests of the coordinator",
    "search/workers/remote_task.py": "tasks of the coordinator, contents whose digest is checked",
    "search/workers/task.py": "tasks of the parent process",
}
"""Modules that read without `core.untrusted_files`, and what makes that safe."""
READERS = (
    r"(?:.*\.)?(?:open|fdopen|safe_open|read_text|read_bytes)|(?:json|tomllib)\.loads?"
    r"|np\.(?:load|loadtxt|fromfile|memmap|genfromtxt)|onnx\.load\w*|sqlite3\.connect"
    r"|zipfile\.ZipFile"
)


def opens_for_writing(call: ast.Call) -> bool:
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = {each.value for each in given if isinstance(each, ast.Constant)}
    return bool(modes & {"a", "w", "x", "ab", "wb", "xb"})


def readers_of_files_from_outside() -> Iterator[str]:
    unused = set(READS_ITSELF)
    for name, tree in parsed("lepton_automl"):
        module = Path(name).relative_to("lepton_automl").as_posix()
        if module.startswith("core/untrusted_"):
            continue
        for node in nodes(tree):
            called = dotted(node.func) if isinstance(node, ast.Call) else ""
            if not re.fullmatch(READERS, called) or called.startswith("untrusted_"):
                continue
            if isinstance(node, ast.Call) and opens_for_writing(node):
                continue
            unused.discard(module)
            if module not in READS_ITSELF:
                yield f"{name}:{node.lineno}: {called}; read it with core.untrusted_files"
    yield from (f"lepton_automl/{module}: reads nothing itself any more" for module in unused)


RULES: tuple[Callable[[], Iterator[str]], ...] = (
    modules_without_a_docstring,
    packages_without_a_map,
    documented_parameters_that_do_not_exist,
    printing,
    escaping,
    local_imports,
    unsorted_public_names,
    parked_work,
    version_without_a_changelog_section,
    readers_of_files_from_outside,
)


def test_the_rules_of_the_project_hold():
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


def test_commands_and_children_that_read_files_only_do_not_wait_for_torch():
    modules = (
        "artifact.predict",
        "artifact.verification_process",
        "compress.external.load",
        "pipeline.status",
    )
    program = (
        f"import sys, {', '.join(f'lepton_automl.{module}' for module in modules)}\n"
        "print(*{'torch', 'scipy.stats', 'sklearn', 'optuna'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "\n"


def test_predictions_are_asked_for_without_loading_what_computes_them():
    program = (
        "import sys, lepton_automl.models.untrusted.session_process\n"
        "print('numpy' in sys.modules)\n"
        "import lepton_automl.artifact.predict, lepton_automl.cli.report\n"
        "print(*{'onnx', 'onnxruntime', 'scipy', 'PIL.TiffImagePlugin'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "False\n\n"


REFUSED = """
import sys
from lepton_automl.cli.app import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["lepton", *line.split()]
    try:
        main()
    except SystemExit as error:
        print(error.code, *{"torch", "sklearn", "optuna"} & set(sys.modules), file=sys.stderr)
"""


def test_what_is_refused_at_once_does_not_wait_for_torch(tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x07\x3a\x7f\x00")
    (tmp_path / "empty").mkdir()
    for name, content in (("damaged", "{"), ("foreign", '{"files": {"a": 1}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(content)
    commands = {
        "verify nowhere": 3,
        "verify empty": 3,
        "verify text.onnx": 3,
        "verify damaged": 6,
        "verify foreign": 6,
        "compress nowhere": 3,
        "compress text.onnx": 3,
        "compress nowhere --data digits": 3,
        "compress text.onnx --data digits": 3,
        "compress cut.onnx --data digits": 3,
    }
    done = subprocess.run(
        [sys.executable, "-c", REFUSED],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    ends = [line for line in done.stderr.splitlines() if line[:1].isdigit()]
    assert ends == [str(code) for code in commands.values()], done.stderr


def test_processes_that_decode_pictures_load_no_runtime_and_no_net():
    program = (
        "import sys, lepton_automl.data.decode_pool\n"
        "print(*{'onnx', 'onnxruntime', 'scipy', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "\n"


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "lepton_automl", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == f"lepton {lepton_automl.__version__}\n"
