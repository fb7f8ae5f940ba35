"""Answers parsed from free text, as pure functions.

An output without an answer is unparsed: None, which scores 0 and is counted, never dropped. From each output first goes
what the model did not say for an answer: its thinking, and turns of a dialogue that it made up (`text.spoken`). If it
then says `the answer is ...`, what follows the last of these is tried first, and all of it only if that says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from vlmed.metrics.polar import polarity, refuses, yes_or_no
from vlmed.metrics.text import ARTICLES, concluded, fold, normalise, sentences, spoken, tokens

# The stop of `vs.` stands between two things of one answer.
_FULL_STOP = re.compile(r"(?<!\bvs)(?:(?<!\d)\.|\.(?!\d))|[。\n]")
YES_NO = ("yes", "no")
# A letter alone, or before a bracket, stop or colon, or after `option`; `a` before a word is an article.
_LETTER = re.compile(r"[\W_]*(?:(?:option|choice|选项)\W*)?([a-z])(?:[\W_]*$|\s*[).:,]|(?<![ai])\s)")
_NEXT_LETTER = re.compile(r"\W{0,3}(?:and|or)?\W{0,3}[a-z](?:\W|$)")
_DENIALS = frozenset(("not", "no", "without", "neither", "nor", "than"))
_BETWEEN = frozenset(("in", "on", "at", "of", "from"))


def parse_open(raw: str) -> str | None:
    """The answer to an open question in normal form.

    It is what follows `the answer is` up to a full stop or line break, else all that was said; None if nothing was
    said, or if the model says that it can't answer.

    >>> parse_open("I see a dark area. The answer is: the Liver.")
    'liver'
    """
    said = fold(spoken(raw))
    chosen = _FULL_STOP.split(concluded(said), 1)[0] or said
    return None if refuses(chosen) else normalise(chosen) or None


def parse_closed(raw: str, candidates: Sequence[str], *, lettered: bool = False) -> str | None:
    """The candidate that a free text chooses; None if it is none of them or more than one.

    If the candidates are a word for yes and one for no, the rules of `polar` decide. Any others are looked for as runs
    of whole tokens of the normal form, in this order: the whole text; the first sentence that names one; and there the
    first clause, if that is one and no more. A longer candidate hides the ones inside it (`left lung`, `left`), a
    plural `s` is no difference, and a denied one is not named (`not the left`, `right rather than left`). Chinese has
    no blanks, so there a run of characters counts wherever it stands.

    Args:
        raw: A model's output.
        candidates: What may be answered, with distinct normal forms.
        lettered: Whether the prompt listed the candidates as A, B, ...; only then is a letter an answer.

    Returns:
        One of `candidates`, spelled as there.

    >>> parse_closed("No, the lungs are normal.", ["yes", "no"])
    'no'
    >>> parse_closed("The answer is B.", ["CT", "MRI"], lettered=True)
    'MRI'
    """
    said, given = fold(spoken(raw)), tuple(candidates)
    read = _lettered if lettered else _candidate
    return next(filter(None, (read(text, given) for text in (concluded(said), said))), None)


def candidates_of(question: str, target: str, choices: Iterable[str]) -> tuple[str, ...]:
    """What may be answered to a closed question; belongs to the sample, whatever a model answers.

    For a target that is a word for yes or no, in English or Chinese, these are `yes` and `no`. Else they are those of
    `choices` that the question names, if the target is one of them and not alone; else all of `choices` but words for
    yes and no, with the target.

    Args:
        choices: The targets of all closed questions of the task.

    Returns:
        Candidates for `parse_closed`, sorted, so that their order does not tell the target.

    >>> candidates_of("Is the mass on the left or right?", "right", ["both", "left", "right", "yes"])
    ('left', 'right')
    """
    if polarity(target):
        return YES_NO
    known = {**_runs(tuple(choices)), _run(tokens(target)): target}
    named = set(_mentions(_run(tokens(question)), known))
    return tuple(sorted(named if target in named and len(named) > 1 else known.values()))


@lru_cache(maxsize=8)
def _runs(choices: tuple[str, ...]) -> dict[tuple[str, ...], str]:
    """Choices but words for yes and no, by their tokens."""
    return {_run(tokens(text)): text for text in choices if not polarity(text)}


def _lettered(text: str, candidates: tuple[str, ...]) -> str | None:
    """The candidate behind a letter, unless a second one follows or the text names another; without one, as below."""
    letter = _LETTER.match(text)
    place = ord(letter.group(1)) - ord("a") if letter else len(candidates)
    if not letter or place >= len(candidates):
        return _candidate(text, candidates)
    named = _candidate(text[letter.end(1) :], candidates)
    several = _NEXT_LETTER.match(text, letter.end(1)) or named not in (None, candidates[place])
    return None if several else candidates[place]


def _candidate(text: str, candidates: tuple[str, ...]) -> str | None:
    poles, runs = _read(candidates)
    if len(candidates) == 2 and poles.keys() == {"yes", "no"}:
        return poles.get(yes_or_no(text))
    whole = runs.get(_run(tokens(text)))
    return whole or next((_chosen(clauses, runs) for clauses in sentences(text) if _named(clauses, runs)), None)


Run = tuple[str, ...]


@lru_cache(maxsize=1024)
def _read(candidates: tuple[str, ...]) -> tuple[dict[str | None, str], dict[Run, str]]:
    """The candidates by what they say to a yes-no question, and by their tokens; the first of equal ones counts."""
    turned = candidates[::-1]
    return {polarity(text): text for text in turned}, {_run(tokens(text)): text for text in turned}


def _run(words: Iterable[str]) -> Run:
    return tuple(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words)


def _chosen(clauses: Sequence[list[str]], runs: Mapping[Run, str]) -> str | None:
    named = _named(clauses, runs)
    return named.pop() if len(named) == 1 else runs.get(_run(_plain(clauses[0])))


def _plain(clause: Sequence[str]) -> list[str]:
    return [word for word in clause if word not in ARTICLES]


def _named(clauses: Iterable[Sequence[str]], runs: Mapping[Run, str]) -> set[str]:
    return {name for clause in clauses for name in _mentions(_run(_plain(clause)), runs)}


def _mentions(words: Run, runs: Mapping[Run, str]) -> Iterator[str]:
    """The candidates in a clause, the longest at each place, without those that are denied."""
    lengths = sorted({len(run) for run in runs}, reverse=True)
    place = 0
    while place < len(words):
        length = next((length for length in lengths if words[place : place + length] in runs), 0)
        if length and not _denied(words, place):
            yield runs[words[place : place + length]]
        place += length or 1


def _denied(words: Run, place: int) -> bool:
    before = next((words[at] for at in range(place - 1, -1, -1) if words[at] not in _BETWEEN), "")
    return before in _DENIALS or words[max(0, place - 2) : place] == ("instead", "of")
