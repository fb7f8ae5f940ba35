"""Putting a LoRA on an image tower with PEFT, so that nothing frozen moves."""

from __future__ import annotations

import functools
import warnings
from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import MultiheadAttention as PeftAttention
from torch import nn

from vlmed.errors import UsageError
from vlmed.models.protocols import ImageEncoder
from vlmed.tuning.anatomy import Parameters, lora_targets
from vlmed.tuning.recipe import LoraSettings


def put_lora(encoder: ImageEncoder, settings: LoraSettings) -> PeftModel:
    """Wrap the image tower's layers in place; every B is zero, so the embeddings are bit for bit what they were.

    Everything but A and B is frozen. `remove_lora` undoes it.

    Raises:
        UsageError: No layer of the tower is a target.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets) or lora_targets(encoder),
        bias="none",
    )
    try:
        wrapped = get_peft_model(encoder.image_tower, config)
    except ValueError as error:
        raise UsageError(
            "the recipe's LoRA doesn't fit the image tower",
            path="$.recipe.lora.targets",
            expected=f"names such as {', '.join(lora_targets(encoder)[:6])}",
            got=" ".join(str(error).split())[:300],
        ) from error
    _merges_of_out_proj()
    for module in list(wrapped.modules()):
        if isinstance(module, PeftAttention):
            module.forward = MethodType(_steady_attention, module)
    return wrapped


def remove_lora(wrapped: PeftModel) -> None:
    """Give the tower its own layers back, as they were."""
    wrapped.unload()


def lora_parameters(root: nn.Module) -> Parameters:
    """A and B of every layer, by their names in `root`."""
    return {name: parameter for name, parameter in root.named_parameters() if ".lora_" in name}


def _steady_attention(layer: Any, query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Fused attention with weights W + B A, made anew for each call.

    PEFT's own forward adds B A to W before the call and subtracts it after; in floating point that doesn't give W
    back, so the frozen weights would walk away a little with every batch.
    """
    attention = layer.get_base_layer()
    output = attention.out_proj
    update = _merges_of_out_proj() * output.get_delta_weight("default")
    weights = {
        "in_proj_weight": attention.in_proj_weight + layer.get_delta_weight("default"),
        "out_proj.base_layer.weight": output.get_base_layer().weight + update,
    }
    return torch.func.functional_call(attention, weights, (query, *args), kwargs)


@functools.cache
def _merges_of_out_proj() -> int:
    """How often the installed PEFT adds the update of an attention's `out_proj` when it merges.

    Twice up to 0.21, by mistake (PEFT's pull request 3774). What is trained here has to mean what PEFT makes of it
    when the adapter is loaded, so PEFT is asked.
    """
    attention: Any = nn.MultiheadAttention(2, 1)
    before = attention.out_proj.weight.detach().clone()
    config = LoraConfig(r=1, lora_alpha=1, target_modules=["0"], init_lora_weights=False)
    with torch.random.fork_rng([]), warnings.catch_warnings(action="ignore"):
        wrapped = get_peft_model(nn.Sequential(attention), config)
        update = attention.out_proj.get_delta_weight("default").detach()
        wrapped.merge_and_unload()
    change = attention.out_proj.weight.detach() - before
    return round(float((change * update).sum() / update.square().sum()))
