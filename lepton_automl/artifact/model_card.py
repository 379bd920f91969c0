"""The model card of an artifact, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lepton_automl.artifact import formatting
from lepton_automl.artifact.provenance import Provenance, finalist_summary
from lepton_automl.artifact.verdict import Verdict
from lepton_automl.config import LIMITS
from lepton_automl.core import units
from lepton_automl.core.units import counted
from lepton_automl.data.pictures.pixel_scale import EIGHT_BIT
from lepton_automl.models.formats import ONNX
from lepton_automl.text import Markdown, code, markdown

USE = Markdown("""## Use

The ONNX file takes `pixels`, uint8 (n, {height}, {width}, {channels}), {colour}, and gives
`probabilities`, float32 (n, {classes}). Normalisation and softmax are inside it; the class names
are in its metadata under `labels` and in `labels.txt`. A picture is set upright as its EXIF says,
turned to {colour}, and stretched to {height}x{width} with Pillow's bilinear filter.

```python
import json, numpy, onnxruntime
from PIL import Image, ImageOps
session = onnxruntime.InferenceSession("{file}")
picture = ImageOps.exif_transpose(Image.open("picture.png")).convert("{mode}")
pixels = numpy.asarray(picture.resize(({width}, {height}), Image.Resampling.BILINEAR))
scores = session.run(None, {{"pixels": pixels.reshape(1, {height}, {width}, {channels})}})[0][0]
print(json.loads(session.get_modelmeta().custom_metadata_map["labels"])[scores.argmax()])
```
""")

USE_CHANNELS = Markdown("""## Use

The ONNX file takes `pixels`, uint8 (n, {height}, {width}, {channels}), with the channels in the
order of the data, and gives `probabilities`, float32 (n, {classes}). Normalisation and softmax are
inside it; the class names are in its metadata under `labels` and in `labels.txt`. A picture of
another size is stretched to {height}x{width}, channel by channel, with Pillow's bilinear filter.

```python
import json, numpy, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession("{file}")
picture = numpy.load("picture.npy")  # uint8 (height, width, {channels})
planes = [Image.fromarray(plane) for plane in numpy.moveaxis(picture, 2, 0).copy()]
planes = [p.resize(({width}, {height}), Image.Resampling.BILINEAR) for p in planes]
scores = session.run(None, {{"pixels": numpy.stack(planes, 2)[None]}})[0][0]
print(json.loads(session.get_modelmeta().custom_metadata_map["labels"])[scores.argmax()])
```
""")

USE_DEEP = Markdown("""## Use

The ONNX file takes `pixels`, uint16 (n, {height}, {width}, {channels}): values as they are stored,
without scaling to 8 bits. It gives `probabilities`, float32 (n, {classes}). Quantization,
normalisation and softmax are inside it; the class names are in its metadata under `labels` and in
`labels.txt`. A picture of another size is stretched to {height}x{width} with Pillow's bilinear
filter in floating point. Of RGB files of 16 bits Pillow alone gives 8; lepton's example
`classify.py` reads all.

```python
import json, numpy, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession("{file}")
picture = numpy.load("picture.npy")  # uint16 (height, width, {channels})
planes = [Image.fromarray(plane.astype("f4")) for plane in numpy.moveaxis(picture, 2, 0)]
planes = [p.resize(({width}, {height}), Image.Resampling.BILINEAR) for p in planes]
pixels = numpy.stack(planes, 2).round().astype(numpy.uint16)
scores = session.run(None, {{"pixels": pixels[None]}})[0][0]
print(json.loads(session.get_modelmeta().custom_metadata_map["labels"])[scores.argmax()])
```
""")

USE_SIGNAL = Markdown("""## Use

The ONNX file takes `signal`, {kind} (n, {length}, {channels}): values as the sensor gives them, in
the units of the data. It gives `probabilities`, float32 (n, {classes}). Scaling and softmax are
inside it; the class names are in its metadata under `labels` and in `labels.txt`.

```python
import json, numpy, onnxruntime
session = onnxruntime.InferenceSession("{file}")
window = numpy.load("window.npy").astype(numpy.{kind})  # ({length}, {channels})
scores = session.run(None, {{"signal": window.reshape(1, {length}, {channels})}})[0][0]
print(json.loads(session.get_modelmeta().custom_metadata_map["labels"])[scores.argmax()])
```
""")

USE_AUDIO = Markdown("""## Use

