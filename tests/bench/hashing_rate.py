"""Decoding and hashing JPEGs against decoding alone, on one core.

    python tests/bench/hashing_rate.py [folder of JPEGs]

Without a folder, on 100 made pictures of 512 x 512. Both read the same bytes from memory; the two
take turns, 25 images at a time, so that both meet the same load of the machine; the median of five rounds counts.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vlmed.leakage.perceptual import perceptual_hashes

LIMIT, ROUNDS, MOST = 0.8, 5, 150


def files() -> list[bytes]:
    if len(sys.argv) > 1:
        paths = sorted(path for path in Path(sys.argv[1]).rglob("*.jpg"))
        return [path.read_bytes() for path in paths[:: max(1, len(paths) // MOST)]]
    rng, made = np.random.default_rng(0), []
    for _ in range(100):
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).resize((512, 512))
        pixels = np.asarray(coarse, dtype=int) + rng.integers(-12, 12, (512, 512, 1))
        made.append(io.BytesIO())
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(made[-1], "JPEG", quality=90)
    return [file.getvalue() for file in made]


def decoded(contents: Iterable[bytes]) -> Iterator[Image.Image]:
    for content in contents:
        image = Image.open(io.BytesIO(content))
        image.load()
        yield image


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    contents = files()
    ratios, rates = [], []
    for _ in range(ROUNDS):
        bare = both = 0.0
        for start in range(0, len(contents), 25):
            batch = contents[start : start + 25]
            bare += seconds(lambda batch=batch: sum(1 for _ in decoded(batch)))
            both += seconds(lambda batch=batch: perceptual_hashes(decoded(batch)))
        ratios.append(bare / both)
        rates.append((len(contents) / bare, len(contents) / both))
    bare, both = np.median(rates, axis=0)
    print(f"{len(contents)} JPEGs: decoding {bare:.0f} images/s, decoding and hashing {both:.0f} images/s of processor")
    print(f"  ratios {' '.join(f'{ratio:.3f}' for ratio in ratios)}, median {np.median(ratios):.3f}")
    print(f"  limit {LIMIT}: {'holds' if np.median(ratios) >= LIMIT else 'FAILS'}")


if __name__ == "__main__":
    main()
