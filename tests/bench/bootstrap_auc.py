"""1,000 bootstrap draws of the macro AUC of 17,778 samples x 11 classes (OrganAMNIST's test set) against scikit-learn.

The peer is the usual loop, `roc_auc_score` of resampled rows, timed on some draws before and after ours and scaled up.
Both see the same draws, and the values of those must agree.

    python tests/bench/bootstrap_auc.py
"""

import resource
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from vlmed.metrics.classification import Classified, auc
from vlmed.metrics.intervals import bootstrap, bootstrap_weights

SAMPLES, CLASSES, DRAWS, PEER_DRAWS = 17_778, 11, 1000, 5


def predictions():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, CLASSES, SAMPLES)
    odds = np.exp(2 * (rng.normal(size=(SAMPLES, CLASSES)) + np.eye(CLASSES)[targets]))
    return odds / odds.sum(axis=1, keepdims=True), targets


def peer_loop(probabilities, targets, draws):
    """Seconds per draw, and the values."""
    values, start = [], time.perf_counter()
    for draw in draws:
        rows = np.repeat(np.arange(SAMPLES), draw)
        values.append(roc_auc_score(targets[rows], probabilities[rows], multi_class="ovr"))
    return (time.perf_counter() - start) / len(draws), np.array(values)


def main():
    probabilities, targets = predictions()
    members = np.arange(SAMPLES)
    first = next(bootstrap_weights(members, DRAWS)).T[: 2 * PEER_DRAWS]
    before, expected = peer_loop(probabilities, targets, first[:PEER_DRAWS])

    start = time.perf_counter()
    samples = Classified(probabilities, targets)
    drawn = bootstrap(lambda counts: auc.of(samples, counts)[None], members, DRAWS)[0]
    ours = time.perf_counter() - start

    after, more = peer_loop(probabilities, targets, first[PEER_DRAWS:])
    difference = np.abs(drawn[: 2 * PEER_DRAWS] - np.concatenate([expected, more])).max()
    peer = DRAWS * (before + after) / 2
    print(f"macro AUC, {SAMPLES:,} samples x {CLASSES} classes, {DRAWS:,} draws")
    print(f"  scikit-learn loop  {peer:8.1f} s  (scaled from {2 * PEER_DRAWS} draws)")
    print(f"  vlmed              {ours:8.2f} s  peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")
    print(f"  ratio              {peer / ours:8.0f} x (limit 50 x)")
    print(f"  largest difference {difference:8.1e}  of the draws that both computed")


if __name__ == "__main__":
    main()
