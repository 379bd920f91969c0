"""Size, orientation and kind of every picture as it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lepton_automl.data.pictures.decode import PictureInfo


@dataclass(frozen=True, eq=False)
class FormatTable:
    """The stored form of many pictures, a column a property."""

    height: NDArray[np.int32]
    """Pixels, after EXIF orientation."""
    width: NDArray[np.int32]
    orientation: NDArray[np.uint8]
    """EXIF orientation, 1 to 8; 1 where a file states none."""
    is_grey: NDArray[np.bool_]
    has_alpha: NDArray[np.bool_]
    is_above_8_bits: NDArray[np.bool_]
    """Whether values have more than 8 bits."""
    is_float: NDArray[np.bool_]
    """Whether they are floating-point numbers."""
    has_frames: NDArray[np.bool_]
    """Whether the file holds more than one picture, of which the first is used."""

    def __len__(self) -> int:
        return len(self.height)

    @classmethod
    def of(cls, infos: Sequence[PictureInfo]) -> Self:
        """From what is known of each picture."""
        return cls(
            np.array([info.size[0] for info in infos], np.int32),
            np.array([info.size[1] for info in infos], np.int32),
            np.array([info.orientation for info in infos], np.uint8),
            np.array([info.is_grey for info in infos], np.bool_),
            np.array([info.has_transparency for info in infos], np.bool_),
            np.array([info.levels.is_above_8_bits for info in infos], np.bool_),
            np.array([info.levels.is_float for info in infos], np.bool_),
            np.array([info.is_animated for info in infos], np.bool_),
        )

    @classmethod
    def of_pixels(cls, pixels: NDArray[np.uint8]) -> Self:
        """From pixels (N, H, W, C)."""
        count, height, width, channels = pixels.shape
        no = np.zeros(count, np.bool_)
        return cls(
            np.full(count, height, np.int32),
            np.full(count, width, np.int32),
            np.ones(count, np.uint8),
            np.full(count, channels == 1),
            no,
            no,
            no,
            no,
        )

    def select(self, places: NDArray[np.int64]) -> FormatTable:
        """The rows at `places`."""
        return FormatTable(
            self.height[places],
            self.width[places],
            self.orientation[places],
            self.is_grey[places],
            self.has_alpha[places],
            self.is_above_8_bits[places],
            self.is_float[places],
            self.has_frames[places],
        )

    def are_16_bit(self, channels: int) -> bool:
        """Whether all have 16 bits a channel: grey for 1 channel, RGB without opacity for 3."""
        is_right = self.is_grey if channels == 1 else ~self.is_grey & ~self.has_alpha
        return channels in (1, 3) and bool((self.is_above_8_bits & ~self.is_float & is_right).all())

    @property
    def shapes(self) -> NDArray[np.str_]:
        """(N,): `landscape`, `portrait` or `square`."""
        return np.where(
            self.width > self.height,
            "landscape",
            np.where(self.width < self.height, "portrait", "square"),
        )

    @property
    def kinds(self) -> NDArray[np.str_]:
        """(N,): `grey` or `colour`, and what else the file has, such as `colour, alpha`."""
        kinds = np.where(self.is_grey, "grey", "colour").astype("<U40")
        for has, word in (
            (self.has_alpha, "alpha"),
            (self.is_above_8_bits & ~self.is_float, "16 bit"),
            (self.is_float, "float"),
            (self.has_frames, "several frames"),
        ):
            kinds = np.where(has, np.char.add(kinds, f", {word}"), kinds)
        return kinds
