"""`lepton run` from start to verdict, once a data set and seed: accuracy, bytes, latency, seconds.

    python benchmarks/bench.py full_run digits --seeds 3 -- --budget 3m --jobs 1
    python benchmarks/bench.py full_run fashion_mnist.npz -- --budget 20m --max-size-kb 40
    python benchmarks/bench.py full_run a.npz b.npz c/ --seeds 5 --out runs/three -- --budget 10m

It writes a sweep and runs it (`lepton sweep`): the same command goes on where it was stopped. What
follows `--` are options of `lepton run`, the same for every run. Each run uses its test part once.
The int8 file is timed in the same rounds as MLPerf Tiny's ResNet-8 (random weights), because the
ratio depends less on the machine than microseconds do. CPU seconds are those of all processes of
the last command of the run. With a budget the exit status is 1 where a run took more than the
larger of 5 % and 10 s beyond it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import RUNS, parser, print_table, resnet8
from lepton_automl import api
from lepton_automl.artifact.verdict import FileMetrics, Verdict
from lepton_automl.core.events import Event
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.option_texts import seconds as budget_seconds
from lepton_automl.pipeline.sweep_table import SweepResult, SweepRow


def resnet8_ratio(file: bytes) -> float:
    """Latency of a file as a multiple of ResNet-8's, in the same rounds."""
    nets = {"file": file, "resnet8": random_int8_onnx(resnet8(), 64)}
    times = Stopwatch().measure(nets, rounds=25, seconds=0.5)
    return times["file"].ratio / times["resnet8"].ratio


def sweep_text(data: Sequence[str], seeds: int, options: Sequence[str]) -> str:
    """The sweep of all data sets and seeds with the options of a command line."""
    stated = {"data": list(data), "seed": list(range(seeds)), **stated_options(options)}
    return "\n".join(["[run]", *(f"{k} = {json.dumps(v)}" for k, v in stated.items()), ""])


def stated_options(words: Sequence[str]) -> dict[str, object]:
    """Options of a command line, `--name value` or `--name=value` or `--name`, as a sweep has them.

    Raises
    ------
    SystemExit
        If a word is neither an option nor the value of one.
    """
    found: dict[str, object] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found[name] = number(value) if "=" in word else True
        elif name and found[name] is True:
            found[name] = number(word)
        else:
            raise SystemExit(f"{word} is no option")
    return found


def number(text: str) -> object:
    """The number in a text, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def cells(result: SweepResult, row: SweepRow) -> tuple[object, ...]:
    """A row of the table; of a run without a verdict the reason."""
    about: tuple[object, ...] = (Path(str(row.options["data"])).stem, row.options["seed"])
    if row.verdict is None:
        return (*about, *[""] * 9, row.error)
    found = verdict(result, row)
    int8, floating = metrics(found)
    low, high = (100 * end for end in int8.accuracy_interval)
    file = result.out / row.name / "artifact" / int8.file
    return (
        *about,
        f"{100 * int8.accuracy:.2f} % [{low:.2f}, {high:.2f}]",
        errors(int8),
        f"{100 * floating.accuracy:.2f} %",
        int8.size_bytes,
        f"{1e3 * int8.latency_ms:.1f}",
        f"{1e3 * floating.latency_ms:.1f}",
        f"{resnet8_ratio(file.read_bytes()):.3f}",
        f"{row.seconds:.0f}",
        f"{row.cpu_seconds:.0f}",
        row.verdict,
    )


def verdict(result: SweepResult, row: SweepRow) -> Verdict:
    """The verdict of a finished run."""
    found = api.status(result.out / row.name).verdict
    assert found is not None, "the run has ended with a verdict"
    return found


def metrics(found: Verdict) -> tuple[FileMetrics, FileMetrics]:
    """Figures of the int8 and the float file."""
    assert found.int8 is not None, "the files are not damaged"
    assert found.float32 is not None, "the files are not damaged"
    return found.int8, found.float32


def errors(int8: FileMetrics) -> int:
    """Wrong answers of a file on the test part."""
    return round((1 - int8.accuracy) * int8.n_samples)


def show(event: Event) -> None:
    """Print when a run begins and ends."""
    if event.done is None:
        print(event.message, flush=True)


def main(arguments: list[str]) -> int:
    """Run every data set with every seed; a row each."""
    options = parser(__doc__, "full_run")
    options.add_argument("data", nargs="+")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--out", type=Path, help="by default runs/full_run/NAME of the first data")
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    given, more = options.parse_args(arguments[:cut]), arguments[cut + 1 :]
    out = given.out or RUNS / "full_run" / Path(given.data[0]).stem
    file = out.with_name(f"{out.name}.toml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(sweep_text(given.data, given.seeds, more))
    made = api.sweep(file, out=out, emit=show)
    head = ("data", "seed", "int8 accuracy [95 %]", "errors", "float", "bytes", "int8 us")
    head += ("float us", "times ResNet-8", "s", "CPU s", "verdict")
    print_table(head, (cells(made, row) for row in made.rows))
    judged = [verdict(made, row) for row in made.rows if row.verdict is not None]
    if not judged:
        return 1
    samples = sum(metrics(each)[0].n_samples for each in judged)
    wrong = sum(errors(metrics(each)[0]) for each in judged)
    print(f"\n{wrong} errors in {samples} test samples; {judged[0].machine}")
    stated = stated_options(more).get("budget")
    if stated is None:
        return 0
    seconds, used = budget_seconds(str(stated)), [row.seconds for row in made.rows if row.verdict]
    allowed = seconds + max(0.05 * seconds, 10.0)
    print(f"{min(used):.0f} to {max(used):.0f} s of {seconds:.0f} s, {allowed:.0f} s allowed")
    return int(max(used) > allowed)
