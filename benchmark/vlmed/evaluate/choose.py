"""Classification by a generator: the classes are listed as A, B, ... and the model chooses a letter."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmed.errors import UsageError
from vlmed.evaluate.zero_shot import softmax
from vlmed.metrics.answers import parse_closed
from vlmed.models.protocols import Chooser, Generator, Request

_ORDERS = {"forward": 1, "backward": -1}


def choose(
    generator: Generator, images: Sequence[Image.Image], names: Sequence[str], recipe: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Class probabilities from the letter a model chooses, once for each order in which the recipe lists the classes.

    Models prefer letters for their place: the mean over both orders is fair to every class. Where token probabilities
    are known, they are those of the letters, scaled to sum to 1. Where only text comes back, the letter that it says
    has probability 1; an answer that says none gives every class the same.

    Args:
        names: C class names.
        recipe: `question`, `option` (of `{letter}` and `{name}`), `instruction`, `orders`.

    Returns:
        Probabilities by order (N, O, C), in class order; they sum to 1 over the classes.

    Raises:
        UsageError: There are more classes than letters.
    """
    if len(names) > len(string.ascii_uppercase):
        raise UsageError("there are more classes than letters", expected="at most 26", got=str(len(names)))
    return np.stack([_ask(generator, images, names, recipe, _ORDERS[order]) for order in recipe["orders"]], axis=1)


def _ask(
    generator: Generator, images: Sequence[Image.Image], names: Sequence[str], recipe: Mapping[str, Any], step: int
) -> NDArray[np.float64]:
    """Probabilities (N, C) in class order from one order of the options."""
    listed = list(names)[::step]
    prompt = _prompt(listed, recipe)
    requests = [Request(image, prompt, recipe["max_tokens"]) for image in images]
    letters = string.ascii_uppercase[: len(listed)]
    if isinstance(generator, Chooser):
        return softmax(np.asarray(generator.choose(requests, list(letters)), np.float64))[:, ::step]
    said = [parse_closed(answer, listed, lettered=True) for answer in generator.answer(requests)]
    even = np.full(len(names), 1 / len(names))
    rows = [even if name is None else np.eye(len(names))[list(names).index(name)] for name in said]
    return np.array(rows).reshape(len(images), len(names))


def _prompt(names: Sequence[str], recipe: Mapping[str, Any]) -> str:
    lettered = zip(string.ascii_uppercase, names, strict=False)
    options = [recipe["option"].format(letter=letter, name=name) for letter, name in lettered]
    return "\n".join([recipe["question"], *options, recipe["instruction"]])
