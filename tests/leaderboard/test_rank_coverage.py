"""Simulations in which the truth is known: do rank intervals hold it as often as they say?"""

from statistics import NormalDist

import numpy as np
import pytest

from vlmed.leaderboard.seeds import SeedError
from vlmed.leaderboard.separate import Basis, deviates_of, metric_reaches, ranks_of, separated
from vlmed.metrics.classification import Classified
from vlmed.metrics.inputs import number_groups
from vlmed.metrics.intervals import bootstrap
from vlmed.metrics.table import METRICS

ACCURACY = METRICS["accuracy"]
WORLDS = 60


def simulate(random, truth, groups, per_group, seeds, seed_spread):
    """One world: rank intervals of models of these true accuracies, whose samples and seeds are drawn.

    Samples of a group are alike, and hard samples are hard for all models, as on a real test set.
    """
    members = np.repeat(np.arange(groups), per_group)
    hard = np.repeat(random.normal(size=groups), per_group) * 0.6 + random.normal(size=len(members)) * 0.6
    targets = random.integers(0, 2, len(members))
    targets[:2] = 0, 1
    draws, values, of_seeds, samples = [], [], [], None
    for accuracy in truth:
        shifted = accuracy + random.normal(0, seed_spread, seeds)
        right = [_right(random, hard, one) for one in shifted]
        of_model = [
            Classified(np.where((targets == 1) == known, 1.0, 0.0)[:, None] * [-1, 1] + [1, 0], targets)
            for known in right
        ]
        samples = samples or of_model[0]
        once = np.ones((len(members), 1), np.int32)
        values.append(np.mean([ACCURACY.function(seed, once)[0] for seed in of_model]))
        numbered = number_groups(members, len(members))
        drawn = bootstrap(
            lambda counts, of=of_model: np.stack([ACCURACY.function(one, counts) for one in of]), numbered, 100
        )
        draws.append(drawn.mean(axis=0))
        of_seeds.append(SeedError.of(drawn))
    basis = Basis.of(ACCURACY, samples, number_groups(members, len(members)))
    reach = metric_reaches(ACCURACY, np.stack(draws), basis, of_seeds)
    return ranks_of(np.array(values), separated(deviates_of(np.array(values), reach)), True)


def _right(random, hard, accuracy):
    """Which samples are answered rightly: a share `accuracy` on average over worlds."""
    own = random.normal(size=len(hard)) * np.sqrt(1 - 0.72)
    threshold = NormalDist().inv_cdf(min(0.99, max(0.01, accuracy)))
    return hard + own < threshold


def covers(truth, intervals):
    """Whether every true rank, of a tie every rank that it may take, lies in its interval."""
    truth = np.array(truth)
    best = [1 + int((truth > one).sum()) for one in truth]
    worst = [int((truth >= one).sum()) for one in truth]
    return all(low <= first and last <= high for first, last, (low, high) in zip(best, worst, intervals, strict=True))


@pytest.mark.parametrize(
    ("truth", "groups", "per_group", "seeds", "seed_spread"),
    [
        ((0.9, 0.8, 0.75, 0.7, 0.6), 150, 1, 1, 0.0),
        ((0.8, 0.8, 0.8, 0.8), 60, 3, 1, 0.0),
        ((0.85, 0.8, 0.8, 0.7), 100, 1, 5, 0.03),
        ((0.8, 0.8, 0.8, 0.8, 0.8), 100, 1, 3, 0.05),
        ((0.8,) * 8, 10, 12, 1, 0.0),
    ],
    ids=["apart", "tied", "seeds", "three seeds that differ far", "ten groups"],
)
def test_rank_intervals_hold_all_true_ranks_at_least_as_often_as_they_say(truth, groups, per_group, seeds, seed_spread):
    random = np.random.default_rng(20261122)
    held = [covers(truth, simulate(random, truth, groups, per_group, seeds, seed_spread)) for _ in range(WORLDS)]
    assert np.mean(held) >= 0.95


def test_the_simulation_can_fail():
    """Intervals that are a single rank each do not hold the truth."""
    assert not covers((0.9, 0.8), [(2, 2), (1, 1)])
    assert not covers((0.8, 0.8), [(1, 1), (2, 2)])
    assert covers((0.8, 0.8), [(1, 2), (1, 2)])