The ONNX file takes `audio`, int16 (n, {window}): PCM samples of one channel at {rate} Hz,
{seconds:.2f} s. It gives `probabilities`, float32 (n, {classes}). The log-mel features
({front_end}) and softmax are inside it; the class names are in its metadata under `labels` and in
`labels.txt`. Shorter recordings end with zeros; the prediction for a longer one is the mean of
the log probabilities of windows that start every {stride} samples.

```python
import json, numpy, onnxruntime, wave
session = onnxruntime.InferenceSession("{file}")
with wave.open("recording.wav") as file:  # 16 bits, one channel, {rate} Hz
    samples = numpy.frombuffer(file.readframes(file.getnframes()), "<i2")
window = numpy.zeros((1, {window}), numpy.int16)
window[0, :len(samples)] = samples[:{window}]
scores = session.run(None, {{"audio": window}})[0][0]
print(json.loads(session.get_modelmeta().custom_metadata_map["labels"])[scores.argmax()])
```
""")

FILES = Markdown("""## Files

| file | holds |
|---|---|
| `model.int8.onnx` | int8 weights, uint8 feature maps (QDQ) |
| `model.fp32.onnx` | the same net in float32 |
| `golden/` | validation samples and what both files predict for them |
| `reference/` | the float net before pruning, which drops are measured against |
| `reference_test_predictions.npy` | its classes on the test part, in order |
| `lepton_device.py` | verifies, classifies and measures where lepton is not installed |
| `verdict.json` | everything on this page, for programs |
| `sbom.cdx.json` | bill of materials of the model, CycloneDX 1.6 |
| `manifest.json` | sha256 of every file; `manifest.json.sig`, if there is one, signs it |

With Python, numpy and onnxruntime (and Pillow for picture files), without lepton:
`python lepton_device.py verify .`, `python lepton_device.py predict . FILE ...`,
`python lepton_device.py bench .`

