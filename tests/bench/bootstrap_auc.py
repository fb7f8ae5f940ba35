"""1,000 bootstrap draws of the macro AUC of 17,778 samples x 11 classes (OrganAMNIST's test set) against scikit-learn.

The peer is the usual loop, `roc_auc_score` of resampled rows, timed on some draws before and after each run of ours and
scaled up. Both see the same draws, and the values of those must agree.

    python tests/bench/bootstrap_auc.py
"""

import resource
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from vlmed.metrics.classification import Classified, auc
from vlmed.metrics.intervals import bootstrap, bootstrap_weights

SAMPLES, CLASSES, DRAWS = 17_778, 11, 1000
PEER_DRAWS, ROUNDS = 5, 5


def predictions():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, CLASSES, SAMPLES)
    odds = np.exp(2 * (rng.normal(size=(SAMPLES, CLASSES)) + np.eye(CLASSES)[targets]))
    return odds / odds.sum(axis=1, keepdims=True), targets


def clocks():
    return np.array([time.perf_counter(), time.process_time()])


def peer_loop(probabilities, targets, draws):
    """Seconds per draw, by the wall clock and of the processor, and the values."""
    values, start = [], clocks()
    for draw in draws:
        rows = np.repeat(np.arange(SAMPLES), draw)
        values.append(roc_auc_score(targets[rows], probabilities[rows], multi_class="ovr"))
    return (clocks() - start) / len(draws), np.array(values)


def main():
    probabilities, targets = predictions()
    members = np.arange(SAMPLES)
    shared = next(bootstrap_weights(members, PEER_DRAWS * (ROUNDS + 1))).T
    peer, ours, worst = [], [], 0.0
    for turn in range(ROUNDS + 1):  # peer, ours, peer, ours, ..., peer: both meet the same load of the machine
        chosen = slice(turn * PEER_DRAWS, (turn + 1) * PEER_DRAWS)
        seconds, expected = peer_loop(probabilities, targets, shared[chosen])
        peer.append(seconds * DRAWS)
        if turn < ROUNDS:
            start = clocks()
            samples = Classified(probabilities, targets)
            drawn = bootstrap(lambda counts, samples=samples: auc.of(samples, counts)[None], members, DRAWS)[0]
            ours.append(clocks() - start)
        worst = max(worst, np.abs(drawn[chosen] - expected).max())
    print(f"macro AUC, {SAMPLES:,} samples x {CLASSES} classes, {DRAWS:,} draws; every figure of {ROUNDS} rounds")
    for name, index in (("wall", 0), ("processor", 1)):
        theirs, mine = np.array(peer)[:, index], np.array(ours)[:, index]
        around = (theirs[:-1] + theirs[1:]) / 2
        ratios = " ".join(f"{ratio:.0f}" for ratio in around / mine)
        print(f"  {name:10} scikit-learn {theirs.mean():6.1f} s (scaled), vlmed {mine.mean():5.2f} s, ratios {ratios}")
    print(f"  limit 50 x; peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")
    print(f"  largest difference of the draws that both computed: {worst:.1e}")


if __name__ == "__main__":
    main()
