"""PEFT adapters: which base they belong to, whether they fit it, and putting them on."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import nn

from vlmed.errors import InputError, Problem, UsageError
from vlmed.models.hf import image_half
from vlmed.models.layouts import ADAPTER_CONFIG
from vlmed.models.protocols import AdapterInfo
from vlmed.models.reference import Reference, parse_reference
from vlmed.models.resolve import Resolved, resolve
from vlmed.models.snapshot import read_config

_PREFIX = "base_model.model."
_LORA = (".lora_A", ".lora_B", ".lora_embedding_A", ".lora_embedding_B")


def base_reference(folder: Path) -> Reference:
    """The base that an adapter's config names.

    Raises:
        UsageError: It names none, or one that can't be a model.
    """
    config = read_config(folder / ADAPTER_CONFIG)
    named, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not named:
        raise UsageError(
            "the adapter doesn't name its base",
            file=folder / ADAPTER_CONFIG,
            path="$.base_model_name_or_path",
            got=repr(named),
            hint="name it with --model, and give the adapter with --adapter",
        )
    reference = _reference(str(named), folder)
    return Reference(reference.scheme, reference.location, reference.revision or str(revision or ""))


def _reference(named: str, folder: Path) -> Reference:
    """PEFT writes a repository or a path; vlmed's own scheme prefixes are understood too."""
    if not named.startswith(("/", ".", "~")) and (":" in named or named.count("/") <= 1):
        return parse_reference(named)
    path = Path(named).expanduser()
    beside = folder / path
    return Reference("dir", str(beside if not path.is_dir() and beside.is_dir() else path))


def check_base(adapter: Resolved, base: Resolved) -> list[str]:
    """Refuse a base that the adapter wasn't trained on; returns warnings about what couldn't be compared.

    Raises:
        UsageError: The config names another model, or another revision of it.
    """
    if not read_config(adapter.path / ADAPTER_CONFIG).get("base_model_name_or_path"):
        return ["the adapter doesn't name its base; only layers and shapes were compared"]
    named = base_reference(adapter.path)
    if "dir" not in (named.scheme, base.reference.scheme):
        expected = _expected_commit(named, adapter, base)
    elif base.reference.scheme == "dir" and named.revision.startswith("sha256:"):
        expected = named.revision
    elif base.reference.scheme == named.scheme and Path(named.location).is_dir():
        expected = resolve(named).revision
    else:
        return [f"the adapter was trained on {named}, which can't be compared with {base.reference}, except in shapes"]
    if expected != base.revision:
        raise _other_base("revision", named, adapter, base)
    return []


def _expected_commit(named: Reference, adapter: Resolved, base: Resolved) -> str:
    """The commit that a repository must have; the model's own where the adapter names no revision."""
    # open_clip's ARCHITECTURE/TAG names a repository under another name.
    aliased = named.scheme != base.reference.scheme
    if named.location != base.reference.location and not aliased:
        raise _other_base("model", named, adapter, base)
    if re.fullmatch("[0-9a-f]{40}", named.revision):
        return named.revision
    return resolve(named).revision if named.revision or aliased else base.revision


def _other_base(what: str, named: Reference, adapter: Resolved, base: Resolved) -> UsageError:
    return UsageError(
        f"the adapter was trained on another {what}",
        file=f"{adapter.reference}: {ADAPTER_CONFIG}",
        path="$.base_model_name_or_path" if what == "model" else "$.revision",
        expected=str(named),
        got=f"{base.reference} at {base.revision}",
        hint="leave out --model to take the adapter's own base",
    )


