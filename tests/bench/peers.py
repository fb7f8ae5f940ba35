"""Zero-shot from JPEG files against peers: the same model, images and machine, each as a whole process.

    python tests/bench/peers.py [images] [rounds] [PYTHON]

PYTHON has `clip-benchmark` 1.6.2 and `mteb` 2.26 installed, with numpy below 2.4; without it these are left out. The
model is a CLIP of 15 million parameters at 224 px, which takes about as long to embed an image as its file takes to be
read. Contenders, in turn within each round:

- libraries and model: what each of them has to import and to load at least
- vlmed, from nothing: not even the data set is prepared, so that every image is decoded twice
- vlmed, cold: the data set is prepared, as the peer's shards are; no pixels and no features of it are kept
- vlmed, warm: another model of the same preprocessing has run before
- vlmed, again: this model has run before, on another run folder: neither the libraries nor the model are loaded
- two passes: the way of the papers' own code, one pass to count labels and one to evaluate, prompts in every batch
- clip-benchmark: its own command, two workers, on shards of the same files
- mteb: its own wrapper of open_clip and its own task class, on the same files

Wall seconds scatter with the load of the machine; processor seconds of the process and its children hardly do. With few
images most of all of them is start-up; so ratios are printed with it, and without the libraries and the model where
both contenders load them.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

SIZE, BATCH, SHARDS = 512, 64, 4
START_UP = "libraries and model"
CLASSES = ("nevus", "melanoma")
TEMPLATES = ("a dermatoscopic image of {c}", "a photo of {c}")


def model(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    vision = {"image_size": 224, "layers": 6, "width": 192, "head_width": 64, "patch_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 192, "heads": 3, "layers": 6}
    config: dict[str, Any] = {"embed_dim": 192, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
    folder.mkdir()
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return folder


def jpegs(folder: Path, count: int) -> list[Path]:
    """The published layout of HAM10000: a table, and files of smooth noise."""
    random = np.random.default_rng(0)
    (folder / "HAM10000_images").mkdir(parents=True)
    rows, paths = ["lesion_id,image_id,dx,dx_type,age,sex,localization"], []
    for number in range(count):
        paths.append(folder / "HAM10000_images" / f"ISIC_{number:07d}.jpg")
        noise = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))
        noise.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
        rows.append(f"HAM_{number:07d},{paths[-1].stem},{'mel' if number % 2 else 'nv'},histo,50,female,back")
    (folder / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    return paths


def suite(path: Path) -> Path:
    """The frozen task, but nearly all of its images are test images."""
    from vlmed.suite.load import suite_path  # the peers' Python has no vlmed

    tree: dict[str, Any] = yaml.safe_load(suite_path().read_text())
    task = tree["tasks"]["ham10000@1"] | {"manifest": "pending"}
    task["split"] = {"rule": "hash", "salt": "bench", "test": 0.98, "val": 0.01}
    kept = {"datasets": {"ham10000": tree["datasets"]["ham10000"]}, "tasks": {"lesions@1": task}}
    path.write_text(yaml.safe_dump({"suite": "2026.1", "tracks": tree["tracks"], **kept}))
    return path


def shards(folder: Path, paths: list[Path]) -> Path:
    """The same files as clip-benchmark reads them."""
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("\n".join(CLASSES))
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES))
    (folder / "test" / "nshards.txt").write_text(str(SHARDS))
    for shard in range(SHARDS):
        with tarfile.open(folder / "test" / f"{shard}.tar", "w") as tar:
            for number in range(shard, len(paths), SHARDS):
                for ending, content in (("jpg", paths[number].read_bytes()), ("cls", str(number % 2).encode())):
                    member = tarfile.TarInfo(f"{number:07d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def two_passes(folder: str, files: str) -> None:
    """As the papers' own code evaluates."""
    network, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer, paths = open_clip.get_tokenizer(f"local-dir:{folder}"), sorted(Path(files).glob("*.jpg"))

    class Files(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
            return transform(Image.open(paths[number]).convert("RGB")), number % 2

    loader = torch.utils.data.DataLoader(Files(), BATCH)
    counts = sum(torch.bincount(labels, minlength=2) for _, labels in loader)
    right = 0
    with torch.no_grad():
        for pixels, labels in loader:
            texts = network.encode_text(tokenizer([TEMPLATES[0].format(c=name) for name in CLASSES]), normalize=True)
            right += int((network.encode_image(pixels, normalize=True) @ texts.T).argmax(1).eq(labels).sum())
    print(right / int(sum(counts)))


def with_mteb(folder: str, files: str) -> None:
    """As `mteb` evaluates a model of open_clip on a task of its own kind."""
    import mteb
    from datasets import ClassLabel, Dataset, DatasetDict, Features
    from datasets import Image as ImageFile
    from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification
    from mteb.models.model_implementations.openclip_models import CLIP_ViT_L_14_DataComp_XL_s13B_b90K as META
    from mteb.tasks.zeroshot_classification.eng.caltech101 import Caltech101ZeroShotClassification as Published

    class Task(AbsTaskZeroShotClassification):  # type: ignore[misc]
        metadata = Published.metadata.model_copy(update={"name": "Bench"})

        def load_data(self, **_: Any) -> None:
            paths = [str(path) for path in sorted(Path(files).glob("*.jpg"))]
            features = Features({"image": ImageFile(), "label": ClassLabel(names=list(CLASSES))})
            rows = {"image": paths, "label": [number % 2 for number in range(len(paths))]}
            self.dataset, self.data_loaded = DatasetDict(test=Dataset.from_dict(rows, features)), True

        def get_candidate_labels(self) -> list[str]:
            return [TEMPLATES[0].format(c=name) for name in CLASSES]

    create, tokenizer_of = open_clip.create_model_and_transforms, open_clip.get_tokenizer
    # Its wrapper asks the Hub for every model.
    open_clip.create_model_and_transforms = lambda _, **settings: create(f"local-dir:{folder}", **settings)
    open_clip.get_tokenizer = lambda _: tokenizer_of(f"local-dir:{folder}")
    model = META.model_copy(update={"extra_requirements_groups": None}).load_model()  # it demands an older open_clip
    results = mteb.evaluate(model, Task(), cache=None, encode_kwargs={"batch_size": BATCH})
    print(results.task_results[0].get_score())


def load_only(folder: str, _: str) -> None:
    """What nobody gets round."""
    open_clip.create_model_and_transforms(f"local-dir:{folder}")
    open_clip.get_tokenizer(f"local-dir:{folder}")


WAYS = {"two-passes": two_passes, "mteb": with_mteb, "load": load_only}


def spent(command: list[str], **settings: str) -> tuple[float, float]:
    """Wall and processor seconds of a command."""
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    after = os.times()
    children = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, children


class Race:
    def __init__(self, home: Path, count: int, peer: str) -> None:
        self.home, self.files = home, home / "data" / "ham10000"
        paths = jpegs(self.files, count)
        self.models = [model(home / f"model{seed}", seed) for seed in (0, 1)]
        self.suite, self.python = suite(home / "tasks.yaml"), peer
        self.shards = shards(home / "shards", paths) if peer else None
        self.prepared = home / "prepared"
        self.vlmed("control:majority", self.prepared)

    def vlmed(self, ref: str, cache: Path) -> tuple[float, float]:
        out = self.home / "run"
        shutil.rmtree(out, ignore_errors=True)
        words = ["--suite", self.suite, "--tasks", "lesions", "--model", ref, "--out", out, "--batch-size", BATCH]
        words += ["--data-root", self.home / "data"]
        command = [sys.executable, "-m", "vlmed", "--quiet", "run", *map(str, words)]
        return spent(command, VLMED_CACHE=str(cache))

    def round(self) -> dict[str, tuple[float, float]]:
        cache, first, second = self.home / "cache", *(f"dir:{folder}" for folder in self.models)
        contenders = {
            START_UP: lambda: self.way("load"),
            "vlmed, from nothing": lambda: self.vlmed(first, _fresh(cache)),
            "vlmed, cold": lambda: self.vlmed(first, _fresh(cache, self.prepared)),
            "vlmed, warm": lambda: self.vlmed(second, cache),
            "vlmed, again": lambda: self.vlmed(second, cache),
            "two passes": lambda: self.way("two-passes"),
        }
        if self.shards:
            contenders |= {"clip-benchmark": self.clip_benchmark, "mteb": lambda: self.way("mteb", self.python)}
        return {name: _told(name, *run()) for name, run in contenders.items()}

    def way(self, name: str, python: str = sys.executable) -> tuple[float, float]:
        return spent([python, __file__, name, str(self.models[0]), str(self.files / "HAM10000_images")])

    def clip_benchmark(self) -> tuple[float, float]:
        name = f"local-dir:{self.models[0]}"
        words = ["--dataset", "wds/shards", "--dataset_root", str(self.shards), "--task", "zeroshot_classification"]
        words += ["--model", name, "--pretrained", "", "--no_amp", "--num_workers", "2", "--batch_size", str(BATCH)]
        words += ["--output", str(self.home / "peer.json")]
        (self.home / "peer.json").unlink(missing_ok=True)
        return spent([self.python, "-m", "clip_benchmark.cli", "eval", *words])


def _fresh(cache: Path, like: Path | None = None) -> Path:
    """The folder, empty or as another one."""
    shutil.rmtree(cache, ignore_errors=True)
    if like:
        shutil.copytree(like, cache)
    return cache


def _told(name: str, wall: float, processor: float) -> tuple[float, float]:
    print(f"  {name}: wall {wall:.2f} s, processor {processor:.2f} s", flush=True)
    return wall, processor


def main(count: int = 600, rounds: int = 5, peer: str = "") -> None:
    with tempfile.TemporaryDirectory() as home:
        race = Race(Path(home), count, peer)
        rows = [race.round() for _ in range(rounds)]
    medians = {name: tuple(statistics.median(row[name][kind] for row in rows) for kind in (0, 1)) for name in rows[0]}
    for name, (wall, processor) in medians.items():
        print(f"{name:22s} wall {wall:7.2f} s, processor {processor:7.2f} s, {count / processor:7.1f} images/s of it")
    start_up = medians[START_UP][1]
    for other in (name for name in ("two passes", "clip-benchmark", "mteb") if name in medians):
        for ours, aim in (("vlmed, cold", 1.3), ("vlmed, warm", 3), ("vlmed, again", 3)):
            wall, processor = (medians[other][kind] / medians[ours][kind] for kind in (0, 1))
            without = (medians[other][1] - start_up) / (medians[ours][1] - start_up)
            both = f", without start-up {without:.1f} x" if ours != "vlmed, again" else ""
            print(f"{ours} against {other}: wall {wall:.2f} x, processor {processor:.2f} x{both} (aim {aim})")


if __name__ == "__main__":
    if set(sys.argv[1:2]) & set(WAYS):
        WAYS[sys.argv[1]](*sys.argv[2:])
    else:
        main(*map(int, sys.argv[1:3]), *sys.argv[3:4])
