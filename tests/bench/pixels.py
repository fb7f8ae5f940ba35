"""What keeping preprocessed images costs and saves, in processor time per image of 512 px, 224 px wanted.

    python tests/bench/pixels.py [images] [rounds]

Straight means decode, resize, cut, normalise; cold the same and keeping the pixels; warm taking the kept ones. All
three give the same numbers, which is checked. Limits: cold at most 1.15 of straight, warm at most a third.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from zero_shot import random_vit

from vlmed.data.phantom import PhantomSource
from vlmed.data.prepare import prepare
from vlmed.evaluate.pixels import PixelStore
from vlmed.progress import Silent
from vlmed.suite.load import load_suite


def timed(work: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def main(count: int = 128, rounds: int = 5) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        encoder = random_vit(home)
        source = PhantomSource({"patients": count, "images_per_patient": 1, "size": 512}, home)
        data = prepare(load_suite().datasets["phantom"], source, home / "data", Silent())
        images = sorted(data.places)[:count]
        rows = []
        for number in range(rounds + 1):
            stores = [PixelStore(home / str(number), encoder) for _ in range(2)]
            straight, expected = timed(lambda: PixelStore(home, encoder, budget=0).batch(data, images))
            cold, first = timed(lambda stores=stores: stores[0].batch(data, images))
            warm, second = timed(lambda stores=stores: stores[1].batch(data, images))
            assert torch.equal(first, expected)
            assert torch.equal(second, expected)
            if number:  # the first round warms up
                rows.append((straight, cold, warm))
    straight, cold, warm = (statistics.median(row[kind] for row in rows) / count * 1000 for kind in range(3))
    print(f"ms per image: straight {straight:.2f}, cold {cold:.2f}, warm {warm:.2f}")
    print(f"cold {cold / straight:.2f} of straight (limit 1.15), warm {warm / straight:.2f} (limit 0.33)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