def apply_adapter(model: nn.Module, adapter: Resolved, base: Resolved) -> AdapterInfo:
    """Merge an adapter into a model's weights, in place.

    Raises:
        UsageError: The adapter is for another task or of a kind that isn't merged into weights.
        InputError: It doesn't fit the model: lists every missing layer and wrong shape.
    """
    config = _config(adapter)
    weights = load_peft_weights(str(adapter.path), device="cpu")
    # PEFT freezes what it wraps; the model leaves here as trainable as it came.
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    wrapped = _fit(model, config, weights, adapter)
    _refuse_bypassed(wrapped, weights, adapter)
    set_peft_model_state_dict(wrapped, weights)
    merged = wrapped.merge_and_unload(safe_merge=True)
    if type(merged) is type(model):
        # The image half is a copy of the model's shell: what the adapter replaced there is put back.
        for name, layer in merged.named_children():
            model.add_module(name, layer)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable.get(name, True))
    return AdapterInfo(
        ref=str(adapter.reference),
        revision=adapter.revision,
        peft_type=config.peft_type.value,
        parameters=sum(tensor.numel() for tensor in weights.values()),
        base_ref=config.base_model_name_or_path or str(base.reference),
        changes_nothing=_changes_nothing(weights),
    )


def _config(adapter: Resolved) -> PeftConfig:
    where = f"{adapter.reference}: {ADAPTER_CONFIG}"
    try:
        config = PeftConfig.from_pretrained(str(adapter.path))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("PEFT can't read the adapter's config", file=where, got=str(error)) from error
    if config.task_type not in (None, "FEATURE_EXTRACTION"):
        raise UsageError(
            "the adapter was trained for another task",
            file=where,
            path="$.task_type",
            expected="null or 'FEATURE_EXTRACTION'",
            got=repr(str(getattr(config.task_type, "value", config.task_type))),
        )
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise UsageError(
            "this kind of adapter is not merged into weights, so it can't go on an encoder",
            file=where,
            path="$.peft_type",
            expected="LORA or another kind that PEFT merges",
            got=repr(config.peft_type.value),
        )
    return config


def _parts(model: nn.Module) -> list[nn.Module]:
    """What an adapter may have been trained on: the whole model, or its image tower, here or in its own library."""
    parts = [model, *(getattr(model, name) for name in ("visual", "vision_model") if hasattr(model, name))]
    return [*parts, image_half(model)] if hasattr(model, "get_image_features") else parts


def _fit(model: nn.Module, config: PeftConfig, weights: dict[str, torch.Tensor], adapter: Resolved) -> PeftModel:
    """The part of the model, wrapped, in which the adapter's layers are exactly the ones its config asks for."""
    misfits: list[list[Problem]] = []
    no_layer = ""
    for part in _parts(model):
        try:
            # PEFT writes into the config and the model; both must be untouched for the next try.
            wrapped = PeftModel(part, copy.deepcopy(config))
        except ValueError as error:
            no_layer = no_layer or str(error)
            continue
        problems = _differences(wrapped, weights, adapter)
        if not problems:
            return wrapped
        wrapped.unload()
        misfits.append(problems)
    if misfits:
        raise InputError(min(misfits, key=len))
    raise InputError("no layer of the model is a target of the adapter", file=adapter.reference, got=no_layer)


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


def _refuse_bypassed(wrapped: PeftModel, weights: dict[str, torch.Tensor], adapter: Resolved) -> None:
    """`nn.MultiheadAttention` never calls its `out_proj`, so a LoRA on that layer alone acts only once merged."""
    attentions = {name for name, part in wrapped.named_modules() if isinstance(part, nn.MultiheadAttention)}
    bypassed = [
        key.removeprefix(_PREFIX)
        for key, tensor in weights.items()
        if ".out_proj.lora_B" in key and key.partition(".out_proj.lora_B")[0] in attentions
        if not key.partition(".out_proj.lora_B")[0].endswith(".base_layer") and tensor.any()
    ]
    if bypassed:
        raise InputError(
            "a LoRA on the out_proj of nn.MultiheadAttention has no effect where PEFT runs it unmerged",
            file=adapter.reference,
            path=bypassed[0],
            expected="a LoRA on the whole attention layer, or on other layers",
            hint="train with target_modules such as ['attn', 'c_fc', 'c_proj']",
        )


def _changes_nothing(weights: dict[str, torch.Tensor]) -> bool:
    only_lora = all(any(part in key for part in _LORA) for key in weights)
    return only_lora and not any(tensor.any() for key, tensor in weights.items() if "_B" in key)
