"""PEFT adapters: whether they fit a model, and putting them on it."""

from __future__ import annotations

import copy

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import load_peft_weights
from torch import nn
from transformers import GenerationMixin

from vlmed.errors import InputError, Problem, UsageError
from vlmed.models.hf import image_half
from vlmed.models.layouts import ADAPTER_CONFIG
from vlmed.models.protocols import AdapterInfo
from vlmed.models.resolve import Resolved

_PREFIX = "base_model.model."
_WRITING_TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")
# Their layers choose by input, by task, or beside the model: no fixed weights do the same.
_UNMERGED = ("LILY", "POLY", "SHADOW", "XLORA")
# Where libraries keep one side of a model.
_SIDES = (
    "visual",
    "vision_model",
    "image_model",
    "text_model",
    "text",
    "model",
    *(f"{inside}{side}" for inside in ("", "model.") for side in ("vision_tower", "language_model")),
    "model.visual",
    "model.vision_model",
)
# Relative. A merge of nothing may multiply by a rotation that is the identity up to float32's last digit.
_ROUNDING = 1e-6


def apply_adapter(model: nn.Module, adapter: Resolved, base: Resolved) -> AdapterInfo:
    """Merge an adapter into a model's weights, in place; several are put on one after the other.

    Raises:
        UsageError: The adapter is for another task or of a kind that isn't merged into weights.
        InputError: It doesn't fit the model: lists every missing layer and wrong shape.
    """
    config = _config(adapter, writes_text=isinstance(model, GenerationMixin))
    weights = load_peft_weights(str(adapter.path), device="cpu")
    # PEFT freezes what it wraps; the model leaves here as trainable as it came.
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    before = _fingerprints(model)
    # PEFT writes into the config that it is given.
    wrapped = PeftModel(_fit(model, config, weights, adapter), copy.deepcopy(config))
    bypassed = _bypassed(wrapped)
    set_peft_model_state_dict(wrapped, weights)
    merged = wrapped.merge_and_unload(safe_merge=True)
    if type(merged) is type(model):
        # The image half is a copy of the model's shell: what the adapter replaced there is put back.
        for name, layer in merged.named_children():
            model.add_module(name, layer)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable.get(name, True))
    moved = _moved(before, _fingerprints(model))
    _refuse_bypassed([name for name, part in model.named_modules() if part in bypassed], moved, adapter)
    return AdapterInfo(
        ref=str(adapter.reference),
        revision=adapter.revision,
        peft_type=config.peft_type.value,
        parameters=sum(tensor.numel() for tensor in weights.values()),
        base_ref=config.base_model_name_or_path or str(base.reference),
        changes_nothing=not moved,
    )


def _config(adapter: Resolved, writes_text: bool) -> PeftConfig:
    where = f"{adapter.reference}: {ADAPTER_CONFIG}"
    try:
        config = PeftConfig.from_pretrained(str(adapter.path))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("PEFT can't read the adapter's config", file=where, got=str(error)) from error
    if config.is_prompt_learning or config.is_adaption_prompt or config.peft_type.value in _UNMERGED:
        raise UsageError(
            "this kind of adapter is not merged into weights, so it can't be evaluated",
            file=where,
            path="$.peft_type",
            expected="LORA or another kind that PEFT merges",
            got=repr(config.peft_type.value),
        )
    tasks = ("FEATURE_EXTRACTION", *(_WRITING_TASKS if writes_text else ()))
    if config.task_type is not None and config.task_type not in tasks:
        raise UsageError(
            "the adapter was trained for another task",
            file=where,
            path="$.task_type",
            expected=" or ".join(["null", *(repr(task) for task in tasks)]),
            got=repr(str(getattr(config.task_type, "value", config.task_type))),
        )
    return config


def _parts(model: nn.Module, config: PeftConfig) -> list[nn.Module]:
    """What an adapter may have been trained on, most likely first: the whole model or one side of it.

    The two towers of a model may have the same layers; then the class decides that PEFT wrote down, or the image side.
    """
    named = dict(model.named_modules())
    parts = [model, *(named[path] for path in _SIDES if path in named)]
    if hasattr(model, "get_text_features"):
        parts.append(image_half(model))
    trained_on = (config.auto_mapping or {}).get("base_model_class")
    return sorted(parts, key=lambda part: type(part).__name__ != trained_on)


