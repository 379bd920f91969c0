"""Whether the flip decision is right on sets whose truth is known, ten draws of each.

    python benchmarks/bench.py flips answers --data FOLDER
    python benchmarks/bench.py flips both --data FOLDER
    python benchmarks/bench.py flips gain --data FOLDER --seeds 3
    python benchmarks/bench.py flips table

FOLDER holds the development sets (fashion_mnist, cifar10, flowers5, fsdd, har_sp_sw). answers:
nets of the default spaces, trained without flips for one first rung (`short`) and for as many
epochs as a trial gets at its end (`long`), classify validation pictures, mirrored too. both: where
the mirror test of the long training leaves flips open, the same net is trained with them. gain:
nets with and without flips, on pictures that neither training nor validation has. table: what is
decided for each net, by the present rule (after the short training there is no time to train both
ways) and by the one before it.
"""

from __future__ import annotations

import dataclasses
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.common import RUNS, append_row, known_good, parser, print_table, read_rows, spread
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.dataset import Part as DataPart
from lepton_automl.metrics import balanced
from lepton_automl.models.model import Model
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.search.finals.flip_check import compare
from lepton_automl.search.finals.mirror_test import FlipVerdict, MirrorTest, mirror_test
from lepton_automl.search.rungs import LEAST_SAMPLES
from lepton_automl.training.evaluate import predict_logits
from lepton_automl.training.loop import fit, initial_model

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
FONTS = Path("/usr/share/fonts/truetype/dejavu")
RESULTS = RUNS / "flips"
LENGTHS = ("short", "long")
KINDS = ("on", "off", "both on", "both off", "assumed", "open")


@dataclass(frozen=True, eq=False)
class Part:
    """Pictures uint8 (N, H, W, C) with their labels and groups."""

    pixels: Pixels
    labels: Labels
    groups: Labels | None = None

    def take(self, index: NDArray[np.int64]) -> Part:
        """The samples at `index`."""
        groups = None if self.groups is None else self.groups[index]
        return Part(self.pixels[index], self.labels[index], groups)


@dataclass(frozen=True)
class Case:
    """A set whose truth is known."""

    make: Callable[[Path, np.random.Generator], tuple[Part, Part, Part]]
    """Training part, validation part, and pictures that are in neither."""
    flips: bool
    """Whether mirrored pictures keep their class."""
    why: str
    net: tuple[str, str] = ("tiny", "quick")
    """Space and the candidate that it names."""
    epochs: int = 27


def drawn(
    count: int, shares: Sequence[float], draws: np.random.Generator, draw: Callable[[int], Pixels]
) -> Part:
    """`count` pictures of classes with these shares, each made by `draw(label)`."""
    labels = draws.choice(len(shares), count, p=np.array(shares) / sum(shares))
    return Part(np.stack([draw(label) for label in labels]), labels.astype(np.int64))


def rendered(characters: str, sizes: tuple[int, int, int]) -> Callable[..., tuple[Part, ...]]:
    """Characters in nine faces, turned, moved, scaled, with noise; 28x28 grey."""

    def make(_: Path, draws: np.random.Generator) -> tuple[Part, ...]:
        paths = sorted(FONTS.glob("DejaVuS*.ttf"))
        fonts = [ImageFont.truetype(str(path), px) for path in paths for px in (17, 20, 23)]

        def draw(label: int) -> Pixels:
            picture = Image.new("L", (40, 40), int(draws.integers(0, 40)))
            font = fonts[draws.integers(len(fonts))]
            ink, at = int(draws.integers(150, 256)), 20 + draws.integers(-2, 3, 2)
            ImageDraw.Draw(picture).text(tuple(at), characters[label], ink, font, anchor="mm")
            turned = picture.rotate(draws.uniform(-12, 12), Image.Resampling.BILINEAR)
            return noisy(np.asarray(turned)[6:34, 6:34, None], draws)

        return tuple(drawn(n, [1] * len(characters), draws, draw) for n in sizes)

    return make


def noisy(pixels: NDArray[np.generic], draws: np.random.Generator, sigma: float = 12) -> Pixels:
    """With Gaussian noise."""
    return np.clip(pixels + draws.normal(0, sigma, pixels.shape), 0, 255).astype(np.uint8)


OUTLINES = ("circle", "triangle", "down", "square", "diamond")
MARKS = ("none", "bar", "post", "dot", "cross")
SIGNS = [(outline, mark) for outline in OUTLINES for mark in MARKS]
"""25 signs that are their own mirror images; two arrows follow."""
COLOURS = {
    "circle": (200, 30, 30), "triangle": (210, 40, 40), "down": (200, 60, 20),
    "square": (30, 60, 190), "diamond": (210, 170, 30),
}  # fmt: skip


