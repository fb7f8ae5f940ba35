"""What users of the Python door build on: names and signatures. A change here is a change for all of them."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vlmed
import vlmed.api

SIGNATURES = {
    "evaluate": "(model, tasks, tracks='zero_shot', *, adapter=None, fractions=(1.0,), seeds=(0,), suite=None, "
    "out=None, data_root=None, device=None, batch_size=64, name=None, revision=None, trust_remote_code=False, "
    "progress=False)",
    "load_result": "(path)",
    "compare": "(a, b, metric=None, *, suite=None)",
    "assert_no_regression": "(new, old, metric=None, alpha=0.05, *, suite=None)",
    "load_suite": "(path=None)",
    "load_task": "(name, suite=None, data_root=None)",
}
FIELDS = {
    "Result": ["path", "data"],
    "Row": [
        "run",
        "model",
        "revision",
        "adapter",
        "unit",
        "task",
        "track",
        "seed",
        "fraction",
        "samples",
        "n",
        "metric",
        "value",
        "low",
        "high",
    ],
    "Comparison": [
        "unit",
        "task",
        "track",
        "metric",
        "samples",
        "n",
        "first",
        "second",
        "difference",
        "low",
        "high",
        "p",
        "higher_is_better",
        "reason",
    ],
}
ERRORS = {"VlmedError": 2, "UsageError": 2, "InputError": 2, "MissingError": 3, "CheckError": 1}
HEAVY = ("numpy", "torch", "pyarrow", "yaml", "jsonschema", "PIL", "rich", "typer", "pandas")


def plain(signature: inspect.Signature) -> str:
    """A signature without annotations."""
    parameters = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    return str(inspect.Signature(parameters))


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_names_are_these_and_no_others() -> None:
    assert set(vlmed.__all__) == {*SIGNATURES, *FIELDS, *ERRORS, "__version__"}
    assert set(vlmed.__all__) <= set(dir(vlmed))


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    assert plain(inspect.signature(getattr(vlmed, name))) == SIGNATURES[name]
    assert inspect.getdoc(getattr(vlmed.api, name))


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str) -> None:
    assert [field.name for field in dataclasses.fields(getattr(vlmed, name))] == FIELDS[name]


def test_result_members() -> None:
    members = {name for name in vars(vlmed.Result) if not name.startswith("_")}
    assert members >= {"rows", "metrics", "to_pandas"}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_and_their_exit_codes(name: str) -> None:
    assert getattr(vlmed, name).exit_code == ERRORS[name]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        vlmed.evalute  # noqa: B018


def test_imports_are_instant_and_evaluate_is_both_package_and_function() -> None:
    heavy = f"[name for name in {HEAVY!r} if name in sys.modules]"
    code = f"""
import sys, vlmed, vlmed.pytest_plugin
print({heavy})
import vlmed.evaluate.units
from vlmed.evaluate import units
print(callable(vlmed.evaluate), units.__name__)
"""
    assert python(code).splitlines() == ["[]", "True vlmed.evaluate.units"]


def test_what_the_package_promises_to_installers() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"vlmed": "vlmed.pytest_plugin"}
    assert any(need.startswith("pytest") for need in project["optional-dependencies"]["test"])
    assert (Path(vlmed.__file__).parent / "py.typed").exists()
