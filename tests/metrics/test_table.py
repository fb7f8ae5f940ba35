"""Retrieval and VQA through the one table: the same draws, groups, intervals and comparison as classification."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from vlmed.errors import UsageError
from vlmed.metrics import vqa
from vlmed.metrics.classification import Classified
from vlmed.metrics.compare import compare_metrics
from vlmed.metrics.intervals import bootstrap_weights, interval
from vlmed.metrics.retrieval import Ranked, recall_at
from vlmed.metrics.table import METRICS, evaluate_samples
from vlmed.metrics.vqa import Answered, score_answers

RANK_NAMES = ["recall_at_1", "recall_at_5", "recall_at_10", "mean_reciprocal_rank", "median_rank"]
VQA_NAMES = [
    *("accuracy", "closed_accuracy", "balanced_closed_accuracy", "open_exact_match", "open_token_f1"),
    *("open_token_recall", "open_bleu_1", "open_rouge_l"),
]
YES_NO = ("yes", "no")


def ranked(size=120, seed=0):
    rng = np.random.default_rng(seed)
    ranks = np.ceil(np.exp(rng.normal(1, 1.5, size))).astype(int)
    return Ranked(ranks, ranks + rng.integers(0, 3, size))


def answered(size=120, seed=0) -> Answered:
    """Half closed, half open, about two thirds of them right."""
    rng = np.random.default_rng(seed)
    closed = np.arange(size) % 2 == 0
    targets = np.where(closed, np.where(np.arange(size) % 8 == 0, "no", "yes"), "left upper lung")
    guesses = np.where(closed, rng.choice(YES_NO, size), rng.choice(["left lung", "heart", ""], size))
    answers = np.where(rng.random(size) < 0.5, targets, guesses)
    return score_answers(answers.tolist(), targets.tolist(), closed, [YES_NO] * size)


@pytest.mark.parametrize(("samples", "names"), [(ranked(), RANK_NAMES), (answered(), VQA_NAMES)])
def test_every_metric_has_an_interval_around_it(samples, names):
    estimates = evaluate_samples(names, samples, np.arange(120) // 3, draws=100)
    assert list(estimates) == names
    for name, estimate in estimates.items():
        assert METRICS[name].low <= estimate.low < estimate.value < estimate.high <= METRICS[name].high
        assert (estimate.reason, estimate.undefined) == ("", 0)
    order = np.random.default_rng(9).permutation(120)
    shuffled = (
        samples.take(order)
        if isinstance(samples, Answered)
        else Ranked(samples.ranks[order], samples.strict_ranks[order])
    )
    assert evaluate_samples(names, shuffled, (np.arange(120) // 3)[order], draws=100) == estimates


def test_strict_rows_are_the_rows_of_strict_ranks():
    samples = ranked()
    alone = Ranked(samples.strict_ranks, samples.strict_ranks)
    for name in RANK_NAMES:
        strictly = evaluate_samples([f"strict_{name}"], samples, np.arange(120), draws=50)
        assert strictly[f"strict_{name}"] == evaluate_samples([name], alone, np.arange(120), draws=50)[name]


def test_the_draws_are_those_of_classification():
    samples = ranked()
    groups = np.arange(120) // 4
    estimate = evaluate_samples(["recall_at_5"], samples, groups, draws=60, seed=3)["recall_at_5"]
    drawn = np.concatenate([recall_at(5)(samples, counts) for counts in bootstrap_weights(groups, 60, 3)])
    assert (estimate.low, estimate.high) == interval(estimate.value, drawn, 30, 30)


def test_the_interval_of_a_median_holds_percentiles_of_its_draws():
    ranks = np.arange(1, 102)
    estimate = evaluate_samples(["median_rank"], Ranked(ranks, ranks), ranks, draws=2000)["median_rank"]
    # The exact interval of order statistics: binomial quantiles.
    low, high = stats.binom.ppf([0.025, 0.975], 101, 0.5)
    assert estimate.value == 51
    assert abs(estimate.low - low) <= 1.5
    assert abs(estimate.high - (high + 1)) <= 1.5


@pytest.mark.parametrize(("groups", "known"), [(5, False), (6, True)])
def test_few_groups_bound_no_median(groups, known):
    members = np.arange(30) % groups
    samples = Ranked(np.ones(30, int), np.ones(30, int))
    estimate = evaluate_samples(["median_rank"], samples, members, draws=50)["median_rank"]
    assert (estimate.value, estimate.low) == (1, 1 if known else None)
    assert bool(estimate.reason) != known


def test_an_interval_counts_only_the_groups_that_a_metric_scores():
    # All right: 40 groups with a closed question, 20 with an open one; of the closed ones 30 say yes, 10 no.
    closed = np.arange(60) < 40
    targets = ["yes"] * 30 + ["no"] * 10 + ["lung"] * 20
    samples = score_answers(targets, targets, closed, [YES_NO] * 60)
    estimates = evaluate_samples(VQA_NAMES, samples, np.arange(60), draws=50)
    trials = {"accuracy": 60, "closed_accuracy": 40, "balanced_closed_accuracy": 10}
    for name, estimate in estimates.items():
        count = trials.get(name, 20)
        assert estimate.low == pytest.approx(count / (count + 3.8415), abs=1e-4)
        assert estimate.high == pytest.approx(1)


def test_kinds_of_questions_that_are_missing_are_told():
    samples = score_answers(["yes"] * 4, ["yes"] * 4, [True] * 4, [YES_NO] * 4)
    estimates = evaluate_samples(["open_exact_match", "accuracy"], samples, range(4), draws=10)
    assert (estimates["open_exact_match"].value, estimates["open_exact_match"].reason) == (None, "no open question")
    assert estimates["accuracy"].value == 1


@pytest.mark.parametrize(
    ("samples", "name", "message"),
    [
        (ranked(), "auc", "unknown retrieval metric 'auc'"),
        (ranked(), "recall_at_2", "unknown metric 'recall_at_2'\n  expected: .*'recall_at_1'"),
        (answered(), "f1", "unknown vqa metric 'f1'"),
        (Classified(np.eye(2), np.arange(2)), "open_token_f1", "unknown classification metric 'open_token_f1'"),
    ],
)
def test_a_metric_of_another_kind_is_refused(samples, name, message):
    with pytest.raises(UsageError, match=message):
        evaluate_samples([name], samples, np.arange(len(samples)))
    with pytest.raises(UsageError, match=message):
        compare_metrics([name], samples, samples, np.arange(len(samples)))


@pytest.mark.parametrize(
    ("first", "second", "names"), [(ranked(), ranked(seed=1), RANK_NAMES), (answered(), answered(seed=1), VQA_NAMES)]
)
def test_models_are_compared_by_every_metric(first, second, names):
    groups = np.arange(120) // 2
    forth = compare_metrics(names, first, second, groups, draws=100)
    back = compare_metrics(names, second, first, groups, draws=100)
    for name in names:
        assert forth[name].low < forth[name].value < forth[name].high
        assert back[name].value == pytest.approx(-forth[name].value)
        assert (back[name].low, back[name].p) == pytest.approx((-forth[name].high, forth[name].p))


def test_equal_medians_are_not_compared_beyond_their_draws():
    samples = Ranked(np.ones(20, int), np.ones(20, int))
    difference = compare_metrics(["median_rank"], samples, samples, np.arange(20), draws=20)["median_rank"]
    assert (difference.value, difference.low, difference.p) == (0, None, None)
    assert "medians" in difference.reason


def test_the_table_knows_every_metric_of_the_tasks():
    tasks = yaml.safe_load(Path(__file__).parents[2].joinpath("tasks.yaml").read_text("utf-8"))["tasks"]
    assert {task["kind"] for task in tasks.values()} == {"classification", "retrieval", "vqa"}
    assert all(METRICS[name].scores(task["kind"]) for task in tasks.values() for name in task["metrics"])


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_rows_of_the_table_are_whole(metric):
    assert METRICS[metric.name] is metric
    assert metric.title
    assert metric.low < metric.high
    assert metric.is_median == math.isinf(metric.high) == metric.name.endswith("median_rank")
    assert set(metric.strata) <= {vqa.OPEN, *vqa.CLOSED}