def sign(label: int, draws: np.random.Generator) -> Pixels:
    """A sign on a grey or coloured ground, 32x32 RGB, drawn at four times the size."""
    side, low, high, mid = 128, 16, 112, 64
    ground = tuple(int(v) for v in draws.integers(40, 200, 3))
    picture = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(picture)
    outline, mark = SIGNS[label] if label < len(SIGNS) else ("blue", "arrow")
    shape = {
        "triangle": [(mid, low), (high, high), (low, high)],
        "down": [(mid, high), (high, low), (low, low)],
        "square": [(low, low), (high, low), (high, high), (low, high)],
        "diamond": [(mid, low), (high, mid), (mid, high), (low, mid)],
    }
    if outline in shape:
        pen.polygon(shape[outline], (240, 240, 240), COLOURS[outline], width=12)
    else:
        fill = (30, 60, 190) if outline == "blue" else (240, 240, 240)
        pen.ellipse((low, low, high, high), fill, COLOURS.get(outline, fill), width=12)
    ink = (20, 20, 20)
    if mark == "bar":
        pen.rectangle((44, 62, 84, 74), ink)
    elif mark == "post":
        pen.rectangle((58, 46, 70, 90), ink)
    elif mark == "dot":
        pen.ellipse((54, 58, 74, 78), ink)
    elif mark == "cross":
        pen.line((50, 54, 78, 82), ink, 10)
        pen.line((78, 54, 50, 82), ink, 10)
    elif mark == "arrow":
        ends = [(30, 64), (58, 40), (58, 56), (98, 56), (98, 72), (58, 72), (58, 88)]
        right = label == len(SIGNS) + 1
        pen.polygon([(128 - x if right else x, y) for x, y in ends], (250, 250, 250))
    picture = picture.rotate(draws.uniform(-9, 9), Image.Resampling.BILINEAR, fillcolor=ground)
    picture = picture.filter(ImageFilter.GaussianBlur(draws.uniform(0, 4)))
    zoom, dx, dy = draws.uniform(0.9, 1.4), *draws.uniform(-12, 12, 2)
    moved = picture.transform(
        (32, 32), Image.Transform.AFFINE,
        (4 * zoom, 0, 64 * (1 - zoom) + dx, 0, 4 * zoom, 64 * (1 - zoom) + dy),
        Image.Resampling.BILINEAR, fillcolor=ground,
    )  # fmt: skip
    return noisy(np.asarray(moved) * draws.uniform(0.4, 1.1), draws, 14)


def signs(_: Path, draws: np.random.Generator) -> tuple[Part, ...]:
    """27 classes of unequal size; each arrow has a third of the pictures of a common sign."""
    shares = [*draws.uniform(0.5, 1.5, len(SIGNS)), 0.33, 0.33]
    return tuple(drawn(n, shares, draws, lambda k: sign(k, draws)) for n in (3000, 900, 1500))


def texture(label: int, draws: np.random.Generator) -> Pixels:
    """Noise whose statistics are the same in the mirror, 32x32 grey."""
    noise = draws.normal(0, 1, (48, 48))
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(48), np.fft.fftfreq(48)))
    fx, fy = np.meshgrid(np.fft.fftfreq(48), np.fft.fftfreq(48))
    masks = [
        np.exp(-((f - 0.08) ** 2) / 2e-4), np.exp(-((f - 0.16) ** 2) / 4e-4),
        np.exp(-((f - 0.3) ** 2) / 4e-4), 1 / (0.05 + f), 1 / (0.05 + f) ** 2,
        np.exp(-(fx**2) / 2e-3) * np.exp(-((abs(fy) - 0.15) ** 2) / 1e-3),
        np.exp(-(fy**2) / 2e-3) * np.exp(-((abs(fx) - 0.15) ** 2) / 1e-3),
        np.exp(-((np.abs(fx) - np.abs(fy)) ** 2) / 1e-3) * np.exp(-((f - 0.2) ** 2) / 2e-3),
    ]  # fmt: skip
    field = np.fft.ifft2(np.fft.fft2(noise) * masks[label]).real[8:40, 8:40]
    field = field / field.std() * draws.uniform(15, 45) + draws.uniform(90, 160)
    return noisy(field[:, :, None], draws, 25)


