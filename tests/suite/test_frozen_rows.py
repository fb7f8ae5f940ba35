"""Columns of texts and of manifest rows behave as the lists that they stand for."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmed.metrics.inputs import number_groups
from vlmed.suite.frozen_rows import Keyed, Row, Rows
from vlmed.suite.manifest import Manifest
from vlmed.suite.texts import Texts

WORDS = ["b", "", "Größe", "是的", "\U0001f600", "b", "￿", "a\0b"]
ROWS = [
    Row("s3", "test", "f" * 32, "p1", "0" * 16, "sex=female", "pixels"),
    Row("s1", "train", "", "p1", "1" * 16),
    Row("s2", "test", "e" * 32, "p2", "0" * 16, "sex=male"),
    Row("s0", "val", "d" * 32, "p3", ""),
]
IN_ORDER = sorted(ROWS, key=lambda row: row.sample_id)


@pytest.mark.parametrize("words", [WORDS, WORDS[:1], []])
def test_texts_are_a_sequence_of_them(words: list[str]) -> None:
    texts = Texts.of(words)
    assert list(texts) == words == [texts[index] for index in range(len(words))]
    assert texts == words == texts
    assert texts == tuple(words)
    assert np.asarray(texts).tolist() == words
    assert pickle.loads(pickle.dumps(texts)) == texts
    assert Texts.of(texts) is texts


@given(st.slices(len(WORDS)))
def test_a_part_of_texts_is_texts(part: slice) -> None:
    texts = Texts.of(WORDS)[part]
    assert texts == WORDS[part]
    assert [texts[index] for index in range(-len(texts), len(texts))] == 2 * WORDS[part]


def test_texts_may_begin_within_their_array() -> None:
    texts = Texts(pa.array(["other", *WORDS, "other"])[1:-1])
    assert [texts[index] for index in range(len(texts))] == WORDS == list(texts)


@pytest.mark.parametrize("index", [len(WORDS), -len(WORDS) - 1, np.int64(100)])
def test_no_text_lies_outside(index: int) -> None:
    with pytest.raises(IndexError):
        Texts.of(WORDS)[index]


@pytest.mark.parametrize("other", [WORDS[:-1], [*WORDS[:-1], "x"], [*WORDS, "x"], "".join(WORDS), 3, None, []])
def test_texts_differ_from_all_else(other: Any) -> None:
    assert Texts.of(WORDS) != other
    assert other != Texts.of(WORDS)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=2), min_size=1))
def test_texts_are_numbered_as_groups_are(words: list[str]) -> None:
    assert Texts.of(words).numbers().tolist() == number_groups(words, len(words)).tolist()


@pytest.mark.parametrize("asked", [["c", "x", "a", "c"], ["a", "b", "c"], [], ["x"]])
def test_places_are_those_of_a_search(asked: list[str]) -> None:
    known = ["a", "b", "c"]
    found = Texts.of(known).places(Texts.of(asked))
    assert found.tolist() == [known.index(text) if text in known else -1 for text in asked]


def test_rows_are_a_sequence_of_them() -> None:
    rows = Rows.of(ROWS)
    assert list(rows) == ROWS == [rows[index] for index in range(len(ROWS))]
    assert rows == ROWS
    assert rows[1:3] == ROWS[1:3]
    assert rows[-1] == ROWS[-1]
    assert list(Rows.of([])) == []
    with pytest.raises(IndexError):
        rows[4]


@pytest.mark.parametrize("make", [Rows.of, tuple, list])
def test_a_manifest_of_columns_is_one_of_rows(make: Callable[[Any], Any]) -> None:
    manifest = Manifest("file", make(IN_ORDER))
    assert list(manifest.split("test")) == [row for row in IN_ORDER if row.split == "test"]
    assert list(manifest.split("gone")) == []
    assert dict(manifest.by_id()) == {row.sample_id: row for row in ROWS}
    assert "s9" not in manifest.by_id()


def test_keyed_rows_stand_in_the_order_of_their_ids() -> None:
    keyed = Keyed.of({row.sample_id: row for row in ROWS})
    assert list(keyed.rows) == IN_ORDER
    assert list(keyed) == [row.sample_id for row in IN_ORDER]
    assert Keyed.of(keyed) is keyed


@pytest.mark.parametrize("column", ["subgroups", "leaks", "target", "image"])
def test_what_has_no_row_holds_the_empty_text(column: str) -> None:
    names = ["s3", "gone", "s1", "s0", "s2", "s3"]
    by_id = {row.sample_id: row for row in ROWS}
    texts, numbers = Keyed.of(by_id).folded(column, Texts.of(names))
    expected = [getattr(by_id[name], column) if name in by_id else "" for name in names]
    assert [texts[number] for number in numbers] == expected
    assert Keyed.of({}).folded(column, Texts.of(names))[1].tolist() == [0] * len(names)


def test_many_rows_are_made_in_turns() -> None:
    many = [replace(ROWS[0], sample_id=f"s{number:05d}", leaks=str(number % 3)) for number in range(20_000)]
    assert list(Rows.of(many)) == many
    assert Texts.of(row.sample_id for row in many) == [row.sample_id for row in many]
