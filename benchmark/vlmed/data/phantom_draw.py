"""The pixels of phantom images.

Integers only, on purpose: a sum in floating point may differ in its last bit with the order that a vector unit
chooses, and sin, exp or a resampling filter with the libm, so a frozen manifest of pixel hashes would hold on some
platforms and break on others. Ellipse tests, box blurs and shifts on int64 give the same pixels everywhere.

Coordinates are 1024ths of the image's width, x to the right and y down, whatever the size in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vlmed.data.phantom_case import Dice, Finding, Patient

Plane: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]


class Ellipse(NamedTuple):
    """Centre and half axes."""

    x: int
    y: int
    rx: int
    ry: int


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the pixels of one view lie in the patient.

    Attributes:
        x: (size,) coordinates of the columns.
        y: (size, 1) coordinates of the rows.
    """

    x: Plane
    y: Plane

    def depth(self, ellipse: Ellipse) -> Plane:
        """(size, size): 256 in the centre, 0 on the outline, negative outside, quadratic between."""
        across = (self.x - ellipse.x) ** 2 * 256 // ellipse.rx**2
        down = 256 - (self.y - ellipse.y) ** 2 * 256 // ellipse.ry**2
        depth: Plane = down - across
        return depth


# Named after the patient's sides: the left lung is on the right of the picture.
_ANATOMY: Mapping[str, Mapping[str, Ellipse]] = {
    "radiograph": {
        "trunk": Ellipse(512, 720, 430, 580),
        "shoulders": Ellipse(512, 360, 490, 200),
        "neck": Ellipse(512, 60, 110, 260),
        "right": Ellipse(310, 500, 155, 305),
        "left": Ellipse(714, 500, 150, 305),
        "heart": Ellipse(580, 650, 130, 150),
        "liver": Ellipse(300, 960, 260, 220),
        "stomach": Ellipse(730, 980, 240, 200),
    },
    "ct": {
        "trunk": Ellipse(512, 520, 480, 390),
        "right": Ellipse(295, 510, 175, 265),
        "left": Ellipse(729, 510, 168, 260),
        "heart": Ellipse(565, 400, 140, 125),
        "spine": Ellipse(512, 720, 75, 70),
        "canal": Ellipse(512, 800, 28, 26),
        "aorta": Ellipse(590, 655, 38, 38),
    },
    "ultrasound": {
        "right": Ellipse(335, 560, 165, 210),
        "left": Ellipse(689, 560, 165, 210),
        "vein": Ellipse(512, 690, 60, 45),
    },
}

# Half axis of a lesion by kind, (small, large); for clusters and masses that of the whole.
_RADIUS = {"nodule": (64, 108), "cyst": (76, 124), "calcification": (72, 120), "mass": (112, 172)}
_GAIN = {"nodule": 110, "cyst": 96, "calcification": 240, "mass": 90}


