"""Free text as metrics compare it: normal form, tokens, sentences, and what of an output is the answer.

The normal form, in this order:

1. Unicode NFKC and case folding: full-width forms, ligatures and capitals go. Curly apostrophes become straight.
2. Contractions are written out (`isn't` -> `is not`, `cannot` -> `can not`, `n/a`); a possessive `'s` goes.
3. Numbers: `1,000` -> `1000`, `.5` -> `0.5`, `5.0` -> `5`, `5mm` -> `5 mm`; zero to ten in words become digits.
4. Names of units become their signs: `millimetres` -> `mm`, `percent` -> `%`.
5. Tokens are runs of letters and digits, decimal numbers, and `%`. Every Chinese character is a token of its own.
   All else separates: punctuation, hyphens, line breaks, markup.
6. The articles `a`, `an`, `the` go, unless nothing else is there.

There is no stemming and no list of synonyms: whether a paraphrase is right is for a judge, not for string matching.
Every function here takes time linear in the length of its text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_CONTRACTIONS = (
    (re.compile(r"\bcan't\b|\bcannot\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\b(it|that|this|there|here|he|she)'s\b"), r"\1 is"),
    (re.compile(r"'s\b"), ""),
    (re.compile(r"'m\b"), " am"),
    (re.compile(r"'re\b"), " are"),
    (re.compile(r"'ve\b"), " have"),
    (re.compile(r"'ll\b"), " will"),
    (re.compile(r"\bn/a\b"), "not applicable"),
)
# Most texts have nothing to write out, and no number.
_CONTRACTED = re.compile("'|cannot|n/a")
_DIGIT = re.compile(r"\d")
_UNITS = {
    **dict.fromkeys(("millimeter", "millimeters", "millimetre", "millimetres"), "mm"),
    **dict.fromkeys(("centimeter", "centimeters", "centimetre", "centimetres"), "cm"),
    **dict.fromkeys(("milliliter", "milliliters", "millilitre", "millilitres"), "ml"),
    **dict.fromkeys(("milligram", "milligrams"), "mg"),
    **dict.fromkeys(("kilogram", "kilograms"), "kg"),
    **dict.fromkeys(("minute", "minutes", "mins"), "min"),
    "percent": "%",
}
_DIGITS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_SYNONYMS = _UNITS | _DIGITS
ARTICLES = {"a", "an", "the"}
_NUMBERS = (
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"(?<![\w.])\.(?=\d)"), "0."),
    (re.compile(r"(?<![^\W_])(\d+(?:\.\d+)?)(mm|cm|ml|mg|kg|kvp|hu|mmhg|min)(?![^\W_])"), r"\1 \2"),
)
HAN = "\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"\d+\.\d+|[{HAN}]|[^\W_{HAN}]+|%")
_STOP = r"[.!?;。\n](?:(?<!\d\.)|(?!\d))"
_SENTENCE_END = re.compile(rf"{_STOP}|\b(?:but|however|although|though)\b")
# A class of characters that begins a pattern is looked for many times as fast as words are.
_STOPS = re.compile(_STOP)
_TURNS = ("but", "however", "though")
_CLAUSE_END = re.compile(r"(?<!\d),|,(?!\d)|[:()/、—–]|\s-+\s")
_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_UNENDED_THOUGHT = re.compile(r"<think(?:ing)?>.*", re.IGNORECASE | re.DOTALL)
# Base models go on to invent the next question, chat models may spell out a template.
_NEXT_TURN = re.compile(
    r"<\||</s>|\[/?inst\]|"
    r"\n[ \t]*(?:#+[ \t]*)?(?:question|q|user|human|instruction|问题|问|用户)[ \t]?\d{0,3}[ \t]?[:：]",
    re.IGNORECASE,
)
# Repetitions are bounded or can't overlap, so that no text takes more than linear time.
_CUE = re.compile(
    r"(?<![^\W_])(?:answer|conclusion)(?![^\W_])[^.!?:\n]{0,80}?"
    r"(?:(?<![^\W_])(?:is|would be|should be)(?![^\W_])[\s:]*|[:=])"
    r"|\\boxed|(?:答案|回答|结论)\s?(?:应该|应当)?\s?(?:是|为|:)[\s:]*"
)
# One of these is in all that `_CUE` finds.
_IN_CUE = ("answer", "conclusion", "boxed", "答案", "回答", "结论")


def normalise(text: str) -> str:
    """The normal form of `text`: its tokens, joined by blanks. Texts with one normal form are the same answer.

    >>> normalise("The mass isn't 5.0mm!")
    'mass is not 5 mm'
    """
    return " ".join(tokens(text))


def tokens(text: str) -> list[str]:
    """The tokens of the normal form.

    >>> tokens("X-ray of the lungs, 肺炎")
    ['x', 'ray', 'of', 'lungs', '肺', '炎']
    """
    found = words(fold(text))
    return [word for word in found if word not in ARTICLES] or found


def fold(text: str) -> str:
    """`text` after the rules 1 and 2: what sentences and words are made from."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'").replace("\u2018", "'")
    if _CONTRACTED.search(folded):
        for pattern, written in _CONTRACTIONS:
            folded = pattern.sub(written, folded)
    return folded


def words(folded: str) -> list[str]:
    """The tokens of folded text with articles."""
    if not _DIGIT.search(folded):
        return [_SYNONYMS.get(token, token) for token in _TOKEN.findall(folded)]
    for pattern, written in _NUMBERS:
        folded = pattern.sub(written, folded)
    return [_word(token) for token in _TOKEN.findall(folded)]


def _word(token: str) -> str:
    if "." in token:
        return token.rstrip("0").rstrip(".")
    return _SYNONYMS.get(token, token)


def sentences(folded: str) -> Iterator[list[list[str]]]:
    """The sentences of folded text: each a list of clauses, each a list of words, none of them empty.

    Questions are left out; `but`, `however`, `although` and `though` begin a new sentence.

    >>> list(sentences("is it a mass? no, it is not. but"))
    [[['no'], ['it', 'is', 'not']]]
    """
    start = 0
    ends = _SENTENCE_END if any(word in folded for word in _TURNS) else _STOPS
    for end in ends.finditer(folded):
        if end.group() != "?":
            yield from _sentence(folded[start : end.start()])
        start = end.end()
    yield from _sentence(folded[start:])


def _sentence(folded: str) -> Iterator[list[list[str]]]:
    clauses = [found for clause in _CLAUSE_END.split(folded) if (found := words(clause))]
    if clauses:
        yield clauses


def spoken(raw: str) -> str:
    """What a model said for an answer: without its thinking, and without the turns of a dialogue that it made up.

    Thinking that was cut off before its end leaves nothing.

    >>> spoken("<think>Maybe not.</think> Yes.\\nQuestion: Is it a CT?\\nAnswer: no").strip()
    'Yes.'
    """
    said = (_UNENDED_THOUGHT.sub("", _THOUGHT.split(raw)[-1]) if "<" in raw else raw).strip()
    turn = _NEXT_TURN.search(said, 1) if any(mark in said for mark in "<[\n") else None
    return said[: turn.start()] if turn else said


def concluded(folded: str) -> str:
    """What follows the last `the answer is`, `answer:`, `conclusion:`, `\\boxed` or 答案是; empty if there is none.

    >>> concluded("no contrast is seen. the answer is: left.")
    'left.'
    """
    if not any(word in folded for word in _IN_CUE):
        return ""
    remainders = (folded[cue.end() :].lstrip() for cue in reversed(list(_CUE.finditer(folded))))
    return next((rest for rest in remainders if _TOKEN.search(rest)), "")
