"""Data sets that no default of lepton was chosen on: eight to develop on, eight to confirm with.

They are made from the sets of `benchmarks/data.py` (other classes, sizes, colours, angles), from
flower photographs and motion-sensor windows, and from characters that are drawn here. Each has a
test part of its own that shares no picture, speaker or person with the training part.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pictures = NDArray[np.uint8]
"""(N, H, W) or (N, H, W, 3)."""
Labels = NDArray[np.int64]
Part = tuple[Pictures, Labels]
Arrays = dict[str, NDArray[np.generic]]

ANIMALS = (2, 3, 4, 5, 6, 7)
VEHICLES = (0, 1, 8, 9)
"""Classes of CIFAR-10."""
UPPER = (0, 2, 3, 4, 6)
"""T-shirt, pullover, dress, coat and shirt of Fashion-MNIST."""
WINDOW, HOP = 32, 8
"""Samples of a short-time spectrum of a motion sensor."""


class Sources:
    """The sets that others are made from, in a folder.

    Parameters
    ----------
    folder : Path
        Holds `fashion_mnist.npz`, `cifar10.npz`, `speech.npz` (log-mel pictures with speakers as
        groups), `motion.npz` (float windows (N, 6, 128) with persons as groups) and
        `flowers/{train,test}/CLASS/*.jpg`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def arrays(self, name: str) -> Mapping[str, NDArray[np.generic]]:
        """One .npz file."""
        with np.load(self._folder / f"{name}.npz") as file:
            return dict(file)

    def part(self, name: str, part: str, count: int, classes: Sequence[int] | None = None) -> Part:
        """`count` samples of a part in all, equally many of each class, as they are drawn."""
        arrays = self.arrays(name)
        pictures, labels = arrays[f"x_{part}"], arrays[f"y_{part}"].astype(np.int64)
        wanted = tuple(classes or np.unique(labels))
        draws = np.random.default_rng(len(part))
        own = [
            draws.permutation(np.flatnonzero(labels == c))[: count // len(wanted)] for c in wanted
        ]
        chosen = draws.permutation(np.concatenate(own))
        return pictures[chosen].astype(np.uint8), np.searchsorted(wanted, labels[chosen])

    def photos(self, part: str, side: int) -> Part:
        """Flower photographs, their middle square in `side` x `side` pixels."""
        folders = sorted(path for path in (self._folder / "flowers" / part).iterdir())
        pictures, labels = [], []
        for label, folder in enumerate(folders):
            for path in sorted(folder.glob("*.jpg")):
                with Image.open(path) as photo:
                    pictures.append(np.asarray(middle(photo.convert("RGB"), side)))
                labels.append(label)
        order = np.random.default_rng(0).permutation(len(labels))
        return np.stack(pictures)[order], np.array(labels, np.int64)[order]


def middle(photo: Image.Image, side: int) -> Image.Image:
    """The middle square of a photograph, scaled."""
    short = min(photo.size)
    left, top = (photo.width - short) // 2, (photo.height - short) // 2
    return photo.crop((left, top, left + short, top + short)).resize((side, side))


def scaled(pictures: Pictures, width: int, height: int) -> Pictures:
    """Pictures in another size, each pixel the mean of the area it covers."""
    return np.stack(
        [
            np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BOX))
            for p in pictures
        ]
    )


def grey(pictures: Pictures) -> Pictures:
    """Luminance of colour pictures."""
    return np.stack([np.asarray(Image.fromarray(picture).convert("L")) for picture in pictures])


def turned(pictures: Pictures, seed: int) -> Pictures:
    """Every picture rotated by a random angle."""
    angles = np.random.default_rng(seed).uniform(-180, 180, len(pictures))
    bilinear = Image.Resampling.BILINEAR
    return np.stack(
        [
            np.asarray(Image.fromarray(picture).rotate(angle, bilinear))
            for picture, angle in zip(pictures, angles, strict=True)
        ]
    )


