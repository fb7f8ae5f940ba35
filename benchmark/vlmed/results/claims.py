"""What a prediction file claims, row by row: against the frozen manifest, and against itself.

Proved are the samples, their groups and their targets; for retrieval, which items are relevant; for VQA, that the
parsed answers follow from the raw ones and, where the questions are frozen, which of them are closed, their types and
their candidates. Some things nobody can prove without the data or the model, and `audit` or a second run has to:

- a probability, an answer, the order of the `top` items, a rank beyond them, and which relevant items tie;
- whether the prompt was lettered; models that claim another prompt than most are not ranked with them.

Where nobody has frozen a task's questions, candidates must be `yes` and `no` exactly where the target is either; any
others must be two or more answers of the task, each proved by its digest, with the target among them.

A target whose digest the manifest lacks (the publisher gives no text) is not proved either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from vlmed.errors import InputError, Problem
from vlmed.hashing import target_digest
from vlmed.metrics.answers import YES_NO
from vlmed.metrics.polar import polarity as polarity_of
from vlmed.metrics.retrieval import TOP
from vlmed.results.predictions import AnswerPredictions, ClassificationPredictions, Predictions, RetrievalPredictions
from vlmed.results.ranked import COLUMNS
from vlmed.suite.frozen_rows import Keyed, Row
from vlmed.suite.manifest import Manifest
from vlmed.suite.questions import FrozenQuestion, candidates_digest
from vlmed.suite.types import Task

# Most targets are the same few words.
polarity = lru_cache(10_000)(polarity_of)


@dataclass
class Claims:
    """The check of one prediction file, which problems call `file`."""

    task: Task
    predictions: Predictions
    file: str
    _digests: dict[str, str] = field(default_factory=dict)
    _candidates: dict[tuple[str, ...], str] = field(default_factory=dict)

    def problems(
        self,
        manifest: Manifest | None,
        asked: Mapping[str, FrozenQuestion] | None = None,
        test: Keyed | None = None,
    ) -> Iterator[Problem]:
        """All that is wrong with the claims; without a manifest only what contradicts itself.

        Args:
            asked: Sample id -> its frozen question; None where nobody has frozen them.
            test: The manifest's test split, for whoever has it already.
        """
        if manifest:
            rows = test.rows if test else manifest.split("test")
            yield from self._sample_problems({row.sample_id: row for row in rows})
        if isinstance(self.predictions, RetrievalPredictions):
            yield from _ranking_problems(self.predictions, self.file)
        elif isinstance(self.predictions, AnswerPredictions):
            if asked is None:
                yield from self._question_problems(self.predictions, manifest)
            else:
                yield from self._frozen_problems(self.predictions, asked)
            yield from _parsed_problems(self.predictions, self.file)

    def _sample_problems(self, frozen: Mapping[str, Row]) -> Iterator[Problem]:
        """Exactly the frozen test set, each sample with its frozen group and target."""
        seen: set[str] = set()
        for row, name in enumerate(self.predictions.sample_ids):
            if name in seen:
                yield Problem("this sample stands twice", self.file, f"row {row}", "once", name)
            elif name not in frozen:
                yield Problem("this is no test sample of the task", self.file, f"row {row}", self.task.id, name)
            else:
                yield from self._row_problems(row, frozen[name])
            seen.add(name)
        for name in sorted(frozen.keys() - seen):
            yield Problem("this test sample has no prediction", self.file, name)

    def _row_problems(self, row: int, frozen: Row) -> Iterator[Problem]:
        group = self.predictions.groups[row]
        if group != frozen.group:
            yield Problem("the group is not the frozen one", self.file, f"row {row}", frozen.group, group)
        if isinstance(self.predictions, ClassificationPredictions):
            yield from self._class_problems(row, int(self.predictions.targets[row]), frozen)
        elif isinstance(self.predictions, RetrievalPredictions):
            yield from self._target_problems(row, self.predictions.targets[row], frozen)
        elif isinstance(self.predictions, AnswerPredictions):
            yield from self._target_problems(row, self._digest(self.predictions.targets[row]), frozen)

    def _class_problems(self, row: int, index: int, frozen: Row) -> Iterator[Problem]:
        digests = [self._digest(spec.name) for spec in self.task.classes]
        if not 0 <= index < len(digests):
            expected = f"0 to {len(digests) - 1}"
            yield Problem("the target is no class index", self.file, f"row {row}", expected, str(index))
        elif digests[index] != frozen.target:
            got = f"{index} for {frozen.sample_id}"
            expected = str(digests.index(frozen.target))
            yield Problem("the target is not the frozen one", self.file, f"row {row}", expected, got)

    def _target_problems(self, row: int, claimed: str, frozen: Row) -> Iterator[Problem]:
        if frozen.target and claimed != frozen.target:
            expected, got = f"digest {frozen.target}", f"{claimed} for {frozen.sample_id}"
            yield Problem("the target is not the frozen one", self.file, f"row {row}", expected, got)

    def _frozen_problems(
        self, predictions: AnswerPredictions, asked: Mapping[str, FrozenQuestion]
    ) -> Iterator[Problem]:
        for row, name in enumerate(predictions.sample_ids):
            if name not in asked:
                continue  # no test sample, as is told already
            candidates, frozen = predictions.candidates[row], asked[name]
            kind = "closed" if predictions.closed[row] else "open"
            claims = (
                ("whether this question is closed", frozen.closed, kind),
                ("the type of this question", frozen.question_type, predictions.question_types[row]),
                ("what may be answered to this question", frozen.candidates, self._candidates_digest(candidates)),
            )
            for what, expected, got in claims:
                if expected != got:
                    yield Problem(f"{what} is not as frozen", self.file, f"row {row}", expected, f"{got} for {name}")
            if kind == "open" and predictions.lettered[row]:
                yield Problem("an open question has no letters", self.file, f"row {row}", "not lettered", "lettered")

    def _candidates_digest(self, candidates: tuple[str, ...]) -> str:
        if candidates not in self._candidates:
            self._candidates[candidates] = candidates_digest(self.task, candidates)
        return self._candidates[candidates]

    def _question_problems(self, predictions: AnswerPredictions, manifest: Manifest | None) -> Iterator[Problem]:
        answers = {row.target for row in manifest.rows} if manifest else None
        right: set[tuple[str, tuple[str, ...]]] = set()  # Most questions are asked of many images.
        for row, candidates in enumerate(predictions.candidates):
            place, asked = f"row {row}", (predictions.targets[row], candidates)
            if predictions.closed[row] and asked not in right:
                wrong = False
                for problem in self._candidate_problems(place, *asked, answers):
                    wrong = True
                    yield problem
                if not wrong:
                    right.add(asked)
            elif not predictions.closed[row] and (candidates or predictions.lettered[row]):
                yield Problem("an open question has no candidates", self.file, place, "none", ", ".join(candidates))

    def _candidate_problems(
        self, place: str, target: str, candidates: tuple[str, ...], answers: set[str] | None
    ) -> Iterator[Problem]:
        got = ", ".join(candidates)
        if polarity(target):
            if candidates != YES_NO:
                yield Problem("a yes-no question has other candidates", self.file, place, ", ".join(YES_NO), got)
            return
        if target not in candidates:
            yield Problem("the target is no candidate", self.file, place, target, got)
        if len(candidates) < 2:
            yield Problem("fewer than two candidates are no choice", self.file, place, "at least 2", got)
        if list(candidates) != sorted(set(candidates)):
            yield Problem("the candidates are not sorted, or one stands twice", self.file, place, "sorted", got)
        for candidate in candidates:
            if polarity(candidate) or (answers is not None and self._digest(candidate) not in answers):
                expected = f"an answer of {self.task.id} other than yes and no"
                yield Problem("this is no candidate", self.file, place, expected, candidate)

    def _digest(self, target: str) -> str:
        if target not in self._digests:
            self._digests[target] = target_digest(self.task.name, target)
        return self._digests[target]


def _parsed_problems(predictions: AnswerPredictions, file: str) -> Iterator[Problem]:
    try:
        parsed_ones = predictions.answered.parsed
    except InputError:
        return  # Scoring tells why.
    if predictions.claimed is None or list(parsed_ones) == list(predictions.claimed):
        return
    for row, (parsed, claimed) in enumerate(zip(parsed_ones, predictions.claimed, strict=True)):
        if parsed != claimed:
            what = "the parsed answer is not what the raw one gives"
            yield Problem(what, file, f"row {row}", repr(parsed), repr(claimed))


def _ranking_problems(predictions: RetrievalPredictions, file: str) -> Iterator[Problem]:
    keys = dict(zip(predictions.sample_ids, predictions.targets, strict=True))
    alike = Counter(predictions.targets)
    for direction, found in predictions.directions.items():
        rows = zip(found.ranks.tolist(), found.strict_ranks.tolist(), found.top, strict=True)
        for row, (rank, strict_rank, top) in enumerate(rows):
            own, key = predictions.sample_ids[row], predictions.targets[row]
            query = _Query(own, key, alike[key], rank, strict_rank, top, keys)
            for name, expected, got in query.problems():
                what = f"{COLUMNS[direction]}{name}"
                yield Problem(what, file, f"row {row}", expected, got)


@dataclass(frozen=True)
class _Query:
    """One query's claims: its rank, the strict one and the best items say the same.

    Attributes:
        alike: How many items have the query's key; all of them are relevant.
        keys: Sample id -> key of every item.
    """

    own: str
    key: str
    alike: int
    rank: int
    strict_rank: int
    top: tuple[str, ...]
    keys: Mapping[str, str]

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Column and what is wrong with it, expected, got."""
        lowest = len(self.keys) - self.alike + 1
        if not 1 <= self.rank <= lowest:
            yield "rank lies outside the gallery", f"1 to {lowest}", str(self.rank)
        last = self.rank if self.alike == 1 else len(self.keys)
        if not self.rank <= self.strict_rank <= last:
            yield "strict_rank does not fit the rank", f"{self.rank} to {last}", str(self.strict_rank)
        listed = list(self._top_problems())
        yield from listed or self._contradictions()

    def _top_problems(self) -> Iterator[tuple[str, str, str]]:
        size = min(TOP, len(self.keys))
        if len(self.top) != size:
            yield "top has another length", f"{size} items", str(len(self.top))
        for name in self.top:
            if name not in self.keys:
                yield "top names no item of the gallery", "a sample id of this file", name
        for name, times in Counter(self.top).items():
            if times > 1:
                yield "top names an item twice", "once", name

    def _contradictions(self) -> Iterator[tuple[str, str, str]]:
        relevant = [self.keys[name] == self.key for name in self.top]
        # Wrong items stand before relevant ones that tie with them, so the first relevant one stands at the rank.
        place = relevant.index(True) + 1 if True in relevant else None
        if place != (self.rank if self.rank <= len(self.top) else None):
            yield "rank is not what top gives", str(place or f"above {len(self.top)}"), str(self.rank)
        first, last = self._strict_range(relevant)
        if not first <= self.strict_rank <= last:
            yield "strict_rank is not what top gives", f"{first} to {last}", str(self.strict_rank)

    def _strict_range(self, relevant: list[bool]) -> tuple[int, int]:
        """Where the own item may stand: at its place in `top`, or behind relevant ones that may tie with it."""
        if self.own not in self.top:
            return len(self.top) + 1, len(self.keys)
        place = self.top.index(self.own) + 1
        behind = relevant[place:]
        if False in behind:
            return place, place + behind.index(False)
        return place, place + self.alike - sum(relevant[:place])
