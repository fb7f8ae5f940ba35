"""Every recipe of the frozen suite is one that the engine reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vlmed.evaluate.methods import METHODS
from vlmed.suite import methods
from vlmed.suite.load import load_suite
from vlmed.suite.types import Track
from vlmed.tuning.generator_recipe import parse_generator_recipe
from vlmed.tuning.recipe import parse_recipe

# How questions are asked belongs to evaluation.
ASKING = ("open", "yes_no", "choice", "max_tokens", "decoding")
PARSERS: dict[str, Callable[[Track], Any]] = {
    **dict.fromkeys(("lora", "partial", "full"), lambda track: parse_recipe(track.method, track.recipe, track.id)),
    "fusion": lambda track: parse_recipe(
        track.recipe["encoders"],
        {key: value for key, value in track.recipe.items() if key != "encoders"} | {"head": "fusion"},
    ),
    "sft": lambda track: parse_generator_recipe(
        {key: value for key, value in track.recipe.items() if key not in ASKING}, track.id
    ),
}
TUNED = [track for track in load_suite().tracks.values() if track.method in PARSERS]


@pytest.mark.parametrize("track", TUNED, ids=lambda track: track.id)
def test_a_shipped_recipe_is_read(track: Track) -> None:
    assert PARSERS[track.method](track).epochs == track.recipe["epochs"]


def test_suite_and_evaluation_know_the_same_methods() -> None:
    assert METHODS.keys() == methods.METHODS.keys()
    assert {track.method for track in load_suite().tracks.values()} == METHODS.keys()