def textures(_: Path, draws: np.random.Generator) -> tuple[Part, ...]:
    """Eight kinds of noise."""
    return tuple(drawn(n, [1] * 8, draws, lambda k: texture(k, draws)) for n in (2000, 600, 1500))


def split(whole: Part, draws: np.random.Generator, sizes: Sequence[int]) -> tuple[Part, ...]:
    """Parts of these sizes, drawn without replacement."""
    order = draws.permutation(len(whole.labels))
    return tuple(whole.take(index) for index in np.split(order[: sum(sizes)], np.cumsum(sizes))[:3])


def split_by_group(whole: Part, draws: np.random.Generator, count: int) -> tuple[Part, ...]:
    """`count` groups for validation, as many for the held-out part, the others for training."""
    assert whole.groups is not None
    order = draws.permutation(np.unique(whole.groups))
    chosen = (order[2 * count :], order[:count], order[count : 2 * count])
    return tuple(whole.take(np.flatnonzero(np.isin(whole.groups, g))) for g in chosen)


def fashion(data: Path, draws: np.random.Generator) -> tuple[Part, ...]:
    """A subset of the training part."""
    with np.load(data / "fashion_mnist/fashion_mnist.npz") as file:
        whole = Part(file["x_train"][..., None], file["y_train"].astype(np.int64))
    return split(whole, draws, (2000, 1000, 3000))


def cifar(data: Path, draws: np.random.Generator) -> tuple[Part, ...]:
    """A subset of the training part."""
    with np.load(data / "cifar10/cifar10_20k_4k_webp.npz") as file:
        coded, at, labels = file["train_data"], file["train_offsets"], file["y_train"]
    order = draws.permutation(len(labels))[:7000]
    pictures = [Image.open(io.BytesIO(coded[at[n] : at[n + 1]].tobytes())) for n in order]
    pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    whole = Part(pixels, labels[order].astype(np.int64))
    return split(whole, draws, (4000, 1000, 2000))


def flowers(data: Path, draws: np.random.Generator) -> tuple[Part, ...]:
    """Photos of the training part, 48x48."""
    folders = sorted((data / "flowers5/train").iterdir())
    paths = [(path, k) for k, folder in enumerate(folders) for path in sorted(folder.glob("*.jpg"))]
    pixels = [np.asarray(Image.open(path).convert("RGB").resize((48, 48))) for path, _ in paths]
    whole = Part(np.stack(pixels), np.array([k for _, k in paths], np.int64))
    return split(whole, draws, (1500, 400, 480))


def speech(data: Path, draws: np.random.Generator) -> tuple[Part, ...]:
    """Spoken digits as pictures of 40 bands and 64 frames; speakers are groups."""
    with np.load(data / "fsdd/fsdd_logmel.npz") as file:
        kept = ~file["is_test"]
        _, groups = np.unique(file["speakers"][kept], return_inverse=True)
        whole = Part(file["x"][kept][..., None], file["labels"][kept].astype(np.int64), groups)
    return split_by_group(whole, draws, 1)


def motion(data: Path, draws: np.random.Generator) -> tuple[Part, ...]:
    """Windows of six sensors, each four rows high and 64 columns long; subjects are groups."""
    with np.load(data / "har_sp_sw/har_sp_sw.npz") as file:
        kept = ~file["is_test"]
        signal = (file["x_int16"] * file["scale"][None, :, None])[kept]
        labels, subjects = file["labels"][kept].astype(np.int64), file["subject"][kept]
    reach = np.array([20.0] * 3 + [5.0] * 3)[None, :, None]
    halved = signal.reshape(*signal.shape[:2], 64, 2).mean(3)
    pixels = np.clip(127.5 + 127.5 * halved / reach, 0, 255).astype(np.uint8)
    pictures = np.repeat(pixels, 4, axis=1)[..., None]
    return split_by_group(Part(pictures, labels, subjects.astype(np.int64)), draws, 4)


CASES = {
    "digits": Case(rendered("0123456789", (2000, 600, 1500)), False, "mirrored, most are none"),
    "letters": Case(
        rendered("abcdefghijklmnopqrstuvwxyz", (2600, 1000, 1500)), False, "b and d, p and q"
    ),
    "signs": Case(
        signs, False, "two arrows among 25 symmetric signs", ("residual", "small"), epochs=16
    ),
    "speech": Case(speech, False, "time runs one way"),
    "motion": Case(motion, False, "standing up and sitting down"),
    "fashion": Case(fashion, True, "clothes"),
    "cifar": Case(cifar, True, "animals and vehicles", ("residual", "small"), epochs=20),
    "flowers": Case(flowers, True, "photos"),
    "textures": Case(textures, True, "noise of the same statistics"),
}


