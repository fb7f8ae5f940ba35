"""Yes or no: what a free text answers to a question that can be answered by either.

Words decide, never parts of words: there is no `no` in `normal`. The rules, of which the first that applies decides:

1. A text that begins with yes or no says so (`Yes.`, `No evidence of ...`, `Not seen`, 是的, 没有). Openers before it
   are passed over (`Well,`, `Based on the image,`). It says nothing if the other word stands alone further on
   (`Yes. No.`, `yes and no`), or if the same sentence admits that nobody can tell.
2. A text that hedges or refuses says nothing: `may`, `possibly`, `unclear`, `cannot be determined`, `I'm sorry`, 可能.
3. The first sentence says no if its verb is negated (`There is not`, `It does not`, `shows no`, `can not be seen`), and
   yes for `There is ...`, `It is.`, `... is present`. Any other statement says nothing: `The heart is large` may
   affirm one question and deny the next.
4. A yes or no that stands alone at the start of a later sentence counts, if all that do agree.

Languages are English and Chinese; an answer in another one says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, dropwhile, pairwise
from typing import Literal, NamedTuple

from vlmed.metrics.text import normalise, sentences

Polarity = Literal["yes", "no"]
Clause = list[str]


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_BEGIN: dict[str, Polarity] = {
    **dict.fromkeys(_words("yes yeah yep yup"), "yes"),
    **dict.fromkeys(_words("no nope nah not none never neither nothing without"), "no"),
}
_HAN_ALONE: dict[str, Polarity] = {
    **dict.fromkeys(_words("是 是的 有 有的 对 对的 存在 包含 包括 可以 能 会 可见"), "yes"),
    **dict.fromkeys(
        _words("不 不是 不是的 否 没 没有 无 不对 不存在 不包含 不包括 不可以 不能 不会 不可见 未见"), "no"
    ),
}
_ALONE: dict[str, Polarity] = {
    **_HAN_ALONE,
    **dict.fromkeys(_words("yes yeah yep yup y true correct affirmative indeed positive present 正确"), "yes"),
    **dict.fromkeys(_words("no nope nah n false incorrect negative absent 错误"), "no"),
}
_TARGETS: dict[str, Polarity] = {"yes": "yes", "no": "no", **_HAN_ALONE}
_OPENERS = _words(
    "well so ok okay sure certainly definitely absolutely clearly therefore thus hence overall finally oh that"
)
_OPENING_PHRASES = [
    phrase.split() for phrase in ("i think", "i believe", "i would say", "it appears that", "it seems that")
]
_OPENING_CLAUSES = _words(
    "based according in on from given looking after upon judging considering assistant answer response a 根 综 因 所"
)
_HEDGES = _words(
    "maybe perhaps possibly probably might may could likely unlikely possible possibility potential potentially chance "
    "suspicion suspected suspicious questionable unclear uncertain unknown unsure inconclusive indeterminate "
    "undetermined ambiguous insufficient depends sorry apologize"
)
_UNABLE = re.compile(
    r" (?:can not|could not|(?:unable|not able|impossible|not possible|difficult|hard|no way) to|"
    r"(?:not enough|insufficient) \w+ to)(?: \w+){0,3}? (?:determin|tell|say|assess|answer|conclud|know|judg|evaluat|"
    r"diagnos|interpret|confirm|provid|help|assist|view|access|exclud|rul)|"
    r" as an? (?:ai|artificial)\b| do not know| (?:am|is|are) not (?:sure|certain|able)|"
    r" no (?:idea|information|access)\b"
)
# Words of which one is in all that `_UNABLE` finds; most sentences have none.
_IN_UNABLE = _words("not no unable impossible difficult hard insufficient ai artificial")
# After `not` or `no` these tell of the speaker or the question, not of the image.
_NO_VERDICT = _words(
    "sure certain possible known enough sufficient conclusive definitive determined applicable able only necessarily "
    "exactly provided specified mentioned given available determinable idea doubt answer way clue information image "
    "problem"
)
_BE = _words("is are was were appears appear seems seem has have had")
_DENIABLE = _BE | _words(
    "does do did shows show reveals reveal demonstrates displays contains indicates see find observe detect can"
)
_SEEN = _words(
    "present seen visible evident noted identified detected observed visualized visualised apparent found shown"
)
_SEE = _SEEN | _words("see find observe detect identify notice visualize think believe")
_SPEAKERS = _words("i we")
_PRONOUNS = _words("it this that they these he she")
_PASSED = _words("to be been also")

_HAN_SCENE = re.compile("^(?:在)?(?:这|该|此|本)?(?:张|幅)?(?:图像|图片|图|影像|片子|片)(?:中|里|上|内)?(?:显示|提示)?")
_HAN_HEDGE = re.compile(
    "不确定|不清楚|不知道|不能确定|不能判断|不能诊断|无法|难以|可能|也许|或许|大概|不一定|看不清|不明确|不好说|抱歉|对不起|是否|是不是|有没有"
)
_HAN_NO = re.compile("不(?![仅但止])|没|无(?!论)|未(?!来)|否|非(?!常)|并[不没未无非]|错误")
_HAN_YES = re.compile("是|有(?![限时害利助])|存在|包含|包括|可以|可见|能(?![量谱])|会(?!厌)|对的?$|正确|的确|确实|属于")


class _Lead(NamedTuple):
    """The polarity with which a clause begins; `alone` if it says no more than that."""

    polarity: Polarity
    alone: bool


def yes_or_no(folded: str) -> Polarity | None:
    """What folded text says; None if it says neither or both.

    >>> [yes_or_no(text) for text in ("no, it is normal.", "it is normal.", "there is a mass.")]
    ['no', None, 'yes']
    """
    said = list(sentences(folded))
    if not said:
        return None
    first, *later = map(_opened, said)
    lead = _lead(first[0])
    if lead:
        return None if _unable(first) or _contradicted(lead.polarity, first, later) else lead.polarity
    if _hedged(first) or any(map(_unable, later)):
        return None
    return _stated(first[0]) or _agreed(later)


def polarity(target: str) -> Polarity | None:
    """Whether a target answer is one of the words for yes or no; None if it is neither.

    >>> [polarity(target) for target in ("Yes", "不包含", "normal")]
    ['yes', 'no', None]
    """
    return _TARGETS.get(normalise(target).replace(" ", ""))


def refuses(folded: str) -> bool:
    """Whether the first sentence of folded text says that the speaker can't answer."""
    first = next(sentences(folded), [])
    return _unable(first) or not {"sorry", "apologize"}.isdisjoint(chain.from_iterable(first))


