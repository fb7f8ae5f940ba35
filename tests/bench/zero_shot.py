"""Zero-shot end to end against a bare forward loop over the same batches, already preprocessed. Limit: 0.95.

    python tests/bench/zero_shot.py [images] [rounds] [pixels] [model]

ViT-B/32 (or another model of open_clip) with random weights at 224 px, phantom images of 32 px (MedMNIST has 28),
batches of 32, CPU. End to end means: read from the memory-mapped data set, decode, preprocess, keep the pixels, embed,
store, encode the prompts, softmax. Told in wall time, and in processor time, which other work on the machine hardly
moves. Both ratios scatter as the pass itself does; so the share of the clock end to end that lies within the pass is
told too. Nobody can do without decoding and preprocessing, here by the model's own steps: if all cores share them and
none idles, what is left is told as `room`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from vlmed.data.phantom import PhantomSource
from vlmed.data.prepare import PreparedDataset, prepare
from vlmed.evaluate.features import FeatureCache
from vlmed.evaluate.pixels import PixelStore
from vlmed.evaluate.stages import accounted
from vlmed.evaluate.threads import one_thread
from vlmed.evaluate.zero_shot import zero_shot
from vlmed.files import write_json
from vlmed.models.load import load_model
from vlmed.models.protocols import DualEncoder
from vlmed.progress import Silent
from vlmed.suite.load import load_suite

BATCH = 32


def random_vit(folder: Path, name: str = "ViT-B-32") -> DualEncoder:
    torch.manual_seed(0)
    save_file(open_clip.create_model(name).state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": preprocess}
    write_json(folder / "open_clip_config.json", config)
    encoder = load_model(f"dir:{folder}").predictor
    assert isinstance(encoder, DualEncoder)
    return encoder


def phantom(folder: Path, count: int, pixels: int = 32) -> tuple[PreparedDataset, list[str]]:
    source = PhantomSource({"patients": count, "images_per_patient": 1, "size": pixels}, folder)
    data = prepare(load_suite().datasets["phantom"], source, folder / "data", Silent())
    return data, sorted({record.image for record in data.records})[:count]


def bare_loop(encoder: DualEncoder, batches: list[torch.Tensor]) -> None:
    with torch.inference_mode():
        for batch in batches:
            encoder.encode_images(batch)


def end_to_end(encoder: DualEncoder, data: PreparedDataset, images: list[str], folder: Path) -> None:
    store = PixelStore(folder / "pixels", encoder)
    cache = FeatureCache(folder, encoder, ["bench"], BATCH, store=store)
    features = cache.features(data, images)
    zero_shot(encoder, features, cache.text_features(["an image of a", "an image of b"]), classes=2)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds."""
    start, before = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - before


def beside(bare: Callable[[], object], whole: Callable[[], object]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Wall and processor seconds of the bare loops, as the mean of a pass before and one after, and of the whole.

    Other tenants of a machine slow one pass down and not the next.
    """
    first, middle, last = timed(bare), timed(whole), timed(bare)
    return tuple(statistics.mean(both) for both in zip(first, last, strict=True)), middle


def preprocessed(encoder: DualEncoder, data: PreparedDataset, images: list[str]) -> list[torch.Tensor]:
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    return [torch.stack([encoder.preprocess(data.image(name)) for name in batch]) for batch in batches]


def preprocessing_seconds(encoder: DualEncoder, data: PreparedDataset, images: list[str]) -> float:
    """Processor seconds on one thread."""
    with one_thread():
        return timed(lambda: preprocessed(encoder, data, images))[1]


def main(count: int = 256, rounds: int = 5, pixels: int = 32, model: str = "ViT-B-32") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        encoder = random_vit(Path(scratch), model)
        data, images = phantom(Path(scratch), count, pixels)
        batches = preprocessed(encoder, data, images)
        ratios = []
        for number in range(rounds + 1):
            with accounted() as account:
                bare, whole = beside(
                    lambda: bare_loop(encoder, batches),
                    lambda number=number: end_to_end(encoder, data, images, Path(scratch) / str(number)),
                )
            shared = preprocessing_seconds(encoder, data, images) / torch.get_num_threads()
            if number:  # the first round warms up
                room, within = bare[0] / (bare[0] + shared), account.foreground["forward"] / whole[0]
                ratios.append((bare[0] / whole[0], bare[1] / whole[1], within, room))
                rates = f"bare {count / bare[0]:6.1f} images/s, end to end {count / whole[0]:6.1f}"
                print(f"{rates}, ratio {_told(ratios[-1])}", flush=True)
    print(f"median ratio {_told([statistics.median(kind) for kind in zip(*ratios, strict=True)])} (limit 0.95)")


def _told(ratios: Sequence[float]) -> str:
    return "{:.3f}, of processor time {:.3f}, within the pass {:.3f}, room {:.3f}".format(*ratios)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *sys.argv[4:])
