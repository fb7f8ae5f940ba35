import math

import numpy as np
import pytest

from vlmed.leaderboard.separate import Basis, deviates_of, holm, metric_reaches, ranks_of, reaches, separated
from vlmed.metrics.classification import Classified
from vlmed.metrics.compare import compare_metrics
from vlmed.metrics.inputs import number_groups
from vlmed.metrics.intervals import bootstrap, count_groups
from vlmed.metrics.retrieval import Ranked
from vlmed.metrics.table import METRICS, trials
from vlmed.metrics.vqa import score_answers

# Two-sided p-values of 1e-6 and 0.4.
PAIRED = np.array([[0.0, 4.8916, 4.8916], [4.8916, 0.0, 0.8416], [4.8916, 0.8416, 0.0]])


def rank_intervals(values, deviates, higher_is_better):
    return ranks_of(values, separated(deviates), higher_is_better)


def p_of(deviates):
    """Two-sided p-values of standard normal deviates."""
    return np.vectorize(lambda deviate: math.erfc(deviate / math.sqrt(2)))(deviates)


def deviates(values, draws, groups, trials):
    return deviates_of(values, reaches(draws, groups, trials))


def p_values(values, draws, groups, trials):
    return p_of(deviates(values, draws, groups, trials))


def bonferroni_by_hand(p, alpha):
    """Holm's step-down as his paper words it, one hypothesis after the other."""
    left = sorted(range(len(p)), key=lambda index: p[index])
    rejected = set()
    while left and p[left[0]] <= alpha / len(left):
        rejected.add(left.pop(0))
    return [index in rejected for index in range(len(p))]


@pytest.mark.parametrize("seed", range(20))
def test_holm_follows_the_step_down(seed):
    p = np.random.default_rng(seed).random(12) ** 6
    assert holm(p).tolist() == bonferroni_by_hand(p, 0.05)


def test_holm_stops_at_the_first_that_stays():
    assert holm(np.array([0.9, 0.001, 0.03])).tolist() == [False, True, False]
    assert holm(np.array([])).tolist() == []


@pytest.mark.parametrize("models", [0, 1, 2, 3, 30])
@pytest.mark.parametrize("seed", range(5))
def test_models_are_separated_as_the_step_down_over_their_p_values_says(models, seed):
    deviates = np.abs(np.random.default_rng(seed).normal(scale=3, size=(models, models)))
    deviates = np.triu(deviates, 1) + np.triu(deviates, 1).T
    upper = np.triu_indices(models, k=1)
    apart = separated(deviates)
    assert apart[upper].tolist() == bonferroni_by_hand(p_of(deviates[upper]) if models > 1 else [], 0.05)
    assert (apart == apart.T).all()
    assert not apart.diagonal().any()


def test_one_clear_winner_and_a_shared_second_rank():
    assert rank_intervals(np.array([0.9, 0.7, 0.69]), PAIRED, True) == [(1, 1), (2, 3), (2, 3)]


def test_lower_is_better_turns_the_ranks_round():
    assert rank_intervals(np.array([0.9, 0.7, 0.69]), PAIRED, False) == [(3, 3), (1, 2), (1, 2)]


def test_a_single_model_ranks_first():
    assert rank_intervals(np.array([0.5]), np.zeros((1, 1)), True) == [(1, 1)]


def test_p_values_are_those_of_the_paired_comparison():
    rng = np.random.default_rng(3)
    targets = np.arange(90) % 3
    members = number_groups([f"p{index // 2}" for index in range(90)], 90)
    models = []
    for skill in (0.3, 0.8, 1.5):
        odds = np.exp(rng.normal(size=(90, 3)) + skill * np.eye(3)[targets])
        models.append(Classified(odds / odds.sum(axis=1, keepdims=True), targets))
    auc = METRICS["auc"].function
    values = np.array([auc(model, np.ones((90, 1), np.int32))[0] for model in models])
    draws = bootstrap(lambda counts: np.stack([auc(model, counts) for model in models]), members, 300)
    p = p_values(values, draws, count_groups(members), trials(METRICS["auc"], models[0], members))
    for one in range(3):
        for two in range(3):
            pair = compare_metrics(["auc"], models[one], models[two], members, 300)["auc"]
            assert p[one, two] == pytest.approx(1.0 if one == two else pair.p, rel=1e-6)


def classified(rng, skill, size=120):
    targets = np.arange(size) % 3
    odds = np.exp(rng.normal(size=(size, 3)) + skill * np.eye(3)[targets])
    return Classified(odds / odds.sum(axis=1, keepdims=True), targets)


def ranked(rng, skill, size=120):
    ranks = np.ceil(np.exp(rng.normal(3 - skill, 1.5, size))).astype(int)
    return Ranked(ranks, ranks + rng.integers(0, 3, size))


def answered(rng, skill, size=120):
    """A third open, a third yes-no, a third other closed questions."""
    kind = np.arange(size) % 3
    targets = np.select([kind == 0, kind == 1], ["left upper lung", "yes"], "left")
    candidates = [((), ("yes", "no"), ("left", "right"))[each] for each in kind]
    wrong = np.select([kind == 0, kind == 1], ["left lung", "no"], "right")
    answers = np.where(rng.normal(size=size) < skill, targets, wrong)
    return score_answers(answers.tolist(), targets.tolist(), kind > 0, candidates)


