"""Whether two images whose hashes are near are one picture: they are aligned and compared pixel by pixel.

Radiographs of two patients, and still more two neighbouring slices of one scan, have the same coarse structure, so a
correlation of the whole image can't tell them from copies. What a copy keeps and a similar picture lacks is the detail.
So the score is the correlation of the high-pass images, after an alignment that undoes a crop or a shift.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmed.leakage.perceptual import grey

Pixels = NDArray[np.float32]

# A candidate pair at least this similar is a near-duplicate. Shares of 40 images of each data set, changed in each of
# the 17 ways of `tests/leakage/planted.py`, and pairs of real images within the radius (tests/bench/near_accuracy.py):
#
#     threshold                                        0.85   0.90   0.93   0.95   0.97
#     recall, SLAKE and VQA-RAD, all changes          1.000  0.999  0.996  0.992  0.961
#     the worst change of the one or the other        1.000  0.950  0.950  0.950  0.850
#     recall, BreastMNIST, light changes              1.000  0.998  0.996  0.980  0.920
#     recall, BreastMNIST, JPEG 30, half size, all    0.708  0.525  0.317  0.100  0.017
#     real pairs, BreastMNIST, 28 px (231)              217    215    214    214    213
#     real pairs, SLAKE (1,999)                         102     54     16      6      5
#     real pairs, VQA-RAD (50)                            0      0      0      0      0
#
# These pairs were looked at. In BreastMNIST the 214 at 0.95 show one scene twice, and those between 0.67 and 0.92 are
# neighbouring frames of one. In SLAKE no image is a copy of another: its pairs are neighbouring slices of one scan,
# which differ in small vessels only. They are the known false alarms: 6 of 205,761 pairs, and many more below 0.95.
# At 28 pixels such slices are beyond telling from copies: SLAKE brought to that size gives 227 pairs at 0.95 and still
# 100 at 0.98, where BreastMNIST loses ten true ones. So a stricter rule for small images buys nothing; the groups of
# the split have to answer for slices.
THRESHOLD = 0.95

_SIDES = (16, 32, 64, 128)
_STEPS = {16: 6, 32: 5, 64: 4, 128: 3}
# What the mean of a 9 x 9 window leaves is detail.
_WINDOW = 9
# An edge cut by a tenth is the most that the alignment undoes.
_LARGEST_CUT = 0.1


def pyramid(image: Image.Image) -> list[Pixels]:
    """The image in grey at 16, 32, 64 and 128 pixels a side, coarse to fine, values 0..255.

    Levels finer than the image are left out, except that every image has one of 32. Compute it once for an image that
    occurs in several pairs: it is the expensive part (1 ms for 1 megapixel) and takes 87 kB.

    Raises:
        InputError: The image has no pixels, or pixels that are not numbers.
    """
    sides = [side for side in _SIDES if side <= max(32, min(image.size))]
    finest = grey(image).resize((sides[-1], sides[-1]), Image.Resampling.BICUBIC, reducing_gap=3.0)
    levels = [np.asarray(finest, dtype=np.float32)]
    for side in reversed(sides[:-1]):
        levels.append(levels[-1].reshape(side, 2, side, 2).mean(axis=(1, 3)))
    return levels[::-1]


def similarity(a: list[Pixels], b: list[Pixels]) -> float:
    """How much the details of two images agree once `a` is laid over `b`.

    Args:
        a, b: Pyramids; they are compared at the finest level that both have.

    Returns:
        Correlation of the high-pass images where they overlap, -1..1; 0 if one of them is flat. It does not depend on
        brightness or contrast.
    """
    levels = list(zip(a, b, strict=False))
    moved, fixed = _overlap(*levels[-1], _align(levels))[:2]
    return _correlation(_detail(moved), _detail(fixed))


def _align(levels: list[tuple[Pixels, Pixels]]) -> Pixels:
    """The map from positions in b to positions in a that makes them most alike.

    Least squares over scale and shift of both axes, gain and offset of the brightness, by Gauss-Newton from coarse to
    fine (Lucas and Kanade, "An iterative image registration technique", 1981).

    Returns:
        Scale and shift of rows, then of columns; positions run from -1 to 1 over an edge.
    """
    best = np.array([1.0, 0.0, 1.0, 0.0], np.float32)
    for a, b in levels:
        place, score = best, -2.0
        for _ in range(_STEPS[len(b)]):
            moved, fixed, rows, columns = _overlap(a, b, place)
            now = _correlation(moved, fixed)
            if now <= score:
                break
            best, score = place, now
            place = _compose(place, _step(moved, fixed, rows, columns))
    return best


def _step(moved: Pixels, fixed: Pixels, rows: Pixels, columns: Pixels) -> Pixels:
    """The change of scale and shift that brings `moved` onto `fixed` in the first order."""
    down, right = np.gradient(moved, rows[1] - rows[0])
    terms = np.stack([down * rows[:, None], down, right * columns, right, -fixed, -np.ones_like(fixed)]).reshape(6, -1)
    normal = terms @ terms.T
    # A ridge, far below what the picture says, keeps an image of stripes solvable.
    ridge = np.diag(1e-4 * normal.diagonal() + 1e-3)
    step: Pixels = np.linalg.solve(normal + ridge, -terms @ moved.ravel())[:4]
    return step


def _compose(place: Pixels, step: Pixels) -> Pixels:
    step = np.clip(step, -0.05, 0.05)
    scale, shift = place[::2] * (1 + step[::2]), place[1::2] + place[::2] * step[1::2]
    scale = np.clip(scale, 1 - _LARGEST_CUT, 1 / (1 - _LARGEST_CUT))
    return np.stack([scale, np.clip(shift, -_LARGEST_CUT, _LARGEST_CUT)], axis=1).ravel()


def _overlap(a: Pixels, b: Pixels, place: Pixels) -> tuple[Pixels, Pixels, Pixels, Pixels]:
    """`a` resampled onto the grid of `b`, and `b`, where both have pixels; with the positions of rows and columns."""
    side = len(b)
    by_row, inside_rows = _resampler(side, *place[:2])
    by_column, inside_columns = _resampler(side, *place[2:])
    positions = ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)
    moved = (by_row @ a @ by_column.T).astype(np.float32, copy=False)
    return moved, b[inside_rows, inside_columns], positions[inside_rows], positions[inside_columns]


def _resampler(side: int, scale: float, shift: float) -> tuple[Pixels, slice]:
    """Linear interpolation at scale * x + shift as a matrix of shape (inside, side), and which x lie inside."""
    middle = (side - 1) / 2
    at = (np.arange(side) - middle) * scale + middle + shift * side / 2
    inside = np.flatnonzero((at >= 0) & (at <= side - 1))
    at = at[inside]
    low = np.minimum(at.astype(np.int64), side - 2)
    matrix = np.zeros((len(at), side), np.float32)
    row = np.arange(len(at))
    matrix[row, low], matrix[row, low + 1] = 1 - (at - low), at - low
    return matrix, slice(inside[0], inside[-1] + 1)


def _detail(pixels: Pixels) -> Pixels:
    """The pixels less the mean of the window around each; those too near to an edge are left out."""
    sums = np.pad(pixels, ((1, 0), (1, 0))).cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    w, edge = _WINDOW, _WINDOW // 2
    means = (sums[w:, w:] - sums[:-w, w:] - sums[w:, :-w] + sums[:-w, :-w]) / w**2
    detail: Pixels = (pixels[edge:-edge, edge:-edge] - means).astype(np.float32)
    return detail


def _correlation(a: Pixels, b: Pixels) -> float:
    """Pearson's; 0 where one of them varies by less than a tenth of a grey level."""
    a, b = a - a.mean(), b - b.mean()
    if min(a.std(), b.std()) < 0.1:
        return 0.0
    return float((a * b).mean() / (a.std() * b.std()))
