"""Preprocessed images as one byte per number, exactly: what a preprocessing can give has 256 levels per channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmed.evaluate.cut import Cut, cut_of
from vlmed.models.protocols import ImageEncoder

_LEVELS = 256
# How often the probe runs through all levels, so that a crop at its edges takes none of them away.
_PERIODS = 4


@dataclass(frozen=True)
class Codes:
    """The levels of a preprocessing, and how to write its images as numbers of levels.

    Pictures are resized and cut as bytes and scaled afterwards, byte by byte, so that few values can occur. Nothing of
    that is taken for granted: the levels are learnt from what the preprocessing gives, and `encode` refuses what they
    don't give back to the last bit.

    Attributes:
        shape: (3, H, W) of a preprocessed image.
        levels: (3, 256) float32, rising along each row.
        cut: Gives the numbers without the image's being computed; None where that is not known to be the same.
    """

    shape: tuple[int, int, int]
    levels: NDArray[np.float32]
    cut: Cut | None = None

    @staticmethod
    def of(encoder: ImageEncoder) -> Codes | None:
        """The levels of an encoder's preprocessing; None where a channel takes other than 256 values."""
        shape = _shape(encoder)
        found = [np.empty(0, np.float32)] * shape[0]
        for probe in _probes(shape):
            pixels = encoder.preprocess(probe).numpy()
            if pixels.shape != shape or pixels.dtype != np.float32:
                return None
            found = [np.union1d(known, channel) for known, channel in zip(found, pixels, strict=True)]
            if all(len(known) >= _LEVELS for known in found):
                break
        fits = all(len(known) == _LEVELS for known in found)
        if not fits:
            return None
        levels = np.stack(found)
        return Codes(shape, levels, cut_of(encoder, levels))

    def read(self, image: Image.Image) -> NDArray[np.uint8] | None:
        """Numbers of levels of a decoded image, uint8 (3, H, W); None where only its pixels tell them.

        Raises:
            InputError: The image has more than 8 bits per channel.
        """
        return self.cut.of(image, self.shape) if self.cut else None

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.uint8] | None:
        """Numbers of levels, uint8 like `pixels` (3, H, W); None where `decode` would give anything else back."""
        if pixels.shape != self.shape or pixels.dtype != np.float32:
            return None
        low = self.levels[:, :1, None]
        step = (self.levels[:, -1:, None] - low) / (_LEVELS - 1)
        codes: NDArray[np.uint8] = np.rint((pixels - low) / step).clip(0, _LEVELS - 1).astype(np.uint8)
        again = np.empty(self.shape, np.float32)
        self.decode(codes, again)
        return codes if again.tobytes() == pixels.tobytes() else None

    def decode(self, codes: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write the image of `codes` (3, H, W) to `out`, of the same shape."""
        for levels, channel, place in zip(self.levels, codes, out, strict=True):
            # A byte is never out of bounds, and not looking makes it a quarter faster.
            np.take(levels, channel, out=place, mode="clip")


def _shape(encoder: ImageEncoder) -> tuple[int, int, int]:
    channels, height, width = encoder.preprocess(Image.new("RGB", (32, 32))).shape
    return channels, height, width


def _probes(shape: tuple[int, int, int]) -> Iterator[Image.Image]:
    """Images that together show all levels: a ramp, noise in case the ramp was smoothed, and at last every grey."""
    _, height, width = shape
    places = np.arange(height * width)
    ramp = (places * _LEVELS * _PERIODS // len(places) % _LEVELS).astype(np.uint8).reshape(height, width)
    yield Image.fromarray(ramp).convert("RGB")
    yield Image.fromarray(np.random.default_rng(0).integers(0, _LEVELS, (height, width, 3), np.uint8))
    for grey in range(_LEVELS):
        yield Image.new("RGB", (width, height), (grey, grey, grey))