def pixels(patient: Patient, image: int, size: int) -> NDArray[np.uint8]:
    """One image of a patient: the same anatomy and finding as in the others, another view and other noise.

    Returns:
        (size, size) grey values.
    """
    view = patient.dice("view", image)
    zoom, dx, dy = view.between(56, 70), view.between(-44, 44), view.between(-36, 36)
    steps = ((2 * np.arange(size, dtype=np.int64) + 1) * 512 // size - 512) * 64 // zoom + 512
    plane = _canvas(patient, size * 3 // 2)
    rows, columns = (np.clip((steps + shift) * len(plane) >> 10, 0, len(plane) - 1) for shift in (dy, dx))
    plane = _blur(plane[rows[:, None], columns], max(1, size // 64))
    plane = (plane * view.between(225, 285) >> 8) + view.between(-9, 9)
    grain = np.frombuffer(patient.dice("grain", image).noise(size * size), dtype=np.uint8).reshape(size, size)
    textured = _TEXTURE[patient.modality](plane, grain.astype(np.int64) - 128)
    return np.clip(textured, 0, 255).astype(np.uint8)


@lru_cache(maxsize=16)
def _canvas(patient: Patient, size: int) -> Plane:
    """Anatomy and finding of a patient, sharp and without noise, (size, size); what all views are taken of."""
    steps = (2 * np.arange(size, dtype=np.int64) + 1) * 512 // size
    grid = Grid(steps, steps[:, None])
    plane = _PAINT[patient.modality](grid, patient)
    for spot, brightness in _vessels(patient):
        plane += (grid.depth(spot) > 0) * brightness
    return plane + _lesion(grid, patient, patient.finding) if patient.finding else plane


@lru_cache(maxsize=64)
def _anatomy(patient: Patient) -> Mapping[str, Ellipse]:
    """The organs of a patient: those of the modality, each moved and stretched a little."""
    dice = patient.dice("anatomy")
    organs = {}
    for name, (x, y, rx, ry) in _ANATOMY[patient.modality].items():
        grow = 330 if name == "heart" and patient.large_heart else 256
        stretch_x, stretch_y = (grow * dice.between(230, 282) // 256 for _ in range(2))
        moved = x + dice.between(-16, 16), y + dice.between(-20, 20)
        organs[name] = Ellipse(*moved, rx * stretch_x // 256, ry * stretch_y // 256)
    return organs


def _vessels(patient: Patient) -> tuple[tuple[Ellipse, int], ...]:
    """Vessels seen end-on with their brightness: what a reader may take for a small lesion."""
    dice, organs = patient.dice("vessels"), _anatomy(patient)
    spots = []
    for _ in range(dice.between(3, 6)):
        lung, radius = organs[dice.pick(("left", "right"))], dice.between(14, 30)
        x, y = lung.x + lung.rx * dice.between(-60, 60) // 100, lung.y + lung.ry * dice.between(-70, 70) // 100
        spots.append((Ellipse(x, y, radius, radius), dice.between(14, 40)))
    return tuple(spots)


def _radiograph(grid: Grid, patient: Patient) -> Plane:
    """A projection: what lies behind one another adds up."""
    organs, dice = _anatomy(patient), patient.dice("bones")
    trunk = np.maximum(grid.depth(organs["trunk"]), grid.depth(organs["shoulders"]))
    soft = np.maximum(trunk, grid.depth(organs["neck"]))
    plane = np.where(soft > 0, 84 + (soft >> 2), 10)
    air = np.maximum(grid.depth(organs["left"]), grid.depth(organs["right"]))
    belly = np.maximum(grid.depth(organs["liver"]), grid.depth(organs["stomach"]))
    plane -= np.where(belly < 0, np.clip(air, 0, 96), 0)
    plane += np.clip(grid.depth(organs["heart"]), 0, 56)
    plane += np.where(trunk > 24, _ribs(grid, dice), 0)
    spine = (np.abs(grid.x - 512) < dice.between(36, 50)) * ((grid.y + dice.below(80)) % 80 < 64)
    plane += spine * 30
    return plane


def _ribs(grid: Grid, dice: Dice) -> Plane:
    """Bands that bend down towards the sides."""
    spacing, width, bend = dice.between(104, 130), dice.between(30, 42), dice.between(900, 1500)
    outward = np.abs(grid.x - 512)
    phase = (grid.y - outward**2 // bend + dice.below(spacing)) % spacing
    ribs: Plane = ((phase < width) & (outward > 60)) * np.int64(dice.between(12, 24))
    return ribs


def _ct(grid: Grid, patient: Patient) -> Plane:
    """An axial slice: every place has one tissue, so the later organ replaces the earlier one."""
    organs, dice = _anatomy(patient), patient.dice("bones")
    trunk = grid.depth(organs["trunk"])
    plane = np.where(trunk > 0, 70, 6)
    plane[trunk > 34] = 118
    ribs = (3 * np.abs(grid.x - 512) + 2 * grid.y + dice.below(230)) % 230 < 100
    plane[(trunk > 40) & (trunk < 78) & ribs] = 190
    air = np.maximum(grid.depth(organs["left"]), grid.depth(organs["right"]))
    plane[(air > 0) & (trunk > 60)] = dice.between(30, 46)
    for name, value in (("heart", 132), ("spine", 196), ("canal", 96), ("aorta", 146)):
        plane[grid.depth(organs[name]) > 0] = value
    return plane


def _ultrasound(grid: Grid, patient: Patient) -> Plane:
    """A fan of layers under a curved probe, two lobes with bright capsules, a dark vein."""
    organs, dice = _anatomy(patient), patient.dice("layers")
    apex2 = (grid.x - 512) ** 2 + (grid.y + 190) ** 2
    edges = [0, 274, *(radius + dice.between(-14, 14) for radius in (340, 385, 430, 1010)), 1198]
    layers = np.array([4, 150, 80, 124, dice.between(66, 84), 44, 4], dtype=np.int64)
    plane = layers[np.searchsorted(np.array(edges[1:], dtype=np.int64) ** 2, apex2)]
    lobes = np.maximum(grid.depth(organs["left"]), grid.depth(organs["right"]))
    plane[lobes > 0] = 128
    plane[lobes > 34] = dice.between(84, 102)
    plane[grid.depth(organs["vein"]) > 0] = 20
    plane[np.abs(grid.x - 512) * 8 > (grid.y + 190) * 5] = 4
    return plane


def _lesion(grid: Grid, patient: Patient, finding: Finding) -> Plane:
    """What the finding adds, (size, size)."""
    lung, dice = _anatomy(patient)[finding.side], patient.dice("lesion")
    zone = {"upper": -45, "middle": 0, "lower": 40}[finding.zone]
    x = lung.x + lung.rx * dice.between(-28, 28) // 100
    y = lung.y + lung.ry * (zone + dice.between(-12, 12)) // 100
    radius = _RADIUS[finding.kind][finding.size == "large"] * dice.between(90, 112) // 100
    shape = _SHAPE[finding.kind](grid, Ellipse(x, y, radius, radius), dice)
    return shape * (_GAIN[finding.kind] * finding.contrast // 100)


def _nodule(grid: Grid, place: Ellipse, dice: Dice) -> Plane:
    """A filled disc, slightly oval."""
    oval = place._replace(ry=place.ry * dice.between(88, 114) // 100)
    return (grid.depth(oval) > 0).astype(np.int64)


def _cyst(grid: Grid, place: Ellipse, dice: Dice) -> Plane:
    """A dark disc in a bright rim."""
    depth = grid.depth(place._replace(ry=place.ry * dice.between(92, 108) // 100))
    return (depth > 0).astype(np.int64) - 2 * (depth > 120)


def _calcification(grid: Grid, place: Ellipse, dice: Dice) -> Plane:
    """A cluster of dots; more of them in a larger cluster."""
    dots = np.zeros((grid.x.size, grid.x.size), dtype=bool)
    for _ in range(4 + place.rx // 12):
        dx, dy = dice.between(-place.rx, place.rx), dice.between(-place.ry, place.ry)
        dots |= grid.depth(Ellipse(place.x + dx, place.y + dy, 15, 15)) > 0
    return dots.astype(np.int64)


def _mass(grid: Grid, place: Ellipse, dice: Dice) -> Plane:
    """An irregular outline: lobes of different size around the centre."""
    lobes = grid.depth(place._replace(rx=place.rx * 5 // 8, ry=place.ry * 5 // 8)) > 0
    for dx, dy in ((-1, -1), (1, -1), (-1, 1), (1, 1)):
        x, y = (place.rx * dice.between(28, 66) // 100 for _ in range(2))
        lobe = Ellipse(place.x + dx * x, place.y + dy * y, *(place.rx * dice.between(24, 56) // 100 for _ in range(2)))
        lobes |= grid.depth(lobe) > 0
    return lobes.astype(np.int64)


def _blur(plane: Plane, radius: int) -> Plane:
    """Mean over a square of 2 radius + 1 pixels, rounded down; the border is repeated outwards."""
    size = len(plane)
    for _ in range(2):
        padded = np.concatenate([plane[:1].repeat(radius, 0), plane, plane[-1:].repeat(radius, 0)])
        total = padded[:size].copy()
        for shift in range(1, 2 * radius + 1):
            total += padded[shift : shift + size]
        plane = (total // (2 * radius + 1)).T
    return plane


def _film(plane: Plane, grain: Plane) -> Plane:
    """Quantum noise of a radiograph, with mottle."""
    noisy: Plane = plane + (grain >> 4) + (_blur(grain, 2) >> 1)
    return noisy


def _slice(plane: Plane, grain: Plane) -> Plane:
    """Correlated noise of a reconstruction."""
    noisy: Plane = plane + (_blur(grain, 1) * 3 >> 3)
    return noisy


def _speckle(plane: Plane, grain: Plane) -> Plane:
    """Noise in proportion to the signal, long across the beam."""
    wide = grain.copy()
    wide[:, 1:] += grain[:, :-1]
    wide[:, 2:] += grain[:, :-2]
    speckled: Plane = plane * (256 + (wide * 3 >> 3)) >> 8
    return speckled


_PAINT: Mapping[str, Callable[[Grid, Patient], Plane]] = {
    "radiograph": _radiograph,
    "ct": _ct,
    "ultrasound": _ultrasound,
}
_TEXTURE: Mapping[str, Callable[[Plane, Plane], Plane]] = {
    "radiograph": _film,
    "ct": _slice,
    "ultrasound": _speckle,
}
_SHAPE: Mapping[str, Callable[[Grid, Ellipse, Dice], Plane]] = {
    "nodule": _nodule,
    "cyst": _cyst,
    "calcification": _calcification,
    "mass": _mass,
}
