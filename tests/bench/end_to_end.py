"""Linear probe and retrieval, whole units of `vlmed run`, against bare forward loops over the same inputs. Limit: 0.95.

    python tests/bench/end_to_end.py [patients] [rounds]

ViT-B/32 of open_clip with random weights at 224 px, phantom images of 32 px, batches of 32, CPU. A unit is all that a
run does for it, on data that are prepared: read, decode, preprocess, keep, embed; fit a probe at 13 penalties, or rank
captions and images; write predictions, score them with 1,000 draws, write the outcome. The bare loops run before and
after it over the same images, already preprocessed, and for retrieval the same captions, already tokenized. A probe
embeds all patients' images, retrieval a quarter of them. What does not grow with the images (the fit, the draws)
weighs the more the fewer there are.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import yaml
from zero_shot import BATCH, bare_loop, beside, preprocessed, random_vit

from vlmed.data.load import DataLoader
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, Unit, plan
from vlmed.models.load import load_model
from vlmed.suite.load import load_suite, suite_path

TRACKS = {"phantom_lesion": "linear_probe", "phantom_report": "zero_shot_retrieval"}
SPLITS, LIMIT = ("train", "val", "test"), 0.95


def small_suite(path: Path, patients: int) -> Path:
    """The published one with fewer patients, of an image each."""
    tree: dict[str, Any] = yaml.safe_load(suite_path().read_text("utf-8"))
    data = tree["datasets"]["phantom"]
    data["options"] |= {"patients": patients, "images_per_patient": 1, "size": 32}
    tasks = {f"{name}@1": tree["tasks"][f"{name}@1"] | {"manifest": "pending"} for name in TRACKS}
    kept = {"suite": tree["suite"], "tracks": tree["tracks"], "datasets": {"phantom": data}, "tasks": tasks}
    path.write_text(yaml.safe_dump(kept))
    return path


class Bench:
    """A model, prepared data, and for each track a unit with the inputs of its bare loops."""

    def __init__(self, home: Path, patients: int) -> None:
        self.home, self.suite = home, load_suite(small_suite(home / "tasks.yaml", patients))
        random_vit(home)
        self.model = load_model(f"dir:{home}")
        self.data = DataLoader(cache=home / "prepared")
        self.units = {track: plan(self.suite, [task], [track])[0] for task, track in TRACKS.items()}
        self.inputs = {track: self._inputs(unit) for track, unit in self.units.items()}

    def _inputs(self, unit: Unit) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Batches of preprocessed images, and of tokens."""
        table = self.data.table(unit.task)
        retrieval = unit.task.kind == "retrieval"
        samples = [sample for name in (["test"] if retrieval else SPLITS) for sample in table.split(name)]
        images = sorted({sample.image for sample in samples})
        captions = sorted({sample.target for sample in samples}) if retrieval else []
        tokens = open_clip.get_tokenizer(f"local-dir:{self.home}")(captions) if captions else torch.empty(0)
        batches = [part for part in tokens.split(BATCH) if len(part)]
        return preprocessed(self.model.predictor, self.data.dataset(self.suite.datasets["phantom"]), images), batches

    def bare(self, track: str) -> None:
        encoder: Any = self.model.predictor
        images, texts = self.inputs[track]
        bare_loop(encoder, images)
        with torch.inference_mode():
            for tokens in texts:
                encoder.model.encode_text(tokens)

    def whole(self, track: str, folder: Path) -> None:
        runner = Runner(self.suite, self.model, DataLoader(cache=folder / "cache"), BATCH)
        runner.run([self.units[track]], RunFolder(folder / "run"), lambda *_: None)

    def ratios(self, track: str, folder: Path) -> tuple[float, float]:
        """Of wall and of processor time, the bare loops before and after against the whole unit."""
        shutil.copytree(self.home / "prepared", folder / "cache")
        bare, whole = beside(lambda: self.bare(track), lambda: self.whole(track, folder))
        images, texts = (sum(map(len, batches)) for batches in self.inputs[track])
        found = bare[0] / whole[0], bare[1] / whole[1]
        seconds = f"bare {bare[0]:.2f} s, whole {whole[0]:.2f} s"
        print(f"{track}, {images} images, {texts} texts: {seconds}, ratio {_told(found)}", flush=True)
        return found


def main(patients: int = 256, rounds: int = 3) -> None:
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(Path(home), patients)
        for track in bench.units:
            bench.ratios(track, Path(home) / f"{track}-warm")
            found = [bench.ratios(track, Path(home) / f"{track}-{number}") for number in range(rounds)]
            medians = [statistics.median(kind) for kind in zip(*found, strict=True)]
            print(f"{track}: median ratio {_told(medians)} (limit {LIMIT})")


def _told(ratios: Sequence[float]) -> str:
    return "{:.3f}, of processor time {:.3f}".format(*ratios)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
