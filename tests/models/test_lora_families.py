"""A LoRA on every family of generators and on the dual encoders that have no such test of their own: merged by vlmed it
gives what PEFT gives unmerged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from PIL import Image
from torch import nn

from families import GENERATORS, checkpoint
from vlmed.models.load import load_model
from vlmed.models.protocols import Request

# transformers' PaliGemma processor meets NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ENCODERS = ["siglip_sentencepiece", "open_clip_siglip", "vit", "timm", "resnet"]
# What the layers are called whose weights are multiplied with; a ResNet has convolutions alone.
TARGETS = r".*\.(q_proj|v_proj|q|v|qkv|query|value|convolution)"


def train(model: nn.Module, folder: Path) -> Path:
    """A LoRA in `folder`, moved off its start by noise, as PEFT saves it; it is put on `model`, unmerged."""
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, target_modules=TARGETS))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    wrapped.eval()
    return folder


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_with_a_lora(name: str, tmp_path: Path) -> None:
    ref = f"dir:{checkpoint(name)}"
    noise = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    requests = [Request(Image.fromarray(each), "What is left lung?", 1) for each in noise]
    generator: Any = load_model(ref).predictor
    plain = generator.choose(requests, ["yes", "no"])
    adapter = train(generator.model, tmp_path / "lora")
    unmerged = generator.choose(requests, ["yes", "no"])
    loaded = load_model(ref, adapter=f"dir:{adapter}")
    merged: Any = loaded.predictor
    np.testing.assert_allclose(merged.choose(requests, ["yes", "no"]), unmerged, rtol=1e-4, atol=1e-4)
    assert abs(unmerged - plain).max() > 1e-2
    assert loaded.info.adapter is not None
    assert not loaded.info.adapter.changes_nothing


@torch.inference_mode()
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_with_a_lora(name: str, images, tmp_path: Path) -> None:
    ref = f"dir:{checkpoint(name)}"
    encoder: Any = load_model(ref).predictor
    pixels = torch.stack([encoder.preprocess(image) for image in images])
    plain = encoder.encode_images(pixels)
    with torch.inference_mode(False):
        adapter = train(encoder.image_tower, tmp_path / "lora")
    unmerged = encoder.encode_images(pixels)
    merged: Any = load_model(ref, adapter=f"dir:{adapter}").predictor
    torch.testing.assert_close(merged.encode_images(pixels), unmerged, rtol=1e-4, atol=1e-4)
    assert (unmerged - plain).abs().max() > 1e-3
