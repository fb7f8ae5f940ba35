"""The recipe of a track that tunes generators on questions and answers, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from vlmed.errors import InputError, Problem
from vlmed.tuning.recipe import (
    _COUNT,
    _LORA_RULES,
    _MAPPING,
    _NOT_NEGATIVE,
    _POSITIVE,
    _RATES,
    _SHARE,
    LoraSettings,
    _lora,
    _one_of,
    _problems,
    _Rule,
)

Part = Literal["vision", "projector", "language"]


@dataclass(frozen=True)
class GeneratorRecipe:
    """How a generator is tuned; nothing in it depends on the model.

    Attributes:
        parts: What trains: all of the projector; vision and language by a LoRA on every Linear of their blocks. Zhong
            et al. 2025 write V, M and L for them.
        epochs: At most so many passes over the training set.
        batch_size: Questions per optimiser step.
        lora_lr, projector_lr: Highest learning rates to try, of LoRA and projector; where both train, the n-th of one
            goes with the n-th of the other. The pair with the least validation loss is kept.
        optimiser: Adam (its weight decay is an L2 penalty) or AdamW (decoupled).
        weight_decay: Of all that trains.
        schedule: `cosine` falls from the highest rate to zero over all epochs (half a period); `constant` stays.
        warmup: Share of all steps over which the rate rises linearly to its highest.
        clip: Gradients are scaled down to this L2 norm where theirs is larger; 0 leaves them.
        patience: Stop after so many epochs without a lower validation loss.
        precision: `auto`: trained weights are float32; steps are computed in bfloat16 under autocast on CUDA, and in
            float32 elsewhere.
        lora: With vision or language.
    """

    parts: tuple[Part, ...]
    epochs: int
    batch_size: int
    lora_lr: tuple[float, ...] = ()
    projector_lr: tuple[float, ...] = ()
    optimiser: Literal["adam", "adamw"] = "adamw"
    weight_decay: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.0
    clip: float = 0.0
    patience: int = 10
    precision: Literal["auto"] = "auto"
    lora: LoraSettings = field(default_factory=LoraSettings)

    @property
    def by_lora(self) -> tuple[Part, ...]:
        """The parts that train by LoRA."""
        return tuple(part for part in self.parts if part != "projector")

    @property
    def rates(self) -> list[dict[str, float]]:
        """The learning rates of each try by how a part trains: `lora`, `projector`."""
        given = {"lora": self.lora_lr, "projector": self.projector_lr}
        tries = max(map(len, given.values()))
        return [{how: values[number] for how, values in given.items() if values} for number in range(tries)]


def _are_parts(value: Any) -> bool:
    known = get_args(Part)
    return (
        isinstance(value, list) and bool(value) and sorted(set(map(str, value)) & set(known)) == sorted(map(str, value))
    )


_RULES: Mapping[str, _Rule] = {
    "parts": _Rule(_are_parts, f"some of {', '.join(get_args(Part))}, each once"),
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "lora_lr": _RATES,
    "projector_lr": _RATES,
    "optimiser": _one_of("adam", "adamw"),
    "weight_decay": _NOT_NEGATIVE,
    "schedule": _one_of("cosine", "constant"),
    "warmup": _SHARE,
    "clip": _POSITIVE,
    "patience": _COUNT,
    "precision": _one_of("auto"),
    "lora": _MAPPING,
}
_REQUIRED = ("parts", "epochs", "batch_size")


def parse_generator_recipe(recipe: Mapping[str, Any], where: str = "recipe") -> GeneratorRecipe:
    """The recipe from YAML or JSON values.

    Args:
        recipe: See `GeneratorRecipe`; a learning rate may be a number or a list, `lora` is nested as `LoraSettings`.
        where: Names the recipe in errors, such as `tasks.yaml: projector@1`.

    Raises:
        InputError: Lists every unknown key, missing key, value out of range and contradiction.
    """
    lora = recipe.get("lora", {})
    problems = _problems(recipe, _RULES, where, "$.recipe")
    problems += [_lacking(key, where) for key in _REQUIRED if key not in recipe]
    if isinstance(lora, dict):
        problems += _problems(lora, _LORA_RULES, where, "$.recipe.lora")
    problems = problems or _contradictions(recipe, where)
    if problems:
        raise InputError(problems)
    lists = {key: _listed(recipe.get(key, ())) for key in ("lora_lr", "projector_lr")}
    # In one order, so that the same parts are the same recipe.
    lists["parts"] = tuple(part for part in get_args(Part) if part in recipe["parts"])
    return GeneratorRecipe(**{**recipe, **lists, "lora": _lora(lora)})


def _lacking(key: str, where: str) -> Problem:
    return Problem("the recipe lacks a key", where, f"$.recipe.{key}", expected=_RULES[key].expected)


def _listed(rates: Any) -> tuple[Any, ...]:
    return tuple(map(float, rates if isinstance(rates, (list, tuple)) else [rates]))


def _contradictions(recipe: Mapping[str, Any], where: str) -> list[Problem]:
    """Keys for what doesn't train, missing ones for what does, and learning rates that don't go in pairs."""
    parts = set(recipe["parts"])
    needs = {"lora_lr": parts & {"vision", "language"}, "projector_lr": parts & {"projector"}}
    problems = [_lacking(key, where) for key, wanted in needs.items() if wanted and key not in recipe]
    owners = {**needs, "lora": needs["lora_lr"]}
    expected = "only keys of parts that train"
    what = "this contradicts the rest of the recipe"
    problems += [
        Problem(what, where, f"$.recipe.{key}", expected, repr(recipe[key]))
        for key, wanted in owners.items()
        if not wanted and key in recipe
    ]
    counts = [len(_listed(recipe[key])) for key in needs if key in recipe]
    if not problems and len(set(counts)) > 1:
        expected = "as many as lora_lr: the n-th of each go together"
        problems.append(Problem(what, where, "$.recipe.projector_lr", expected, repr(recipe["projector_lr"])))
    return problems
