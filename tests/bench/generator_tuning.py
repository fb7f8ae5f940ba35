"""Tuning of a generator against a bare PyTorch loop, and its data stalls. Limits: 0.9 of the loop, 5 % stalls.

    python tests/bench/generator_tuning.py [questions] [rounds] [device]

A LLaVA with random weights (language model of 6 layers, width 384), noise images, batches of 8, AdamW; projector and a
LoRA of rank 8 on the language model. The bare loop has the same network, batches and optimiser, its batches lie ready
on the device, and transformers computes its loss; the engine prepares prompts and images in the background. Both take
turns, so that a busy machine slows both.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

import generator_factories
from vlmed.models.generators import HfGenerator
from vlmed.models.load import load_model
from vlmed.tuning.batches import shuffled
from vlmed.tuning.generative import tune_generator
from vlmed.tuning.generator_batches import Batch, Pairs
from vlmed.tuning.generator_learner import make_generator_learner
from vlmed.tuning.generator_recipe import parse_generator_recipe

BATCH = 8
RECIPE = parse_generator_recipe(
    {
        "parts": ["projector", "language"],
        "lora_lr": 1e-4,
        "projector_lr": 1e-5,
        "epochs": 2,
        "batch_size": BATCH,
        "schedule": "constant",
        "lora": {"rank": 8, "alpha": 16, "dropout": 0.05},
    }
)
QUESTIONS = ["What is left lung?", "Is no lung left? yes no", "What is what is left what is lung?"]


def questions(count: int) -> Pairs:
    draw = np.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(count)]
    prompts = [QUESTIONS[row % 3] for row in range(count)]
    return Pairs(images.__getitem__, prompts, ["left lung" if row % 2 else "no" for row in range(count)])


def bare_epoch(generator: HfGenerator, pairs: Pairs) -> float:
    """Seconds of the second of two epochs; the first one warms up, as the engine's does."""
    learner = make_generator_learner(generator, RECIPE)
    model, device = generator.model, generator.model.device
    optimiser = torch.optim.AdamW(learner.parameters().values(), lr=1e-4)
    model.train()
    for epoch in (1, 2):
        ready: list[Batch] = [
            learner.teacher.chunks(pairs, rows, BATCH)[0] for rows in shuffled(len(pairs), BATCH, 0, epoch)
        ]
        batches = [(batch.inputs.to(device), batch.labels.to(device)) for batch in ready]
        start = time.perf_counter()
        for inputs, labels in batches:
            optimiser.zero_grad()
            model(**inputs, labels=labels, use_cache=False).loss.backward()
            optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    learner.release()
    return seconds


def main(count: int = 96, rounds: int = 3, device: str = "cpu") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = generator_factories.tiny_llava(Path(scratch) / "llava", width=384, layers=6)
        generator = load_model(f"dir:{folder}", device=device).predictor
        assert isinstance(generator, HfGenerator)
        pairs, few = questions(count), questions(2)
        ratios, stalls = [], []
        for _ in range(rounds):
            bare = bare_epoch(generator, pairs)
            with tune_generator(generator, RECIPE, pairs, few) as tuned:
                first, second = ({key: value or 0 for key, value in row.items()} for row in tuned.log[1:])
            ratios.append(bare / second["seconds"])
            stalls.append(first["data_wait_seconds"] / first["seconds"])
            print(
                f"bare {count / bare:6.1f} questions/s, engine {count / second['seconds']:6.1f}, "
                f"ratio {ratios[-1]:.3f}, first epoch's stalls {stalls[-1]:.1%}"
            )
    print(f"median ratio {statistics.median(ratios):.3f} (limit 0.9)")
    print(f"median stalls of the first epoch {statistics.median(stalls):.1%} (limit 5 %)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:])
