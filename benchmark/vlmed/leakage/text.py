"""Equal captions and equal question-answer texts, whatever their case, spacing and punctuation."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from vlmed.errors import Problem, UsageError

# Between a question and its answer; `normalise` never leaves one, so that two pairs can't run into each other.
_JOINT = "\n"


def normalise(text: str) -> str:
    """`text` in Unicode NFKC, case folded, punctuation as blanks, and single blanks between words.

    Mathematical signs (`+`, `<`) are no punctuation and stay; control signs go. `1.5` becomes `1 5`, never `15`.

    >>> normalise("  Is the X-ray\\u00a0ABNORMAL？")
    'is the x ray abnormal'
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(" " if unicodedata.category(sign)[0] in "PZC" else sign for sign in folded)
    return " ".join(kept.split())


def question_answer(question: str, answer: str) -> str:
    """A question and its answer as one normalised text; empty if both are.

    >>> question_answer("Is it broken?", "Yes.") == question_answer("is it broken", "YES")
    True
    """
    parts = normalise(question), normalise(answer)
    return _JOINT.join(parts) if any(parts) else ""


def equal_texts(a: Sequence[str], b: Sequence[str]) -> dict[str, tuple[list[int], list[int]]]:
    """The texts that two sets share.

    Texts are normalised line by line, so those of `question_answer` may be given. A text with nothing left is shared by
    nobody. The answer grows with the number of texts, not of pairs: "yes" may stand in every row of both.

    Returns:
        Each shared normalised text with its positions in `a` and in `b`, both rising; in the order of `a`.

    Raises:
        UsageError: Something is not a text; lists every position.

    >>> equal_texts(["A mass.", "Normal"], ["normal", "NORMAL!", "a cyst"])
    {'normal': ([1], [0, 1])}
    """
    problems = _not_texts("a", a) + _not_texts("b", b)
    if problems:
        raise UsageError(problems)
    places_a, places_b = _places(a), _places(b)
    return {text: (places, places_b[text]) for text, places in places_a.items() if text in places_b}


def _not_texts(name: str, texts: Sequence[str]) -> list[Problem]:
    wrong = [(n, type(text).__name__) for n, text in enumerate(texts) if not isinstance(text, str)]
    return [Problem("not a text", path=f"{name}[{n}]", expected="str", got=kind) for n, kind in wrong]


def _places(texts: Sequence[str]) -> dict[str, list[int]]:
    """Where each normalised text stands; empty ones are left out."""
    places: dict[str, list[int]] = {}
    for n, text in enumerate(texts):
        key = _JOINT.join(normalise(line) for line in text.split(_JOINT))
        if key.strip():
            places.setdefault(key, []).append(n)
    return places
