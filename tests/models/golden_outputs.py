"""What one tiny model of each family gives for fixed images and texts, stored, so that an upgrade can't move it unseen.

    python tests/models/golden_outputs.py [FAMILY ...]

writes `tests/models/golden/FAMILY.json` anew, of all families where none is named. Do that only after a move has been
understood, and say why in the changelog: whoever compares results across versions relies on these files.

The weights are drawn from the names and shapes of the tensors, so that no library's initialisation has a part in them.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import zlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

import families
from vlmed.files import write_json
from vlmed.hashing import digest
from vlmed.models.load import load_model
from vlmed.models.protocols import Chooser, DualEncoder, Generator, ImageEncoder, Request

FOLDER = Path(__file__).parent / "golden"
LIBRARIES = ("torch", "torchvision", "transformers", "open_clip_torch", "timm", "peft", "pillow", "numpy")
TEXTS = ("a chest x-ray with pneumonia", "normal", "no finding, seen from the front, in an adult patient")
# Of the largest number among a family's outputs of one kind. Other processors move float32 results by some 1e-6.
TOLERANCE = 1e-4
# These are resized bilinearly as bytes by torch, whose code for AVX2 and whose plain code differ by one level of 255.
TOLERANCES = {"vit": 0.05, "vision-text-dual-encoder": 0.05, "gemma": 0.01}


def images() -> list[Image.Image]:
    """Two colour images and a grey one, none of a model's size, drawn by arithmetic alone."""
    rows, columns = np.mgrid[0:60, 0:90]
    waves = [127 + 120 * np.sin(rows / (3 + channel) + columns / 7) for channel in range(3)]
    steps = [(rows * (3 + channel) + columns * 5) % 256 for channel in range(3)]
    colour = [np.stack(planes, axis=-1).astype(np.uint8) for planes in (waves, steps)]
    grey = ((rows - 30) ** 2 + (columns - 45) ** 2 < 500).astype(np.uint8) * 180 + 20
    return [*map(Image.fromarray, colour), Image.fromarray(grey)]


def checkpoint(name: str, folder: Path) -> Path:
    """A family's tiny checkpoint with weights that are drawn from the names of its tensors."""
    copy = folder / name
    shutil.copytree(families.checkpoint(name), copy)
    for file in sorted(copy.rglob("*.safetensors")):
        with safe_open(file, "pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
            about = stored.metadata()
        save_file({key: drawn(key, value) for key, value in tensors.items()}, file, about)
    return copy


def drawn(name: str, like: torch.Tensor) -> torch.Tensor:
    """Numbers of the usual size for a tensor of this name and shape; scalars and integers stay."""
    if not like.is_floating_point() or like.ndim == 0 or like.numel() == 1:
        return like
    # This generator's numbers are frozen for good, those of newer ones are not.
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(like.shape))
    if like.ndim > 1:
        values /= math.sqrt(like[0].numel())
    elif name.endswith("running_var"):
        values = 1 + 0.1 * np.abs(values)
    else:
        values = float(name.endswith("weight")) + 0.1 * values
    return torch.from_numpy(values).to(like.dtype)


def outputs(name: str) -> dict[str, Any]:
    """A family's outputs by kind: rows of numbers, or texts."""
    with TemporaryDirectory() as folder:
        model = load_model(f"dir:{checkpoint(name, Path(folder))}")
        predictor = model.predictor
        if isinstance(predictor, Generator):
            return _written(predictor)
        assert isinstance(predictor, ImageEncoder)
        with torch.inference_mode():
            pixels = torch.stack([predictor.preprocess(image) for image in images()])
            found = {"pixels": _summary(pixels), "images": predictor.encode_images(pixels).tolist()}
            if isinstance(predictor, DualEncoder):
                found |= {"texts": predictor.encode_texts(TEXTS).tolist(), "scale": [[predictor.logit_scale]]}
        return found


def _written(generator: Generator) -> dict[str, Any]:
    requests = [Request(image, "What is seen?", 6) for image in images()]
    found: dict[str, Any] = {"answers": generator.answer(requests)}
    if isinstance(generator, Chooser):
        found["choices"] = generator.choose(requests, ["yes", "no"]).tolist()
    return found


def _summary(pixels: torch.Tensor) -> list[list[float]]:
    """Of each image: mean and spread of each channel, and every so many-th number."""
    flat = pixels.flatten(2)
    parts = (flat.mean(2), flat.std(2), flat[:, :, :: max(1, flat.shape[2] // 7)].flatten(1))
    rows: list[list[float]] = torch.cat(parts, dim=1).tolist()
    return rows


def record(name: str) -> dict[str, Any]:
    """What is stored of a family."""
    found = {kind: _rounded(value) for kind, value in outputs(name).items()}
    versions = {library: metadata.version(library) for library in LIBRARIES}
    return {"family": name, "versions": versions, "weights": weights_digest(name), "outputs": found}


def weights_digest(name: str) -> str:
    """Tells the names and shapes of a family's tensors, from which its weights are drawn."""
    with TemporaryDirectory() as folder:
        shapes = {}
        for file in sorted(checkpoint(name, Path(folder)).rglob("*.safetensors")):
            with safe_open(file, "pt") as stored:
                shapes |= {key: stored.get_slice(key).get_shape() for key in stored.keys()}  # noqa: SIM118
        return digest(shapes)


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def moved(name: str, stored: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What moved beyond the family's tolerance, and by how much."""
    limit = TOLERANCES.get(name, TOLERANCE)
    told = [f"{name}: {kind} came or went" for kind in stored.keys() ^ found.keys()]
    for kind in sorted(stored.keys() & found.keys()):
        told += _different(stored[kind], found[kind], limit, f"{name}: {kind}")
    return told


def _different(stored: list[Any], found: list[Any], limit: float, what: str) -> list[str]:
    if stored and isinstance(stored[0], str):
        return [f"{what}: {old!r} became {new!r}" for old, new in zip(stored, found, strict=True) if old != new]
    old, new = np.array(stored), np.array(found)
    if old.shape != new.shape:
        return [f"{what} had shape {old.shape}, now {new.shape}"]
    largest = np.abs(old - new).max(initial=0) / max(np.abs(old).max(initial=0), 1e-30)
    # Written so that NaN has moved too.
    return [] if largest <= limit else [f"{what} moved by {largest:.2g} of their largest number, allowed are {limit:g}"]


def read(name: str) -> dict[str, Any]:
    """What is stored of a family."""
    stored: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return stored


def main(names: list[str]) -> None:
    """Write the files anew."""
    say: Callable[[str], object] = print
    for name in names or families.FAMILIES:
        write_json(FOLDER / f"{name}.json", record(name))
        say(name)


if __name__ == "__main__":
    main(sys.argv[1:])
