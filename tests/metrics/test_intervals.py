"""The bootstrap's draws, its intervals, and how often they hold the truth."""

import numpy as np
import pytest
from scipy import stats

from vlmed.errors import InputError, UsageError
from vlmed.metrics import intervals
from vlmed.metrics.classification import Classified
from vlmed.metrics.inputs import number_groups
from vlmed.metrics.intervals import bootstrap, bootstrap_weights, deviate, interval, student
from vlmed.metrics.table import METRICS, evaluate_metrics, metrics_named, values_of

NAMES = ["auc", "accuracy", "balanced_accuracy", "f1", "average_precision"]


def weights_of(groups, draws, seed=0):
    return np.concatenate(list(bootstrap_weights(number_groups(groups, len(groups)), draws, seed)), axis=1)


def noisy(rng, size, classes=2, signal=1.5):
    """Probabilities of a calibrated model and its targets."""
    targets = rng.integers(0, classes, size)
    logits = signal * (rng.normal(size=(size, classes)) + signal * np.eye(classes)[targets])
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True), targets


def test_the_stream_is_frozen():
    # The rule in other words: draw 7 under seed 3 takes floor(5 u) of five uniforms from RandomState([3, 7]).
    drawn = np.floor(np.random.RandomState([3, 7]).random_sample(5) * 5).astype(int)
    assert weights_of(list("abcde"), 8, seed=3)[:, 7].tolist() == np.bincount(drawn, minlength=5).tolist()
    # And in numbers, should NumPy's promise ever break.
    assert weights_of(list("abcde"), 3).T.tolist() == [[4, 1, 0, 0, 0], [2, 0, 1, 1, 1], [2, 0, 0, 1, 2]]


def test_samples_of_a_group_come_together():
    groups = ["b", "a", "b", "c", "a", "b"]
    weights = weights_of(groups, 50)
    by_group = weights_of(["a", "b", "c"], 50)
    assert (weights == by_group[[1, 0, 1, 2, 0, 1]]).all()
    assert (by_group.sum(axis=0) == 3).all()


def test_draws_do_not_depend_on_order_chunks_or_their_number(monkeypatch):
    groups = np.array([f"patient {number % 13}" for number in range(40)])
    shuffled = np.random.default_rng(0).permutation(40)
    weights = weights_of(groups, 30)
    assert (weights_of(groups[shuffled], 30) == weights[shuffled]).all()
    assert (weights_of(groups, 12) == weights[:, :12]).all()
    monkeypatch.setattr(intervals, "_CHUNK_CELLS", 7 * 40)
    assert [chunk.shape for chunk in bootstrap_weights(number_groups(groups, 40), 30)] == [(40, 7)] * 4 + [(40, 2)]
    assert (weights_of(groups, 30) == weights).all()


def test_draws_do_not_depend_on_how_many_numbers_are_drawn_at_a_time(monkeypatch):
    whole = weights_of(range(40), 30)
    monkeypatch.setattr(intervals, "_BLOCK", 7)
    assert (weights_of(range(40), 30) == whole).all()


def test_more_groups_than_numbers_at_a_time_follow_the_rule():
    groups = 2 * intervals._BLOCK + 5
    drawn = np.floor(np.random.RandomState([9, 1]).random_sample(groups) * groups).astype(int)
    assert (weights_of(range(groups), 2, seed=9)[:, 1] == np.bincount(drawn, minlength=groups)).all()


def test_seeds_differ():
    assert (weights_of(range(20), 5, seed=0) != weights_of(range(20), 5, seed=1)).any()


@pytest.mark.parametrize(("draws", "seed"), [(1, 0), (-5, 0), (10, -1), (10, 2**32)])
def test_draws_and_seeds_out_of_range_are_refused(draws, seed):
    with pytest.raises(UsageError, match="can't be drawn"):
        weights_of([0, 1], draws, seed)


