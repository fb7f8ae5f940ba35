"""`HfGenerator.answer` against a bare `model.generate` loop over the same batches, already prepared. Limit: 0.9.

    python tests/bench/generation.py [requests] [rounds] [tokens]

LLaVA's layout with random weights, images of 336 to 512 px, batches of 8, CPU, float32. `answer` sorts, renders the
chat template, resizes and normalises the images, tokenizes, and turns tokens into text; the loop only generates. The
network is a thousand times smaller than a published one, and the share of everything else that much larger.

Two ratios: of the wall time, in which one batch is prepared while the one before is answered, and of the processor
time, which counts both and is not disturbed by what else the machine does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from generator_factories import tiny_llava
from vlmed.models.generators import HfGenerator
from vlmed.models.load import load_model
from vlmed.models.protocols import Request

BATCH = 8


def questions(count: int, tokens: int) -> list[Request]:
    draw = np.random.default_rng(0)
    sides = draw.integers(336, 512, (count, 2))
    images = [Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sides.tolist()]
    return [Request(image, "What is it? " + "left lung " * (number % 9), tokens) for number, image in enumerate(images)]


def recorded(generator: HfGenerator, requests: list[Request]) -> list[dict[str, Any]]:
    """What `answer` gives to `generate`, batch by batch."""
    batches: list[dict[str, Any]] = []
    generate = generator.model.generate
    generator.model.generate = lambda **inputs: batches.append(inputs) or generate(**inputs)
    generator.answer(requests)
    generator.model.generate = generate
    return batches


def bare_loop(model: Any, batches: list[dict[str, Any]]) -> None:
    with torch.inference_mode():
        for batch in batches:
            model.generate(**batch)


def timed(work: Callable[[], object]) -> np.ndarray:
    """Seconds of wall and of processor time."""
    start = np.array([time.perf_counter(), time.process_time()])
    work()
    return np.array([time.perf_counter(), time.process_time()]) - start


def main(count: int = 32, rounds: int = 6, tokens: int = 32) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        predictor = load_model(f"dir:{tiny_llava(Path(scratch), width=512, layers=6)}").predictor
        assert isinstance(predictor, HfGenerator)
        generator = replace(predictor, batch_size=BATCH)
        requests = questions(count, tokens)
        batches = recorded(generator, requests)
        work = {"bare": lambda: bare_loop(generator.model, batches), "whole": lambda: generator.answer(requests)}
        ratios = []
        for number in range(rounds):
            # Whoever runs second finds warmer caches.
            order = ["bare", "whole"] if number % 2 else ["whole", "bare"]
            seconds = {name: timed(work[name]) for name in order}
            ratios.append(seconds["bare"] / seconds["whole"])
            speeds = ", ".join(f"{name} {count / seconds[name][0]:.2f} answers/s" for name in work)
            print(f"{speeds}; ratio of wall time {ratios[-1][0]:.3f}, of processor time {ratios[-1][1]:.3f}")
    wall, processor = np.median(ratios, axis=0)
    print(f"median ratio of wall time {wall:.3f}, of processor time {processor:.3f} (limit 0.9)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
