"""What is in every phantom image: patient, finding and view, drawn from the name of the image alone."""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

MODALITIES = ("radiograph", "ct", "ultrasound")
LESIONS = ("nodule", "cyst", "calcification", "mass")
KINDS = ("none", *LESIONS)
SIDES = ("left", "right")
SIZES = ("small", "large")
ZONES = ("upper", "middle", "lower")
# A finding of less contrast than this, in percent, is called subtle.
SUBTLE = 48

# Part of every name below, so that a second generation of phantoms can't be taken for the first.
_GENERATION = "vlmed-phantom-1"


class Dice:
    """Random integers that depend on nothing but the given name.

    SHAKE-256 instead of a numpy Generator: the standard fixes its output, while numpy may change its streams
    between releases, and its distributions round floating point as the platform's libm does.

    >>> Dice("demo").below(6) == Dice("demo").below(6)
    True
    """

    def __init__(self, *name: object) -> None:
        self._name = "/".join(map(str, (_GENERATION, *name)))
        self._words = self._stream()

    def _stream(self) -> Iterator[int]:
        for block in itertools.count():
            yield from struct.unpack("<64I", self.noise(256, block))

    def noise(self, count: int, block: object = "noise") -> bytes:
        """`count` uniform bytes; always the same ones for the same `block`."""
        return hashlib.shake_256(f"{self._name}/{block}".encode()).digest(count)

    def below(self, count: int) -> int:
        """The next integer of [0, count); `count` at most 2**16, so that no value is favoured by over 2**-16."""
        return next(self._words) * count >> 32

    def between(self, low: int, high: int) -> int:
        """The next integer of [low, high]."""
        return low + self.below(high - low + 1)

    def pick(self, choices: Sequence[T]) -> T:
        """The next choice."""
        return choices[self.below(len(choices))]


@dataclass(frozen=True, slots=True)
class Finding:
    """A lesion.

    Attributes:
        side: The patient's side; as in radiology, the patient's left is on the right of the picture.
        contrast: Percent of full contrast, 30 to 100.
    """

    kind: str
    side: str
    size: str
    zone: str
    contrast: int


@dataclass(frozen=True, slots=True)
class Patient:
    """One invented patient, seen by one modality; `finding` is None for those without a lesion."""

    seed: int
    number: int
    modality: str
    sex: str
    age_band: str
    large_heart: bool
    finding: Finding | None

    @property
    def group(self) -> str:
        return f"phantom-p{self.number:04d}"

    @property
    def kind(self) -> str:
        return self.finding.kind if self.finding else "none"

    @property
    def split(self) -> str:
        """60 % train, 15 % val, 25 % test, by the hash of the patient's id."""
        bucket = int.from_bytes(hashlib.sha256(self.group.encode()).digest()[:8], "big") % 100
        return "train" if bucket < 60 else "val" if bucket < 75 else "test"

    def dice(self, purpose: str, image: int | None = None) -> Dice:
        """The dice for one purpose, the same for all images of the patient unless `image` is given."""
        return Dice(self.seed, self.number, "all" if image is None else image, purpose)


def patient(seed: int, number: int) -> Patient:
    """The patient of that number in the data set of that seed."""
    dice = Dice(seed, number, "all", "patient")
    return Patient(
        seed=seed,
        number=number,
        modality=dice.pick(MODALITIES),
        sex=dice.pick(("female", "male")),
        age_band=dice.pick(("18-39", "40-64", "65+")),
        large_heart=dice.below(4) == 0,
        finding=_finding(dice, dice.pick(KINDS)),
    )


def _finding(dice: Dice, kind: str) -> Finding | None:
    if kind == "none":
        return None
    contrast = 30 + dice.below(71)
    return Finding(kind, dice.pick(SIDES), dice.pick(SIZES), dice.pick(ZONES), contrast)
