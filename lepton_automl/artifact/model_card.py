"""The model card of an artifact, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from lepton_automl.artifact import formatting
from lepton_automl.artifact.provenance import Provenance, finalist_summary
from lepton_automl.artifact.verdict import Verdict
from lepton_automl.config import LIMITS
from lepton_automl.core import units
from lepton_automl.data.pixel_scale import EIGHT_BIT

USE = """## Use

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
answer = session.run(None, {{"pixels": pixels.reshape(1, {height}, {width}, {channels})}})[0][0]
print(json.loads(session.get_modelmeta().custom_metadata_map["labels"])[answer.argmax()])
```
"""

FILES = """## Files

| file | holds |
|---|---|
| `model.int8.onnx` | int8 weights, uint8 feature maps (QDQ), uint8 pixels in |
| `model.fp32.onnx` | the same net in float32 |
| `golden/` | validation pictures and what both files answer to them |
| `reference/` | the float net before pruning, which drops are measured against |
| `reference_test_predictions.npy` | its classes on the test part, in order |
| `verdict.json` | everything on this page, for programs |
| `manifest.json` | sha256 of every file |

`golden/` holds pictures of the data: leave it out where these must not be passed on.
"""


def card(verdict: Verdict, about: Provenance) -> str:
    """Write the model card.

    Parameters
    ----------
    verdict : Verdict
        Results of verification.
    about : Provenance
        Origin of the artifact.
    """
    sections = [_head(verdict, about), _answer(verdict), _figures(verdict), _drops(verdict)]
    return "\n".join(
        [
            *filter(None, sections),
            _made(about),
            _decisions(verdict, about),
            _how(verdict),
            _use(verdict, about),
            FILES,
        ]
    )


def _head(verdict: Verdict, about: Provenance) -> str:
    height, width, channels = about.input
    names = ", ".join(about.class_names[:20]) + (", ..." if len(about.class_names) > 20 else "")
    rows = {
        "Task": f"{len(about.class_names)} classes: {names}",
        "Input": f"{height}x{width}, {'RGB' if channels == 3 else 'grey'}",
        "Ships": f"`{formatting.precision_text(verdict.primary)}`, chosen by "
        f"`--prefer {verdict.prefer}`",
        "Data": f"{about.data}, fingerprint `{about.data_fingerprint}`",
        "Test part": f"fingerprint `{verdict.test_fingerprint}`"
        + (f", **{formatting.test_set_uses_text(verdict)}**" if verdict.test_set_uses > 1 else ""),
        "Target": about.target,
        "Made by": f"lepton {about.lepton}",
    }
    return f"# {about.data}: a classifier by lepton\n\n" + _table(("", ""), rows.items())


def _answer(verdict: Verdict) -> str:
    lines = [f"## Verdict: {verdict.status}", "", formatting.ANSWERS[verdict.status]]
    if verdict.status == "holds" and not verdict.limits:
        lines[-1] = "No limit was stated, so none is judged."
    lines[-1] = lines[-1].rstrip(".") + formatting.warned_text(verdict) + "."
    lines += [f"\n**Warning:** {warning}\n" for warning in verdict.warnings]
    lines += [
        f"- {line}"
        for line in (*verdict.reasons, *verdict.notes, formatting.other_text(verdict))
        if line
    ]
    rows = [
        (
            f"{formatting.limit_title(limit.name, verdict.balanced)} "
            + units.quantity_text(limit.limit, LIMITS[limit.name].unit),
            formatting.measured_text(limit),
            limit.status,
        )
        for limit in verdict.limits
    ]
    table = _table(("limit", "measured", "verdict"), rows) if rows else ""
    return "\n".join([*lines, "", table, formatting.faster_text(verdict), ""])


def _figures(verdict: Verdict) -> str:
    found = {"int8": verdict.int8, "float": verdict.float32, "reference": verdict.reference}
    present = {name: item for name, item in found.items() if item is not None}
    if not present:
        return ""
    rows = formatting.figure_rows(list(present.values()), verdict.balanced)
    rows.append(("sha256", *(f"`{item.sha256}`" for item in present.values())))
    mark = formatting.test_set_uses_text(verdict)
    title = "## Figures" + (f" ({mark})" if mark else "")
    return f"{title}\n\n{_table(('', *present), rows)}"


def _drops(verdict: Verdict) -> str:
    names = {
        "int8": "from reference to int8",
        "float": "from reference to float",
        "int8_against_float": "from float to int8",
    }
    rows = [
        (names.get(name, name), formatting.drop_text(drop)) for name, drop in verdict.drops.items()
    ]
    title = f"{units.accuracy_title(verdict.balanced)} drop, paired [95 %]"
    return _table((title, ""), rows) if rows else ""


def _made(about: Provenance) -> str:
    if about.notes:
        return "## How it was made\n\n" + "\n".join(f"- {note}" for note in about.notes) + "\n"
    if not about.finalists:
        return ""
    head = ("trial", *formatting.FINALIST_COLUMNS)
    rows = [(str(each.number), *formatting.finalist_cells(each)) for each in about.finalists]
    by = ", by balanced accuracy" if about.balanced else ""
    has_folds = about.finalists[0].cross_validation is not None
    where = "On training and validation" if has_folds else "On the validation part"
    text = f"## How it was chosen\n\n{where}{by}, {finalist_summary(about.finalists)}"
    return f"{text}.\n\n{_table(head, rows)}"


def _decisions(verdict: Verdict, about: Provenance) -> str:
    made = formatting.decisions_of(about, verdict)
    if not made:
        return ""
    rows = [(d.name, d.choice, d.evidence, d.certainty, d.option and f"`{d.option}`") for d in made]
    head = "## Decisions\n\nMade by lepton where no option said otherwise."
    return f"{head}\n\n{_table(formatting.DECISION_COLUMNS, rows)}"


def _how(verdict: Verdict) -> str:
    text = (
        f"## How it was measured\n\nThe written files, in a fresh process, on {verdict.machine}. "
        f"{formatting.accuracy_kind(verdict)} Drops are paired on the same samples. Latency: "
        "batch 1, one thread, every optimisation on, in rounds in which the files and one fixed "
        "net take turns; "
        "the figure is the ratio to that net times its quiet time.\n"
    )
    if told := formatting.target_latency_note(verdict):
        text += f"{told}\n"
    if verdict.parity is not None:
        p = verdict.parity
        text += (
            f"Parity with exact integer arithmetic on {p.n_samples} pictures: largest difference "
            f"{p.max_steps} steps, the same class for {p.n_same_class} of {p.n_clear} clear ones.\n"
        )
    return text


_DEEP = """
Picture files with more than 8 bits a channel are converted first: {black:g} is black and {white:g}
white, `pixels = clip(round(255 * (values - {black:g}) / {width:g}), 0, 255)`. In Python, for a grey
file:

```python
values = numpy.asarray(Image.open("picture.png")).astype(float)
levels = ((values - {black:g}) * 255 / {width:g}).round().clip(0, 255).astype(numpy.uint8)
picture = Image.fromarray(levels).convert("{mode}")
```
"""
_RAW = """
The data were stored with {black:g} as black and {white:g} as white:
`pixels = clip(round(255 * (values - {black:g}) / {width:g}), 0, 255)`.
"""


def _scale(about: Provenance) -> str:
    """How stored values become the file's pixels, where they are not 0 to 255."""
    scale, mode = about.known_scale, "RGB" if about.input[2] == 3 else "L"
    if scale is None or scale == EIGHT_BIT:
        return ""
    text = _RAW if scale.of_files != scale else _DEEP
    return text.format(black=scale.black, white=scale.white, width=scale.width, mode=mode)


def _use(verdict: Verdict, about: Provenance) -> str:
    height, width, channels = about.input
    use = USE.format(
        height=height,
        width=width,
        channels=channels,
        classes=len(about.class_names),
        colour="RGB" if channels == 3 else "grey",
        mode="RGB" if channels == 3 else "L",
        file=formatting.precision_text(verdict.primary),
    )
    return use + _scale(about)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(_cell(c) for c in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
