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
from vlmed.metrics.error_tables import GENERIC, OPPOSITES, SHADES
from vlmed.metrics.error_terms import above, attribute, kinds, parts, regions, terms
from vlmed.metrics.polar import refuses
from vlmed.metrics.text import HAN, fold, spoken, tokens

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
    r"|\bevidence of\b|\bdiagnosis of\b|\b(?:be|been) (?:observed|seen)\b|\b(?:does|do) \w+ patient have\b"
    r"|\b(?:is|are|was|does|do) .*\b(?:visible|visuali[sz]ed|a study of|showing|belong to)\b"
)
_PLACED = re.compile(
    r"\b(?:located|location|height|position|lie|lies|situated|deviated|shifted)\b|\bexist in the\b|\bon the \w+ side\b"
)
# It is known to be there, and asked is how much.
_AMOUNT = re.compile(r"\bmore th[ae][nt]\b|[<>]")
_COMPARED = re.compile(r"\bthan\b(?! \d).*")
# Who says `it` has the rest of the question in mind, and `it does` is yes.
_PRONOUN = re.compile(r"\b(?:it|its|they|these|this)\b")
_ECHO = re.compile(r"\b(?:it|they|there|he|she) (?:can|does|do|is|are|has|have|was|were|would|could)\W*$")
# The terms of a target that counts nothing.
_NOTHING = (["0"], ["none"])
# The share of terms in common (F1) from which on explanations are the same.
_MOSTLY = 0.6
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
    "sex": re.compile(r"\bgender\b|\bsex\b"),
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
_LISTED = frozenset(("count", "size", "modality", "plane", "colour", "sex"))


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
    # What something is compared with is no part of the answer.
    chosen = _COMPARED.sub("", parsed if parsed and not candidates else said)
    return _worded(asked, target, chosen, terms(chosen))


def _polar(asked: str, target: str, said: str, parsed: str | None) -> ErrorClass:
    """A yes-no question: a statement in place of the word is a paraphrase if it agrees with the target."""
    meant = parsed or _stated(asked, said)
    if meant is None:
        return "answer_type"
    if meant == target.casefold():
        return "paraphrase"
    if not _PRESENCE.search(asked):
        return "spatial" if _PLACED.search(asked) else "medical_reasoning"
    return "object_absent" if meant == "yes" and not _AMOUNT.search(asked) else "medical_reasoning"


def _stated(asked: str, said: str) -> str | None:
    """What a statement says to a yes-no question.

    No if it names what excludes a term of the question, yes if it repeats half of its terms; a denial turns either.
    """
    wanted, found = terms(asked), [term for term in terms(said) if term != "not"]
    denied, ill = bool(_DENIED.search(said)), "finding" in kinds(found)
    whole, named = parts(wanted), parts(found)
    if (ill and "normal" in wanted) or any(_excludes(term, other) for term in named - whole for other in whole):
        return "yes" if denied else "no"
    if (ill and "abnormal" in wanted) or _ECHO.search(said) or _repeats(wanted, {*found, *named}, said):
        return "no" if denied else "yes"
    return None


def _repeats(wanted: list[str], found: set[str], said: str) -> bool:
    """Whether terms of a question come again: half of them, or any where a pronoun stands for the rest."""
    again = [term for term in wanted if any(_related(term, other) for other in found)]
    return bool(again) and (2 * len(again) >= len(wanted) or bool(_PRONOUN.search(said)))


def _excludes(term: str, other: str) -> bool:
    """Whether what is one can't be the other: attributes of one family, opposite sides, two modalities or planes."""
    alike = attribute(term) is not None and attribute(term) == attribute(other)
    kind = kinds([term]) & kinds([other]) & _LISTED
    opposite = frozenset((term, other)) in OPPOSITES
    return opposite or (bool(alike or kind) and not _related(term, other))


