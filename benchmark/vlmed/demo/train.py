"""Seeded training of the demo's two models, saved in the formats in which real ones are published."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import peft
import torch
from safetensors.torch import save_file

from vlmed.data.prepare import PreparedDataset
from vlmed.data.table import Sample
from vlmed.evaluate.threads import one_thread
from vlmed.progress import Progress

SEED = 0
_BATCH = 64
_MODEL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 12, "head_width": 64},
    "text_cfg": {"context_length": 28, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
_PREPROCESS = {"size": 64, "mode": "RGB", "mean": [0.25] * 3, "std": [0.25] * 3, "interpolation": "bicubic"}
_LORA_TARGETS = r"visual\.layer\d\.0\.conv[123]"

Loss = Callable[[torch.Tensor], torch.Tensor]


def pretrain(samples: Sequence[Sample], data: PreparedDataset, folder: Path, epochs: int, progress: Progress) -> None:
    """Train a dual encoder on image-caption pairs with CLIP's symmetric loss and save it as an open_clip folder.

    Args:
        samples: Training samples; their `caption` field is the text.
        folder: Gets `open_clip_config.json` and `open_clip_model.safetensors`.
    """
    torch.manual_seed(SEED)
    model = open_clip.CLIP(**_MODEL).train()
    pixels = _pixels(samples, data)
    texts = _tokenize([sample.fields["caption"] for sample in samples])

    def loss(batch: torch.Tensor) -> torch.Tensor:
        image, text, scale = model(_jittered(pixels[batch]), texts[batch])
        logits = scale * image @ text.T
        return (_diagonal_loss(logits) + _diagonal_loss(logits.T)) / 2

    _fit(model, loss, len(samples), epochs, 3e-3, progress, "pretraining on phantoms")
    _save_open_clip(model, folder)


def train_lora(
    samples: Sequence[Sample],
    data: PreparedDataset,
    prompts: Mapping[str, Sequence[str]],
    base: Path,
    base_revision: str,
    folder: Path,
    epochs: int,
    progress: Progress,
) -> None:
    """Train a LoRA adapter of the image tower; the classes' prompts stay the classifier. Saved by PEFT.

    Args:
        prompts: Class name -> prompts, in class order.
        base: The open_clip folder the adapter is for; its `base_revision` is written into the adapter.
    """
    torch.manual_seed(SEED)
    model = open_clip.create_model(f"local-dir:{base}")
    config = peft.LoraConfig(r=8, lora_alpha=32, target_modules=_LORA_TARGETS, revision=base_revision)
    adapted = peft.get_peft_model(model, config).train()
    adapted.peft_config["default"].base_model_name_or_path = f"dir:{base}"
    pixels = _pixels(samples, data)
    labels = torch.tensor([sample.label for sample in samples])
    classifier = _classifier(model, prompts)
    scale = model.logit_scale.exp().detach()

    def loss(batch: torch.Tensor) -> torch.Tensor:
        image = model.encode_image(_jittered(pixels[batch]), normalize=True)
        return torch.nn.functional.cross_entropy(scale * image @ classifier.T, labels[batch])

    _fit(adapted, loss, len(samples), epochs, 1e-3, progress, "training a LoRA adapter")
    # PEFT would look for a transformers config beside the base to see whether its vocabulary grew; there is none.
    adapted.save_pretrained(folder, save_embedding_layers=False)


def _pixels(samples: Sequence[Sample], data: PreparedDataset) -> torch.Tensor:
    """Images as the model sees them, (N, 3, 64, 64) float32."""
    transform = open_clip.image_transform(
        _PREPROCESS["size"], is_train=False, mean=_PREPROCESS["mean"], std=_PREPROCESS["std"]
    )
    return torch.stack([transform(data.image(sample.image)) for sample in samples])


def _jittered(pixels: torch.Tensor) -> torch.Tensor:
    """The batch shifted by up to four pixels, so that place alone is no clue."""
    down, right = (int(shift) for shift in torch.randint(-4, 5, (2,)))
    return torch.roll(pixels, (down, right), dims=(2, 3))


def _tokenize(texts: Sequence[str]) -> torch.Tensor:
    tokenizer = open_clip.SimpleTokenizer(context_length=_MODEL["text_cfg"]["context_length"])
    tokens: torch.Tensor = tokenizer(list(texts))
    return tokens


def _classifier(model: open_clip.CLIP, prompts: Mapping[str, Sequence[str]]) -> torch.Tensor:
    with torch.no_grad():
        means = [model.encode_text(_tokenize(texts), normalize=True).mean(dim=0) for texts in prompts.values()]
        return torch.nn.functional.normalize(torch.stack(means), dim=-1)


def _diagonal_loss(logits: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)))


def _fit(
    model: torch.nn.Module, loss: Loss, count: int, epochs: int, rate: float, progress: Progress, title: str
) -> None:
    """AdamW over shuffled batches, the learning rate rising for a tenth of the steps and falling as a cosine."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, rate, weight_decay=0.05)
    batches = count // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, epochs * batches, pct_start=0.1)
    order = np.random.RandomState(SEED)
    with one_thread(), progress.task(title, epochs * batches, "steps") as advance:
        for _ in range(epochs):
            shuffled = torch.from_numpy(order.permutation(count))
            for batch in torch.split(shuffled[: batches * _BATCH], _BATCH):
                optimiser.zero_grad()
                torch.autograd.backward(loss(batch))
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimiser.step()
                schedule.step()
                advance(1)


def _save_open_clip(model: torch.nn.Module, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": _MODEL, "preprocess_cfg": _PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1))
