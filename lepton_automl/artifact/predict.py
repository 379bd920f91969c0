"""Classify picture files, signals or sound with an ONNX file and the class names in its metadata.

The file is opened in a child process with limits (`models.untrusted.session`), whether or not a
manifest seals it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from lepton_automl.artifact import manifest
from lepton_automl.artifact.input_files import input_files
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.sealed_model import Seal, ShippedModel, locate_model
from lepton_automl.core import untrusted_files
from lepton_automl.data import audio_files, signal_files
from lepton_automl.data.pictures import array_files, decode, picture_files
from lepton_automl.data.pictures.framing import Framing, framing_in
from lepton_automl.data.pictures.pixel_scale import OPTION, SIXTEEN_BIT, PixelScale, has_other_scale
from lepton_automl.data.pictures.pixel_scale import parse as parse_scale
from lepton_automl.errors import ConfigError, DataError, first_line
from lepton_automl.metrics.recordings import join_predictions
from lepton_automl.models.formats import ONNX
from lepton_automl.models.front_end import FRONT_END, LogMel
from lepton_automl.models.untrusted.session import UntrustedSession, batch_of
from lepton_automl.models.untrusted.session_process import start_process

_FIX = "give an ONNX file that lepton wrote"
_UNREADABLE = "correct its path or its content, or leave it out"
_WORDS = (
    "labels",
    "framing",
    manifest.PIXEL_SCALE,
    manifest.CHANNELS,
    manifest.STRIDE,
    FRONT_END,
    manifest.REJECT_BELOW,
)
"""Metadata that are read."""
_MOST_WINDOWS = 100_000
"""Of a recording of sound."""
_MAX_FRAMING = 4
"""Pictures are resized at most to this many times the size of the input, then cut."""
_SUSPECT_LEVEL, _SUSPECT_SHARE = 31, 0.5
"""A picture that is nowhere brighter, or in this share white, may be read with a wrong scale."""


_BEYOND = 2
"""Pixels in memory that are so many times the width of a scale above its black have another one."""

_ARRAY = ("__array__", "__array_interface__")
"""Attributes of which an array, a tensor or a picture of Pillow has one."""
Samples = str | Path | Sequence[str | Path] | Sequence[NDArray[Any]] | NDArray[Any]
"""What is classified: paths, or samples in memory."""
_Held = Mapping[Path, NDArray[Any]]
"""Samples in memory by the names that stand for them among paths."""


@dataclass(frozen=True)
class WindowPrediction:
    """Predicted class of one window of a recording."""

    start: int
    """Its first value in the recording."""
    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """Predicted class of one picture, window or recording."""

    file: Path
    """Of several windows in one file that of number i is `FILE[i]`, sample i in memory `[i]`."""
    label: str
    """Empty where it is rejected."""
    probability: float
    """Of that label, 0 to 1; the greatest where it is rejected."""
    note: str = ""
    """A remark about the picture; empty where there is none."""
    windows: tuple[WindowPrediction, ...] = ()
    """Of a recording that is longer than the window of the net, whose predictions are joined to
    this one (`metrics.recordings`); else empty."""
    rejected: bool = False
    """Whether the probability is below the threshold in the file: none of the classes."""


_Predict = Callable[[Sequence[Path], _Held], list[Prediction]]


def predict(
    artifact: Path,
    samples: Samples,
    *,
    pixel_scale: str = "auto",
    file_format: str = "",
    on_unreadable: Callable[[DataError], None] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> list[Prediction]:
    """Predict the most probable class of every picture, window or recording.

    The file of an artifact is used only if it has the sha256 of the manifest.

    Parameters
    ----------
    artifact : Path
        An artifact folder (its shipped file is used), the run folder, or an ONNX file.
    samples : path, sequence of paths, or samples in memory
        Picture files, `.npy` files with a picture each (`data.pictures.array_files`), or folders of
        them; of signals `.npy` and `.csv` files (`data.signal_files.read_windows`) and files of
        series (`data.layouts.ucr_series.read_series`), of sound WAV, FLAC and OGG files, or folders
        of them. In
        memory: as of `Classifier.classify_arrays`, or pictures of Pillow.
    pixel_scale : str
        Black and white of files with more than 8 bits a channel, as `--pixel-scale` states them;
        `auto`: those of the data that the net was trained on.
    file_format : str
        Format of the artifact whose files predict (`models.formats`); empty: the ONNX file.
    on_unreadable : callable, optional
        Receives the error of each picture that cannot be read, which is left out; by default the
        first one is raised.
    on_note : callable, optional
        Receives a sentence where the file is not sealed by a manifest.

    Raises
    ------
    DataError
        If the artifact or a picture cannot be read.
    ArtifactError
        If the file that ships has changed since the artifact was sealed.
    ConfigError
        If `pixel_scale` states no scale, `file_format` no format, or paths and samples in memory
        are mixed.
    MachineError
        If this machine lacks what runs the format.
    """
    with Classifier(
        artifact,
        pixel_scale=pixel_scale,
        file_format=file_format,
        on_unreadable=on_unreadable,
        on_note=on_note,
    ) as classifier:
        if isinstance(samples, str | os.PathLike):
            return classifier.classify([Path(samples)])
        if _are_arrays(samples):
            return classifier.classify_arrays(cast("Sequence[NDArray[Any]]", samples))
        return classifier.classify([Path(cast("str | Path", each)) for each in samples])


def _are_arrays(samples: Sequence[Any] | NDArray[Any]) -> bool:
    """Whether samples are in memory, and not paths."""
    if isinstance(samples, np.ndarray):
        return True
    kinds = {any(hasattr(each, name) for name in _ARRAY) for each in samples}
    if len(kinds) > 1:
        raise ConfigError(
            "samples in memory and paths are mixed",
            fix="give one kind, and the other in a second call",
        )
    return kinds == {True}


class Classifier:
    """A file that stays open for any number of calls; parameters and errors as of `predict`.

    It belongs to the thread that makes it. A file that exceeds a limit ends its process, and with
    it this object.
    """

    def __init__(
        self,
        artifact: Path,
        *,
        pixel_scale: str = "auto",
        file_format: str = "",
        on_unreadable: Callable[[DataError], None] | None = None,
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        stated = parse_scale(pixel_scale)
        self._report, self._text = on_unreadable or _raise, pixel_scale
        shipped, self._session = _opened(artifact, file_format, on_note)
        self._model, self._seal = shipped.path, shipped.seal
        try:
            self._labels = _labels(self._session, self._model)
            self._predict, self._suffixes = self._prepared(stated)
        except BaseException:
            self._session.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def classify(self, files: Sequence[Path]) -> list[Prediction]:
        """Predictions of files, folders and patterns such as `new/*.png`, in order.

        Raises
        ------
        DataError
            If there are none, or one cannot be read and nothing receives its error.
        """
        return self._predict(input_files(files, self._suffixes), {})

    def classify_arrays(self, samples: Sequence[NDArray[Any]] | NDArray[Any]) -> list[Prediction]:
        """Predictions of samples in memory, such as the frames of a camera, in order.

        They are prepared as the files of `classify` are; the name of number i is `[i]`.

        Parameters
        ----------
        samples : sequence of ndarray, or ndarray with all samples (N, ...)
            Pictures (H, W) or (H, W, C) of any size, uint8 as in picture files, or values of the
            scale that the net was trained with; grey and RGB are converted into each other. Of
            signals windows or recordings (length, channels); of sound int16 recordings (length,) at
            the rate of the net.

        Raises
        ------
        DataError
            If there are none, or one cannot be used and nothing receives its error.
        """
        dimensions = len(self._session.shape) + 1
        if isinstance(samples, np.ndarray) and samples.ndim != dimensions:
            raise DataError(
                f"one array {samples.shape} is given, the rule for all samples in one is "
                f"{dimensions} dimensions, the first of which counts them",
                fix="give a list of samples, or such an array",
            )
        named = {Path(f"[{n}]"): np.asarray(sample) for n, sample in enumerate(samples)}
        if not named:
            raise DataError("there is no sample to classify", fix="give one at least")
        return self._predict(list(named), named)

    def _prepared(self, stated: PixelScale | None) -> tuple[_Predict, Set[str]]:
        """The function that classifies paths, and the suffixes that are looked for in folders."""
        session, model, labels, report = self._session, self._model, self._labels, self._report
        framing = _framing(session, model)
        if len(session.shape) < 3:
            if stated is not None:
                kind = "signals" if len(session.shape) == 2 else "audio"
                raise ConfigError(
                    f"{OPTION} {self._text} has no effect: the file reads {kind}",
                    fix="leave it out",
                )
            if len(session.shape) == 1:
                front_end = _front_end(session, model)
                return (
                    lambda paths, held: _of_audio(session, paths, held, labels, front_end, report)
                ), audio_files.SUFFIXES
            from lepton_automl.data.layouts import ucr_series  # Loads ONNX Runtime.

            return (
                lambda paths, held: _of_signals(session, paths, held, labels, report)
            ), signal_files.SUFFIXES | ucr_series.SUFFIXES
        below = _threshold(session, model)
        known = stated or _recorded_scale(session, model, self._seal)
        if session.dtype == np.uint16 and stated is not None:
            raise ConfigError(
                f"{OPTION} {self._text} has no effect: the file reads 16-bit values as they are",
                fix="leave it out",
            )
        return (
            lambda paths, held: _of_pictures(
                session, paths, held, labels, known, framing, below, report
            )
        ), _suffixes(session.shape[2])


def _opened(
    artifact: Path, file_format: str, on_note: Callable[[str], None]
) -> tuple[ShippedModel, UntrustedSession]:
    """The ONNX file of an artifact, open in a child process, and what predicts in its place."""
    shipped = locate_model(artifact)
    if file_format in ("", ONNX):
        start_process()
        content = shipped.content(on_note)
        return shipped, UntrustedSession(shipped.path, content, shipped.path.parent, _WORDS)
    # Loads ONNX Runtime, which predictions of the ONNX file need in their process only.
    from lepton_automl.artifact.format_predictor import FormatPredictor, with_int8

    shipped = with_int8(shipped, file_format)
    start_process()
    content = shipped.content(on_note)
    return shipped, FormatPredictor(file_format, shipped.path.parent, content, _WORDS)


def _of_pictures(
    session: UntrustedSession,
    paths: Sequence[Path],
    held: _Held,
    labels: Sequence[str],
    known: PixelScale | None,
    framing: Framing | None,
    below: float,
    on_unreadable: Callable[[DataError], None],
) -> list[Prediction]:
    """Predictions of pictures, whose stored pixels have a known scale; None: that of 8 bits.

    A sample with a probability under `below` is rejected; arrays in `held` stand for their paths.
    """
    scale = known or SIXTEEN_BIT
    height, width, channels = session.shape
    size = None if session.takes_any_size else (height, width)
    batch_size = 1 if session.takes_any_size else batch_of(session.shape)
    is_16_bit = session.dtype == np.uint16

    def pixels_of(path: Path) -> NDArray[Any] | DataError:
        try:
            if held and path in held:
                return _pixels_in(held[path], str(path), session, known, framing)
            if is_16_bit:
                return array_files.read_16_bit_pixels(path, channels, (height, width))
            if path.suffix.lower() == array_files.SUFFIX:
                return array_files.read_pixels(path, channels, size, known, framing)
            return decode.decode(path, channels, size, scale, framing)
        except DataError as error:
            return DataError(error.what, fix=_UNREADABLE)

    found, sent = list[Prediction](), list[tuple[Path, str]]()
    # A batch is decoded while the one before is classified.
    for good in _decoded(paths, batch_size, pixels_of, on_unreadable):
        found += _received(session, sent, labels, below)
        stacked = np.stack([pixels for _, pixels in good])
        session.send(stacked)
        batch = [path for path, _ in good]
        is_marked = session.dtype == np.uint8 and not held
        remarks = _remarks(batch, stacked, scale) if is_marked else None
        sent = list(zip(batch, remarks or [""] * len(batch), strict=True))
    return found + _received(session, sent, labels, below)


def _pixels_in(
    values: NDArray[Any],
    what: str,
    session: UntrustedSession,
    known: PixelScale | None,
    framing: Framing | None,
) -> NDArray[Any]:
    """The pixels of a picture in memory, as the file reads them.

    Raises
    ------
    DataError
        If it is not a picture, has other channels, or values that need another scale.
    """
    height, width, channels = session.shape
    size = None if session.takes_any_size else (height, width)
    is_plain = values.dtype == np.uint8 and session.dtype == np.uint8 and channels in (1, 3)
    if is_plain and (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3))):
        picture = values if values.ndim == 3 else values[..., None]
        if not picture.size:
            raise DataError(f"{what} is empty, {values.shape}", fix=_UNREADABLE)
    else:
        picture = array_files.picture_in(values, channels, what)
    if session.dtype == np.uint16:
        return array_files.pixels_16_bit_in(picture, channels, (height, width), what)
    if known is not None and values.dtype == np.uint8 and known.of_files.is_above_8_bits:
        known = None  # As a picture file of 8 bits, whatever is in it.
    high = float(picture.max())
    if known is not None and high - known.black > _BEYOND * known.width:
        raise DataError(
            f"{what} has values up to {high:g}, and {known.white:g} is white in the data that the "
            f"net was trained on ({known.name})",
            fix=f"bring its values to {known.black:g} to {known.white:g}, or state black and white "
            "by pixel_scale",
        )
    return array_files.pixels_in(picture, channels, size, known, framing, what)


def _of_signals(
    session: UntrustedSession,
    paths: Sequence[Path],
    held: _Held,
    labels: Sequence[str],
    on_unreadable: Callable[[DataError], None],
) -> list[Prediction]:
    """Predictions of all windows or recordings in the files, one file after the other."""
    names, stride = _channel_names(session), _stride(session)
    found: list[Prediction] = []
    for path in paths:
        try:
            for name, windows in _recordings(path, held, session.shape, names, stride):
                values: NDArray[Any] = windows.values
                if session.dtype == np.int16:
                    values = signal_files.to_int16(str(path), windows.values)
                found += _of_windows(name, windows.starts, session.predict(values), labels)
        except DataError as error:
            on_unreadable(DataError(error.what, fix=_UNREADABLE))
    return found


def _recordings(
    path: Path, held: _Held, shape: tuple[int, ...], names: Sequence[str], stride: int
) -> list[tuple[Path, signal_files.Windows]]:
    """Windows of the recordings in a file, with their names: the path where there is one."""
    length, channels = shape
    if path in held:
        return [(path, signal_files.windows_in(held[path], length, channels, stride, str(path)))]
    from lepton_automl.data.layouts import series_tables, ucr_series

    several = ucr_series.read_series(path, length, channels, stride)
    if several is None:
        several = series_tables.read_several(path, length, names, stride)
    if several is None:
        return [(path, signal_files.read_windows(path, length, channels, names, stride))]
    return [(path.with_name(f"{path.name}[{name}]"), windows) for name, windows in several]


def _of_windows(
    name: Path, starts: Sequence[int], probabilities: NDArray[np.floating], labels: Sequence[str]
) -> Iterator[Prediction]:
    """One prediction for the windows of a recording (`starts`), else one for each window."""
    each = [(labels[row.argmax()], float(row.max())) for row in probabilities]
    if starts:
        (joined,), _ = join_predictions(probabilities, np.zeros(len(probabilities), np.int64))
        parts = zip(starts, each, strict=True)
        pieces = tuple(WindowPrediction(start, *one) for start, one in parts)
        yield Prediction(name, labels[joined.argmax()], float(joined.max()), windows=pieces)
        return
    for number, predicted in enumerate(each):
        one = name if len(each) == 1 else name.with_name(f"{name.name}[{number}]")
        yield Prediction(one, *predicted)


def _channel_names(session: UntrustedSession) -> tuple[str, ...]:
    """Names of the channels that the file states; empty where it states none that fit it."""
    try:
        names = untrusted_files.parse_json(
            session.words.get(manifest.CHANNELS, "[]"), "names of channels", fix=_FIX, top=list
        )
    except DataError:
        return ()
    found = tuple(map(str, names))
    return found if len(set(found)) == len(found) == session.shape[1] else ()


def _stride(session: UntrustedSession) -> int:
    """Values from one window of a recording to the next that the file states; 0 where it does not.

    That is half a window, as it is in files that were made before it was recorded.
    """
    text = session.words.get(manifest.STRIDE, "")
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= 7 else 0


def _of_audio(
    session: UntrustedSession,
    paths: Sequence[Path],
    held: _Held,
    labels: Sequence[str],
    front_end: LogMel,
    on_unreadable: Callable[[DataError], None],
) -> list[Prediction]:
    """A prediction for each recording, of a longer one the joined predictions of its windows."""
    found: list[Prediction] = []
    for path in paths:
        try:
            samples = _samples(path, held, front_end.rate)
        except DataError as error:
            on_unreadable(DataError(error.what, fix=_UNREADABLE))
            continue
        shape = front_end.window, front_end.stride
        if (count := audio_files.window_count(samples, *shape)) > _MOST_WINDOWS:
            what = f"{path} has {count} windows, at most {_MOST_WINDOWS} are classified"
            on_unreadable(DataError(what, fix="cut it into shorter recordings"))
            continue
        blocks = audio_files.cut_in_blocks(samples, *shape, batch_of(session.shape))
        probabilities = np.concatenate([session.predict(block) for block in blocks])
        (joined,), _ = join_predictions(probabilities, np.zeros(len(probabilities), np.int64))
        pieces = tuple(
            WindowPrediction(n * front_end.stride, labels[row.argmax()], float(row.max()))
            for n, row in enumerate(probabilities)
        )
        windows = pieces if len(pieces) > 1 else ()
        best = int(joined.argmax())
        found.append(Prediction(path, labels[best], float(joined[best]), windows=windows))
    return found


def _samples(path: Path, held: _Held, rate: int) -> NDArray[np.int16]:
    """Samples of a recording of sound at a rate, in hertz."""
    if path not in held:
        return audio_files.to_rate(path, *audio_files.read_audio(path), rate)
    values = held[path]
    if values.dtype != np.int16 or values.ndim != 1 or not len(values):
        raise DataError(
            f"{path} holds {values.dtype} {values.shape}, the net reads int16 samples (length,) at "
            f"{rate} Hz",
            fix="give such samples, or recordings as files",
        )
    return values


def _decoded(
    paths: Sequence[Path],
    size: int,
    pixels_of: Callable[[Path], NDArray[Any] | DataError],
    on_unreadable: Callable[[DataError], None],
) -> Iterator[list[tuple[Path, NDArray[Any]]]]:
    """Readable pictures with their pixels, in batches that are not empty."""
    for start in range(0, len(paths), size):
        batch, good = paths[start : start + size], []
        for path, pixels in zip(batch, decode.map_in_threads(pixels_of, batch), strict=True):
            if isinstance(pixels, DataError):
                on_unreadable(pixels)
            else:
                good.append((path, pixels))
        if good:
            yield good


def _raise(error: DataError) -> None:
    raise error


def _received(
    session: UntrustedSession,
    sent: Sequence[tuple[Path, str]],
    labels: Sequence[str],
    below: float,
) -> list[Prediction]:
    """Predictions of the pictures, with remarks, that were sent last; none where there are none."""
    if not sent:
        return []
    found = session.receive()
    best = found.argmax(1)
    rows = zip(sent, best.tolist(), found.max(1).tolist(), strict=True)
    return [
        Prediction(path, "" if top < below else labels[index], top, remark, rejected=top < below)
        for (path, remark), index, top in rows
    ]


def _threshold(session: UntrustedSession, model: Path) -> float:
    """Probability below which samples are rejected; 0 where the file states none."""
    text = session.words.get(manifest.REJECT_BELOW, "")
    try:
        found = float(text or 0)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        what = f"{manifest.REJECT_BELOW} in the metadata of {model} is {text[:40]!r}"
        what += ", the rule is 0 to 1"
        raise DataError(what, fix=_FIX)
    return found


def _suffixes(channels: int) -> frozenset[str]:
    """Of the files that a net for pictures reads."""
    arrays = frozenset({array_files.SUFFIX})
    return arrays | picture_files.SUFFIXES if channels in (1, 3, 4) else arrays


def _recorded_scale(
    session: UntrustedSession, model: Path, sealed: Seal | None
) -> PixelScale | None:
    """Black and white of the stored pixels, as recorded with the net; None: those of 8 bits."""
    text = session.words.get(manifest.PIXEL_SCALE, "")
    folder = model.parent if sealed is None else sealed.folder
    if not text and (folder / manifest.ABOUT).is_file():
        if sealed is not None:
            sealed.manifest.content(folder, manifest.ABOUT)
        text = read_provenance(folder).pixel_scale
    return parse_scale(text) if text else None


def _remarks(paths: Sequence[Path], pixels: NDArray[np.uint8], scale: PixelScale) -> Iterator[str]:
    """For each picture a sentence if its values hardly fit the scale; else an empty one."""
    each = pixels.reshape(len(pixels), -1)
    is_dark = each.max(1) <= _SUSPECT_LEVEL
    is_suspect = is_dark | ((each == 255).mean(1) > _SUSPECT_SHARE)
    for path, suspect in zip(paths, is_suspect.tolist(), strict=True):
        yield _remark(path, scale) if suspect else ""


def _remark(path: Path, scale: PixelScale) -> str:
    """A sentence on a picture whose values do not fit the scale; empty for all others."""
    if path.suffix.lower() == array_files.SUFFIX:
        return ""
    levels = decode.check_picture(path).levels
    scale = scale if levels.is_float else scale.of_files
    is_beyond = levels.high > scale.white or has_other_scale(levels.high, scale, scale.white)
    if not levels.is_above_8_bits or not is_beyond:
        return ""
    return (
        f"{path} has values {levels.low:g} to {levels.high:g}, but {scale.white:g} is taken for "
        f"white ({scale.name}); {OPTION} states another scale"
    )


def _labels(session: UntrustedSession, model: Path) -> list[str]:
    if "labels" not in session.words:
        raise DataError(f"{model} does not name its classes", fix=_FIX)
    names = untrusted_files.parse_json(
        session.words["labels"], f"{model}: labels", fix=_FIX, top=list
    )
    if len(names) != session.classes:
        raise DataError(
            f"{model} names {len(names)} classes and gives {session.classes} probabilities",
            fix=_FIX,
        )
    if not all(isinstance(name, str) and name.strip() for name in names):
        odd = next(name for name in names if not isinstance(name, str) or not name.strip())
        raise DataError(
            f"{model}: the name of a class is {odd!r:.60}, the rule is a text", fix=_FIX
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{model}: two classes are named {twice!r:.60}", fix=_FIX)
    return list(names)


def _framing(session: UntrustedSession, model: Path) -> Framing | None:
    try:
        framing = framing_in(session.words)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{model} does not say how pictures are resized: {error}", fix=_FIX
        ) from error
    most = _MAX_FRAMING * max(session.shape[:2])
    if framing is not None and not all(1 <= side <= most for side in framing.size):
        raise DataError(
            f"{model} resizes pictures to {framing.size[0]}x{framing.size[1]}; the rule is sides "
            f"from 1 to {most}, {_MAX_FRAMING} times those of its input",
            fix=_FIX,
        )
    return framing


def _front_end(session: UntrustedSession, model: Path) -> LogMel:
    """What the metadata say of the sound that the file reads."""
    text = session.words.get(FRONT_END, "{}")
    fields = untrusted_files.parse_json(text, f"{model}: {FRONT_END}", fix=_FIX, top=dict)
    try:
        front_end = LogMel.from_fields(fields)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{model} does not say what sound it reads: {first_line(error)}", fix=_FIX
        ) from error
    if (front_end.window,) != session.shape:
        raise DataError(
            f"{model} reads {session.shape[0]} samples, its metadata say {front_end.window}",
            fix=_FIX,
        )
    return front_end
