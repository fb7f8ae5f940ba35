"""A fine-tuning track's recipe, read strictly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from vlmed.errors import InputError, Problem, unknown

Scope = Literal["frozen", "lora", "partial", "full"]


@dataclass(frozen=True)
class LoraSettings:
    """A LoRA; the defaults are those of Zhong et al. 2025.

    Attributes:
        rank: r, the inner dimension of each update B A.
        alpha: The update is scaled by alpha / rank.
        dropout: On the input of A; layers that PEFT merges before calling them (`nn.MultiheadAttention`) have none.
        targets: Names or endings of names of layers, as PEFT matches them; none finds them in the architecture.
    """

    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class FusionSettings:
    """What answers questions on top of image and question tokens.

    Attributes:
        module: `bilinear`, a new bilinear attention network, or `own`, the fusion that the model was pretrained with.
        glimpses: Attention maps of a bilinear one.
        width: The length of its joint vector.
        dropout: In it, on what a glimpse adds and before the classifier.
    """

    module: Literal["bilinear", "own"] = "bilinear"
    glimpses: int = 4
    width: int = 512
    dropout: float = 0.2


@dataclass(frozen=True)
class Recipe:
    """How a model is tuned; nothing in it depends on the model.

    Attributes:
        scope: What of the encoder trains: `lora`; `partial`, the last block and all that comes after it; `full`; or
            `frozen`, nothing, only with a fusion.
        head: `prompts`, where the classes' prompt embeddings are the classifier; `linear`, a layer on the features;
            `captions`, where images and captions of a batch are told apart; `fusion`, which answers questions.
        epochs: At most so many passes over the training set.
        batch_size: Samples per optimiser step.
        lr: Learning rates to try; the one with the least validation loss is kept.
        prompts: Which of a task's prompts the caller hands over.
        text: Whether the text tower trains too; only with scope `full`, never with a linear head.
        head_init: What a linear head starts from: uniform within 1 / sqrt(D), or zeros, through which the encoder gets
            no gradient before the second step.
        optimiser: Adam (its weight decay is an L2 penalty) or AdamW (decoupled).
        weight_decay: Of the encoder's trained parameters.
        head_weight_decay: Of a linear head or a fusion.
        patience: Stop after so many epochs without a lower validation loss.
        precision: `auto` takes training steps in bfloat16 under autocast where a CUDA device has it; validation and
            predictions, and everything elsewhere, are float32.
        class_weights: `balanced` weights each sample by n / (classes present x samples of its class).
        lora: With scope `lora`.
        fusion: With the head `fusion`.
    """

    scope: Scope
    head: Literal["prompts", "linear", "captions", "fusion"]
    epochs: int
    batch_size: int
    lr: tuple[float, ...]
    prompts: str = ""
    text: Literal["frozen", "trained"] = "frozen"
    head_init: Literal["uniform", "zeros"] = "uniform"
    optimiser: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0
    head_weight_decay: float = 0.0
    patience: int = 10
    precision: Literal["auto", "float32"] = "auto"
    class_weights: Literal["none", "balanced"] = "none"
    lora: LoraSettings = field(default_factory=LoraSettings)
    fusion: FusionSettings = field(default_factory=FusionSettings)


@dataclass(frozen=True)
class _Rule:
    fits: Callable[[Any], bool]
    expected: str


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_name_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)


def _are_positive(values: list[Any]) -> bool:
    return bool(values) and all(_is_number(value) and value > 0 for value in values)


def _one_of(*names: str) -> _Rule:
    return _Rule(lambda value: value in names, f"one of {', '.join(map(repr, names))}")


_COUNT = _Rule(lambda value: type(value) is int and value >= 1, "a whole number from 1 up")
_POSITIVE = _Rule(lambda value: _is_number(value) and value > 0, "a number above 0")
_NOT_NEGATIVE = _Rule(lambda value: _is_number(value) and value >= 0, "a number from 0 up")
_RATES = _Rule(
    lambda value: _are_positive(value if isinstance(value, list) else [value]), "a number above 0, or a list"
)
_SHARE = _Rule(lambda value: _is_number(value) and 0 <= value < 1, "a number from 0, below 1")
_MAPPING = _Rule(lambda value: isinstance(value, dict), "a mapping")
_RULES: Mapping[str, _Rule] = {
    "head": _one_of("prompts", "linear", "captions", "fusion"),
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "lr": _RATES,
    "prompts": _Rule(lambda value: isinstance(value, str) and bool(value), "the name of a task's prompts"),
    "text": _one_of("frozen", "trained"),
    "head_init": _one_of("uniform", "zeros"),
    "optimiser": _one_of("adam", "adamw"),
    "weight_decay": _NOT_NEGATIVE,
    "head_weight_decay": _NOT_NEGATIVE,
    "patience": _COUNT,
    "precision": _one_of("auto", "float32"),
    "class_weights": _one_of("none", "balanced"),
    "lora": _MAPPING,
    "fusion": _MAPPING,
}
_LORA_RULES: Mapping[str, _Rule] = {
    "rank": _COUNT,
    "alpha": _POSITIVE,
    "dropout": _SHARE,
    "targets": _Rule(lambda value: value == "auto" or _is_name_list(value), "'auto' or a list of layer names"),
}
_FUSION_RULES: Mapping[str, _Rule] = {
    "module": _one_of("bilinear", "own"),
    "glimpses": _COUNT,
    "width": _COUNT,
    "dropout": _SHARE,
}
_NESTED = {"lora": _LORA_RULES, "fusion": _FUSION_RULES}
_REQUIRED = ("head", "epochs", "batch_size", "lr")


def parse_recipe(scope: str, recipe: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """The recipe of a track whose method is `scope`.

    `text` is `trained` by default where the scope is `full` and the head is not linear.

    Args:
        scope: `lora`, `partial`, `full` or `frozen`.
        recipe: The track's recipe as YAML or JSON values; see `Recipe`, `lora` nested as in `LoraSettings`, `fusion`
            as in `FusionSettings`.
        where: Names the recipe in errors, such as `tasks.yaml: lora@1`.

    Raises:
        UsageError: There is no such scope.
        InputError: Lists every unknown key, missing key, value out of range and contradiction.
    """
    if scope not in get_args(Scope):
        raise unknown("scope of tuning", scope, get_args(Scope))
    problems = _problems(recipe, _RULES, where, "$.recipe")
    problems += [
        Problem("the recipe lacks a key", where, f"$.recipe.{key}", expected=_RULES[key].expected)
        for key in _REQUIRED
        if key not in recipe
    ]
    for key, rules in _NESTED.items():
        if isinstance(recipe.get(key), dict):
            problems += _problems(recipe[key], rules, where, f"$.recipe.{key}")
    problems += _contradictions(scope, recipe, where)
    if problems:
        raise InputError(problems)
    values = {key: value for key, value in recipe.items() if key not in ("lora", "fusion", "lr")}
    values.setdefault("text", "trained" if scope == "full" and recipe["head"] != "linear" else "frozen")
    rates = recipe["lr"] if isinstance(recipe["lr"], list) else [recipe["lr"]]
    lora, fusion = _lora(recipe.get("lora", {})), FusionSettings(**recipe.get("fusion", {}))
    return Recipe(scope=cast(Scope, scope), lr=tuple(map(float, rates)), lora=lora, fusion=fusion, **values)


def _lora(given: Mapping[str, Any]) -> LoraSettings:
    targets = given.get("targets", "auto")
    return LoraSettings(**{**given, "targets": () if targets == "auto" else tuple(targets)})


def _problems(given: Mapping[str, Any], rules: Mapping[str, _Rule], where: str, path: str) -> list[Problem]:
    problems = []
    for key, value in given.items():
        if key not in rules:
            known = ", ".join(rules)
            problems.append(Problem("unknown key", where, f"{path}.{key}", f"one of {known}", repr(key)))
        elif not rules[key].fits(value):
            problems.append(Problem("this value is refused", where, f"{path}.{key}", rules[key].expected, repr(value)))
    return problems


def _contradictions(scope: str, recipe: Mapping[str, Any], where: str) -> list[Problem]:
    def problem(key: str, expected: str) -> Problem:
        return Problem("this contradicts the rest of the recipe", where, f"$.recipe.{key}", expected, repr(recipe[key]))

    head = recipe.get("head")
    fitting = {
        "prompts": ("prompts",),
        "head_init": ("linear",),
        "head_weight_decay": ("linear", "fusion"),
        "class_weights": ("prompts", "linear"),
        "fusion": ("fusion",),
    }
    problems = [
        problem(key, " or ".join(f"head: {name}" for name in heads))
        for key, heads in fitting.items()
        if key in recipe and head not in heads
    ]
    if "lora" in recipe and scope != "lora":
        problems.append(problem("lora", "the method lora"))
    if recipe.get("text") == "trained" and (scope != "full" or head == "linear"):
        problems.append(problem("text", "'frozen', or the method full without a linear head"))
    if scope == "frozen" and head != "fusion":
        problems.append(problem("head", "head: fusion, or a method that trains the encoder"))
    if head == "captions" and recipe.get("batch_size") == 1:
        problems.append(problem("batch_size", "2 or more, since each caption is told from the others of its batch"))
    return problems