`golden/` holds samples of the data: leave it out where these must not be passed on.
""")


def card(verdict: Verdict, about: Provenance) -> str:
    """Write the model card.

    Parameters
    ----------
    verdict : Verdict
        Results of verification.
    about : Provenance
        Origin of the artifact.
    """
    sections = [_head(verdict, about), _verdict(verdict), _figures(verdict), _drops(verdict)]
    sections.append(_formats(verdict, about))
    if texts := formatting.probability_texts(verdict):
        sections.append(_lines([*_items(texts), Markdown()]))
    more = [_made(about), _decisions(verdict, about), _how(verdict), _use(verdict, about), FILES]
    return _lines([*filter(None, sections), *more])


def _head(verdict: Verdict, about: Provenance) -> Markdown:
    names = ", ".join(about.class_names[:20]) + (", ..." if len(about.class_names) > 20 else "")
    uses = Markdown(", **{uses}**") if verdict.test_set_uses > 1 else Markdown()
    ships, preferred = formatting.shipped_text(verdict), f"--prefer {verdict.prefer}"
    if verdict.ship != ONNX and not about.ships_fastest:
        preferred = f"--ship {verdict.ship}"
    rows = {
        "Task": f"{len(about.class_names)} classes: {names}",
        "Input": _input(about),
        "Ships": Markdown("{file}, chosen by {option}").fill(
            file=code(ships), option=code(preferred)
        ),
        "Data": Markdown("{data}, fingerprint {digest}").fill(
            data=about.data, digest=code(about.data_fingerprint)
        ),
        "Test part": Markdown("fingerprint {digest}{uses}").fill(
            digest=code(verdict.test_fingerprint),
            uses=uses.fill(uses=formatting.test_set_uses_text(verdict)),
        ),
        "Target": about.target,
        "Made by": f"lepton {about.lepton}",
    }
    if verdict.board is not None:
        rows["Board"] = formatting.board_text(verdict.board)
    title = Markdown("# {data}: a classifier by lepton\n").fill(data=about.data)
    return _lines([title, _table(("", ""), rows.items())])


def _input(about: Provenance) -> str:
    if (front_end := about.front_end) is not None:
        return f"{front_end.window} samples of sound at {front_end.rate} Hz"
    if len(about.input) == 2:
        length, channels = about.input
        names = f" ({', '.join(about.channel_names)})" if about.channel_names else ""
        count = f"{counted(channels, 'channel')}{names}"
        return f"signal of {length} values, {count}, {about.input_kind}"
    height, width, channels = about.input
    kinds = {1: "grey", 3: "RGB"}
    depth = ", 16 bits" if about.input_kind == "uint16" else ""
    return f"{height}x{width}, {kinds.get(channels, f'{channels} channels')}{depth}"


def _verdict(verdict: Verdict) -> Markdown:
    text = formatting.verdict_text(verdict)
    if verdict.status == "holds" and not verdict.limits:
        text = "No limit was stated, so none is judged."
    text = text.rstrip(".") + formatting.warned_text(verdict) + "."
    title = Markdown("## Verdict: {status}\n").fill(status=verdict.status)
    warnings = [Markdown("\n**Warning:** {text}\n").fill(text=text) for text in verdict.warnings]
    others = (*verdict.reasons, *verdict.notes, formatting.other_text(verdict))
    rows = [
        (
            f"{formatting.limit_title(limit.name, verdict)} "
            + units.quantity_text(limit.limit, LIMITS[limit.name].unit),
            formatting.measured_text(limit),
            limit.status,
        )
        for limit in verdict.limits
    ]
    table = _table(("limit", "measured", "verdict"), rows) if rows else Markdown()
    end = [Markdown(), table, markdown(formatting.faster_text(verdict)), Markdown()]
    return _lines([title, markdown(text), *warnings, *_items(others), *end])


def _figures(verdict: Verdict) -> Markdown:
    found = {"int8": verdict.int8, "float": verdict.float32, "reference": verdict.reference}
    present = {name: item for name, item in found.items() if item is not None}
    if not present:
        return Markdown()
    rows = formatting.figure_rows(list(present.values()), verdict.balanced)
    rows.append(("sha256", *(code(item.sha256) for item in present.values())))
    mark = formatting.test_set_uses_text(verdict)
    title = Markdown("## Figures ({mark})\n").fill(mark=mark) if mark else Markdown("## Figures\n")
    return _lines([title, _table(("", *present), rows)])


def _drops(verdict: Verdict) -> Markdown:
    names = {
        "int8": "from reference to int8",
        "float": "from reference to float",
        "int8_against_float": "from float to int8",
    }
    rows = [
        (names.get(name, name), formatting.drop_text(drop)) for name, drop in verdict.drops.items()
    ]
    rows += [
        (f"{names.get(name, name)}, of whole recordings", formatting.drop_text(drop))
        for name, drop in verdict.recording_drops.items()
    ]
    title = f"{units.accuracy_title(verdict.balanced)} drop, paired [95 %]"
    return _table((title, ""), rows) if rows else Markdown()


def _formats(verdict: Verdict, about: Provenance) -> Markdown:
    if not verdict.formats:
        return Markdown()
    head = Markdown(
        "## Further formats\n\nThe same net on the test part: how many samples get the class of "
        "`model.int8.onnx`, the largest difference of a probability from it, the drop from the "
        "reference, and the time of a call in ratio to that file here.\n"
    )
    table = _table(formatting.FORMAT_COLUMNS, map(formatting.format_cells, verdict.formats))
    items = []
    for each in verdict.formats:
        paths = ", ".join(about.formats[each.name])
        items.append(f"{each.name}: {paths}; sha256 of {each.file} {each.sha256}")
        items += [f"{each.name}: {text}" for text in formatting.format_texts(each)]
    return _lines([head, table, *_items(items), Markdown()])


def _made(about: Provenance) -> Markdown:
    if about.notes:
        return _lines([Markdown("## How it was made\n"), *_items(about.notes), Markdown()])
    if not about.finalists:
        return Markdown()
    head = ("trial", *formatting.FINALIST_COLUMNS)
    rows = [(str(each.number), *formatting.finalist_cells(each)) for each in about.finalists]
    by = ", by balanced accuracy" if about.balanced else ""
    has_folds = about.finalists[0].cross_validation is not None
    where = "On training and validation" if has_folds else "On the validation part"
    text = markdown(f"{where}{by}, {finalist_summary(about.finalists)}.")
    return _lines([Markdown("## How it was chosen\n"), text, Markdown(), _table(head, rows)])


def _decisions(verdict: Verdict, about: Provenance) -> Markdown:
    made = formatting.decisions_of(about, verdict)
    if not made:
        return Markdown()
    rows = [(d.name, d.choice, d.evidence, d.certainty, code(d.option)) for d in made]
    head = Markdown("## Decisions\n\nMade by lepton where no option said otherwise.\n")
    return _lines([head, _table(formatting.DECISION_COLUMNS, rows)])


def _how(verdict: Verdict) -> Markdown:
    text = (
        f"The written files, in a fresh process, on {formatting.machine_text(verdict)}. "
        f"{formatting.accuracy_kind(verdict)} Drops are paired on the same samples. Latency: "
        "batch 1, one thread, every optimisation on, in rounds in which the files and one fixed "
        "net take turns; "
        "the figure is the ratio to that net times its quiet time."
    )
    lines = [text, formatting.target_latency_note(verdict)]
    if about := formatting.front_end_text(verdict):
        lines.append(f"{about[0].upper()}{about[1:]}.")
    if verdict.parity is not None:
        p = verdict.parity
        lines.append(
            f"Parity with exact integer arithmetic on {p.n_samples} samples: largest difference "
            f"{p.max_steps} steps, the same class for {p.n_same_class} of {p.n_clear} clear ones."
        )
        if p.feature_steps is not None:
            lines.append(
                f"Features differ from float64 arithmetic by at most {p.feature_steps} steps."
            )
    title = Markdown("## How it was measured\n")
    return _lines([title, *(markdown(line) for line in lines if line), Markdown()])


_DEEP = Markdown("""
Picture files with more than 8 bits a channel are converted first: {black:g} is black and {white:g}
white, `pixels = clip(round(255 * (values - {black:g}) / {width:g}), 0, 255)`. In Python, for a grey
file:

