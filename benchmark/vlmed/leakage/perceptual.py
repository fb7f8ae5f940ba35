"""A 64-bit perceptual hash of an image: few bits change when it is stored again, resized, cropped or toned.

The hash is the sign pattern of the 8 x 8 lowest frequencies of a 32 x 32 grey thumbnail (the DCT hash of Zauner,
"Implementation and benchmarking of perceptual image hash functions", 2010), each compared with the median of them all,
so that brightness and contrast drop out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmed.errors import InputError

# The hash of an image without structure. No other image has it, since about half of the bits of the others are set.
# Flat images are all alike and tell nothing, so that callers leave them out of a search for near-duplicates.
FLAT = np.uint64(0)
# Standard deviation of the thumbnail, in grey levels 0..255, under which an image is flat: its frequencies are then of
# the size of the noise of JPEG. The least structured image of SLAKE, VQA-RAD and BreastMNIST has 17.
FLAT_DEVIATION = 2.0
# Two images whose hashes differ in at most this many bits are candidates, to be confirmed on pixels. Share of planted
# copies within the radius (40 images of each of SLAKE, VQA-RAD and BreastMNIST, changed in every way), and candidates
# among all pairs of real images (tests/bench/near_accuracy.py):
#
#     radius                                       8     10     12     14
#     JPEG 30-90, size x 0.5-2, mode RGB, paler 1.00   1.00   1.00   1.00
#     brightness -0.1, contrast x 1.3, gamma    1.00   1.00   1.00   1.00
#     2 % of width and of height cut away       0.96   0.99   1.00   1.00
#     4 %                                       0.70   0.85   0.93   0.98
#     5 %                                       0.60   0.76   0.86   0.93
#     6 %                                       0.50   0.68   0.81   0.93
#     tone, 4 % crop, half size and JPEG 50     0.60   0.79   0.91   0.96
#     SLAKE, 205,761 pairs                       752  1,178  1,999  3,584
#     VQA-RAD, 49,455 pairs                        1     12     50    178
#     BreastMNIST, 303,810 pairs                 213    222    231    301
#
# Distances are nearly always even, as half of the bits are set. Beyond 12, candidates grow faster than recall.
RADIUS = 12

_SIDE, _KEPT, _MOST, _BATCH = 32, 8, 256, 256
_GREY16 = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


def perceptual_hash(image: Image.Image) -> np.uint64:
    """The hash of one decoded image of any mode; `FLAT` if it shows nothing.

    Raises:
        InputError: The image has no pixels, or pixels that are not numbers.

    >>> int(perceptual_hash(Image.new("RGB", (64, 48), "white")))
    0
    """
    return np.uint64(perceptual_hashes([image])[0])


def perceptual_hashes(images: Iterable[Image.Image]) -> NDArray[np.uint64]:
    """The hashes of many decoded images, shape (N,), uint64; images are taken one at a time and not kept.

    Raises:
        InputError: As `perceptual_hash`; names the position of the image.
    """
    thumbnails = _thumbnails(images)
    hashes = [np.empty(0, np.uint64)]
    while batch := list(islice(thumbnails, _BATCH)):
        hashes.append(_hash(np.stack(batch)))
    return np.concatenate(hashes)


def grey(image: Image.Image) -> Image.Image:
    """The image in mode L; RGB and L of the same grey picture become equal.

    Modes deeper than 8 bits are stretched from their least to their greatest value, where Pillow would clip them. An
    alpha channel is dropped.

    Raises:
        InputError: The image has no pixels, or pixels that are not numbers.
    """
    if 0 in image.size:
        raise InputError("the image has no pixels", expected="at least 1 x 1", got=f"{image.width} x {image.height}")
    if image.mode not in _GREY16:
        return image if image.mode == "L" else image.convert("L")
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise InputError("the image has pixels that are not numbers", expected="finite values", got="NaN or infinity")
    spread = float(np.ptp(values)) or 1.0
    return Image.fromarray(((values - values.min()) * (255 / spread)).round().astype(np.uint8))


def _thumbnails(images: Iterable[Image.Image]) -> Iterator[NDArray[np.float32]]:
    for n, image in enumerate(images):
        try:
            small = grey(_thinned(image)).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
        except InputError as error:
            raise InputError([replace(problem, path=f"image {n}") for problem in error.problems]) from error
        yield np.asarray(small, dtype=np.float32)


def _thinned(image: Image.Image) -> Image.Image:
    """At most 256 x 256 of the pixels; reading all would cost a fifth of decoding and rarely change two bits."""
    size = min(image.width, _MOST), min(image.height, _MOST)
    return image if size == image.size or 0 in size else image.resize(size, Image.Resampling.NEAREST)


def _dct_rows() -> NDArray[np.float32]:
    """The lowest rows of the DCT-II, shape (8, 32); their scale does not matter to a comparison with the median."""
    frequency, position = np.ogrid[:_KEPT, :_SIDE]
    rows: NDArray[np.float32] = np.cos(np.pi * frequency * (2 * position + 1) / (2 * _SIDE)).astype(np.float32)
    return rows


_DCT = _dct_rows()


def _hash(thumbnails: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Thumbnails of shape (N, 32, 32) to hashes of shape (N,)."""
    lowest = (_DCT @ thumbnails @ _DCT.T).reshape(len(thumbnails), -1)
    # The first coefficient is the mean brightness; it gets a bit, which is always set, but no say in the median.
    median = np.median(lowest[:, 1:], axis=1, keepdims=True)
    hashes = np.packbits(lowest > median, axis=1).view(">u8")[:, 0].astype(np.uint64)
    hashes[thumbnails.std(axis=(1, 2)) < FLAT_DEVIATION] = FLAT
    return hashes
