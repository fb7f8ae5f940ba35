"""In what way an answer is wrong: the error classes of H26, told by rules over words.

The first class that applies is the answer's:

- `unanswered`: nothing was said, or that one can't tell. No class of H26; kept apart from the classes of answers.
- `answer_type` (language): the answer is of another kind than the question asks for, as a colour where a place is
  asked for.
- `paraphrase` (language): it means the target in other words, and is wrong only to string matching.
- `granularity` (language): right, but coarser or finer than the target: the whole for a part, a class for its member,
  a qualifier too few or too many. Sides that contradict each other make it `spatial` before that.
- `object_absent` (cross-modal): it claims something that the image does not show: a finding that the target denies,
  more than none of it, or an organ of a region of the body that the target does not touch.
- `spatial` (cross-modal): another side, place or direction.
- `medical_reasoning`: the rest: another finding, modality, plane or attribute, a miss, wrong knowledge.

The rules know English. A question in Chinese whose answer is not `unanswered` is `unclassified`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from vlmed.metrics.answers import YES_NO
from vlmed.metrics.error_terms import OPPOSITES, above, kinds, regions, terms
from vlmed.metrics.polar import refuses
from vlmed.metrics.text import HAN, fold, spoken

ErrorClass = Literal[
    "answer_type",
    "granularity",
    "paraphrase",
    "object_absent",
    "spatial",
    "medical_reasoning",
    "unanswered",
    "unclassified",
]
FAMILIES: Mapping[ErrorClass, str] = {
    "answer_type": "language",
    "granularity": "language",
    "paraphrase": "language",
    "object_absent": "cross-modal",
    "spatial": "cross-modal",
    "medical_reasoning": "medical reasoning",
    "unanswered": "no answer",
    "unclassified": "no rule",
}
_HAN = re.compile(f"[{HAN}]")
_HEDGED = re.compile(r"\b(?:unclear|uncertain|unsure|can ?not|unable|possibl[ey]|may|might|maybe|difficult to)\b")
_DENIED = re.compile(r"\b(?:not?|none|never|without|absent|neither|nor)\b")
_PRESENCE = re.compile(
    r"\b(?:is|are) there\b(?! more)|\bcontains?\b|\bexists?\b(?! in the (?!image|picture))|\bpresent\b(?! in the)"
    r"|\bevidence of\b|\b(?:be|been) (?:observed|seen)\b|\b(?:does|do) \w+ patient have\b"
    r"|\b(?:is|are|was|does|do) .*\b(?:visible|visuali[sz]ed|a study of|showing|belong to)\b"
)
_PLACED = re.compile(
    r"\b(?:located|location|height|position|lie|lies|situated|deviated|shifted)\b|\bexist in the\b|\bon the \w+ side\b"
)
# What a question asks for, by its words: all that match.
_ASKED: Mapping[str, re.Pattern[str]] = {
    "count": re.compile(r"\bhow many\b|\bnumber of\b|\bjust (?:a single|1|one)\b"),
    "size": re.compile(r"\bhow (?:large|big|long|wide)\b|\bsize\b(?! and)|\bsize and\b|\bdimensions?\b"),
    "colour": re.compile(r"\bcolou?rs?\b"),
    "signal": re.compile(r"\b(?:density|intensit(?:y|ies)|intesities|attenuation|enhancement|signal)\b"),
    "modality": re.compile(
        r"\b(?:modality|sequence|weighting|imaging technique)\b"
        r"|\b(?:what|which) (?:type|kind|sort) of (?:image|scan|study|imag\w+|radiograph|mri|ct|x-ray|picture)\b"
    ),
    "plane": re.compile(r"\bplane\b|\borientation\b|\boriented\b|\bcut of\b|\bview\b"),
    "shape": re.compile(r"\bshaped?\b"),
    "place": re.compile(
        r"\bwhere\b|\b(?:which|what) (?:side|part|lobes?|areas?|region|half|brain region|lung)\b|\blocat(?:ed|ion)\b"
        r"|\bwhat side\b|\blobe\b"
    ),
    "organ": re.compile(r"\borgans?\b|\bstructures?\b|\bbody part\b"),
    "finding": re.compile(
        r"\b(?:pathology|diseases?|diagnosis|abnormalit(?:y|ies)|finding|alarming|happening|wrong with|condition)\b"
    ),
    "words": re.compile(
        r"\bhow (?:to|do|much)\b|\bcauses?\b|\bfunction\b|\bprevent\b|\btreat\b|\bsigns? of\b|\bdifferentiates?\b"
        r"|\bindicates?\b|\bsymptoms?\b"
    ),
}
# What else may answer a question of a kind.
_ALSO: Mapping[str, frozenset[str]] = {
    "place": frozenset(("organ", "side")),
    "organ": frozenset(("side",)),
    "signal": frozenset(("colour",)),
    "colour": frozenset(("signal",)),
    "finding": frozenset(("signal", "shape")),
    "words": frozenset(("finding",)),
}
# Kinds whose members the tables list, so that a text without any is of another kind.
_LISTED = frozenset(("count", "size", "modality", "plane"))


def error_class(question: str, target: str, raw: str, parsed: str | None, candidates: Sequence[str] = ()) -> ErrorClass:
    """The class of a wrong answer.

    Args:
        target: The target answer.
        raw: What the model said.
        parsed: What was parsed from it, as `vqa.Answered` has it; None if nothing.
        candidates: What may be answered to a closed question; empty for an open one.

    >>> error_class("Where is the mass?", "right lung", "In the left lung.", "in left lung")
    'spatial'
    """
    said = fold(spoken(raw))
    if parsed is None and (not terms(said) or refuses(said) or _HEDGED.search(said)):
        return "unanswered"
    if _HAN.search(question):
        return "unclassified"
    asked = fold(question)
    if tuple(candidates) == YES_NO:
        return _polar(asked, target, said, parsed)
    return _worded(asked, target, terms(parsed if parsed and not candidates else said))


def _polar(asked: str, target: str, said: str, parsed: str | None) -> ErrorClass:
    """A yes-no question: a statement in place of the word is a paraphrase if it agrees with the target."""
    meant = parsed or _stated(asked, said)
    if meant is None:
        return "answer_type"
    if meant == target.casefold():
        return "paraphrase"
    if meant == "yes" and _PRESENCE.search(asked):
        return "object_absent"
    return "spatial" if _PLACED.search(asked) else "medical_reasoning"


def _stated(asked: str, said: str) -> str | None:
    """What a statement says to a yes-no question, if it repeats half of the question's terms."""
    wanted = set(terms(asked))
    if not wanted or 2 * len(wanted.intersection(terms(said))) < len(wanted):
        return None
    return "no" if _DENIED.search(said) else "yes"


