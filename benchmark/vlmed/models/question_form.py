"""What a question alone gives away: the usual answer to questions that begin in the same words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlmed.errors import InputError
from vlmed.metrics.text import normalise, tokens
from vlmed.models.protocols import Asked

_LONGEST = 4
# A form that was seen less often says more about chance than about the form.
_SEEN = 5


@dataclass(frozen=True)
class QuestionForms:
    """Training answers in normal form, counted by question form.

    A form is whether the question is closed, and its first words, four at most. A question goes by its longest form
    with five training questions or more; the form of no words has all of them.
    """

    answers: Mapping[tuple[str, ...], Counter[str]]

    @staticmethod
    def learnt(train: Sequence[Asked]) -> QuestionForms:
        """Count the answers of training questions.

        Raises:
            InputError: There are none.
        """
        if not train:
            raise InputError("the majority control needs training questions", expected="at least one", got="none")
        counted: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for asked in train:
            for form in _forms(asked):
                counted[form][normalise(asked.target)] += 1
        return QuestionForms(counted)

    def answer(self, asked: Asked) -> str:
        """The most frequent answer, the first in the alphabet of equally frequent ones; to a closed question the most
        frequent of its candidates, the first of them if none was ever an answer."""
        spelled = {normalise(text): text for text in asked.candidates}
        for form in _forms(asked):
            counts = self.answers.get(form, Counter())
            known = [text for text in counts if not spelled or text in spelled]
            if known and sum(counts.values()) >= (_SEEN if len(form) > 1 else 1):
                best = min(known, key=lambda text: (-counts[text], text))
                return spelled.get(best, best)
        return asked.candidates[0] if asked.candidates else self._usual()

    def _usual(self) -> str:
        """The most frequent answer to any question, for an open one where all of training was closed."""
        total: Counter[str] = sum((counts for form, counts in self.answers.items() if len(form) == 1), Counter())
        return min(total, key=lambda text: (-total[text], text))


def _forms(asked: Asked) -> Iterator[tuple[str, ...]]:
    """From the longest form to the shortest."""
    words = tokens(asked.question)[:_LONGEST]
    kind = "closed" if asked.candidates else "open"
    return ((kind, *words[:length]) for length in range(len(words), -1, -1))
