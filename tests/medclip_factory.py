"""Tiny MedCLIP checkpoints as the authors' archive holds them, with their companions beside.

Names and shapes of the weights are those that the original package gave its own tiny towers; `medclip_original.py`
wrote them into `models/vectors/medclip.json`. Their values follow from their names, so that they need not be stored.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

VECTORS = Path(__file__).parent / "models" / "vectors" / "medclip.json"
DIM = 12
LOGIT_SCALE = 2.5
RESNET = {"blocks": [1, 2, 1, 1], "width": 8}
SWIN_CONFIG: dict[str, Any] = {
    "model_type": "swin",
    "image_size": 224,
    "patch_size": 4,
    "window_size": 7,
    "embed_dim": 8,
    "depths": [2, 1, 1, 1],
    "num_heads": [1, 2, 2, 4],
}
_WORDS = "a the of is no there with left right lung lungs pleural effusion clear chest opacity edema heart normal ##s ."
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS.split()]
TEXT_CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 96,
    "vocab_size": len(VOCABULARY) + 3,
}


def tiny_medclip(folder: Path, vision: str, *, companions: bool = True) -> Path:
    """The unzipped archive of one variant, `swin` or `resnet`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights(stored_names(vision)), folder / "pytorch_model.bin")
    if companions:
        text_companion(folder / "Bio_ClinicalBERT")
        swin_companion(folder / "swin-tiny-patch4-window7-224")
    return folder


def stored_names(vision: str) -> dict[str, list[int]]:
    """The original's names of weights, with their shapes."""
    names: dict[str, list[int]] = json.loads(VECTORS.read_text(encoding="utf-8"))[vision]["weights"]
    return names


def weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Seeded weights of these names and shapes."""
    return {name: _weight(name, shape) for name, shape in shapes.items()}


def text_companion(folder: Path) -> Path:
    """What `emilyalsentzer/Bio_ClinicalBERT` offers besides weights: a configuration and a vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TEXT_CONFIG), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return folder


def swin_companion(folder: Path) -> Path:
    """The configuration that `microsoft/swin-tiny-patch4-window7-224` offers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SWIN_CONFIG), encoding="utf-8")
    return folder


def _weight(name: str, shape: list[int]) -> torch.Tensor:
    if name == "logit_scale":
        return torch.tensor(LOGIT_SCALE)
    if name.endswith(("position_ids", "relative_position_index", "num_batches_tracked")):
        # The first two are computed, not read; nonsense would show if they were.
        return torch.zeros(shape, dtype=torch.long)
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        values = 0.5 + np.abs(noise)
    elif len(shape) > 1:
        values = noise / math.sqrt(math.prod(shape[1:]))
    else:
        values = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
    return torch.from_numpy(values.astype(np.float32))