MAKERS = {"classification": classified, "retrieval": ranked, "vqa": answered}
PAIRS = [(metric.name, kind) for metric in METRICS.values() for kind in MAKERS if metric.scores(kind)]


def metric_deviates(name, samples, members, draws=200):
    metric = METRICS[name]
    once = np.ones((len(members), 1), np.int32)
    values = np.array([metric.function(model, once)[0] for model in samples])
    drawn = bootstrap(lambda counts: np.stack([metric.function(model, counts) for model in samples]), members, draws)
    return deviates_of(values, metric_reaches(metric, drawn, Basis.of(metric, samples[0], members)))


def metric_p(name, samples, members):
    return p_of(metric_deviates(name, samples, members))


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_p_values_of_every_metric_of_every_kind_are_those_of_the_paired_comparison(name, kind):
    rng = np.random.default_rng(7)
    samples = [MAKERS[kind](rng, skill) for skill in (0.2, 0.6, 1.6)]
    members = number_groups([f"p{index // 4}" for index in range(120)], 120)
    p = metric_p(name, samples, members)
    for one in range(3):
        for two in range(3):
            pair = compare_metrics([name], samples[one], samples[two], members, 200)[name]
            expected = 1.0 if pair.p is None or pair.value == 0 else pair.p
            assert p[one, two] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_models_far_apart_in_median_rank_are_told_apart_and_the_lower_is_better():
    rng = np.random.default_rng(0)
    samples = [ranked(rng, skill) for skill in (2.5, 0.0)]
    deviates = metric_deviates("median_rank", samples, np.arange(120))
    assert p_of(deviates)[0, 1] < 0.01
    assert rank_intervals(np.array([2.0, 20.0]), deviates, METRICS["median_rank"].higher_is_better) == [(1, 1), (2, 2)]


def test_medians_that_agree_in_every_draw_show_nothing():
    samples = [Ranked(np.full(60, rank), np.full(60, rank)) for rank in (1, 500)]
    assert (metric_p("median_rank", samples, np.arange(60)) == 1).all()
    assert metric_p("recall_at_1", samples, np.arange(60))[0, 1] < 1e-3


def test_medians_of_fewer_than_six_groups_show_nothing():
    rng = np.random.default_rng(0)
    samples = [ranked(rng, skill) for skill in (3.0, -3.0)]
    assert (metric_p("median_rank", samples, np.arange(120) % 5) == 1).all()
    assert metric_p("median_rank", samples, np.arange(120) % 6)[0, 1] < 1


def test_equal_models_are_never_told_apart():
    draws = np.tile(np.random.default_rng(0).random(100), (2, 1))
    assert p_values(np.array([0.5, 0.5]), draws, 50, 50)[0, 1] == 1


def test_one_group_tells_nothing():
    draws = np.array([[0.9] * 50, [0.1] * 50])
    assert (p_values(np.array([0.9, 0.1]), draws, 1, 1) == 1).all()


def test_constant_scores_are_told_apart_only_with_enough_trials():
    draws = np.array([[1.0] * 50, [0.5] * 50])
    assert p_values(np.array([1.0, 0.5]), draws, 100, 100)[0, 1] < 1e-6
    assert p_values(np.array([1.0, 0.5]), draws, 3, 3)[0, 1] > 0.05


def test_a_model_with_undefined_draws_is_told_apart_from_nobody_and_spoils_nothing():
    rng = np.random.default_rng(1)
    draws = np.stack([0.9 + 0.01 * rng.normal(size=200), 0.5 + 0.01 * rng.normal(size=200), np.full(200, np.nan)])
    p = p_values(np.array([0.9, 0.5, 0.7]), draws, 100, 100)
    assert p[0, 1] < 1e-6
    assert (p[2] == 1).all()


def simulated(rng, chances, samples=200, draws=300):
    """Hits of models whose true accuracies are `chances`, correlated by each sample's difficulty, and their draws."""
    shared = rng.random(samples)
    own = rng.random((len(chances), samples))
    hits = (np.where(rng.random(samples) < 0.5, shared, own) < np.asarray(chances)[:, None]).astype(float)
    weights = rng.multinomial(samples, np.full(samples, 1 / samples), size=draws)
    return hits.mean(axis=1), hits @ weights.T / samples


def test_equal_models_are_falsely_separated_in_at_most_five_percent_of_tables():
    rng = np.random.default_rng(0)
    tables = 400
    false = sum(separated(deviates(*simulated(rng, [0.7] * 6), 200, 200)).any() for _ in range(tables))
    assert false / tables < 0.075  # three standard errors above 5 %


def test_rank_intervals_hold_all_true_ranks_in_ninety_five_percent_of_tables():
    rng = np.random.default_rng(1)
    chances = [0.9, 0.8, 0.78, 0.6, 0.5]
    tables, held = 300, 0
    for _ in range(tables):
        values, draws = simulated(rng, chances)
        ranks = rank_intervals(values, deviates(values, draws, 200, 200), True)
        held += all(low <= true <= high for true, (low, high) in enumerate(ranks, start=1))
    assert held / tables > 0.93