def test_bootstrap_of_a_mean_has_its_known_spread():
    values = np.random.default_rng(1).normal(size=200)
    drawn = bootstrap(lambda counts: values[None] @ counts / 200, np.arange(200), 4000)
    assert drawn.shape == (1, 4000)
    assert drawn.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.04)


@pytest.mark.parametrize("freedom", [5, 10, 27, 155, 10**6])
def test_student_quantile(freedom):
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)


def test_student_quantile_of_few_degrees_of_freedom():
    assert student(np.array([1.0, 2.0])) == pytest.approx(stats.t.ppf(0.975, [1, 2]), rel=1e-6)
    assert student(3) == pytest.approx(stats.t.ppf(0.975, 3), rel=8e-3)
    between = np.array([1.1, 1.5, 1.9, 2.3, 2.8])
    assert (student(between) >= stats.t.ppf(0.975, between)).all()


@pytest.mark.parametrize(("freedom", "within"), [(5, 0.12), (9, 0.05), (63, 0.01), (10**6, 1e-4)])
def test_deviates_have_the_p_values_of_student(freedom, within):
    ratio = np.array([0.3, 1.0, 1.7, 2.4])
    p = 2 * stats.norm.sf(deviate(ratio, freedom))
    exact = 2 * stats.t.sf(ratio * stats.t.ppf(0.975, freedom), freedom)
    assert p == pytest.approx(exact, rel=within)
    assert p[1] == pytest.approx(0.05)


def test_no_difference_and_no_reach_are_no_deviate():
    assert deviate(np.array([0.0]), np.array([7.5])).tolist() == [0.0]


