"""What a tuned generator leaves behind: a PEFT adapter or a checkpoint for `load_model`, and a model card draft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors.torch import save_file
from torch import nn
from transformers.utils import logging

from vlmed.errors import UsageError
from vlmed.files import write_text
from vlmed.models.layouts import CONFIG
from vlmed.models.snapshot import read_config
from vlmed.tuning.generative import TunedGenerator
from vlmed.tuning.generator_parts import owners
from vlmed.tuning.save import Base, copy_side_files, draft, name_base, new_folder

_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PEFT_PREFIX = "base_model.model."
_PART_LETTERS = {"vision": "V", "projector": "M", "language": "L"}


def save_generator(
    tuned: TunedGenerator, folder: Path, base: Path, base_ref: str, base_revision: str, about: str = ""
) -> None:
    """Write what was tuned as one PEFT adapter, its LoRA with the projector in `modules_to_save`, where PEFT can hold
    that; else as a whole checkpoint in the base's layout. A model card draft lies beside it.

    Args:
        folder: New or empty.
        base: The folder with the base's files, as `resolve` gives it.
        base_ref: The model that was tuned, as `ModelInfo.ref` gives it; the adapter's config names it as its base.
        base_revision: The base's commit or content hash, which `load_model` compares.
        about: What it was tuned on, for the card.

    Raises:
        UsageError: The generator has its old weights again, the folder is in use, or it must be a checkpoint and the
            base's layout is one that vlmed doesn't write.
    """
    tuned.check()
    modules = _projector_modules(tuned)
    with new_folder(folder) as part:
        if modules is None:
            _save_checkpoint(tuned, base, part)
        else:
            _save_adapter(tuned, modules, part, base_ref, base_revision)
        library = "transformers" if modules is None else "peft"
        write_text(part / "README.md", generator_card(tuned, base_ref, base_revision, about, library))


def _projector_modules(tuned: TunedGenerator) -> list[str] | None:
    """The modules that hold all trained weights of the projector; None where some lie in no module of its own."""
    model, names = tuned.learner.root, list(tuned.learner.trained.get("projector", ()))
    roots = tuned.learner.generator.parts()["projector"] if names else ()
    modules = dict(model.named_modules())
    found = [each for root in roots if root in modules for each in _callable_modules(root, modules[root])]
    owner = owners(tuned.learner.generator)
    held = all(any(name.startswith(f"{module}.") for module in found) for name in names)
    # A module that is saved whole must not hold another part, nor a LoRA.
    pure = all(owner(f"{module}.{name}") == "projector" for module in found for name in modules[module].state_dict())
    return [each for each in found if any(name.startswith(f"{each}.") for name in names)] if held and pure else None


def _callable_modules(name: str, module: nn.Module) -> list[str]:
    """PEFT saves no `ModuleList`, so its elements are named."""
    if isinstance(module, nn.ModuleList):
        return [
            each for child, element in module.named_children() for each in _callable_modules(f"{name}.{child}", element)
        ]
    return [name]


def _save_adapter(tuned: TunedGenerator, projector: list[str], folder: Path, base_ref: str, base_revision: str) -> None:
    learner = tuned.learner
    weights: dict[str, torch.Tensor] = {}
    if learner.wrapped is not None:
        config: Any = learner.wrapped.peft_config["default"]
        weights |= get_peft_model_state_dict(learner.wrapped, save_embedding_layers=False)
    else:
        # PEFT's own name for an adapter of nothing but whole modules.
        config = LoraConfig(r=1, target_modules=DUMMY_TARGET_MODULES)
    modules = dict(learner.root.named_modules())
    for module in projector:
        state = modules[module].state_dict()
        weights |= {f"{_PEFT_PREFIX}{module}.{name}": tensor for name, tensor in state.items()}
    config.modules_to_save = projector or None
    name_base(config, base_ref, base_revision)
    config.auto_mapping = {
        "base_model_class": type(learner.root).__name__,
        "parent_library": type(learner.root).__module__,
    }
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / _ADAPTER_WEIGHTS)


def _save_checkpoint(tuned: TunedGenerator, base: Path, folder: Path) -> None:
    model: Any = tuned.learner.root
    if "mm_vision_tower" in read_config(base / CONFIG):
        hint = "tune parts that an adapter can hold"
        raise UsageError("a whole checkpoint can't be written in this layout", file=base, hint=hint)
    copy_side_files(base, folder)
    # Without the LoRA, which is merged.
    state = {
        name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name
    }
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder, state_dict=state)
    finally:
        logging.enable_progress_bar()


def generator_card(tuned: TunedGenerator, base_ref: str, base_revision: str, about: str, library: str) -> str:
    """The draft of a model card: what is known is filled in, the rest is left to a person."""
    recipe = tuned.learner.recipe
    rates = ", ".join(f"{rate:g} ({how})" for how, rate in tuned.chosen["lr"].items())
    lora = f"; LoRA of rank {recipe.lora.rank}, alpha {recipe.lora.alpha:g}" if recipe.by_lora else ""
    parts = f"- Parts: {', '.join(f'{part} ({_PART_LETTERS[part]})' for part in recipe.parts)}{lora}"
    rate = f"highest learning rate {rates}, {recipe.schedule} after a warm-up of {recipe.warmup:g}"
    front = [f"library_name: {library}", "pipeline_tag: image-text-to-text"]
    return draft(tuned, Base(base_ref, base_revision, about), " and ".join(recipe.parts), front, [parts], rate)
