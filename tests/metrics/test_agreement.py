"""Agreement of two ratings, and means of bounded scores, against hand-worked cases and independent formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmed.errors import InputError
from vlmed.metrics.agreement import Agreement, agreement
from vlmed.metrics.classification import Classified
from vlmed.metrics.means import mean_estimate
from vlmed.metrics.table import evaluate_samples

RATINGS = st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)), min_size=2, max_size=30)


def alpha_by_pairs(first: list[int], second: list[int]) -> float | None:
    """Krippendorff's alpha as he writes it: sums over all pairs of values, within units and altogether."""
    values = [*first, *second]
    observed = sum(2 * (one - other) ** 2 for one, other in zip(first, second, strict=True)) / len(values)
    expected = sum((one - other) ** 2 for one, other in itertools.permutations(values, 2))
    expected /= len(values) * (len(values) - 1)
    return 1 - observed / expected if expected else None


@given(RATINGS)
def test_alpha_is_the_one_over_all_pairs(pairs: list[tuple[int, int]]) -> None:
    first, second = map(list, zip(*pairs, strict=True))
    expected, found = alpha_by_pairs(first, second), agreement(first, second).alpha
    assert found == expected if expected is None else found == pytest.approx(expected, abs=1e-9)


def test_equal_ratings_agree_fully() -> None:
    assert agreement([1, 50, 100], [1, 50, 100]) == Agreement(3, 1.0, 0.0, 1.0)


def test_hand_worked() -> None:
    # Differences 0, 2, 4: mean 2. Values 1 3 9 1 5 5: mean 4, sum of squares 142 - 96 = 46, variance 46 / 5.
    found = agreement([1, 3, 9], [1, 5, 5])
    assert (found.n, found.exact, found.mean_difference) == (3, 1 / 3, 2)
    assert found.alpha == pytest.approx(1 - (20 / 3) / (2 * 46 / 5))


def test_ratings_that_do_not_vary_have_no_alpha() -> None:
    assert agreement([7, 7], [7, 7]) == Agreement(2, 1.0, 0.0, None)


def test_independent_ratings_have_an_alpha_near_zero() -> None:
    first, second = np.random.default_rng(0).integers(1, 101, (2, 20_000))
    assert abs(agreement(first, second).alpha or 1) < 0.02


def test_a_pair_that_lacks_one_rating_is_left_out() -> None:
    assert agreement([1, np.nan, 9, 3], [1, 5, np.nan, 5]) == agreement([1, 3], [1, 5])
    assert agreement([np.nan], [3]) == Agreement(0, None, None, None)


@pytest.mark.parametrize("first, second", [([1], [1, 2]), ([[1]], [[1]])])
def test_columns_that_differ_are_refused(first: object, second: object) -> None:
    with pytest.raises(InputError, match="length"):
        agreement(first, second)  # type: ignore[arg-type]


def test_a_mean_of_hits_is_the_accuracy_with_its_interval() -> None:
    rng = np.random.default_rng(1)
    hits, groups = rng.random(80) < 0.6, [f"g{row // 2}" for row in range(80)]
    probabilities = np.where(hits[:, None], [0.2, 0.8], [0.8, 0.2])
    expected = evaluate_samples(["accuracy"], Classified(probabilities, np.ones(80, np.int64)), groups)["accuracy"]
    assert mean_estimate(hits, groups) == expected


def test_a_mean_of_nothing_and_of_one_group_say_why_there_is_no_interval() -> None:
    assert mean_estimate([], []).reason == "there is no sample"
    found = mean_estimate([0.25, 0.75], ["g", "g"])
    assert (found.value, found.low) == (0.5, None)
    assert "single group" in found.reason


@pytest.mark.parametrize("scores", [[0.5, 1.5], [-0.1, 0], [np.nan, 0.5]])
def test_scores_outside_0_to_1_are_refused(scores: list[float]) -> None:
    with pytest.raises(InputError, match="outside"):
        mean_estimate(scores, ["a", "b"])


def test_a_group_is_needed_for_each_score() -> None:
    with pytest.raises(InputError, match="groups"):
        mean_estimate([0.5, 0.5], ["a"])