def test_an_interval_by_hand():
    # Standard error 0.05 around 0.8, many groups: logit(0.8) = ln 4, reach 1.96 * 0.05 / 0.16 = 0.6125.
    drawn = np.tile([0.75, 0.85], 500_000)
    low, high = interval(0.8, drawn, 10**9, 10)
    assert low == pytest.approx(1 / (1 + np.exp(0.6125) / 4), abs=1e-4)
    assert high == pytest.approx(1 / (1 + np.exp(-0.6125) / 4), abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_draws_that_agree_get_wilsons_interval(value):
    expected = stats.binomtest(round(50 * value), 50).proportion_ci(method="wilson")
    assert interval(value, np.full(100, value), 200, 50) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_perfect_score_is_not_certain():
    targets = np.array([0] * 90 + [1] * 30)
    estimates = evaluate_metrics(NAMES, np.eye(2)[targets], targets, np.arange(120), draws=50)
    # All 120 samples bear on accuracy, the 30 of the rarer class on the others: n / (n + 1.96^2).
    assert estimates["accuracy"].low == pytest.approx(120 / (120 + 3.8415), abs=1e-4)
    for name in ("auc", "balanced_accuracy", "f1", "average_precision"):
        assert estimates[name].low == pytest.approx(30 / (30 + 3.8415), abs=1e-4)
        assert (estimates[name].value, estimates[name].high) == (1, 1)


def test_repeating_each_sample_within_its_group_narrows_nothing():
    probabilities, targets = noisy(np.random.default_rng(2), 80)
    once = evaluate_metrics(NAMES, probabilities, targets, np.arange(80), draws=200)
    thrice = evaluate_metrics(
        NAMES, np.repeat(probabilities, 3, axis=0), np.repeat(targets, 3), np.repeat(np.arange(80), 3), draws=200
    )
    for name in NAMES:
        assert (thrice[name].low, thrice[name].high) == pytest.approx((once[name].low, once[name].high), abs=1e-12)


def test_the_order_of_samples_changes_nothing():
    rng = np.random.default_rng(3)
    probabilities, targets = noisy(rng, 90, classes=4)
    groups, order = rng.integers(0, 40, 90).astype(str), rng.permutation(90)
    assert evaluate_metrics(NAMES, probabilities, targets, groups, draws=60) == evaluate_metrics(
        NAMES, probabilities[order], targets[order], groups[order], draws=60
    )


def test_a_metric_does_not_depend_on_the_others_asked_for():
    probabilities, targets = noisy(np.random.default_rng(4), 60)
    names = [name for name, metric in METRICS.items() if metric.scores("classification")]
    together = evaluate_metrics(names, probabilities, targets, np.arange(60), draws=40)
    for name in names:
        assert evaluate_metrics([name], probabilities, targets, np.arange(60), draws=40) == {name: together[name]}


def test_undefined_draws_are_counted_and_too_many_give_no_interval():
    rng = np.random.default_rng(5)
    probabilities, _ = noisy(rng, 60)
    few, more = np.zeros(60, int), np.zeros(60, int)
    few[:2], more[:5] = 1, 1
    lone = evaluate_metrics(["auc"], probabilities, few, np.arange(60), draws=400)["auc"]
    assert (lone.low, lone.high) == (None, None)
    assert 30 < lone.undefined < 80  # e^-2 of 400 is 54
    assert "too few groups" in lone.reason
    assert lone.value is not None
    enough = evaluate_metrics(["auc"], probabilities, more, np.arange(60), draws=400)["auc"]
    assert enough.low < enough.value < enough.high
    assert 0 < enough.undefined < 20


def test_an_undefined_metric_is_none_with_its_reason():
    estimate = evaluate_metrics(["auc", "accuracy"], [[0.9, 0.1], [0.4, 0.6]], [0, 0], ["a", "b"], draws=10)
    assert estimate["auc"].value is None
    assert estimate["auc"].undefined == 10
    assert estimate["auc"].reason == "no class has both a positive and a negative sample"
    assert estimate["accuracy"].value == 0.5


def test_one_group_gives_no_interval():
    estimate = evaluate_metrics(["accuracy"], [[0.9, 0.1], [0.4, 0.6]], [0, 1], ["a", "a"], draws=10)["accuracy"]
    assert (estimate.value, estimate.low, estimate.reason) == (1, None, "a single group shows no spread")


def test_calibration_error_has_a_value_and_says_why_no_interval():
    probabilities, targets = noisy(np.random.default_rng(6), 50)
    estimate = evaluate_metrics(["ece"], probabilities, targets, np.arange(50), draws=10)["ece"]
    assert estimate.value > 0
    assert estimate.low is None
    assert "biased" in estimate.reason


def test_an_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"unknown metric 'acuracy'\n  expected: one of 'accuracy'"):
        evaluate_metrics(["acuracy"], [[1.0, 0.0]], [0], ["a"])


@pytest.mark.parametrize(
    ("groups", "fault"),
    [
        (["a"], "differ in length"),
        ([["a"], ["b"]], "differ in length"),
        (["a", None], "row 1: group is no name"),
        ([0.5, 1.0], "row 0: group is no name"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups, fault):
    with pytest.raises(InputError, match=fault):
        evaluate_metrics(["accuracy"], [[0.9, 0.1], [0.4, 0.6]], [0, 1], groups)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """250 data sets of 120 groups of two like samples. The full table: tests/bench/interval_coverage.py."""
    rng = np.random.default_rng(7)
    large = Classified(*noisy(rng, 200_000))
    truth = dict(zip(NAMES, values_of(metrics_named(NAMES), large, np.ones((200_000, 1), int))[:, 0], strict=True))
    held = dict.fromkeys(NAMES, 0)
    for _ in range(250):
        probabilities, targets = (np.repeat(array, 2, axis=0) for array in noisy(rng, 120))
        estimates = evaluate_metrics(NAMES, probabilities, targets, np.repeat(np.arange(120), 2), draws=100)
        for name, estimate in estimates.items():
            held[name] += estimate.low <= truth[name] <= estimate.high
    # 95 % +- 3 standard errors of 250 trials. Samples drawn one by one would hold it in about 83 %.
    assert all(0.909 <= count / 250 <= 0.991 for count in held.values()), held
