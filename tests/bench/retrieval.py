"""Block-wise retrieval against a plain full argsort of 50,000 items, and its memory at 100,000 x 100,000.

Queries are a slice, since both costs are linear in their number, and so is the clock: the CPU time of this process.
`--whole` runs 100,000 x 100,000 to the end (minutes).
"""

import argparse
import os
import resource
import time

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np

from vlmed.metrics.retrieval import retrieve

ITEMS, QUERIES, DIMENSIONS, LARGE = 50_000, 2_000, 64, 100_000
LEAST_RATIO, MOST_GIB = 5.0, 4.0


def pairs(items, seed=0):
    rng = np.random.default_rng(seed)
    gallery = rng.standard_normal((items, DIMENSIONS), np.float32)
    return gallery + 2 * rng.standard_normal(gallery.shape, np.float32), gallery


def plain(queries, gallery):
    """Rank of the own item and top ten by a full sort, in slices that fit any machine."""
    queries, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, gallery))
    ranks, top = [], []
    for first in range(0, len(queries), 250):
        order = np.argsort(-(queries[first : first + 250] @ gallery.T), axis=1)
        ranks.append(1 + np.argmax(order == np.arange(first, first + len(order))[:, None], axis=1))
        top.append(order[:, :10])
    return np.concatenate(ranks), np.concatenate(top)


def timed(function, *args):
    start = time.process_time()
    value = function(*args)
    return value, time.process_time() - start


def speed():
    queries, gallery = pairs(ITEMS)
    queries, keys = queries[:QUERIES], np.arange(ITEMS)
    ratios = []
    for _ in range(3):
        (ranks, _), slow = timed(plain, queries, gallery)
        found, fast = timed(retrieve, queries, gallery, keys[:QUERIES], keys)
        ratios.append(slow / fast)
        print(f"  plain {1e3 * slow / QUERIES:.2f} ms, blocks {1e3 * fast / QUERIES:.2f} ms of CPU per query")
    print(f"  equal ranks: {(ranks == found.ranks).mean():.2%} (plain sorts float32 scores)")
    ratio = float(np.median(ratios))
    print(f"speed over plain argsort, {ITEMS}: {ratio:.1f} x (limit >= {LEAST_RATIO}) {verdict(ratio >= LEAST_RATIO)}")


def memory(whole):
    queries, gallery = pairs(LARGE)
    keys = np.arange(LARGE)
    asked = LARGE if whole else QUERIES
    _, seconds = timed(retrieve, queries[:asked], gallery, keys[:asked], keys)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  {asked} queries: {seconds:.0f} s of CPU, {seconds / asked * LARGE:.0f} s for all")
    print(f"peak memory, {LARGE} x {LARGE}: {peak:.2f} GiB (limit <= {MOST_GIB}) {verdict(peak <= MOST_GIB)}")


def verdict(good):
    return "ok" if good else "MISSED"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    memory(arguments.whole)
    speed()