def _opened(clauses: Sequence[Clause]) -> list[Clause]:
    """The clauses without the openers before what is said."""
    last = len(clauses) - 1
    start = next(
        (at for at, clause in enumerate(clauses) if clause[0] not in _OPENING_CLAUSES and _begun(clause)), last
    )
    return [_begun(clauses[start]) or clauses[start], *clauses[start + 1 :]]


def _begun(clause: Clause) -> Clause:
    start = 0
    while start < len(clause):
        if clause[start] in _OPENERS:
            start += 1
        elif phrase := next(
            (phrase for phrase in _OPENING_PHRASES if clause[start : start + len(phrase)] == phrase), []
        ):
            start += len(phrase)
        else:
            break
    return clause[start:]


def _lead(clause: Clause) -> _Lead | None:
    together = "".join(clause)
    if together in _ALONE:
        return _Lead(_ALONE[together], True)
    if not clause[0].isascii():
        return _han_lead(_HAN_SCENE.sub("", together))
    if clause[0] in _BEGIN and not _NO_VERDICT.intersection(clause[1:2]):
        return _Lead(_BEGIN[clause[0]], set(clause) == {clause[0]})
    return None


def _han_lead(clause: str) -> _Lead | None:
    if _HAN_HEDGE.search(clause):
        return None
    if _HAN_NO.match(clause):
        return _Lead("no", False)
    return _Lead("yes", False) if _HAN_YES.match(clause) else None


def _contradicted(said: Polarity, first: Sequence[Clause], later: Sequence[Sequence[Clause]]) -> bool:
    """Whether the opposite stands alone elsewhere, or both words in the first clause."""
    alone = (
        lead for clause in chain(first[1:], (clauses[0] for clauses in later)) if (lead := _lead(clause)) and lead.alone
    )
    return any(lead.polarity != said for lead in alone) or {"yes", "no"} <= set(first[0])


def _agreed(later: Sequence[Sequence[Clause]]) -> Polarity | None:
    leads = {lead.polarity for clauses in later if (lead := _lead(clauses[0])) and lead.alone}
    return leads.pop() if len(leads) == 1 else None


def _hedged(clauses: Sequence[Clause]) -> bool:
    words = list(chain.from_iterable(clauses))
    denied = any(word in ("no", "not") and after in _NO_VERDICT for word, after in pairwise(words))
    return denied or not _HEDGES.isdisjoint(words) or _unable(clauses) or bool(_HAN_HEDGE.search("".join(words)))


def _unable(clauses: Sequence[Clause]) -> bool:
    words = list(chain.from_iterable(clauses))
    return not _IN_UNABLE.isdisjoint(words) and bool(_UNABLE.search(" " + " ".join(words)))


def _stated(clause: Clause) -> Polarity | None:
    """What a clause says by its first verb."""
    verb = next((place for place, word in enumerate(clause) if word in _DENIABLE), None)
    if verb is None:
        return None
    rest = list(dropwhile(lambda word: word in _PASSED or word.endswith("ly"), clause[verb + 1 :]))
    if rest and rest[0] in ("not", "no", "never", "nothing", "neither"):
        return "no" if _denies(clause[:verb], clause[verb], rest[0], rest[1:]) else None
    return "yes" if _affirms(clause[:verb], clause[verb], rest) else None


def _denies(subject: Clause, verb: str, negation: str, rest: Clause) -> bool:
    """`I do not ...` and `... can not ...` tell of the image only with a verb of seeing."""
    if verb == "can" or (negation == "not" and not _SPEAKERS.isdisjoint(subject)):
        seen = next((word for word in rest if word not in _PASSED), "")
        return seen in _SEE
    return True


def _affirms(subject: Clause, verb: str, rest: Clause) -> bool:
    if subject[-1:] == ["there"]:
        return verb in _BE
    if not rest:
        return len(subject) == 1 and subject[0] in _PRONOUNS
    return rest[0] in _SEEN and _SPEAKERS.isdisjoint(subject)
