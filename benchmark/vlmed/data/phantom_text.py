"""Captions and questions about phantom images, true to what was drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vlmed.data.phantom_case import LESIONS, MODALITIES, SIDES, SIZES, SUBTLE, Dice, Finding, Patient

_PICTURE: Mapping[str, Sequence[str]] = {
    "radiograph": ("radiograph", "chest radiograph", "frontal radiograph"),
    "ct": ("CT", "CT slice", "axial chest CT"),
    "ultrasound": ("ultrasound", "ultrasound scan", "ultrasound view"),
}
_NOUN: Mapping[str, Sequence[str]] = {
    "nodule": ("nodule", "round nodule", "solid nodule"),
    "cyst": ("cyst", "cyst with a bright rim", "thin-walled cyst"),
    "calcification": ("calcification", "clustered calcification", "calcification of several dots"),
    "mass": ("mass", "irregular mass", "lobulated mass"),
}
# A slice has no upper and lower part, and a probe looks into the depth.
_ZONE: Mapping[str, Mapping[str, str]] = {
    "radiograph": {"upper": "upper", "middle": "middle", "lower": "lower"},
    "ct": {"upper": "anterior", "middle": "central", "lower": "posterior"},
    "ultrasound": {"upper": "superficial", "middle": "middle", "lower": "deep"},
}
_ORGAN = {"radiograph": "lung", "ct": "lung", "ultrasound": "lobe"}

_WITH_LESION = (
    "Phantom {picture} with a {lesion} in the {place}.",
    "A {lesion} is seen in the {place} on this phantom {picture}.",
    "This phantom {picture} shows a {lesion} in the {place}.",
    "The {place} contains a {lesion}; phantom {picture}.",
    "Phantom patient, {picture}: {lesion}, {place}.",
    "In the {place} of the phantom lies a {lesion}, as the {picture} shows.",
    "Phantom {picture}. Finding: {lesion} of the {place}.",
    "There is a {lesion} in the {place} of this phantom ({picture}).",
)
_WITHOUT_LESION = (
    "Phantom {picture} without any lesion.",
    "No lesion is seen on this phantom {picture}.",
    "This phantom {picture} shows no lesion.",
    "Both {organ}s are clear; phantom {picture}, no lesion.",
    "Phantom patient, {picture}: no lesion in either {organ}.",
    "There is no lesion in this phantom ({picture}).",
    "Phantom {picture}. Finding: none, no lesion.",
    "Unremarkable phantom {picture} with no lesion.",
)


def caption(patient: Patient, image: int, reword: int = 0) -> str:
    """What a reader would write under an image; another `reword` (0 to 7) says the same in other words."""
    dice = patient.dice("caption", image)
    templates = _WITH_LESION if patient.finding else _WITHOUT_LESION
    template = templates[(dice.below(len(templates)) + reword) % len(templates)]
    picture, organ = dice.pick(_PICTURE[patient.modality]), _ORGAN[patient.modality]
    words = _finding_words(patient, patient.finding, dice) if patient.finding else {"organ": organ}
    return template.format(picture=picture, **words) + _heart_remark(patient, dice)


def _finding_words(patient: Patient, finding: Finding, dice: Dice) -> dict[str, str]:
    subtle = "subtle " if finding.contrast < SUBTLE and dice.below(3) else ""
    zone = dice.pick(("", _ZONE[patient.modality][finding.zone] + " "))
    lesion = f"{subtle}{finding.size} {dice.pick(_NOUN[finding.kind])}"
    return {"lesion": lesion, "place": f"{zone}{finding.side} {_ORGAN[patient.modality]}"}


def _heart_remark(patient: Patient, dice: Dice) -> str:
    if patient.modality == "ultrasound" or dice.below(2):
        return ""
    return " The heart is large." if patient.large_heart else " The heart is of normal size."


class Question(NamedTuple):
    """A question; `closed` ones are answered by yes or no."""

    text: str
    answer: str
    closed: bool
    type: str


@dataclass(frozen=True, slots=True)
class _Topic:
    """What can be asked about one fact: `truths` are its values, templates name one of them as {value}."""

    type: str
    truths: Sequence[str]
    open: Sequence[str]
    closed: Sequence[str]

    def ask(self, truth: str, dice: Dice, reword: int) -> Question:
        """Open or closed by a coin; if closed, right or wrong by another, so that the question betrays nothing."""
        if dice.below(2):
            return Question(_phrase(self.open, dice, reword), truth, False, self.type)
        right = dice.below(2) == 0
        value = truth if right else dice.pick([other for other in self.truths if other != truth])
        text = _phrase(self.closed, dice, reword).format(value=value)
        return Question(text, "yes" if right else "no", True, self.type)


# Modality names as they are written in sentences.
_NAMES = {"radiograph": "radiograph", "ct": "CT", "ultrasound": "ultrasound"}
_MODALITY = _Topic(
    "modality",
    tuple(_NAMES[modality] for modality in MODALITIES),
    (
        "What is the modality of this phantom image?",
        "How was this phantom imaged?",
        "Which modality shows the phantom?",
    ),
    (
        "Is this a phantom {value}?",
        "Would you call this a phantom {value}?",
        "Is the modality of this phantom {value}?",
    ),
)
_PRESENCE = (
    "Is there a lesion in this phantom?",
    "Does this phantom show any lesion?",
    "Can a lesion be seen in the phantom?",
)
_KIND = _Topic(
    "kind",
    LESIONS,
    ("What kind of lesion does this phantom show?", "What is the lesion in the phantom?", "Name the phantom's lesion."),
    (
        "Is the lesion in this phantom a {value}?",
        "Does this phantom show a {value}?",
        "Is there a {value} in the phantom?",
    ),
)
_SIDE = _Topic(
    "side",
    SIDES,
    (
        "On which side is the phantom's lesion?",
        "Which side of this phantom is affected?",
        "Where is the lesion: left or right side of the phantom?",
    ),
    (
        "Is the phantom's lesion on the {value} side?",
        "Does the {value} side of this phantom hold the lesion?",
        "Is the {value} side of the phantom affected?",
    ),
)
_SIZE = _Topic(
    "size",
    SIZES,
    (
        "How large is the lesion in this phantom?",
        "What is the size of the phantom's lesion?",
        "Is the phantom's lesion small or large?",
    ),
    (
        "Is the lesion in this phantom {value}?",
        "Would you call the phantom's lesion {value}?",
        "Is it a {value} lesion that the phantom shows?",
    ),
)


def questions(patient: Patient, image: int, reword: int = 0) -> Iterator[Question]:
    """The questions about an image; another `reword` (0 to 2) asks the same in other words."""
    dice = patient.dice("questions", image)
    yield _MODALITY.ask(_NAMES[patient.modality], dice, reword)
    # Four in five images have a lesion: asking every one of them would make `yes` a good guess.
    asked = dice.below(len(LESIONS)) == 0
    if asked or not patient.finding:
        yield Question(_phrase(_PRESENCE, dice, reword), "yes" if patient.finding else "no", True, "presence")
    if patient.finding:
        yield _KIND.ask(patient.finding.kind, dice, reword)
        yield _SIDE.ask(patient.finding.side, dice, reword)
        yield _SIZE.ask(patient.finding.size, dice, reword)


def _phrase(phrases: Sequence[str], dice: Dice, reword: int) -> str:
    return phrases[(dice.below(len(phrases)) + reword) % len(phrases)]