def tensors(part: Part) -> LabelledTensors:
    """For training."""
    return LabelledTensors(torch.from_numpy(part.pixels.copy()), torch.from_numpy(part.labels))


def logits(model: Model, pixels: Pixels) -> NDArray[np.float32]:
    """(N, classes)."""
    answer: NDArray[np.float32] = predict_logits(model, torch.from_numpy(pixels.copy())).numpy()
    return answer


def epochs_of(case: Case, samples: int, length: str) -> int:
    """Epochs of a first rung, or of a trial at its end."""
    return case.epochs if length == "long" else math.ceil(LEAST_SAMPLES / samples)


def trained(case: Case, train: Part, epochs: int, seed: int, *, flip: bool) -> Model:
    """A net of the case's space; where classes are uneven, with balanced loss."""
    height, width, channels = train.pixels.shape[1:]
    arch, recipe = known_good(*case.net, (height, width), channels, int(train.labels.max()) + 1)
    scaling = Preprocessing(round(train.pixels.mean()), float(1 / train.pixels.std()))
    data = dataclasses.replace(tensors(train), is_balanced=balanced.is_uneven(train.labels))
    recipe = dataclasses.replace(recipe, flip=flip)
    return fit(initial_model(arch, scaling, seed), data, recipe, epochs=epochs, seed=seed)


def path_of(name: str, seed: int, length: str) -> Path:
    """Where the answers of a net are kept."""
    return RESULTS / f"{name}-{seed}-{length}.npz"


