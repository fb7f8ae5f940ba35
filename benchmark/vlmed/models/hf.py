"""Models in transformers' layout: anything `AutoModel` loads that has image features, alone or beside text features."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from vlmed.errors import UsageError
from vlmed.models.blip import IMAGE_PARAMETERS, RETRIEVERS
from vlmed.models.companion import Companion, ModelFiles
from vlmed.models.encoders import TowerEncoder, TwoTowerEncoder, check_tokenizer, preprocessing_key, with_forward
from vlmed.models.hf_features import embedding, image_tokens, text_features, text_tokens, tokenizer_of
from vlmed.models.hf_loading import quiet, refuse_missing
from vlmed.models.image_only import backbone_tower
from vlmed.models.layouts import CONFIG
from vlmed.models.snapshot import read_config

# What a dual encoder has besides its image side: text layers, and heads that no embedding passes through.
_OTHER_LAYERS = ("text", "embeddings", "itm_head", "multimodal", "image_to_mm")


def companions(folder: Path) -> tuple[Companion, ...]:  # noqa: ARG001
    """None: the layout holds all that is needed."""
    return ()


def load_weights(files: ModelFiles) -> nn.Module:
    """The model in float32; transformers loads safetensors first and pickles with `weights_only=True`.

    Raises:
        InputError: The checkpoint lacks weights that the architecture needs.
    """
    settings: dict[str, Any] = {"local_files_only": True, "output_loading_info": True}
    retriever = next((RETRIEVERS[name] for name in _architectures(files.path) if name in RETRIEVERS), None)
    with quiet():
        if retriever:
            model, report = retriever.from_pretrained(files.path, **settings)
        else:
            model, report = AutoModel.from_pretrained(files.path, trust_remote_code=files.trust_remote_code, **settings)
    missing = report["missing_keys"]
    if any(name.startswith("pooler.") for name in missing):
        # A classifier's checkpoint never trained the pooler; without one, `backbone_tower` takes the first token.
        model.pooler = None
        missing = [name for name in missing if not name.startswith("pooler.")]
    refuse_missing(missing, files.path)
    if model.config.model_type == "aimv2":
        # transformers' SDPA path forgets that the text side is causal when no text of a batch is padded.
        model.text_model.set_attn_implementation("eager")
    weights: nn.Module = model.float()
    return weights


def _architectures(folder: Path) -> list[str]:
    listed = read_config(folder / CONFIG).get("architectures")
    return listed if isinstance(listed, list) else []


def family_of(model: Any) -> tuple[str, str]:
    """Family and architecture to show."""
    return str(model.config.model_type), type(model).__name__


def make_predictor(model: Any, files: ModelFiles, device: str) -> TowerEncoder:
    """The encoder with the model's own image processor and tokenizer.

    Raises:
        UsageError: The model has no image encoder, writes text instead of embedding it, or was made for video or sound.
        InputError: Its preprocessing gives something else than an image.
    """
    two_towers = hasattr(model, "get_image_features") and hasattr(model, "get_text_features")
    _refuse_other_inputs(model, two_towers, files.path)
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
    tokenize = tokenizer_of(model, tokenizer, device)
    return TwoTowerEncoder(
        **image_side,
        model=model,
        embed_texts=lambda texts: text_features(model, tokenize(texts)),
        image_tokens=lambda pixels: image_tokens(model, pixels),
        text_tokens=lambda texts: text_tokens(model, tokenize(texts)),
        logit_scale=scale,
        logit_bias=bias,
        n_vectors=getattr(model, "n_vectors", 1),
    )


def _refuse_other_inputs(model: Any, two_towers: bool, folder: Path) -> None:
    if two_towers and "spatial_shapes" in inspect.signature(model.get_image_features).parameters:
        raise UsageError(
            f"{type(model).__name__} takes a list of patches with their grid instead of an image",
            file=folder,
            expected="a SigLIP 2 checkpoint of fixed resolution, such as google/siglip2-base-patch16-224",
            got=f"model_type {model.config.model_type!r} (NaFlex)",
        )
    if not two_towers and (hasattr(model, "get_image_features") or model.main_input_name != "pixel_values"):
        raise UsageError(
            f"{type(model).__name__} is neither a dual encoder nor an image backbone",
            file=folder,
            expected="a model with features of still images and of texts, or with pixel_values as its only input",
            got=f"model_type {model.config.model_type!r}",
        )


def image_half(model: Any) -> nn.Module:
    """A dual encoder without its text layers: pixels -> embeddings. Weights are shared, layers keep their names."""
    half = copy.copy(model)
    half._parameters = {name: part for name, part in model._parameters.items() if name in IMAGE_PARAMETERS}
    half._modules = {name: part for name, part in model._modules.items() if not name.startswith(_OTHER_LAYERS)}
    return with_forward(half, _image_features)


def _transform(processor: Any) -> Callable[[Image.Image], torch.Tensor]:
    def transform(image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels

    return transform


def _image_features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return embedding(model.get_image_features(pixel_values=pixels))


def _logits(model: Any) -> tuple[float, float]:
    """Scale and bias of the model's similarities; ALIGN and TIPS divide by a temperature instead."""
    scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    temperature = getattr(model, "temperature", None)
    if scale is not None:
        factor = float(scale.detach().exp())
    elif temperature is not None:
        factor = 1 / float(temperature.detach())
    else:
        raise UsageError(f"{type(model).__name__} has no logit scale", expected="a contrastively trained dual encoder")
    # AIMv2 clamps while it runs what CLIP clamps while it trains.
    factor = min(factor, getattr(model.config, "max_logit_scale", factor))
    return factor, 0.0 if bias is None else float(bias.detach())
