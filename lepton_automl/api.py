"""Python API; the commands of the same names call these functions.

Each function imports what it computes with, because torch takes seconds to load.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from lepton_automl.api_options import (
    CompressOptions,
    DataOptions,
    DataSource,
    Options,
    SearchOptions,
    budget_seconds,
    checked_options,
    named_data,
    run_config,
    test_data_path,
)
from lepton_automl.config import Limits, Prefer, RunConfig
from lepton_automl.core.events import Emit, silent
from lepton_automl.errors import ConfigError, DataError, MachineError
from lepton_automl.option_texts import memory_bytes
from lepton_automl.runs.folder import RunFolder, configured, locate

if TYPE_CHECKING:
    from lepton_automl.artifact.predict import Classifier, Prediction, Samples
    from lepton_automl.compress.steps import CompressionResult
    from lepton_automl.cost.boards import BoardFit
    from lepton_automl.pipeline.bench_files import Comparison
    from lepton_automl.pipeline.data_report import DataReport
    from lepton_automl.pipeline.front import Front
    from lepton_automl.pipeline.inspection import NetReport
    from lepton_automl.pipeline.outcome import Outcome
    from lepton_automl.pipeline.pick import PickResult
    from lepton_automl.pipeline.status import Status
    from lepton_automl.pipeline.stores import StoreState
    from lepton_automl.pipeline.sweep_table import SweepResult
    from lepton_automl.search.executors.local_cluster import LoopbackCluster
    from lepton_automl.search.request import SearchResult


def run(data: DataSource, *, emit: Emit = silent, **options: Unpack[Options]) -> Outcome:
    """Search, compress, export and verify; see `lepton run --help`.

    Parameters
    ----------
    data
        `digits`, a folder with one sub-folder per class, an .npz file, `MODULE:ATTRIBUTE`, or an
        object: a data set with `__len__` and `__getitem__` whose items are (picture, label), such
        as torch's, or a dict or tuple of them as parts.
    emit : callable
        Receives an `Event` for each line of progress.
    **options
        Fields of `RunConfig`.

    Raises
    ------
    LeptonError
        With a way out, `fix`.
    """
    config = run_config(data, dict(options))
    from lepton_automl.pipeline import run as pipeline

    return pipeline.run(config, emit=emit)


def search(
    data: DataSource, *, emit: Emit = silent, **options: Unpack[SearchOptions]
) -> SearchResult:
    """Search only and save the winner in `models/best`; parameters as for `run`."""
    config = run_config(data, dict(options), SearchOptions)
    from lepton_automl.pipeline import run as pipeline

    return pipeline.search(config, emit=emit)


def sweep(
    file: str | Path,
    *,
    out: str | Path | None = None,
    budget: str | float | None = None,
    jobs: int | None = None,
    emit: Emit = silent,
) -> SweepResult:
    """Run a table of runs, or continue it; see `lepton sweep --help`.

    Each run is a process of its own, and an ordinary run folder in `out`.

    Parameters
    ----------
    file
        TOML file with a table `[run]`, and maybe tables `[[row]]`.
    out
        Folder of the sweep; None: `runs/NAME` with the name of the file.
    budget
        Time of all runs together, divided among those that state none.
    jobs
        Worker processes of each run; None: as stated in the file.
    emit : callable
        Receives an `Event` when a run begins and ends, and its progress meanwhile.

    Raises
    ------
    ConfigError
        If the file, or an option in it, is wrong; nothing has run then.
    LeptonError
        With a way out, `fix`. A run that fails is a row of the table and raises nothing, unless the
        machine lacks something.
    """
    from lepton_automl.pipeline.sweep import run_sweep
    from lepton_automl.pipeline.sweep_file import read_sweep

    stated = read_sweep(Path(file))
    if jobs is not None:
        stated = stated.with_options({"jobs": jobs})
    stated = stated.with_budget(None if budget is None else str(budget))
    stated.check(run_config)
    place = Path("runs", Path(file).stem) if out is None else Path(out)
    return run_sweep(stated, place, emit=emit)


def cluster(
    workers: int | None = None, *, port: int = 0, dashboard_port: int | None = None
) -> LoopbackCluster:
    """Start a Dask cluster on this machine, until it is closed; `address` is for `cluster=`.

    Parameters
    ----------
    workers
        Worker processes; None: one a CPU core.
    port
        Of the scheduler, on 127.0.0.1; 0: a free one.
    dashboard_port
        Of Dask's dashboard; None: there is none.

    Raises
    ------
    MachineError
        If Dask is not installed, or a port cannot be used.
    """
    try:
        from lepton_automl.search.executors.local_cluster import LoopbackCluster
    except ImportError as error:
        raise MachineError(
            f"a Dask cluster needs a package that is not installed: {error}",
            fix="pip install 'lepton-automl[dask]'",
        ) from error
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    return LoopbackCluster(count, port, dashboard_port)


def sweep_table(out: str | Path) -> SweepResult:
    """Read the table of the sweep in the folder `out`, also while it works."""
    from lepton_automl.pipeline.sweep_table import read_table

    return read_table(Path(out))


def data(
    data: DataSource,
    *,
    html: str | Path | None = None,
    fix: str | Path | None = None,
    emit: Emit = silent,
    **options: Unpack[DataOptions],
) -> DataReport:
    """Open data as `run` does and audit them, without training; see `lepton data --help`.

    Parameters
    ----------
    data
        As `run` takes it.
    html
        Page with the report and pictures to be written.
    fix
        Table (.csv) to be written with the samples that stay.
    emit : callable
        Receives an `Event` for each line of progress.
    **options
        Those of `DataOptions`.

    Returns
    -------
    DataReport
        Its `refusal` says whether `run` refuses the data for files that cannot be read.

    Raises
    ------
    DataError
        If the data cannot be used for another reason.
    ConfigError
        If a file to be written exists, or `fix` is given for data that are not picture files.
    """
    config = run_config(data, dict(options), DataOptions)
    from lepton_automl.pipeline.data_files import report_and_write

    page, table = (None if path is None else Path(path) for path in (html, fix))
    return report_and_write(config, page, table, emit)


def compress(
    source: str | Path,
    data: DataSource | None = None,
    *,
    emit: Emit = silent,
    **options: Unpack[CompressOptions],
) -> CompressionResult | Outcome:
    """Compress the best net of a run, a net in lepton's format, or an ONNX classifier.

    The result depends on `source`, `data` and `limits`:

    ====================  ======  ==========  ==================================================
    source                data    limits      result
    ====================  ======  ==========  ==================================================
    a run                 no      no          its best net pruned and quantized in the run folder;
                                              `CompressionResult`, the steps
    a run                 no      some        its best net pruned to the limits in another
                                              folder, verified; `Outcome`
    a run from a Python   object  none/some   as the two above
    object
    a folder with         yes     any         the net pruned, quantized and verified; `Outcome`
    arch.json and
    weights.safetensors
    an .onnx file         yes     any         the model quantized, layers that lose accuracy in
                                              float, verified; `Outcome`
    ====================  ======  ==========  ==================================================

    Parameters
    ----------
    source
        A run, a net in lepton's format or an ONNX classifier.
    data
        Labelled samples for `source`, in any form that `run` takes; None for a run, or the object
        that it was made from.
    emit : callable
        Receives an `Event` for each line of progress.
    **options
        Those of `CompressOptions`. `out` is `RUN-int8` for a run with limits, else
        `runs/NAME-int8`.

    Raises
    ------
    ConfigError
        If an option has no effect on this source, or another run lies in `out`.
    LeptonError
        With a way out, `fix`.
    """
    given = {name: value for name, value in options.items() if _is_stated(value)}
    given = checked_options(given, CompressOptions)
    if data is None or RunFolder(Path(source)).definition_file.is_file():
        return _compress_run(Path(source), data, given, emit)
    if Path(source).is_dir():
        return _compress_net(Path(source), data, given, emit)
    return _compress_onnx(Path(source), data, given, emit)


def export(
    run: str | Path,
    data: object | None = None,
    *,
    formats: Sequence[str] | None = None,
    ship: str = "",
    reject: float | None = None,
    sign: str | Path | None = None,
    emit: Emit = silent,
) -> Outcome:
    """Write and verify the artifact of a compressed run.

    Parameters
    ----------
    run
        A run.
    data
        The object that the run was made from, where it was made from one.
    formats
        Names of the file formats that are written; `onnx` always is. None: those of the artifact
        that is there.
    ship
        Format that ships, to which limits apply; empty: that of the artifact that is there, else
        `onnx`.
    reject
        Share of pictures of the classes that may be classified as "none of these", 0 to 0.5; 0: no
        threshold. None: that of the artifact that is there.
    sign
        Key of OpenSSH that signs the manifest.
    emit : callable
        Receives an `Event` for each line of progress.

    Raises
    ------
    LeptonError
        With a way out, `fix`.
    """
    from lepton_automl.pipeline import run as pipeline

    stated = None if formats is None else tuple(formats)
    config = _continued(Path(run), data, formats=stated, ship=ship, reject=reject)
    return pipeline.export(config, sign=None if sign is None else Path(sign), emit=emit)


def pick(
    run: str | Path,
    data: object | None = None,
    *,
    limits: Limits | None = None,
    prefer: Prefer | None = None,
    budget: str | float | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    started: float | None = None,
    emit: Emit = silent,
) -> PickResult:
    """Make an artifact of another trial of `run`; see `lepton pick --help`.

    `data` is the object that the run was made from, where it was made from one.

    Raises
    ------
    ConfigError
        If neither limits nor a preference is given, or `data` has no effect.
    LeptonError
        With a way out, `fix`.
    """
    if not (limits and limits.stated) and prefer is None:
        raise ConfigError(
            "a pick needs limits or a preference, none is given",
            fix="give limits or prefer; `front` lists the trials",
        )
    if prefer not in (None, "size", "latency"):
        raise ConfigError(f"--prefer {prefer!r} is not known", fix="choose one of: latency, size")
    from lepton_automl.pipeline import pick as picking

    config = _continued(
        Path(run), data, budget_seconds=budget_seconds(budget), device=device, started=started
    )
    wanted = picking.PickRequest(limits or Limits(), prefer, None if out is None else Path(out))
    return picking.pick(config, wanted, emit=emit)


def store(url: str, *, gc: bool = False) -> StoreState:
    """Read what run a store holds; see `lepton store --help`.

    Raises
    ------
    LeptonError
        With a way out, `fix`.
    """
    from lepton_automl.pipeline.stores import store_state

    return store_state(url, gc=gc)


def board_fits(artifact: str | Path) -> list[BoardFit]:
    """On which boards the net of an artifact fits; see `lepton boards --help`.

    Parameters
    ----------
    artifact
        An artifact folder, the run folder or the ONNX file.

    Raises
    ------
    DataError
        If there is no finished artifact of a net of lepton.
    """
    from lepton_automl.artifact.board_fits import fits
    from lepton_automl.artifact.verify import checked_verdict
    from lepton_automl.runs.folder import locate_artifact

    folder = locate_artifact(Path(artifact))
    return fits(folder, checked_verdict(folder))


def front(run: str | Path) -> Front:
    """Read the front of `run` and the trial it chose."""
    from lepton_automl.pipeline.front import read_front

    return read_front(locate(Path(run)))


def verify(
    artifact: str | Path,
    data: DataSource | None = None,
    *,
    test: str | Path | None = None,
    trust: str | Path | None = None,
    emit: Emit = silent,
) -> Outcome:
    """Verify a written artifact again, reading only; `data` as `run` takes it.

    With `trust`, a public key or a file of allowed signers of OpenSSH, an artifact that is not
    signed by such a key is refused.
    """
    from lepton_automl.pipeline import verify as pipeline

    name, data_object = (None, None) if data is None else named_data(data)
    return pipeline.verify(
        Path(artifact),
        data=name,
        data_object=data_object,
        test=test_data_path(test),
        trust=None if trust is None else Path(trust),
        emit=emit,
    )


def status(run: str | Path) -> Status:
    """Read the progress of `run`, also while it is running."""
    from lepton_automl.pipeline.status import status as read_status

    return read_status(locate(Path(run)))


def predict(
    artifact: str | Path,
    samples: Samples,
    *,
    pixel_scale: str = "auto",
    file_format: str = "",
    on_unreadable: Callable[[DataError], None] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> list[Prediction]:
    """Label and probability of each sample, in order.

    Parameters
    ----------
    artifact
        An artifact folder, the run folder or an ONNX file.
    samples
        Files, folders of files and patterns; or samples in memory, such as the frames of a camera:
        arrays as of `Classifier.classify_arrays`, or pictures of Pillow.
    pixel_scale
        Black and white of files with more than 8 bits a channel; `auto`: as in training.
    file_format
        Format of the artifact whose files predict, such as `c` or `litert`; empty: the ONNX file.
    on_unreadable : callable, optional
        Receives the error of each picture that cannot be read, which is left out; by default the
        first one is raised.
    on_note : callable, optional
        Receives a sentence where no manifest confirms the ONNX file.

    Raises
    ------
    LeptonError
        With a way out, `fix`.
    """
    from lepton_automl.artifact.predict import predict as predict_samples

    return predict_samples(
        Path(artifact),
        samples,
        pixel_scale=pixel_scale,
        file_format=file_format,
        on_unreadable=on_unreadable,
        on_note=on_note,
    )


def classifier(
    artifact: str | Path,
    *,
    pixel_scale: str = "auto",
    file_format: str = "",
    on_unreadable: Callable[[DataError], None] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Classifier:
    """What `predict` opens, for many calls: `with classifier(RUN) as it: it.classify([path])`.

    Frames of a camera: `it.classify_arrays([frame])`.

    Parameters and errors as of `predict`.
    """
    from lepton_automl.artifact.predict import Classifier

    return Classifier(
        Path(artifact),
        pixel_scale=pixel_scale,
        file_format=file_format,
        on_unreadable=on_unreadable,
        on_note=on_note,
    )


def inspect(
    artifact: str | Path,
    *,
    svg: str | Path | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> NetReport:
    """Layers, memory, kernels and times of an ONNX file; see `lepton inspect --help`.

    Parameters
    ----------
    artifact
        An artifact folder, the run folder, or any ONNX file.
    svg
        Drawing of the net to be written.
    on_note : callable, optional
        Receives a sentence where no manifest confirms the ONNX file.

    Raises
    ------
    LeptonError
        With a way out, `fix`.
    """
    from lepton_automl.pipeline.inspection import inspect as inspect_artifact

    return inspect_artifact(Path(artifact), svg=None if svg is None else Path(svg), on_note=on_note)


def _continued(run: Path, data: object | None, **changes: Any) -> RunConfig:
    """The configuration that continues a run; `data` is the object that it was made from.

    That they are the same samples is checked when they are opened, by the fingerprint.

    Raises
    ------
    ConfigError
        If data are given for a run that has its own.
    DataError
        If there is no such run, or its data are not there any more.
    """
    folder = locate(run)
    if data is None:
        return configured(folder, **changes)
    known = folder.definition().data
    if isinstance(data, str | Path) or not known.startswith("<"):
        raise ConfigError(
            f"the data given have no effect: {run} reads its own, {known}",
            fix="leave them out; only a run that was made from a Python object needs it again",
        )
    return configured(folder, data_object=data, **changes)


def bench(
    artifacts: Sequence[str | Path],
    *,
    threads: Sequence[int] = (),
    batches: Sequence[int] = (1,),
    seconds: float = 1.0,
    emit: Emit = silent,
) -> Comparison:
    """Times, memory and opening of files beside each other; see `lepton bench --help`.

    Parameters
    ----------
    artifacts
        Artifact folders, run folders or ONNX files; others are compared with the first.
    threads
        Threads of ONNX Runtime; by default 1 and the number of cores.
    batches
        Samples of a call.
    seconds
        For each file, over all rounds.
    emit : callable
        Receives an `Event` for each measurement.

    Raises
    ------
    LeptonError
        With a way out, `fix`.
    """
    from lepton_automl.pipeline.bench_files import compare

    paths = [Path(artifact) for artifact in artifacts]
    return compare(paths, threads=threads, batches=batches, seconds=seconds, emit=emit)


def _compress_run(
    run: Path, data: object | None, given: dict[str, Any], emit: Emit
) -> CompressionResult | Outcome:
    """Compress the best net of a run: in its folder, or to other limits in another folder."""
    own = {"limits", "out", "prefer", "judge", "fresh"} if "limits" in given else set[str]()
    known = given.keys() - own - {"budget", "device", "started", "rehash", "max_memory"}
    _check_no_effect(known, "leave it out: the run defines it; for a model of your own give --data")
    try:
        config = _continued(
            run,
            data,
            budget_seconds=budget_seconds(given.get("budget")),
            device=given.get("device", "auto"),
            started=given.get("started"),
            rehash=given.get("rehash", False),
            max_memory=memory_bytes(size) if (size := given.get("max_memory")) else None,
        )
    except DataError as error:
        if run.suffix != ".onnx":
            raise
        raise DataError(
            error.what, fix=f"for a model of your own: lepton compress {run} --data PICTURES"
        ) from error
    if "limits" not in given:
        from lepton_automl.pipeline import run as pipeline

        return pipeline.compress(config, emit=emit)
    from lepton_automl.pipeline.compress_net import compress_net

    folder = RunFolder(config.out)
    folder.check_winner()
    changed = dataclasses.replace(
        config,
        out=Path(given.get("out") or config.out.with_name(f"{config.out.name}-int8")),
        limits=given["limits"],
        prefer=given.get("prefer", "size"),
        judge=given.get("judge", config.judge),
        fresh=given.get("fresh", False),
    )
    return compress_net(changed, folder.best, emit=emit)


def _compress_net(source: Path, data: DataSource, given: dict[str, Any], emit: Emit) -> Outcome:
    _check_no_effect(given.keys() & {"preprocessing"}, "put a model.json into the folder")
    _check_no_effect(given.keys() & {"labels", "expects"}, "leave it out: it is for ONNX models")
    config = run_config(data, {"out": _int8_folder(source)} | given)
    from lepton_automl.pipeline.compress_net import compress_net

    return compress_net(config, source, emit=emit)


def _compress_onnx(source: Path, data: DataSource, given: dict[str, Any], emit: Emit) -> Outcome:
    _check_no_effect(
        given.keys() & {"budget", "device"},
        "leave it out: an ONNX model is not trained",
    )
    _check_no_effect(given.keys() & {"channels"}, "leave it out: the input of the model says it")
    if (limits := given.get("limits")) is not None and limits.max_flash_bytes is not None:
        _check_no_effect({"max_flash_kb"}, "leave it out: C is written of nets of lepton only")
    from lepton_automl.models.untrusted.onnx_wire import check_is_onnx

    preprocessing = given.pop("preprocessing", None)
    labels, expects = given.pop("labels", None), given.pop("expects", None)
    # Samples have equal weight: the user knows the accuracy of the model as a plain share.
    settings = {"out": _int8_folder(source), "balance": "off"} | given
    config = run_config(data, settings)
    check_is_onnx(source, fix=_ONNX_FIX)
    from lepton_automl.pipeline.compress_onnx import compress_model

    path = None if preprocessing is None else Path(preprocessing)
    return compress_model(
        config,
        source,
        path,
        labels=None if labels is None else str(labels),
        expects=expects,
        emit=emit,
    )


def _int8_folder(source: Path) -> Path:
    return Path("runs", f"{source.stem}-int8")


def _is_stated(value: object) -> bool:
    if isinstance(value, Limits):
        return bool(value.stated)
    return value is not None and value is not False


_ONNX_FIX = "give a float image classifier as ONNX: one picture in, one score per class out"
_OPTION_NAMES = {"limits": "a limit"}


def _check_no_effect(names: set[str], fix: str) -> None:
    for name in sorted(names):
        option = _OPTION_NAMES.get(name, f"--{name.replace('_', '-')}")
        raise ConfigError(f"{option} has no effect here", fix=fix)