def quarter_turns(part: Part, seed: int) -> Part:
    """The class is how often a picture was rotated by 90 degrees."""
    turns = np.random.default_rng(seed).integers(0, 4, len(part[0]))
    pictures = [np.rot90(p, n) for p, n in zip(part[0], turns, strict=True)]
    return np.stack(pictures), turns


def character(text: str, side: int, draws: np.random.Generator) -> NDArray[np.float64]:
    """(side, side), 0 to 1: a character with random size, weight, slant, angle, place and bends."""
    large = 3 * side
    font = ImageFont.load_default(int(draws.uniform(0.55, 0.8) * large))
    image = Image.new("L", (large, large))
    weight = int(draws.integers(0, large // 22))
    place = large / 2 + draws.uniform(-0.06, 0.06, 2) * large
    ImageDraw.Draw(image).text(
        tuple(place), text, fill=255, font=font, anchor="mm", stroke_width=weight
    )
    slant, angle = draws.uniform(-0.5, 0.5), np.radians(draws.uniform(-12, 12))
    rows, columns = np.mgrid[:large, :large] - large / 2
    phase, wave = draws.uniform(0, 2 * np.pi, 2), draws.uniform(0.6, 1.6, 2)
    bend = draws.uniform(0, 0.06) * large
    x = columns * np.cos(angle) - rows * np.sin(angle) + slant * rows
    y = columns * np.sin(angle) + rows * np.cos(angle)
    x += bend * np.sin(2 * np.pi * wave[0] * rows / large + phase[0])
    y += bend * np.sin(2 * np.pi * wave[1] * columns / large + phase[1])
    at = (np.clip(axis + large / 2, 0, large - 1).astype(int) for axis in (y, x))
    bent = np.asarray(image, np.float64)[tuple(at)] / 255
    mean: NDArray[np.float64] = bent.reshape(side, 3, side, 3).mean((1, 3))
    return mean


def characters(texts: str, count: int, side: int, seed: int, *, colour: bool = False) -> Part:
    """Drawn characters on an uneven background, with noise; light on dark or dark on light.

    Parameters
    ----------
    texts : str
        One character a class.
    count, side : int
        Number of pictures and their side in pixels.
    seed : int
        Of everything.
    colour : bool
        Random colours and a second character behind, of which a part is seen.
    """
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, len(texts), count)
    pictures = []
    for label in labels:
        shape = character(texts[label], side, draws)[..., None]
        slope = np.linspace(-1, 1, side)
        shade = draws.uniform(-0.25, 0.25, 2)
        ground = (shade[0] * slope[:, None] + shade[1] * slope)[..., None]
        ink, paper = draws.uniform(0, 1, (2, 3 if colour else 1))
        # Characters must differ from what is behind them.
        ink = np.where(np.abs(ink - paper).max() < 0.4, 1 - np.round(paper), ink)
        if colour:
            other = np.roll(character(draws.choice(list(texts)), side, draws), side // 2, axis=1)
            ground = ground + 0.25 * other[..., None]
        picture = paper + ground + shape * (ink - paper - ground)
        picture = picture + draws.normal(0, 0.06, picture.shape)
        pictures.append(np.clip(255 * picture, 0, 255).astype(np.uint8))
    found = np.stack(pictures)
    return (found if colour else found[..., 0]), labels


def spectra(windows: NDArray[np.float64]) -> Pictures:
    """(N, 34, 39): short-time spectra of six channels, three beside each other in two rows."""
    cut = np.lib.stride_tricks.sliding_window_view(windows, WINDOW, axis=2)[:, :, ::HOP]
    power = np.log1p(np.abs(np.fft.rfft(cut * np.hanning(WINDOW))))  # (N, 6, 13, 17)
    tiles = power.transpose(0, 1, 3, 2).reshape(len(power), 2, 3, *power.shape[:1:-1])
    joined = np.concatenate(
        [np.concatenate(list(row), -1) for row in tiles.transpose(1, 2, 0, 3, 4)], 1
    )
    return np.clip(255 * joined / 5, 0, 255).astype(np.uint8)


def traces(windows: NDArray[np.float64]) -> Pictures:
    """(N, 24, 64): six channels of four rows each, two samples a column, clipped at 3 scales."""
    level = windows.reshape(len(windows), 6, 64, 2).mean(3)
    scale = np.array([6, 6, 6, 2, 2, 2])[:, None]  # m/s^2 and rad/s
    return np.clip(127 + 42 * level / scale, 0, 255).astype(np.uint8).repeat(4, axis=1)


def both(train: Part, test: Part) -> Arrays:
    """Both parts under the keys that lepton reads."""
    return {"x_train": train[0], "y_train": train[1], "x_test": test[0], "y_test": test[1]}


def changed(
    sources: Sources,
    name: str,
    counts: tuple[int, int],
    change: Callable[[Pictures], Pictures],
    classes: Sequence[int] | None = None,
) -> Arrays:
    """Pictures of some classes of a set, all changed in the same way."""
    drawn = [sources.part(name, part, n, classes) for part, n in zip(PARTS, counts, strict=True)]
    return both(*((change(pictures), labels) for pictures, labels in drawn))


PARTS = ("train", "test")


def grouped(
    sources: Sources, name: str, change: Callable[[NDArray[np.generic]], Pictures]
) -> Arrays:
    """A whole set with its groups, all samples changed in the same way."""
    arrays = dict(sources.arrays(name))
    return arrays | {f"x_{part}": change(arrays[f"x_{part}"]) for part in PARTS}


def drawn(texts: str, counts: tuple[int, int], side: int, *, colour: bool = False) -> Arrays:
    """Drawn characters."""
    return both(*(characters(texts, n, side, seed, colour=colour) for seed, n in enumerate(counts)))


def photographs(sources: Sources, side: int, change: Callable[[Pictures], Pictures]) -> Arrays:
    """Flower photographs, all changed in the same way."""
    parts = [sources.photos(part, side) for part in PARTS]
    return both(*((change(pictures), labels) for pictures, labels in parts))


LETTERS_AND_DIGITS = string.digits + string.ascii_uppercase
MIXED = "abdefghnqrtABDEFGHNQRT23456789"

FIRST: Mapping[str, Callable[[Sources], Arrays]] = {
    "grey_objects": lambda s: changed(s, "cifar10", (6000, 2000), grey),
    "animals_24": lambda s: changed(
        s, "cifar10", (4800, 2400), lambda p: scaled(p, 24, 24), ANIMALS
    ),
    "turned_clothes": lambda s: changed(
        s, "fashion_mnist", (6000, 2000), lambda p: turned(p, len(p))
    ),
    "shirts_20": lambda s: changed(
        s, "fashion_mnist", (3000, 2000), lambda p: scaled(p, 20, 20), UPPER
    ),
    "letters": lambda _: drawn(LETTERS_AND_DIGITS, (7200, 1800), 28),
    "colour_digits": lambda _: drawn(string.digits, (4000, 2000), 40, colour=True),
    "flowers_48": lambda s: photographs(s, 48, lambda p: p),
    "motion_spectra": lambda s: grouped(s, "motion", spectra),
}
"""Sets that defaults may be chosen on."""

SECOND: Mapping[str, Callable[[Sources], Arrays]] = {
    "vehicles": lambda s: changed(s, "cifar10", (4000, 1600), lambda p: p, VEHICLES),
    "objects_16": lambda s: changed(s, "cifar10", (6000, 2000), lambda p: scaled(p, 16, 16)),
    "clothes_14": lambda s: changed(s, "fashion_mnist", (2000, 2000), lambda p: scaled(p, 14, 14)),
    "quarter_turns": lambda s: both(
        *(
            quarter_turns(s.part("fashion_mnist", part, n), seed)
            for seed, (part, n) in enumerate(zip(PARTS, (4000, 2000), strict=True))
        )
    ),
    "mixed_letters": lambda _: drawn(MIXED, (9000, 2000), 32),
    "speech_20": lambda s: grouped(s, "speech", lambda p: scaled(p, 32, 20)),
    "grey_flowers": lambda s: photographs(s, 64, grey),
    "motion_traces": lambda s: grouped(s, "motion", traces),
}
"""Sets to confirm with, once."""