def _fit(model: nn.Module, config: PeftConfig, weights: dict[str, torch.Tensor], adapter: Resolved) -> nn.Module:
    """The part of the model in which the adapter's layers are exactly the ones its config asks for."""
    misfits: list[list[Problem]] = []
    no_layer = ""
    for part in _parts(model, config):
        try:
            wrapped = PeftModel(part, _without_start(config))
        except ValueError as error:
            no_layer = no_layer or str(error)
            continue
        problems = _differences(wrapped, _renamed(wrapped, weights), adapter)
        wrapped.unload()
        if not problems:
            return part
        misfits.append(problems)
    if misfits:
        raise InputError(min(misfits, key=len))
    raise InputError("no layer of the model is a target of the adapter", file=adapter.reference, got=no_layer)


def _without_start(config: PeftConfig) -> PeftConfig:
    """A copy to try layers with: some LoRAs, such as PiSSA's, begin by taking their share out of the model."""
    trial = copy.deepcopy(config)
    if hasattr(trial, "init_lora_weights"):
        trial.init_lora_weights = True
    return trial


def _renamed(wrapped: PeftModel, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights by the names that layers have in this transformers; PEFT does the same when it loads them."""
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
    except ImportError:
        return weights
    config = wrapped.peft_config["default"]
    renamed: dict[str, torch.Tensor] = convert_peft_adapter_state_dict_for_transformers(wrapped, config, weights)
    return renamed


def _differences(wrapped: PeftModel, weights: dict[str, torch.Tensor], adapter: Resolved) -> list[Problem]:
    expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    where = str(adapter.reference)
    problems = []
    for key in sorted(expected.keys() | weights.keys()):
        layer = key.removeprefix(_PREFIX)
        if key not in expected:
            problems.append(Problem("the model has no such layer", where, layer))
        elif key not in weights:
            problems.append(Problem("the adapter lacks weights that its config asks for", where, layer))
        elif expected[key].shape != weights[key].shape:
            shapes = str(tuple(expected[key].shape)), str(tuple(weights[key].shape))
            problems.append(Problem("the adapter's weights don't fit the layer", where, layer, *shapes))
    return problems


def _fingerprints(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Sum and length of every weight: enough to see whether it moved, without a second copy of a large model."""
    return {
        name: (float(tensor.sum(dtype=torch.float64)), float(torch.linalg.vector_norm(tensor, dtype=torch.float64)))
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }


def _moved(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> set[str]:
    """The weights that are new or other than before, by more than the rounding of adding nothing."""
    return {
        name
        for name, (total, length) in after.items()
        if name not in before
        or max(abs(total - before[name][0]), abs(length - before[name][1])) > _ROUNDING * before[name][1]
    }


def _bypassed(wrapped: PeftModel) -> list[nn.Module]:
    """Adapted layers that nobody calls: `nn.MultiheadAttention` only reads the weights of its `out_proj`."""
    return [
        part.out_proj.get_base_layer()
        for name, part in wrapped.named_modules()
        # PEFT's own layer for a whole attention calls what it adapted.
        if isinstance(part, nn.MultiheadAttention) and not name.endswith(".base_layer")
        if isinstance(part.out_proj, BaseTunerLayer)
    ]


def _refuse_bypassed(layers: list[str], moved: set[str], adapter: Resolved) -> None:
    bypassed = [layer for layer in layers if f"{layer}.weight" in moved]
    if bypassed:
        raise InputError(
            "an adapter on the out_proj of nn.MultiheadAttention has no effect where PEFT runs it unmerged",
            file=adapter.reference,
            path=bypassed[0],
            expected="a LoRA on the whole attention layer, or an adapter on other layers",
            hint="train with target_modules such as ['attn', 'c_fc', 'c_proj']",
        )
