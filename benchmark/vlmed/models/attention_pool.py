"""The attention pooling of CLIP's ResNets, such that adapters on it work."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn import functional

from vlmed.models.encoders import with_forward


def call_projections(visual: nn.Module) -> None:
    """Let a ResNet's pooling call its four projections; open_clip's reads their weights. Other towers stay as they are.

    Otherwise a LoRA on them, the only linear layers of the tower, would train nothing and act only once merged.
    """
    if isinstance(visual, ModifiedResNet):
        with_forward(visual.attnpool, _pooled)


def _pooled(pool: Any, maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) -> embeddings (B, D): what the mean over all places attends to."""
    places = maps.flatten(2).transpose(1, 2)
    places = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1) + pool.positional_embedding
    query, key, value = pool.q_proj(places[:, :1]), pool.k_proj(places), pool.v_proj(places)
    by_head = [part.reshape(*part.shape[:2], pool.num_heads, -1).transpose(1, 2) for part in (query, key, value)]
    attended = functional.scaled_dot_product_attention(*by_head)
    embeddings: Tensor = pool.c_proj(attended.transpose(1, 2).flatten(1))
    return embeddings
