"""Models in transformers' layout: anything `AutoModel` loads that has image features, alone or beside text features."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging

from vlmed.errors import InputError, UsageError
from vlmed.models.companion import Companion, ModelFiles
from vlmed.models.encoders import TowerEncoder, TwoTowerEncoder, check_tokenizer, preprocessing_key, with_forward
from vlmed.models.image_only import backbone_tower


def companions(folder: Path) -> tuple[Companion, ...]:  # noqa: ARG001
    """None: the layout holds all that is needed."""
    return ()


def load_weights(files: ModelFiles) -> nn.Module:
    """The model in float32; transformers loads safetensors first and pickles with `weights_only=True`.

    Raises:
        InputError: The checkpoint lacks weights that the architecture needs.
    """
    with _quiet():
        model, report = AutoModel.from_pretrained(
            files.path, local_files_only=True, trust_remote_code=files.trust_remote_code, output_loading_info=True
        )
    missing = sorted(report["missing_keys"])
    if any(name.startswith("pooler.") for name in missing):
        # A classifier's checkpoint never trained the pooler; without one, `backbone_tower` takes the first token.
        model.pooler = None
        missing = [name for name in missing if not name.startswith("pooler.")]
    if missing:
        listed = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise InputError(
            "the checkpoint lacks weights", file=files.path, expected=listed, got="random values in their place"
        )
    weights: nn.Module = model.float()
    return weights


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no load report: what matters in the report becomes an error here."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def family_of(model: Any) -> tuple[str, str]:
    """Family and architecture to show."""
    return str(model.config.model_type), type(model).__name__


def make_predictor(model: Any, files: ModelFiles, device: str) -> TowerEncoder:
    """The encoder with the model's own image processor and tokenizer.

    Raises:
        UsageError: The model has no image encoder, or writes text instead of embedding it.
        InputError: Its preprocessing gives something else than an image.
    """
    two_towers = hasattr(model, "get_image_features") and hasattr(model, "get_text_features")
    if not two_towers and (hasattr(model, "get_image_features") or model.main_input_name != "pixel_values"):
        raise UsageError(
            f"{type(model).__name__} is neither a dual encoder nor an image backbone",
            file=files.path,
            expected="a model with image and text features, or with pixel_values as its only input",
            got=f"model_type {model.config.model_type!r}",
        )
    settings = {"local_files_only": True, "trust_remote_code": files.trust_remote_code}
    processor = AutoImageProcessor.from_pretrained(files.path, **settings)
    image_side: dict[str, Any] = {
        "image_tower": image_half(model) if two_towers else backbone_tower(model),
        "transform": _transform(processor),
        "preprocessing": preprocessing_key(type(processor).__name__, processor.to_dict()),
        "device": device,
    }
    if not two_towers:
        return TowerEncoder(**image_side)
    tokenizer = AutoTokenizer.from_pretrained(files.path, **settings)
    check_tokenizer(tokenizer, files.path)
    scale, bias = _logits(model)
    return TwoTowerEncoder(
        **image_side, embed_texts=_text_encoder(model, tokenizer, device), logit_scale=scale, logit_bias=bias
    )


def image_half(model: Any) -> nn.Module:
    """A dual encoder without its text layers: pixels -> embeddings. Weights are shared, layers keep their names."""
    half = copy.copy(model)
    half._parameters = {}
    half._modules = {name: part for name, part in model._modules.items() if not name.startswith("text")}
    return with_forward(half, _image_features)


def _transform(processor: Any) -> Callable[[Image.Image], torch.Tensor]:
    def transform(image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels

    return transform


def _image_features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return _embedding(model.get_image_features(pixel_values=pixels))


def _embedding(features: Any) -> torch.Tensor:
    # A tensor up to transformers 4, an output object whose pooled part is the projected embedding from 5 on.
    return torch.as_tensor(features if isinstance(features, torch.Tensor) else features.pooler_output)


def _text_encoder(model: Any, tokenizer: Any, device: str) -> Callable[[list[str]], torch.Tensor]:
    context = model.config.text_config.max_position_embeddings
    # SigLIP was trained on texts padded to the full context, without a mask, and embeds the last position.
    fixed = model.config.model_type.startswith("siglip")

    def embed_texts(texts: list[str]) -> torch.Tensor:
        padding = "max_length" if fixed else "longest"
        tokens = tokenizer(texts, padding=padding, max_length=context, truncation=True, return_tensors="pt")
        if fixed:
            tokens.pop("attention_mask", None)
        return _embedding(model.get_text_features(**tokens.to(device)))

    return embed_texts


def _logits(model: Any) -> tuple[float, float]:
    scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    if scale is None:
        raise UsageError(f"{type(model).__name__} has no logit scale", expected="a contrastively trained dual encoder")
    return float(scale.detach().exp()), 0.0 if bias is None else float(bias.detach())