def answers(data: Path, names: Sequence[str], seeds: int) -> None:
    """Train without flips and keep the logits of plain and of mirrored pictures."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        for name in names:
            if path_of(name, seed, "long").exists():
                continue
            case = CASES[name]
            train, validation, _ = case.make(data, np.random.default_rng(seed))
            for length in LENGTHS:
                begun = time.process_time()
                epochs = epochs_of(case, len(train.labels), length)
                model = trained(case, train, epochs, seed, flip=False)
                seconds = time.process_time() - begun
                plain = logits(model, validation.pixels)
                found = {
                    "plain": plain,
                    "mirrored": logits(model, validation.pixels[:, :, ::-1]),
                    "labels": validation.labels,
                    "is_balanced": np.array(balanced.is_uneven(train.labels)),
                }
                if validation.groups is not None:
                    found["groups"] = validation.groups
                np.savez_compressed(path_of(name, seed, length), **found)
                right = (plain.argmax(1) == validation.labels).mean()
                print(f"{name} {seed} {length}: {right:.1%}, {seconds:.1f} s", flush=True)


def verdict(found: Mapping[str, NDArray[np.generic]]) -> MirrorTest:
    """Of the mirror test, from the answers of a net."""
    labels = found["labels"].astype(np.int64)
    names = [str(k) for k in range(found["plain"].shape[1])]
    strata = labels if found["is_balanced"] else None
    groups = found.get("groups")
    return mirror_test(found["plain"], found["mirrored"], labels, names, groups, strata)


def earlier_rule(found: Mapping[str, NDArray[np.generic]]) -> bool:
    """Whether the rule before the mirror test used flips: loss of a tenth, or within chance."""
    labels = found["labels"].astype(np.int64)
    strata = labels if found["is_balanced"] else None
    plain, mirrored = (found[key].argmax(1) == labels for key in ("plain", "mirrored"))
    lost = balanced.influence_values(plain.astype(float) - mirrored, strata)
    right = balanced.influence_values(plain, strata)
    learnt = right.mean() - 1 / found["plain"].shape[1]
    error = 1.645 / math.sqrt(len(labels))
    if learnt <= error * right.std():
        return False
    return bool(lost.mean() <= max(0.1 * learnt, error * lost.std()))


def answers_of(name: str, seed: int, length: str) -> dict[str, NDArray[np.generic]]:
    """The kept answers of one net."""
    with np.load(path_of(name, seed, length)) as file:
        return dict(file)


def both(data: Path, names: Sequence[str], seeds: int) -> None:
    """Where the mirror test of a long training is open, train with flips as well."""
    for seed in range(seeds):
        for name in names:
            path = path_of(name, seed, "flipped")
            found = answers_of(name, seed, "long")
            if path.exists() or verdict(found).verdict is not FlipVerdict.OPEN:
                continue
            case = CASES[name]
            train, validation, _ = case.make(data, np.random.default_rng(seed))
            model = trained(case, train, case.epochs, seed, flip=True)
            right = logits(model, validation.pixels).argmax(1) == validation.labels
            np.savez_compressed(path, correct=right)
            print(f"{name} {seed}: {right.mean():.1%} with flips", flush=True)


def decision(name: str, seed: int, length: str) -> str:
    """One of `KINDS`.

    `on` or `off` by the mirror test; `both on` or `both off` by a training each way; `assumed`:
    off, for want of time; `open`: the step `both` has not been run.
    """
    found = answers_of(name, seed, length)
    result = verdict(found)
    if result.verdict is not FlipVerdict.OPEN:
        return str(result.verdict)
    if length == "short":
        return "assumed"
    labels = found["labels"].astype(np.int64)
    part = DataPart(
        "validation", labels, found.get("groups"), (), (), (), bool(found["is_balanced"])
    )
    if not path_of(name, seed, "flipped").exists():
        return "open"
    with np.load(path_of(name, seed, "flipped")) as file:
        flipped = file["correct"]
    plain = (found["plain"].argmax(1) == labels).astype(float)
    used, _ = compare(plain, flipped.astype(float), part, prefers_flips=result.prefers_flips)
    return "both on" if used else "both off"


def table(names: Sequence[str], seeds: int) -> None:
    """Decisions by set and length, with what flips gain there.

    Wrong: flips where they change classes; or none, for whatever reason, where they keep them and
    gain more than a point.
    """
    gains = read_rows(RESULTS / "gain.jsonl")
    rows = []
    for name in names:
        case = CASES[name]
        for length in LENGTHS:
            made = [decision(name, seed, length) for seed in range(seeds)]
            old = [earlier_rule(answers_of(name, seed, length)) for seed in range(seeds)]
            points = [
                100 * (row["flipped"] - row["plain"])
                for row in gains
                if (row["set"], row["length"]) == (name, length)
            ]
            counts = [str(made.count(kind) or "") for kind in KINDS]
            accuracy = [
                float((found["plain"].argmax(1) == found["labels"]).mean())
                for found in (answers_of(name, seed, length) for seed in range(seeds))
            ]
            used = sum(one.endswith("on") for one in made)
            is_worth = case.flips and median(points) > 1
            wrong, old_wrong = (
                (not case.flips) * count + is_worth * (seeds - count) for count in (used, sum(old))
            )
            rows.append(
                [
                    name, "yes" if case.flips else "no", length, f"{100 * np.mean(accuracy):.1f}",
                    spread(points, "+.1f"), *counts, wrong, sum(old), old_wrong,
                ]
            )  # fmt: skip
    head = ["set", "flips keep classes", "training", "accuracy, %", "points gained by flips"]
    print_table([*head, *KINDS, "wrong", "earlier rule: on", "wrong"], rows)


def gain(data: Path, names: Sequence[str], seeds: int) -> None:
    """Train with and without flips; accuracy (balanced where uneven) on pictures of neither."""
    path = RESULTS / "gain.jsonl"
    done = {(row["set"], row["seed"], row["length"]) for row in read_rows(path)}
    for seed in range(seeds):
        for name in names:
            case = CASES[name]
            train, _, other = case.make(data, np.random.default_rng(seed))
            for length in LENGTHS:
                if (name, seed, length) in done:
                    continue
                epochs = epochs_of(case, len(train.labels), length)
                strata = other.labels if balanced.is_uneven(train.labels) else None
                row = {"set": name, "seed": seed, "length": length}
                for key, flip in (("plain", False), ("flipped", True)):
                    model = trained(case, train, epochs, seed, flip=flip)
                    right = logits(model, other.pixels).argmax(1) == other.labels
                    row[key] = balanced.balanced_mean(right, strata)
                append_row(path, row)
                print(row, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run one step."""
    given = parser(__doc__, "flips")
    given.add_argument("step", choices=("answers", "both", "gain", "table"))
    given.add_argument("--data", type=Path, default=Path("data"), help="the development sets")
    given.add_argument("--sets", nargs="*", choices=list(CASES), default=list(CASES))
    given.add_argument("--seeds", type=int, default=10)
    options = given.parse_args(arguments)
    torch.set_num_threads(1)
    if options.step == "answers":
        answers(options.data, options.sets, options.seeds)
    elif options.step == "both":
        both(options.data, options.sets, options.seeds)
    elif options.step == "gain":
        gain(options.data, options.sets, options.seeds)
    else:
        table(options.sets, options.seeds)
    return 0
