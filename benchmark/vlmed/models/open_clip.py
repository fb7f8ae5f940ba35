"""Models in open_clip's published layout: `open_clip_config.json` with weights and tokenizer beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from open_clip import create_model, get_tokenizer
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import nn

from vlmed.models.companion import Companion, ModelFiles
from vlmed.models.encoders import TwoTowerEncoder, check_tokenizer, preprocessing_key


def companions(folder: Path) -> tuple[Companion, ...]:  # noqa: ARG001
    """None: the layout holds all that is needed."""
    return ()


def load_weights(files: ModelFiles) -> nn.Module:
    """The model in float32; open_clip loads pickles with `weights_only=True` and knows no remote code."""
    model: nn.Module = create_model(f"local-dir:{files.path}", require_pretrained=True)
    return model


def family_of(model: Any) -> tuple[str, str]:
    """Family and architecture to show."""
    return "open_clip", f"{type(model).__name__} {type(model.visual).__name__}"


def make_predictor(model: Any, files: ModelFiles, device: str) -> TwoTowerEncoder:
    """The dual encoder, with open_clip's own inference transform and tokenizer."""
    settings = model.visual.preprocess_cfg
    tokenizer = get_tokenizer(f"local-dir:{files.path}")
    if isinstance(tokenizer, HFTokenizer):
        check_tokenizer(tokenizer.tokenizer, files.path)

    def embed_texts(texts: list[str]) -> torch.Tensor:
        embeddings: torch.Tensor = model.encode_text(tokenizer(texts).to(device))
        return embeddings

    bias = model.logit_bias
    return TwoTowerEncoder(
        image_tower=model.visual,
        transform=image_transform_v2(PreprocessCfg(**settings), is_train=False),
        preprocessing=preprocessing_key("open_clip", settings),
        device=device,
        embed_texts=embed_texts,
        logit_scale=float(model.logit_scale.detach().exp()),
        logit_bias=0.0 if bias is None else float(bias.detach()),
    )
