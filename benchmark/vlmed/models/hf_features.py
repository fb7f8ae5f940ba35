"""What transformers' dual encoders give for images and texts, whose classes agree in little but their method names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Tokens:
    """Tokenized texts.

    Attributes:
        inputs: What the model's text side is called with.
        mask: Bool (N, T), true where a token stands, false where padding does.
    """

    inputs: dict[str, torch.Tensor]
    mask: torch.Tensor


def tokenizer_of(model: Any, tokenizer: Any, device: str) -> Callable[[list[str]], Tokens]:
    """From texts to what `model.get_text_features` takes; longer texts are cut at the model's context."""
    context = _context(model, tokenizer)
    accepted = inspect.signature(model.get_text_features).parameters
    # SigLIP was trained on texts padded to the full context, without a mask, and embeds the last position.
    fixed = model.config.model_type == "siglip"

    def tokenize(texts: list[str]) -> Tokens:
        padding = "max_length" if fixed else "longest"
        settings = {"max_length": context, "truncation": True, "return_attention_mask": True, "return_tensors": "pt"}
        tokens = tokenizer(texts, padding=padding, **settings).to(device)
        unused = {"attention_mask"} if fixed else set()
        inputs = {name: value for name, value in tokens.items() if name in accepted and name not in unused}
        return Tokens(inputs, tokens["attention_mask"].bool())

    return tokenize


def _context(model: Any, tokenizer: Any) -> int:
    """How many tokens the text side has positions for, or fewer where its tokenizer says so."""
    # BLIP-2's `text_config` is of a language model that its retrieval checkpoints don't hold.
    config = getattr(model.config, "qformer_config", None) or model.config.text_config
    # In RoBERTa and its heirs positions begin after the padding index.
    padded = [
        part.padding_idx + 1
        for name, part in model.named_modules()
        if name.startswith("text") and name.endswith("position_embeddings") and part.padding_idx is not None
    ]
    return min(int(config.max_position_embeddings) - max(padded, default=0), int(tokenizer.model_max_length))


def embedding(features: Any) -> torch.Tensor:
    """The projected embeddings (B, D) among what `get_image_features` or `get_text_features` returned."""
    # A tensor up to transformers 4, an output object whose pooled part is the projected embedding from 5 on.
    projected = torch.as_tensor(features if isinstance(features, torch.Tensor) else features.pooler_output)
    # FLAVA projects every token; its contrastive loss takes the first.
    return projected[:, 0] if projected.ndim == 3 else projected


def text_features(model: Any, tokens: Tokens) -> torch.Tensor:
    """Projected embeddings (N, D)."""
    return embedding(model.get_text_features(**tokens.inputs))


def image_tokens(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Last hidden states (B, P, V) of patches, with the class token where there is one, or of map positions."""
    tower = model.image_model if hasattr(model, "image_model") else model.vision_model
    hidden: torch.Tensor = tower(pixel_values=pixels).last_hidden_state
    return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden


def text_tokens(model: Any, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states (N, T, W), and where a token stands (N, T)."""
    tower = model.text_tower if hasattr(model, "text_tower") else model.text_model
    return tower(**tokens.inputs).last_hidden_state, tokens.mask
