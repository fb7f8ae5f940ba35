"""Fine-tuning against a bare PyTorch loop, its data stalls, and LoRA against full. Limits: 0.9 of the loop, 5 % stalls.

    python tests/bench/tuning.py [images] [rounds] [device]

A ViT-S/32 image tower with random weights, phantom images of 64 px resized to 224, batches of 16, Adam, a linear head.
The bare loop has the same model, batches and optimiser, and its images lie ready in memory; the engine reads, decodes
and preprocesses each image in the background. Both take turns, so that a busy machine slows both. Peak memory is what
the process (CPU) or the allocator (CUDA) held beyond the loaded model, measured in a process of its own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import nn

from vlmed.data.phantom import PhantomSource
from vlmed.data.prepare import PreparedDataset, prepare
from vlmed.files import write_json
from vlmed.models.load import load_model
from vlmed.models.protocols import ImageEncoder
from vlmed.progress import Silent
from vlmed.suite.load import load_suite
from vlmed.tuning.batches import Labelled, shuffled
from vlmed.tuning.recipe import parse_recipe
from vlmed.tuning.tune import Tuned, tune

BATCH = 16
CLASSES: dict[str, list[str]] = {"a": [], "b": [], "c": []}


def random_vit(folder: Path, device: str) -> ImageEncoder:
    torch.manual_seed(0)
    vision = {"image_size": 224, "layers": 12, "width": 384, "head_width": 64, "patch_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    config = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}
    folder.mkdir(exist_ok=True)
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
    write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocess})
    encoder = load_model(f"dir:{folder}", device=device).predictor
    assert isinstance(encoder, ImageEncoder)
    return encoder


def phantom(folder: Path, count: int) -> tuple[PreparedDataset, list[str]]:
    source = PhantomSource({"patients": count, "images_per_patient": 1, "size": 64}, folder)
    data = prepare(load_suite().datasets["phantom"], source, folder / "data", Silent())
    return data, sorted({record.image for record in data.records})[:count]


def reading(encoder: ImageEncoder, data: PreparedDataset, names: list[str]) -> Callable[[np.ndarray], torch.Tensor]:
    return lambda rows: torch.stack([encoder.preprocess(data.image(names[row])) for row in rows])


def engine(encoder: ImageEncoder, images: Labelled, scope: str, epochs: int) -> Tuned:
    recipe = parse_recipe(
        scope, {"head": "linear", "epochs": epochs, "batch_size": BATCH, "lr": 1e-5, "precision": "float32"}
    )
    few = Labelled(images.pixels, images.labels[:3])
    return tune(encoder, recipe, images, few, CLASSES)


def bare_epoch(tower: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    """Seconds of the second of two epochs; the first one warms up, as the engine's does."""
    head = nn.Linear(512, len(CLASSES), device=pixels.device)
    optimiser = torch.optim.Adam([*tower.parameters(), *head.parameters()], lr=1e-5)
    tower.train()
    for epoch in (1, 2):
        start = time.perf_counter()
        for rows in shuffled(len(labels), BATCH, 0, epoch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(tower(pixels[rows])), labels[rows]).backward()
            optimiser.step()
        if pixels.is_cuda:
            torch.cuda.synchronize()
    tower.eval()
    return time.perf_counter() - start


def reset_peak(device: str) -> None:
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> float:
    """Most memory held since the reset, in MB; on Linux."""
    if device == "cpu":
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1e3
    return torch.cuda.max_memory_allocated() / 1e6


def measure(scope: str, device: str) -> None:
    """Print peak memory beyond the loaded model, in MB, and seconds per step of the second epoch."""
    with tempfile.TemporaryDirectory() as scratch:
        encoder = random_vit(Path(scratch) / "vit", device)
        pixels = torch.rand(2 * BATCH, 3, 224, 224)
        images = Labelled(lambda rows: pixels[rows], np.arange(len(pixels)) % len(CLASSES))
        reset_peak(device)
        before = peak(device)
        with engine(encoder, images, scope, 2) as tuned:
            print(peak(device) - before, float(tuned.log[-1]["seconds"] or 0) / 2)


def compare(device: str) -> None:
    measured = {}
    for scope in ("full", "partial", "lora"):
        command = [sys.executable, __file__, "measure", scope, device]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        measured[scope] = [float(part) for part in result.stdout.split()]
    for scope, (memory, seconds) in measured.items():
        ratios = memory / measured["full"][0], seconds / measured["full"][1]
        print(
            f"{scope:8} peak {memory:6.0f} MB ({ratios[0]:.2f} of full), step {seconds:.2f} s ({ratios[1]:.2f} of full)"
        )


def main(count: int = 64, rounds: int = 3, device: str = "cpu") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        encoder = random_vit(Path(scratch) / "vit", device)
        data, names = phantom(Path(scratch), count)
        pixels = reading(encoder, data, names)
        labels = np.arange(count) % len(CLASSES)
        ready, targets = pixels(np.arange(count)).to(device), torch.from_numpy(labels).to(device)
        ratios, stalls = [], []
        for _ in range(rounds):
            bare = bare_epoch(encoder.image_tower, ready, targets)
            with engine(encoder, Labelled(pixels, labels), "full", 2) as tuned:
                first, second = ({key: value or 0 for key, value in row.items()} for row in tuned.log[1:])
            ratios.append(bare / second["seconds"])
            stalls.append(first["data_wait_seconds"] / first["seconds"])
            print(f"bare {count / bare:6.1f} images/s, engine {count / second['seconds']:6.1f}, "
                  f"ratio {ratios[-1]:.3f}, first epoch's stalls {stalls[-1]:.1%}")  # fmt: skip
    print(f"median ratio {statistics.median(ratios):.3f} (limit 0.9)")
    print(f"median stalls of the first epoch {statistics.median(stalls):.1%} (limit 5 %)")
    compare(device)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(*sys.argv[2:])
    else:
        main(*map(int, sys.argv[1:3]), *sys.argv[3:])
