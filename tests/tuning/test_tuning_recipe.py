from typing import Any

import pytest

from vlmed.errors import InputError, UsageError
from vlmed.tuning.recipe import LoraSettings, parse_recipe

LEAST: dict[str, Any] = {"head": "prompts", "epochs": 3, "batch_size": 8, "lr": 1e-4}


def test_what_a_recipe_leaves_out_has_defaults() -> None:
    recipe = parse_recipe("lora", LEAST)
    assert (recipe.scope, recipe.lr, recipe.text, recipe.optimiser) == ("lora", (1e-4,), "frozen", "adam")
    assert recipe.lora == LoraSettings(rank=8, alpha=32.0, dropout=0.05, targets=())


def test_every_key_arrives() -> None:
    given = {
        "head": "linear",
        "epochs": 200,
        "batch_size": 32,
        "lr": [1e-5, 5e-5],
        "head_init": "zeros",
        "optimiser": "adamw",
        "weight_decay": 1e-3,
        "head_weight_decay": 0.1,
        "patience": 7,
        "precision": "float32",
        "class_weights": "balanced",
        "lora": {"rank": 4, "alpha": 8, "dropout": 0, "targets": ["q_proj"]},
    }
    recipe = parse_recipe("lora", given)
    assert recipe.lr == (1e-5, 5e-5)
    assert recipe.lora == LoraSettings(4, 8, 0, ("q_proj",))
    for key in given.keys() - {"lr", "lora"}:
        assert getattr(recipe, key) == given[key]
    assert parse_recipe("full", LEAST | {"prompts": "vlmed"}).prompts == "vlmed"


@pytest.mark.parametrize(
    ("scope", "extra", "text"),
    [("full", {}, "trained"), ("full", {"text": "frozen"}, "frozen"), ("full", {"head": "linear"}, "frozen"),
     ("partial", {}, "frozen"), ("lora", {}, "frozen")],
)  # fmt: skip
def test_the_text_tower_trains_only_where_all_does(scope: str, extra: dict[str, Any], text: str) -> None:
    assert parse_recipe(scope, LEAST | extra).text == text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("head", "mlp"), ("head", None), ("epochs", 0), ("epochs", 2.5), ("epochs", True), ("batch_size", "8"),
        ("lr", 0), ("lr", []), ("lr", [1e-4, -1]), ("lr", float("nan")), ("lr", "1e-4"), ("text", True),
        ("prompts", ""), ("optimiser", "sgd"), ("weight_decay", -1e-3), ("weight_decay", float("inf")),
        ("patience", 0), ("precision", "fp16"), ("class_weights", [1, 2]), ("lora", 8),
    ],
)  # fmt: skip
def test_a_value_out_of_range(key: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe("lora", LEAST | {key: value}, "tasks.yaml: lora@1")
    problem = caught.value.problems[0]
    assert (problem.file, problem.path, problem.got) == ("tasks.yaml: lora@1", f"$.recipe.{key}", repr(value))
    assert problem.expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rank", 0),
        ("alpha", 0),
        ("dropout", 1),
        ("targets", "all"),
        ("targets", []),
        ("targets", [1]),
        ("bias", "none"),
    ],
)
def test_a_lora_out_of_range(key: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe("lora", LEAST | {"lora": {key: value}})
    assert [problem.path for problem in caught.value.problems] == [f"$.recipe.lora.{key}"]


@pytest.mark.parametrize(
    ("scope", "extra", "path"),
    [
        ("partial", {"lora": {"rank": 8}}, "lora"),
        ("lora", {"text": "trained"}, "text"),
        ("full", {"text": "trained", "head": "linear"}, "text"),
        ("full", {"prompts": "vlmed", "head": "linear"}, "prompts"),
        ("full", {"head_init": "zeros"}, "head_init"),
        ("full", {"head_weight_decay": 0.1}, "head_weight_decay"),
    ],
)
def test_contradictions(scope: str, extra: dict[str, Any], path: str) -> None:
    with pytest.raises(InputError, match="contradicts") as caught:
        parse_recipe(scope, LEAST | extra)
    assert [problem.path for problem in caught.value.problems] == [f"$.recipe.{path}"]


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe("lora", {"epochs": -1, "learning_rate": 1e-4, "lora": {"r": 8}})
    paths = {problem.path for problem in caught.value.problems}
    missing = {"$.recipe.head", "$.recipe.batch_size", "$.recipe.lr"}
    assert paths == missing | {"$.recipe.epochs", "$.recipe.learning_rate", "$.recipe.lora.r"}


def test_an_unknown_scope() -> None:
    with pytest.raises(UsageError, match="unknown scope of tuning 'loar'"):
        parse_recipe("loar", LEAST)
