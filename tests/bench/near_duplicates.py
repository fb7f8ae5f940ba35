"""All pairs within the radius among 10^4 to 10^6 hashes: time, memory, growth, exactness; and against imagededup.

    python tests/bench/near_duplicates.py [python of an environment with imagededup]

The hashes are random with planted clusters; each size runs in a process of its own, so that its peak memory is its own.
Exactness: every pair of 200 hashes with all others is also found by brute force. imagededup's default search is
quadratic, about half an hour for 50,000 hashes, so it is timed on 2,000, 4,000 and 8,000 and its last step is scaled by
the square, from the same hashes and with the same radius; the pairs it finds have to be ours.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import numpy as np

from vlmed.leakage.near import pairs_within
from vlmed.leakage.perceptual import RADIUS

SIZES = (10_000, 100_000, 1_000_000)
PEER_SIZES, PEER_TARGET = (2_000, 4_000, 8_000), 50_000
LIMIT_SECONDS, LIMIT_GIB, LIMIT_RATIO = 120, 4, 20

PEER = """
import json, logging, sys, time, warnings
warnings.simplefilter("ignore"); logging.disable(logging.INFO)
from imagededup.methods import PHash
radius, hashes = json.load(sys.stdin)
if __name__ == "__main__":
    encodings = {str(n): value for n, value in enumerate(hashes)}
    start = time.perf_counter()
    found = PHash(verbose=False).find_duplicates(encoding_map=encodings, max_distance_threshold=radius)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, sorted([int(a), int(b)] for a in found for b in found[a] if int(a) < int(b))]))
"""


def clustered(count: int) -> np.ndarray:
    """Random hashes; a twentieth are others with up to radius + 4 bits flipped, a hundredth are equal to others."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    near, equal = np.split(rng.choice(count, count // 20 + count // 100, replace=False), [count // 20])
    values = hashes[rng.integers(0, count, len(near))]
    for flip in range(RADIUS + 4):
        bits = np.uint64(1) << rng.integers(0, 64, len(near)).astype(np.uint64)
        values = np.where(rng.integers(0, RADIUS + 4, len(near)) > flip // 2, values ^ bits, values)
    hashes[near] = values
    hashes[equal] = hashes[rng.integers(0, count, len(equal))]
    return hashes


def measure(count: int) -> dict[str, float]:
    hashes = clustered(count)
    wall, processor = time.perf_counter(), time.process_time()
    i, j, _ = pairs_within(hashes, radius=RADIUS)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sample = np.random.default_rng(1).choice(np.concatenate([i, j]), 200)
    found = set(zip(i.tolist(), j.tolist(), strict=True))
    missed = extra = checked = 0
    for one in sample.tolist():
        near = np.flatnonzero(np.bitwise_count(hashes ^ hashes[one]) <= RADIUS)
        expected = {(min(one, other), max(one, other)) for other in near.tolist() if other != one}
        ours = {(one, other) for other in j[i == one].tolist()} | {(other, one) for other in i[j == one].tolist()}
        missed, extra, checked = missed + len(expected - found), extra + len(ours - expected), checked + len(expected)
    return {
        "pairs": len(i),
        "wall": wall,
        "processor": processor,
        "peak": peak,
        "missed": missed,
        "extra": extra,
        "checked": checked,
    }


def against_imagededup(python: str) -> None:
    hashes = clustered(PEER_TARGET)
    pairs_within(hashes[:1000], radius=RADIUS)
    start = time.perf_counter()
    i, j, _ = pairs_within(hashes, radius=RADIUS)
    ours = time.perf_counter() - start
    for size in PEER_SIZES:
        given = json.dumps([RADIUS, [f"{value:016x}" for value in hashes[:size].tolist()]])
        answer = subprocess.run([python, "-c", PEER], input=given, capture_output=True, text=True, check=True).stdout
        theirs, pairs = json.loads(answer)
        same = pairs == sorted([int(a), int(b)] for a, b in zip(i, j, strict=True) if max(a, b) < size)
        print(f"  imagededup {size:>6,} hashes {theirs:8.2f} s, same pairs as ours: {same}")
    scaled = theirs * (PEER_TARGET / size) ** 2
    ratio = scaled / ours
    print(f"  {PEER_TARGET:,} hashes: imagededup {scaled:.0f} s (scaled), vlmed {ours:.2f} s: {ratio:,.0f} x")
    print(f"  limit {LIMIT_RATIO} x: {'holds' if ratio >= LIMIT_RATIO else 'FAILS'}")


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]))))
        return
    before = None
    print(f"pairs within {RADIUS} bits")
    for size in SIZES:
        child = [sys.executable, __file__, "--one", str(size)]
        now = json.loads(subprocess.run(child, capture_output=True, text=True, check=True).stdout)
        growth = f", {now['processor'] / before:.0f} x the processor time" if before else ""
        print(
            f"  {size:>9,} hashes: {now['pairs']:>7,} pairs, wall {now['wall']:.1f} s, "
            f"processor {now['processor']:.1f} s, peak {now['peak']:.2f} GiB{growth}; "
            f"of {now['checked']:,} pairs by brute force {now['missed']} missed, "
            f"{now['extra']} too many"
        )
        before = now["processor"]
    holds = now["wall"] <= LIMIT_SECONDS and now["peak"] <= LIMIT_GIB and not now["missed"] + now["extra"]
    print(f"  limits {LIMIT_SECONDS} s and {LIMIT_GIB} GiB, none missed: {'hold' if holds else 'FAIL'}")
    if len(sys.argv) > 1:
        against_imagededup(sys.argv[1])


if __name__ == "__main__":
    main()
