"""The HTML page of `lepton data`: one file with tables and pictures, without scripts or links."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lepton_automl.core import files
from lepton_automl.data.audit.checks import SampleKey
from lepton_automl.data.pictures import decode
from lepton_automl.errors import ConfigError
from lepton_automl.pipeline.data_report import DataReport, part_rows, suspect_text
from lepton_automl.text import markup

_SIDE = 72
"""Longer side of a picture on the page, pixels."""
_PICTURES = 600
"""Pictures of the contact sheet at most."""
_A_CLASS = 8
"""Pictures of a class at most."""
_GROUPS = 24
"""Groups of samples of a finding at most, and pictures of each."""
_MEMBERS = 4
_STYLE = (
    "body{font:15px/1.45 sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#22272e}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #e6e9ed;padding:.25rem "
    ".6rem;text-align:left;vertical-align:top}p,h1,h3{overflow-wrap:anywhere}figure{display:inline-block;margin:.2rem;width:88px;"
    "vertical-align:top}figcaption{font-size:10px;overflow-wrap:anywhere;color:#6b7480}"
    ".group{display:inline-block;vertical-align:top;border:1px solid #e6e9ed;margin:.3rem;"
    "padding:.2rem}img,svg{image-rendering:pixelated;max-width:88px}"
    # On a narrow screen the rows of wide tables are lists, a line a cell.
    "@media(max-width:44rem){td{overflow-wrap:anywhere}td:first-child{overflow-wrap:normal}"
    "td,th{padding:.25rem .4rem}.wide tr{display:block;border:1px solid #e6e9ed;padding:.3rem}"
    ".wide th{display:none}.wide td{display:block;border:0;padding:.1rem .3rem;"
    "overflow-wrap:anywhere}"
    ".wide td::before{content:attr(data-name);color:#6b7480;font-size:12px;margin-right:.5em}}"
)


def check_place(path: Path) -> None:
    """Refuse a place for the page before any data are read.

    Raises
    ------
    ConfigError
        If something is there.
    """
    if os.path.lexists(path):
        raise ConfigError(
            f"--html {path}: it exists, and nothing is overwritten", fix="give another name"
        )


def write_page(report: DataReport, path: Path) -> Path:
    """Write the page.

    Raises
    ------
    ConfigError
        As `check_place`.
    DataError
        If a picture file was removed or damaged since the data were opened.
    MachineError
        If it cannot be written.
    """
    check_place(path)
    return files.write(path, "".join(_page(report)))


def _page(report: DataReport) -> Iterator[str]:
    dataset = report.dataset
    title = markup(f"Data: {dataset.name}")
    yield (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>\n"
    )
    if report.refusal is not None:
        yield (
            f"<p><strong>{markup(report.refusal.what)}</strong>: {markup(report.refusal.fix)}</p>\n"
        )
    yield f"<p>{markup(_summary(report))}</p>\n"
    parts = report.parts
    names = [part.name for part in parts]
    yield _table(("", *names), [(name, *cells) for name, cells in part_rows(parts)])
    classes = [
        (name, *(f"{part.class_counts[n]:,}" for part in parts))
        for n, name in enumerate(dataset.class_names)
    ]
    yield _table(("class", *names), classes)
    yield f"<p>{markup(report.resolution_text)}</p>\n"
    yield "<h2>Decisions</h2>\n<p>What was decided for you, and the option that overrules it.</p>\n"
    yield _table(
        ("about", "decision", "from", "certainty", "overruled by"),
        [(d.name, d.choice, d.evidence, d.certainty, d.option) for d in report.decisions],
        is_wide=True,
    )
    yield from (f"<p>{markup(note)}</p>\n" for note in dataset.notes)
    yield "<h2>Findings</h2>\n"
    if not report.findings:
        yield "<p>none</p>\n"
    for finding in report.findings:
        yield f"<h3>{markup(finding.kind)}</h3>\n"
        yield f"<p>{markup(finding.message)} ({markup(finding.fix)})</p>\n"
        if finding.kind == "unreadable files":
            yield _table(
                ("file that cannot be read", "class", "reason"),
                [(file.id, file.class_name, file.error) for file in dataset.unreadable],
                is_wide=True,
            )
        yield from _groups(report, finding.samples)
    yield f"<h2>Doubtful labels</h2>\n<p>{markup(report.suspects_text)}</p>\n"
    for suspect in report.suspects.suspects[: _GROUPS * _MEMBERS]:
        yield _figure(report, suspect.key, suspect_text(report, suspect))
    what = "The first training samples of each class."
    if dataset.is_audio:
        what += " Of sound the features are drawn: time to the right, low bands below."
    yield f"<h2>Contact sheet</h2>\n<p>{what}</p>\n"
    count = max(1, min(_A_CLASS, _PICTURES // len(dataset.class_names)))
    for label, name in list(enumerate(dataset.class_names))[:_PICTURES]:
        own = np.flatnonzero(dataset.train.labels == label)[:count]
        yield f"<h3>{markup(name)}</h3>\n"
        yield from (_figure(report, ("train", int(place)), "") for place in own)
    yield "</body></html>\n"


def _summary(report: DataReport) -> str:
    """What the page shows, and what was found, in one paragraph."""
    found = ", ".join(dict.fromkeys(finding.kind for finding in report.findings)) or "nothing"
    return (
        f"What lepton data says about {report.dataset.name} before anything is trained. Found: "
        f"{found}; {len(report.suspects.suspects):,} doubtful labels. Each finding below names "
        "samples and, in brackets, what to do about it."
    )


def _groups(report: DataReport, groups: Sequence[Sequence[SampleKey]]) -> Iterator[str]:
    for group in groups[:_GROUPS]:
        yield '<div class="group">'
        for key in group[:_MEMBERS]:
            yield _figure(report, key, report.label(key))
        if len(group) > _MEMBERS:
            yield f"<p>and {len(group) - _MEMBERS} more</p>"
        yield "</div>\n"
    if len(groups) > _GROUPS:
        yield f"<p>and {len(groups) - _GROUPS} more, in the JSON of --json</p>\n"


def _figure(report: DataReport, key: SampleKey, text: str) -> str:
    name = report.name(key)
    caption = markup(f"{text} {name}".strip())
    return f"<figure>{_drawing(report, key)}<figcaption>{caption}</figcaption></figure>\n"


def _drawing(report: DataReport, key: SampleKey) -> str:
    """A picture as an image of its own shape, a signal as lines."""
    dataset, (part, place) = report.dataset, key
    signals = dataset.part(part).signals
    if signals is not None:
        return _lines(signals[place])
    picture = dataset.part(part).pictures[place]
    pixels = decode.decode(picture, dataset.channels, None, dataset.file_scale)
    if dataset.is_audio:  # As spectrograms are drawn: time to the right, low bands below.
        pixels = np.ascontiguousarray(pixels.transpose(1, 0, 2)[::-1])
    if pixels.shape[2] not in (1, 3):  # The first three channels, or the first one of two.
        pixels = np.ascontiguousarray(pixels[..., : 3 if pixels.shape[2] > 3 else 1])
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    scale = _SIDE / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    content = base64.b64encode(stream.getvalue()).decode()
    width, height = (max(1, round(side * _SIDE / max(image.size))) for side in image.size)
    return f'<img width="{width}" height="{height}" alt="" src="data:image/png;base64,{content}">'


def _lines(values: np.ndarray) -> str:
    low, high = float(values.min()), float(values.max())
    across = np.linspace(0, _SIDE, len(values))
    down = (1 - (values - low) / max(high - low, 1e-12)) * _SIDE
    drawn = "".join(
        '<polyline fill="none" stroke="#2f6fb3" points="'
        + " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, column, strict=True))
        + '"/>'
        for column in down.T
    )
    return f'<svg width="{_SIDE}" height="{_SIDE}">{drawn}</svg>'


def _table(head: Sequence[str], rows: Iterable[Iterable[str]], *, is_wide: bool = False) -> str:
    """A table; one that `is_wide` becomes a list with the names of `head` on narrow screens."""
    names = [f' data-name="{markup(name)}"' if is_wide else "" for name in head]
    heads = "".join(f"<th>{markup(name)}</th>" for name in head)
    body = "".join(
        "<tr>"
        + "".join(f"<td{name}>{markup(cell)}</td>" for name, cell in zip(names, cells, strict=True))
        + "</tr>"
        for cells in rows
    )
    kind = ' class="wide"' if is_wide else ""
    return f"<table{kind}><tr>{heads}</tr>{body}</table>\n"