```python
values = numpy.asarray(Image.open("picture.png")).astype(float)
levels = ((values - {black:g}) * 255 / {width:g}).round().clip(0, 255).astype(numpy.uint8)
picture = Image.fromarray(levels).convert("{mode}")
```
""")
_RAW = Markdown("""
The data were stored with {black:g} as black and {white:g} as white:
`pixels = clip(round(255 * (values - {black:g}) / {width:g}), 0, 255)`.
""")


def _scale(about: Provenance) -> Markdown:
    """How stored values become the file's pixels, where they are not 0 to 255."""
    scale, mode = about.known_scale, "RGB" if about.input[-1] == 3 else "L"
    if scale is None or scale == EIGHT_BIT:
        return Markdown()
    text = _RAW if scale.of_files != scale or about.input[-1] not in (1, 3) else _DEEP
    return text.fill(black=scale.black, white=scale.white, width=scale.width, mode=mode)


def _use(verdict: Verdict, about: Provenance) -> Markdown:
    classes, file = len(about.class_names), formatting.precision_text(verdict.primary)
    if (front_end := about.front_end) is not None:
        return USE_AUDIO.fill(
            window=front_end.window,
            rate=front_end.rate,
            seconds=front_end.window / front_end.rate,
            stride=front_end.stride,
            front_end=str(front_end),
            classes=classes,
            file=file,
        )
    if len(about.input) == 2:
        length, channels = about.input
        return USE_SIGNAL.fill(
            length=length, channels=channels, classes=classes, file=file, kind=about.input_kind
        )
    height, width, channels = about.input
    use = USE if channels in (1, 3) else USE_CHANNELS
    use = (USE_DEEP if about.input_kind == "uint16" else use).fill(
        height=height,
        width=width,
        channels=channels,
        classes=classes,
        colour="RGB" if channels == 3 else "grey",
        mode="RGB" if channels == 3 else "L",
        file=file,
    )
    return use if about.input_kind == "uint16" else Markdown(use + _scale(about))


def _lines(parts: Iterable[Markdown]) -> Markdown:
    return Markdown("\n".join(parts))


def _items(texts: Iterable[str]) -> list[Markdown]:
    return [Markdown("- {text}").fill(text=text) for text in texts if text]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Markdown:
    lines = [head, tuple(Markdown("---") for _ in head), *rows]
    return Markdown("".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines))


def _cell(text: str) -> str:
    """Text of a cell; a bar in inline code would end the cell."""
    return re.sub(r"(?<!\\)\|", r"\\|", markdown(text))
