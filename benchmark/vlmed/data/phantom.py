"""The phantom: a synthetic data set that is generated, not downloaded, for demos, tests and leak checks.

Nothing in it is a patient. It is called a phantom wherever it appears and never stands beside medical tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmed.data.phantom_case import Patient, patient
from vlmed.data.phantom_draw import pixels
from vlmed.data.phantom_leaks import DISGUISES, Plan, PlantedLeak, encode, plan
from vlmed.data.phantom_text import Question, caption, questions
from vlmed.data.records import Record
from vlmed.errors import MissingError, Problem, UsageError

# Option -> default, smallest and largest value. Ids have four digits for the patient.
_NUMBERS = {
    "seed": (0, 0, 2**31 - 1),
    "patients": (1200, 1, 9999),
    "images_per_patient": (3, 1, 99),
    "size": (64, 32, 512),
}
_ROWS = ("images", "questions")


class PhantomSource:
    """Synthetic radiographs, CT slices and ultrasound fans, with or without a lesion.

    Fields of `rows: images` (the default, one row per image): `label` (none, nodule, cyst, calcification, mass),
    `caption`, `side`, `size` (empty without a lesion), `modality`, `sex`, `age_band`. Fields of `rows: questions`
    (two to five rows per image): `question`, `answer`, `answer_type` (OPEN, CLOSED), `question_type` (modality,
    presence, kind, side, size), `modality`, `sex`, `age_band`.

    Args:
        options: `seed` (0), `patients` (1200), `images_per_patient` (3), `size` in pixels (64), `rows` (images),
            `leaks` (none): kind of planted leak -> how many, see `PlantedLeak`.
        root: Not used; nothing is stored.

    Raises:
        UsageError: An option is unknown or out of its range, or there is no room for the leaks.
    """

    def __init__(self, options: Mapping[str, Any], root: Path) -> None:  # noqa: ARG002
        if problems := list(_check(options)):
            raise UsageError(problems)
        numbers = {name: options.get(name, default) for name, (default, _, _) in _NUMBERS.items()}
        self._size: int = numbers["size"]
        self._rows: str = options.get("rows", "images")
        self._cases = {
            f"{who.group}-i{image}": (who, image)
            for who in (patient(numbers["seed"], number) for number in range(numbers["patients"]))
            for image in range(numbers["images_per_patient"])
        }
        self._plan = self._plant(numbers["seed"], options.get("leaks", {}))

    def planted(self) -> list[PlantedLeak]:
        """Every pair that leaks from train to test; keys of images, which are also the ids of `rows: images`."""
        return list(self._plan.leaks)

    def records(self) -> list[Record]:
        """Every row, patient by patient; see the class for the fields."""
        return [record for key in self._cases for record in self._row(key)]

    def image(self, key: str) -> bytes:
        """The image file of a key: PNG of 8-bit grey, unless a planted leak put it into another format.

        Raises:
            MissingError: There is no such image in this phantom.
        """
        if key not in self._cases:
            ids = list(self._cases)
            hint = "raise the options patients or images_per_patient, or mend the key"
            raise MissingError("no such image", path=key, expected=f"{ids[0]} to {ids[-1]}", got=repr(key), hint=hint)
        copy = self._plan.copies.get(key)
        who, image = self._cases[copy.original if copy else key]
        return encode(pixels(who, image, self._size), copy.how if copy else "copied")

    def _plant(self, seed: int, wanted: Mapping[str, int]) -> Plan:
        train: dict[str, list[str]] = {}
        for key, (who, _) in self._cases.items():
            if who.split == "train":
                train.setdefault(who.group, []).append(key)
        tests = [key for key, (who, _) in self._cases.items() if who.split == "test"]
        return plan(seed, wanted, train, tests)

    def _row(self, key: str) -> Iterator[Record]:
        """The rows of one image; a copy has the finding and text of what it shows and its own patient's sex and age."""
        owner, _ = self._cases[key]
        copy = self._plan.copies.get(key)
        shown, image = self._cases[copy.original if copy else key]
        reword = 1 if copy and not copy.same_text else 0
        split = "test" if key in self._plan.moved else owner.split
        person = {"modality": shown.modality, "sex": owner.sex, "age_band": owner.age_band}
        if self._rows == "images":
            finding = {"label": shown.kind, "caption": caption(shown, image, reword), **_side_and_size(shown)}
            yield Record(key, key, owner.group, split, finding | person)
            return
        for number, question in enumerate(questions(shown, image, reword)):
            yield Record(f"{key}-q{number}", key, owner.group, split, _question_fields(question) | person)


def _side_and_size(shown: Patient) -> dict[str, str]:
    finding = shown.finding
    return {"side": finding.side if finding else "", "size": finding.size if finding else ""}


def _question_fields(question: Question) -> dict[str, str]:
    return {
        "question": question.text,
        "answer": question.answer,
        "answer_type": "CLOSED" if question.closed else "OPEN",
        "question_type": question.type,
    }


def _check(options: Mapping[str, Any]) -> Iterator[Problem]:
    """Everything that is wrong with the options."""
    known = (*_NUMBERS, "rows", "leaks")
    for name in options:
        if name not in known:
            yield Problem("unknown option of the phantom", path=name, expected=f"one of {', '.join(known)}", got=name)
    for name, (default, low, high) in _NUMBERS.items():
        yield from _check_number(name, options.get(name, default), low, high)
    if options.get("rows", "images") not in _ROWS:
        yield Problem("unknown rows", path="rows", expected=" or ".join(_ROWS), got=repr(options["rows"]))
    yield from _check_leaks(options.get("leaks", {}))


def _check_leaks(leaks: Any) -> Iterator[Problem]:
    if not isinstance(leaks, Mapping):
        yield Problem("leaks are not a mapping", path="leaks", expected="kind of leak: how many", got=repr(leaks))
        return
    for kind, count in leaks.items():
        path = f"leaks.{kind}"
        if kind not in DISGUISES:
            yield Problem("unknown kind of leak", path=path, expected=f"one of {', '.join(DISGUISES)}", got=repr(kind))
        else:
            yield from _check_number(path, count, 0, 9999)


def _check_number(path: str, value: Any, low: int, high: int) -> Iterator[Problem]:
    # YAML's `true` is an int for Python, but hardly what was meant.
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        yield Problem("not a number in range", path=path, expected=f"an integer from {low} to {high}", got=repr(value))
