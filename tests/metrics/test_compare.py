"""Paired comparison: hand-worked cases, pairing, and how often it errs."""

import numpy as np
import pytest
from scipy import stats

from vlmed.errors import InputError, UsageError
from vlmed.metrics.classification import Classified
from vlmed.metrics.compare import compare_metrics
from vlmed.metrics.table import evaluate_metrics

NAMES = ["auc", "accuracy", "balanced_accuracy", "f1", "average_precision"]


def right_where(right, targets):
    """A sure model that is right exactly where `right` says."""
    return Classified(np.eye(2)[np.where(right, targets, 1 - targets)], targets)


def pair(rng, size=150, shift=0.0, shared=0.7):
    """Two models of the same samples whose errors correlate; `shift` makes the first better."""
    targets = rng.integers(0, 2, size)
    common, signs = rng.normal(size=size), 2 * targets - 1

    def model(signal):
        logits = signal * signs + np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.normal(size=size)
        chance = 1 / (1 + np.exp(-logits))
        return Classified(np.stack([1 - chance, chance], axis=1), targets)

    return model(1 + shift), model(1.0)


def test_a_difference_of_accuracies_by_hand():
    # 100 samples; 10 only the first gets right, 4 only the second: difference .06, variance (.14 - .06^2) / 100.
    targets, number = np.arange(100) % 2, np.arange(100)
    first, second = right_where(number >= 4, targets), right_where((number < 4) | (number >= 14), targets)
    result = compare_metrics(["accuracy"], first, second, number, draws=4000)["accuracy"]
    error = np.sqrt((0.14 - 0.06**2) / 99)
    assert result.value == pytest.approx(0.06)
    assert result.high - result.low == pytest.approx(2 * stats.t.ppf(0.975, 99) * error, rel=0.04)
    assert result.p == pytest.approx(2 * stats.norm.sf(0.06 / error), abs=0.02)


def test_swapping_the_models_turns_the_sign():
    first, second = pair(np.random.default_rng(0))
    there = compare_metrics(NAMES, first, second, np.arange(150), draws=100)
    back = compare_metrics(NAMES, second, first, np.arange(150), draws=100)
    for name in NAMES:
        assert back[name].value == -there[name].value
        assert (back[name].low, back[name].high) == pytest.approx((-there[name].high, -there[name].low))
        assert back[name].p == pytest.approx(there[name].p)


def test_pairing_is_sharper_than_two_intervals():
    first, second = pair(np.random.default_rng(1), shared=0.95)
    groups = np.arange(150)
    paired = compare_metrics(["auc"], first, second, groups, draws=300)["auc"]
    alone = evaluate_metrics(["auc"], first.probabilities, first.targets, groups, draws=300)["auc"]
    assert paired.high - paired.low < 0.6 * (alone.high - alone.low)


def test_a_model_does_not_differ_from_itself():
    model, _ = pair(np.random.default_rng(2))
    result = compare_metrics(["accuracy"], model, model, np.arange(150), draws=50)["accuracy"]
    assert (result.value, result.p) == (0, 1)
    # No discordant group among 150 leaves up to 1.96^2 / (150 + 1.96^2).
    assert result.high == -result.low == pytest.approx(3.8415 / 153.8415, abs=1e-4)


def test_perfect_against_always_wrong():
    targets = np.arange(60) % 2
    good, bad = right_where(np.ones(60, bool), targets), right_where(np.zeros(60, bool), targets)
    result = compare_metrics(["accuracy"], good, bad, np.arange(60), draws=50)["accuracy"]
    assert (result.value, result.high) == (1, 1)
    assert result.low > 0.9
    assert result.p < 1e-6


def test_p_and_interval_agree():
    rng = np.random.default_rng(3)
    results = [
        result
        for shift in (0, 0.1, 0.2, 0.3)
        for result in compare_metrics(NAMES, *pair(rng, 100, shift), np.arange(100), draws=100).values()
    ]
    assert {result.p < 0.05 for result in results} == {True, False}
    assert all((result.p < 0.05) == (result.low > 0 or result.high < 0) for result in results)


def test_equal_models_are_told_apart_about_as_rarely_as_the_level_says():
    rng = np.random.default_rng(4)
    wrong = dict.fromkeys(NAMES, 0)
    for _ in range(200):
        for name, result in compare_metrics(NAMES, *pair(rng), np.arange(150), draws=100).items():
            wrong[name] += result.p < 0.05
    assert all(0.005 <= count / 200 <= 0.095 for count in wrong.values()), wrong


def test_undefined_is_none_with_its_reason():
    targets = np.zeros(4, int)
    model = Classified(np.full((4, 2), 0.5), targets)
    result = compare_metrics(["auc", "ece"], model, model, np.arange(4), draws=10)
    assert (result["auc"].value, result["auc"].p) == (None, None)
    assert "positive" in result["auc"].reason
    assert result["ece"].value == 0
    assert result["ece"].p is None
    assert "biased" in result["ece"].reason


def test_models_of_different_samples_are_refused():
    first, _ = pair(np.random.default_rng(5), 10)
    shorter = Classified(first.probabilities[:9], first.targets[:9])
    with pytest.raises(InputError, match="same samples\n  expected: 10 samples\n  got: 9"):
        compare_metrics(["auc"], first, shorter, np.arange(10))
    targets = first.targets.copy()
    targets[7] = 1 - targets[7]
    with pytest.raises(InputError, match="row 7: the models were not scored on the same targets"):
        compare_metrics(["auc"], first, Classified(first.probabilities, targets), np.arange(10))


def test_an_unknown_metric_is_refused():
    first, second = pair(np.random.default_rng(6), 10)
    with pytest.raises(UsageError, match="unknown metric 'AUROC'"):
        compare_metrics(["AUROC"], first, second, np.arange(10))
