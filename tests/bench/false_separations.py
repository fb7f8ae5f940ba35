"""How often a table of equal models has a false separation, by its groups and seeds; 5 % is what it should be.

    python tests/bench/false_separations.py [worlds]

Each group is as hard for all models, but for a part that each model and group have to themselves; seeds add theirs.
"""

from __future__ import annotations

import sys

import numpy as np

from vlmed.leaderboard.seeds import SeedError
from vlmed.leaderboard.separate import deviates_of, reaches, separated

DRAWS = 1000


def share(worlds, groups, models, seeds=1, seed_spread=0.0):
    """The share of tables in which any two of these equal models are told apart."""
    random = np.random.default_rng(20261123)
    weights = random.multinomial(groups, np.full(groups, 1 / groups), DRAWS) / groups
    return np.mean([separates(random, weights, models, seeds, seed_spread) for _ in range(worlds)])


def separates(random, weights, models, seeds, seed_spread):
    """Whether any two of the models are told apart; `weights` (B, G) of the groups in each draw."""
    groups = weights.shape[1]
    by_seed = seed_spread * random.normal(size=(models, seeds, 1))
    scores = 0.8 + 0.08 * random.normal(size=groups) + by_seed + 0.06 * random.normal(size=(models, seeds, groups))
    draws = scores @ weights.T
    reach = reaches(draws.mean(axis=1), groups, groups, [SeedError.of(of_model) for of_model in draws])
    return separated(deviates_of(scores.mean(axis=(1, 2)), reach)).any()


def main(worlds=1000):
    """Prints a table of each kind."""
    counts = (2, 5, 20, 50)
    print("groups", *(f"{models} models" for models in counts), sep="\t")
    for groups in (6, 10, 20, 30, 64, 96, 300):
        print(groups, *(f"{share(worlds, groups, models):.3f}" for models in counts), sep="\t")
    print("seeds, of standard deviation .02; 200 groups, 5 models")
    for seeds in (2, 3, 5, 10):
        print(seeds, f"{share(worlds, 200, 5, seeds, 0.02):.3f}", sep="\t")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
