"""The guides to Python and pytest say what is true: names, arguments, options and files of thresholds."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import vlmed
from vlmed.pytest_plugin import pytest_addoption
from vlmed.results.thresholds import read_rules
from vlmed.suite.load import load_suite

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("page", "code"), [(page, code) for page in ("python.md", "pytest.md")
                                            for code in blocks(page, "python")])  # fmt: skip
def test_python_blocks_use_what_there_is(page: str, code: str) -> None:
    tree = ast.parse(code)
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "vlmed"]
    assert {node.attr for node in named} <= set(vlmed.__all__)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func in named):
        keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
        inspect.signature(getattr(vlmed, ast.unparse(call.func)[6:])).bind(*call.args, **keywords)


def test_the_example_of_thresholds_is_one(tmp_path: Path) -> None:
    (example,) = blocks("pytest.md", "yaml")
    (tmp_path / "vlmed.yaml").write_text(example)
    assert len(read_rules(tmp_path / "vlmed.yaml", load_suite())) == 4


def test_all_options_and_no_others_are_told() -> None:
    parser = pytest.Parser(_ispytest=True)
    pytest_addoption(parser)
    (group,) = [group for group in parser._groups if group.name == "vlmed"]
    there = {name for option in group.options for name in option.names()}
    assert set(re.findall(r"--vlmed-[a-z-]+[a-z]", (DOCS / "pytest.md").read_text("utf-8"))) == there
