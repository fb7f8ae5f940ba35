"""Image backbones without a text side, for the tracks that need none: timm, and transformers' vision models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from vlmed.errors import InputError
from vlmed.models.companion import Companion, ModelFiles
from vlmed.models.encoders import TowerEncoder, preprocessing_key, with_forward


def companions(folder: Path) -> tuple[Companion, ...]:  # noqa: ARG001
    """None: the layout holds all that is needed."""
    return ()


def load_weights(files: ModelFiles) -> nn.Module:
    """A timm model without its classifier; timm loads pickles with `weights_only=True`."""
    model: nn.Module = timm.create_model(f"local-dir:{files.path}", pretrained=True, num_classes=0)
    return model


def family_of(model: Any) -> tuple[str, str]:
    """Family and architecture to show."""
    return "timm", str(model.pretrained_cfg["architecture"])


def make_predictor(model: Any, files: ModelFiles, device: str) -> TowerEncoder:  # noqa: ARG001
    """The timm encoder: features before the classifier, pooled as the architecture pools them."""
    settings = timm.data.resolve_model_data_config(model)
    return TowerEncoder(
        image_tower=model,
        transform=timm.data.create_transform(**settings, is_training=False),
        preprocessing=preprocessing_key("timm", settings),
        device=device,
    )


def backbone_tower(model: nn.Module) -> nn.Module:
    """A transformers vision model whose calls give one vector (B, D) per image.

    The vector is the architecture's own pooled output; where it has none, or the checkpoint has no weights for it,
    the first token of the last layer, or the mean over the feature map.
    """
    return with_forward(model, _pooled)


def _pooled(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    output = type(model).forward(model, pixel_values=pixels)
    pooled = getattr(output, "pooler_output", None)
    if pooled is not None:
        return torch.as_tensor(pooled).flatten(1)
    hidden: torch.Tensor = output.last_hidden_state
    if hidden.ndim not in (3, 4):
        raise InputError("the backbone gives no tokens and no feature map", got=f"shape {tuple(hidden.shape)}")
    return hidden[:, 0] if hidden.ndim == 3 else hidden.mean(dim=(2, 3))