def _worded(asked: str, target: str, raw: str, said: list[str]) -> ErrorClass:
    wanted = terms(target)
    if _initials(target, raw) or _initials(raw, target):
        return "paraphrase"
    if _mistyped(asked, wanted, said):
        return "answer_type"
    # An answer that denies what the target claims is neither in other words nor coarser.
    turned = ("not" in said) != ("not" in wanted)
    if not turned and _same(asked, wanted, said):
        return "paraphrase"
    if _opposed(said, wanted):
        return "spatial"
    if not turned and _coarser_or_finer(said, wanted):
        return "granularity"
    if _absent(asked, wanted, said) and not _offered(asked, said):
        return "object_absent"
    elsewhere = _ASKED["place"].search(asked) and kinds(said) & {"organ", "side"}
    return "spatial" if elsewhere else "medical_reasoning"


def _same(asked: str, wanted: list[str], said: list[str]) -> bool:
    """Whether two answers name the same, but for words that name nothing or that the question has said already."""
    mine, theirs = parts(said), parts(wanted)
    if mine == theirs:
        return True
    known = (GENERIC | set(terms(asked))) - theirs if " or " not in asked else GENERIC
    mine, theirs = _shaded(asked, mine - known), _shaded(asked, theirs - GENERIC)
    return bool(mine) and (mine == theirs or _in_free_words(asked, mine, theirs))


def _shaded(asked: str, found: set[str]) -> set[str]:
    """Signals as shades of grey, where a question asks for either."""
    shades = _ASKED["colour"].search(asked) or _ASKED["signal"].search(asked)
    return {SHADES.get(term, term) if shades else term for term in found}


def _in_free_words(asked: str, mine: set[str], theirs: set[str]) -> bool:
    """Whether most terms are the same, where a question asks for an explanation."""
    return bool(_ASKED["words"].search(asked)) and 2 * len(mine & theirs) / (len(mine) + len(theirs)) >= _MOSTLY


def _initials(short: str, long: str) -> bool:
    """Whether one text is the other's first letters, as PE is pulmonary embolism."""
    words = tokens(long)
    return len(words) > 1 and tokens(short) == ["".join(word[0] for word in words)]


def _mistyped(asked: str, wanted: list[str], said: list[str]) -> bool:
    of, given = _expected(asked, wanted), kinds(said)
    counted = wanted in _NOTHING and set(said) & set(terms(asked))
    shared = set(said) & set(wanted) or parts(wanted) <= parts(said)
    if given & of or not of or counted or shared or _offered(asked, said):
        return given == {"polar"} and "polar" not in of
    return bool(given) or of <= _LISTED


def _offered(asked: str, said: list[str]) -> bool:
    """Whether the answer is one of the things between which the question asks to choose."""
    return " or " in asked and set(said) <= set(terms(asked))


def _expected(asked: str, wanted: list[str]) -> set[str]:
    named = {kind for kind, words in _ASKED.items() if words.search(asked)}
    # Who asks for the function or the number of organs does not ask for an organ.
    named = (named & {"words"} or named & {"count"} or named) | kinds(wanted)
    return named.union(*(_ALSO.get(kind, ()) for kind in named))


def _opposed(said: list[str], wanted: list[str]) -> bool:
    """Whether one names a side that the other contradicts, and no side is in both."""
    mine, theirs = set(said) - set(wanted), set(wanted) - set(said)
    return any(frozenset((here, there)) in OPPOSITES for here in mine for there in theirs)


def _coarser_or_finer(said: list[str], wanted: list[str]) -> bool:
    if not said or not wanted:
        return False
    mine, theirs = parts(said), parts(wanted)
    return _covered(mine, theirs) or _covered(theirs, mine)


def _covered(some: set[str], others: set[str]) -> bool:
    """Whether each of `some` is one of `others`, or stands above or below one."""
    return all(any(_related(term, other) for other in others) for term in some)


def _related(term: str, other: str) -> bool:
    return term == other or term in above(other) or other in above(term)


def _absent(asked: str, wanted: list[str], said: list[str]) -> bool:
    if wanted in _NOTHING:
        return bool(said) and not _ASKED["words"].search(asked)
    mine, theirs = regions(said), regions(wanted)
    return bool(mine and theirs) and not mine & theirs
