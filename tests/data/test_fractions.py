"""Shares of a training split."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmed.data.fractions import share_of
from vlmed.data.table import Sample
from vlmed.errors import UsageError

FRACTIONS = (0.05, 0.1, 0.25, 0.5, 1.0)


def samples(labels: list[int], per_group: int = 1) -> tuple[Sample, ...]:
    return tuple(
        Sample(f"s{index:04d}", "train", "", f"g{index // per_group}", str(label), label, {})
        for index, label in enumerate(labels)
    )


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 3))
def test_shares_are_nested_keep_groups_whole_and_lose_no_stratum(labels: list[int], per_group: int) -> None:
    everything = samples(labels, per_group)
    smaller: set[str] = set()
    for fraction in FRACTIONS:
        share = share_of(everything, fraction, "t@1")
        ids = {sample.id for sample in share}
        assert smaller <= ids
        taken = {sample.group for sample in share}
        assert ids == {sample.id for sample in everything if sample.group in taken}
        smaller = ids
        if per_group == 1:
            assert {sample.label for sample in share} == set(labels)
    assert smaller == {sample.id for sample in everything}


def test_each_class_gives_its_share() -> None:
    everything = samples([0] * 400 + [1] * 100)
    counts = Counter(sample.label for sample in share_of(everything, 0.25, "t@1"))
    assert counts == {0: 100, 1: 25}


def test_the_draw_depends_on_the_task_and_on_nothing_else() -> None:
    everything = samples([0, 1] * 50)
    first = share_of(everything, 0.25, "t@1")
    assert {sample.id for sample in share_of(everything[::-1], 0.25, "t@1")} == {sample.id for sample in first}
    assert share_of(everything, 0.25, "u@1") != first


def test_a_class_of_one_sample_is_in_every_share() -> None:
    everything = samples([0] * 99 + [1])
    assert 1 in {sample.label for sample in share_of(everything, 0.05, "t@1")}


def test_a_class_that_is_the_most_frequent_of_no_group_may_be_missing() -> None:
    everything = samples([0, 0, 1] + [0, 0, 0] * 99, per_group=3)
    assert {sample.label for sample in share_of(everything, 0.01, "t@1")} == {0}


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_no_share_outside_its_range(fraction: float) -> None:
    with pytest.raises(UsageError, match="no share"):
        share_of(samples([0, 1]), fraction, "t@1")
