"""Visual question answering: a score for each answer, and metrics over many bootstrap draws at once.

What a prediction file has to hold for each question: the raw answer, the parsed one (null where there is none) and the
per-sample scores. The parsed answer and all scores follow from the raw one, so that a reader recomputes them.

An answer that could not be parsed scores 0 everywhere and stays in every mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmed.errors import InputError, Problem
from vlmed.metrics.answers import parse_closed, parse_open
from vlmed.metrics.classification import Counts, Values
from vlmed.metrics.inputs import row_problems
from vlmed.metrics.polar import polarity
from vlmed.metrics.tally import mean
from vlmed.metrics.text import normalise

# The strata of samples.
OPEN, YES, NO, CHOICE = range(4)
CLOSED = (YES, NO, CHOICE)
_STRATA = {"yes": YES, "no": NO}

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answered:
    """Answers and their scores, as the metrics of VQA take them; made by `score_answers`.

    Attributes:
        parsed: N answers: for an open question in normal form, for a closed one a candidate; None if unparsed.
        strata: int64 (N,), 0 for an open question, 1 and 2 for a closed one whose target means yes and no, 3 for any
            other closed one.
        exact: float64 (N,), 1 where the parsed answer is the target, else 0. The same for the others where the
            question is closed; where it is open:
        token_f1, token_recall, bleu_1, rouge_l: float64 (N,) in [0, 1], by the functions of these names.
    """

    parsed: tuple[str | None, ...]
    strata: NDArray[np.int64]
    exact: Scores
    token_f1: Scores
    token_recall: Scores
    bleu_1: Scores
    rouge_l: Scores

    def __len__(self) -> int:
        return len(self.parsed)

    @property
    def n_unparsed(self) -> int:
        """How many answers could not be parsed."""
        return self.parsed.count(None)

    def take(self, rows: ArrayLike) -> Answered:
        """The answers in `rows`, indices or a mask (N,)."""
        chosen = np.arange(len(self))[np.asarray(rows)]
        scores = (self.exact, self.token_f1, self.token_recall, self.bleu_1, self.rouge_l)
        parsed = tuple(self.parsed[row] for row in chosen)
        return Answered(parsed, self.strata[chosen], *(score[chosen] for score in scores))


def score_answers(
    answers: Sequence[str],
    targets: Sequence[str],
    closed: ArrayLike,
    candidates: Sequence[Sequence[str]],
    *,
    lettered: ArrayLike = False,
) -> Answered:
    """Parses and scores the answers to N questions.

    Args:
        answers: N raw outputs.
        targets: N target answers.
        closed: Booleans (N,), whether the question is closed.
        candidates: For each closed question what may be answered, as `answers.candidates_of` gives it; not read for
            an open one.
        lettered: Whether the prompts list them as A, B, ...; one boolean, or one for each question, (N,).

    Raises:
        InputError: Lengths differ, something is no text, or a closed question lacks its target among its candidates;
            lists every row.
    """
    shut, letters = np.asarray(closed), np.asarray(lettered)
    # Each text is read once: most targets, and most answers to closed questions, are the same few words.
    meaning = cache(_meaning)
    _refuse(_problems(answers, targets, shut, candidates, letters, meaning))
    score = cache(partial(_score, meaning))
    allowed = [tuple(some) if is_closed else None for some, is_closed in zip(candidates, shut, strict=True)]
    scored = list(map(score, answers, targets, allowed, np.broadcast_to(letters, shut.shape).tolist()))
    numbers = np.array([scores for _, scores in scored], np.float64)
    strata = [
        _STRATA.get(meaning(target), CHOICE) if is_closed else OPEN
        for target, is_closed in zip(targets, shut, strict=True)
    ]
    return Answered(tuple(parsed for parsed, _ in scored), np.array(strata, np.int64), *numbers.T.copy())


def _score(
    meaning: Callable[[str], str], raw: str, target: str, candidates: tuple[str, ...] | None, lettered: bool
) -> tuple[str | None, tuple[float, ...]]:
    """The parsed answer and its five scores; `candidates` is None where the question is open."""
    if candidates is None:
        return _score_open(raw, target)
    parsed = parse_closed(raw, candidates, lettered=lettered)
    return parsed, (float(parsed is not None and meaning(parsed) == meaning(target)),) * 5


def _score_open(raw: str, target: str) -> tuple[str | None, tuple[float, ...]]:
    parsed = parse_open(raw)
    said, wanted = (parsed or "").split(), normalise(target).split()
    return parsed, (float(bool(said) and said == wanted), *(score(said, wanted) for score in _TEXT_SCORES))


def _meaning(answer: str) -> str:
    return polarity(answer) or normalise(answer)


def token_f1(said: Sequence[str], wanted: Sequence[str]) -> float:
    """F1 of the tokens that answer and target share, each as often as both have it. Rajpurkar et al., EMNLP 2016.

    >>> round(token_f1(["left", "lung"], ["left", "upper", "lung"]), 6)
    0.8
    """
    return 2 * _shared(said, wanted) / max(1, len(said) + len(wanted))


def token_recall(said: Sequence[str], wanted: Sequence[str]) -> float:
    """The share of the target's tokens that are in the answer, each as often as both have it.

    >>> token_recall(["mass", "in", "left", "lung"], ["left", "lung"])
    1.0
    """
    return _shared(said, wanted) / max(1, len(wanted))


def bleu_1(said: Sequence[str], wanted: Sequence[str]) -> float:
    """BLEU of one answer by unigrams: clipped precision x brevity penalty, not smoothed. Papineni et al., ACL 2002.

    >>> round(bleu_1(["left", "lung"], ["left", "upper", "lung"]), 6)  # 2 / 2 x exp(1 - 3 / 2)
    0.606531
    """
    brevity = min(1.0, math.exp(1 - len(wanted) / len(said))) if said else 0.0
    return brevity * _shared(said, wanted) / max(1, len(said))


def rouge_l(said: Sequence[str], wanted: Sequence[str]) -> float:
    """ROUGE-L of one answer: F1 of the longest common subsequence. Lin, ACL workshop 2004, with beta = 1.

    >>> rouge_l(["lung", "left"], ["left", "lung"])
    0.5
    """
    return 2 * _common(said, wanted) / max(1, len(said) + len(wanted))


_TEXT_SCORES = (token_f1, token_recall, bleu_1, rouge_l)


def _shared(said: Sequence[str], wanted: Sequence[str]) -> int:
    left: dict[str, int] = {}
    for token in wanted:
        left[token] = left.get(token, 0) + 1
    shared = 0
    for token in said:
        if left.get(token):
            left[token] -= 1
            shared += 1
    return shared


def _common(said: Sequence[str], wanted: Sequence[str]) -> int:
    """Length of the longest common subsequence, a bit per wanted token: Hyyrö, AWOCA 2004."""
    places: dict[str, int] = {}
    for place, token in enumerate(wanted):
        places[token] = places.get(token, 0) | 1 << place
    everything = (1 << len(wanted)) - 1
    unmatched = everything
    for token in said:
        matched = unmatched & places.get(token, 0)
        unmatched = (unmatched + matched | unmatched - matched) & everything
    return len(wanted) - unmatched.bit_count()


def accuracy(samples: Answered, counts: Counts) -> Values:
    """Share of questions, open and closed, whose parsed answer is the target, in [0, 1]."""
    return mean(samples.exact, counts)


def closed_accuracy(samples: Answered, counts: Counts) -> Values:
    """Share of closed questions answered with their target, in [0, 1]; NaN if there is none."""
    return _over(samples.exact, samples.strata != OPEN, counts)


def balanced_closed_accuracy(samples: Answered, counts: Counts) -> Values:
    """Closed accuracy averaged over the questions whose target is yes, no, and anything else, in [0, 1].

    All other targets are one class: each of them is too rare to weigh as much as yes. NaN if there is no closed one.
    A model that says yes to everything gets a half, or a third where there are other targets, however many the yes are.
    """
    per_class = np.array([_over(samples.exact, samples.strata == stratum, counts) for stratum in CLOSED])
    defined = ~np.isnan(per_class)
    present = defined.sum(axis=0)
    values: Values = np.full(counts.shape[1], np.nan)
    np.divide(per_class.sum(axis=0, where=defined), present, out=values, where=present > 0)
    return values


def over_open(score: Callable[[Answered], Scores]) -> Callable[[Answered, Counts], Values]:
    """The metric that averages a score over the open questions, in [0, 1]; NaN if there is none."""
    return lambda samples, counts: _over(score(samples), samples.strata == OPEN, counts)


open_exact_match = over_open(lambda samples: samples.exact)
open_token_f1 = over_open(lambda samples: samples.token_f1)
open_token_recall = over_open(lambda samples: samples.token_recall)
open_bleu_1 = over_open(lambda samples: samples.bleu_1)
open_rouge_l = over_open(lambda samples: samples.rouge_l)


def _over(scores: Scores, chosen: NDArray[np.bool_], counts: Counts) -> Values:
    return mean(scores[chosen], counts[chosen])


def _refuse(problems: Iterator[Problem]) -> None:
    if listed := list(problems):
        raise InputError(listed)


def _problems(
    answers: Sequence[str],
    targets: Sequence[str],
    closed: NDArray[Any],
    candidates: Sequence[Sequence[str]],
    lettered: NDArray[Any],
    meaning: Callable[[str], str],
) -> Iterator[Problem]:
    sizes = {"answers": len(answers), "targets": len(targets), "candidates": len(candidates)}
    if closed.ndim != 1 or closed.dtype != bool or not len(closed):
        yield Problem("closed is no column", expected="booleans (N,), N >= 1", got=f"{closed.dtype} {closed.shape}")
    elif set(sizes.values()) != {len(closed)}:
        got = ", ".join(f"{size} {name}" for name, size in sizes.items())
        yield Problem("the columns differ in length", expected=f"{len(closed)} of each", got=got)
    elif lettered.dtype != bool or lettered.shape not in ((), closed.shape):
        expected, got = f"a boolean, or {len(closed)} of them", f"{lettered.dtype} {lettered.shape}"
        yield Problem("lettered is no column", expected=expected, got=got)
    else:
        for name, texts in (("answer", answers), ("target", targets)):
            wrong = np.array([not isinstance(text, str) for text in texts])
            yield from row_problems(
                f"{name} is no text", wrong, "text", np.array([type(text).__name__ for text in texts])
            )
        lacking = [
            is_closed and isinstance(target, str) and meaning(target) not in map(meaning, some)
            for target, is_closed, some in zip(targets, closed.tolist(), candidates, strict=True)
        ]
        expected = "a target among the candidates"
        yield from row_problems("no candidate is right", np.array(lacking), expected, np.array(targets, object))