def _worded(asked: str, target: str, said: list[str]) -> ErrorClass:
    wanted = terms(target)
    if _mistyped(asked, wanted, said):
        return "answer_type"
    if set(said) == set(wanted):
        return "paraphrase"
    if _opposed(said, wanted):
        return "spatial"
    if _coarser_or_finer(said, wanted):
        return "granularity"
    if _absent(wanted, said) and not _offered(asked, said):
        return "object_absent"
    elsewhere = _ASKED["place"].search(asked) and kinds(said) & {"organ", "side"}
    return "spatial" if elsewhere else "medical_reasoning"


def _mistyped(asked: str, wanted: list[str], said: list[str]) -> bool:
    of, given = _expected(asked, wanted), kinds(said)
    if given & of or not of or set(said) & set(wanted) or _offered(asked, said):
        return given == {"polar"} and "polar" not in of
    return bool(given) or of <= _LISTED


def _offered(asked: str, said: list[str]) -> bool:
    """Whether the answer is one of the things between which the question asks to choose."""
    return " or " in asked and set(said) <= set(terms(asked))


def _expected(asked: str, wanted: list[str]) -> set[str]:
    named = {kind for kind, words in _ASKED.items() if words.search(asked)}
    # Who asks for the function of an organ does not ask for the organ.
    named = (named & {"words"} or named) | kinds(wanted)
    return named.union(*(_ALSO.get(kind, ()) for kind in named))


def _opposed(said: list[str], wanted: list[str]) -> bool:
    """Whether one names a side that the other contradicts, and no side is in both."""
    mine, theirs = set(said) - set(wanted), set(wanted) - set(said)
    return any(frozenset((here, there)) in OPPOSITES for here in mine for there in theirs)


def _coarser_or_finer(said: list[str], wanted: list[str]) -> bool:
    if not said or not wanted:
        return False
    return _covered(said, wanted) or _covered(wanted, said)


def _covered(some: list[str], others: list[str]) -> bool:
    """Whether each of `some` is one of `others`, or stands above or below one."""
    return all(any(_related(term, other) for other in others) for term in some)


def _related(term: str, other: str) -> bool:
    return term == other or term in above(other) or other in above(term)


def _absent(wanted: list[str], said: list[str]) -> bool:
    if wanted in (["0"], ["none"]):
        return bool(said)
    mine, theirs = regions(said), regions(wanted)
    return bool(mine and theirs) and not mine & theirs
