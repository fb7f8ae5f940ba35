"""docs/models.md claims nothing that no test backs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from families import FAMILIES
from model_table import DOCUMENT, ROWS, Evidence, document
from vlmed.models.cards import load_cards
from vlmed.models.reference import parse_reference

TESTS = Path(__file__).parents[1]
TEXT = DOCUMENT.read_text("utf-8")


class Collector:
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.names = [item.nodeid.removeprefix("tests/") for item in items]


@pytest.fixture(scope="module")
def collected() -> list[str]:
    """What pytest finds in the files that the table names."""
    files = {test.function.partition("::")[0] for row in ROWS for test in row.tests()}
    collector = Collector()
    quietly = ("--collect-only", "-qq", "-s", "-p", "no:cacheprovider", "--rootdir", TESTS.parent)
    pytest.main([*map(str, quietly), *(str(TESTS / file) for file in files)], plugins=[collector])
    return collector.names


def backs(test: Evidence, name: str) -> bool:
    function, _, parameters = name.removesuffix("]").partition("[")
    return function == test.function and f"-{test.parameter}-" in f"-{parameters}-"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_every_cell_has_its_test(row, collected) -> None:
    missing = [test for test in row.tests() if not any(backs(test, name) for name in collected)]
    assert not missing


def test_a_test_that_is_not_there_would_be_missed(collected) -> None:
    real = next(test for row in ROWS for test in row.tests())
    assert any(backs(real, name) for name in collected)
    assert not any(backs(Evidence(real.function, "no_such_family"), name) for name in collected)
    assert not any(backs(Evidence(f"{real.function}_else", real.parameter), name) for name in collected)


def test_the_table_is_the_one_that_is_checked() -> None:
    assert document(TEXT) == TEXT, "run: python tests/model_table.py"


def test_every_family_and_only_known_cards_stand_there() -> None:
    assert {row.family for row in ROWS} == set(FAMILIES)
    assert {card for row in ROWS for card in row.cards.split()} <= load_cards().keys()


def test_tests_and_references_in_the_text_exist() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in TESTS.rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert named
    assert [name for name in sorted(named) if f"def {name}(" not in sources and f"{name}.py" not in sources] == []
    examples = re.findall(r"^vlmed run --model (\S+)", TEXT, re.MULTILINE)
    assert len(examples) >= 8
    for example in examples:
        parse_reference(example)
