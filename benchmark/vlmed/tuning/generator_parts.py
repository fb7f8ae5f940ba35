"""What a recipe trains in a generator: the parts found in the network, and a LoRA put on them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from PIL import Image
from torch import nn
from torch.nn import functional

from vlmed.errors import Problem, UsageError
from vlmed.models.generators import HfGenerator
from vlmed.models.protocols import Request
from vlmed.tuning.anatomy import Parameters
from vlmed.tuning.generator_batches import IGNORED, Batch, Teacher
from vlmed.tuning.generator_recipe import GeneratorRecipe


def answer_loss(generator: HfGenerator, batch: Batch) -> torch.Tensor:
    """Cross-entropy float32, summed over the tokens that carry loss: those of answers and their ends."""
    model, labels = generator.model, batch.labels.to(generator.model.device)
    inputs = generator._on_device(batch.inputs)
    with _autocast(model):
        if "decoder_input_ids" in batch.inputs:
            logits = model(**inputs, use_cache=False).logits
        else:
            labels = labels[:, _first_place(batch.labels) :]
            logits = _last_logits(model, inputs, labels.shape[1] + 1)[:, :-1]
    flat = logits.reshape(-1, logits.shape[-1]).float()
    return functional.cross_entropy(flat, labels.reshape(-1), ignore_index=IGNORED, reduction="sum")


def _first_place(labels: torch.Tensor) -> int:
    return int((labels != IGNORED).any(dim=0).nonzero()[0])


def _last_logits(model: Any, inputs: Any, count: int) -> torch.Tensor:
    """Logits (B, count, V) at the last places; where an architecture can, no others are made of an image's many."""
    can = "logits_to_keep" in inspect.signature(model.forward).parameters
    logits: torch.Tensor = model(**inputs, use_cache=False, **({"logits_to_keep": count} if can else {})).logits
    return logits[:, -count:]


def _autocast(model: Any) -> AbstractContextManager[object]:
    half = model.get_input_embeddings().weight.dtype != torch.float32
    if half or (model.device.type == "cuda" and torch.cuda.is_bf16_supported()):
        return torch.autocast(model.device.type, torch.bfloat16)
    return nullcontext()


def trained_parts(
    generator: HfGenerator, teacher: Teacher, recipe: GeneratorRecipe, block_names: Sequence[str]
) -> tuple[dict[str, Parameters], PeftModel | None]:
    """What trains, by part and name in the model, and the model under its LoRA, which this puts on it.

    Raises:
        InputError: The model's parts aren't known here.
        UsageError: A part has nothing to train: no layer for a LoRA, or none that the answers depend on.
    """
    model, owner = generator.model, owners(generator)
    projector = {
        name: parameter
        for name, parameter in model.named_parameters()
        if "projector" in recipe.parts and owner(name) == "projector"
    }
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and owner(name) in recipe.by_lora and _is_target(name, recipe, block_names)
    }
    used = _used(generator, teacher, layers, projector)
    _check_found(recipe, {owner(name) for name in used}, model)
    wrapped = _put_lora(model, [name for name in layers if name in used], recipe) if recipe.by_lora else None
    loras = {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    trained: dict[str, Parameters] = {
        part: {name: loras[name] for name in loras if owner(name) == part} for part in recipe.by_lora
    }
    if projector:
        trained["projector"] = {name: projector[name] for name in projector if name in used}
    return trained, wrapped


def owners(generator: HfGenerator) -> Callable[[str], str]:
    """Gives the part that a module or parameter belongs to by its name: the innermost; where there is none, nothing.

    Raises:
        InputError: The model's parts aren't known here.
    """
    modules = {module: part for part, names in generator.parts().items() for module in names}

    def owner(name: str) -> str:
        around = [module for module in modules if f"{name}.".startswith(f"{module}.")]
        return modules[max(around, key=len)] if around else ""

    return owner


def _is_target(name: str, recipe: GeneratorRecipe, block_names: Sequence[str]) -> bool:
    wanted = recipe.lora.targets
    in_block = any(name.startswith(f"{block}.") for block in block_names)
    return in_block and (not wanted or any(f".{name}".endswith(f".{each}") for each in wanted))


def _used(generator: HfGenerator, teacher: Teacher, layers: Mapping[str, nn.Module], projector: Parameters) -> set[str]:
    """Names of the layers and parameters that an answer's probability depends on.

    LLaVA, for one, never uses the last block of its vision tower. A zero is added to each layer's output, and only
    those zeros get gradients: for the weights' own there might not be enough memory.
    """
    zeros = {name: torch.zeros((), device=generator.model.device, requires_grad=True) for name in layers}
    hooks = [layer.register_forward_hook(_adding(zeros[name])) for name, layer in layers.items()]
    batch = teacher.batch([Request(Image.new("RGB", (56, 56)), "?", 1)], ["yes"])
    wanted = {**zeros, **projector}
    try:
        with torch.enable_grad(), _trainable_alone(generator.model, projector):
            loss = answer_loss(generator, batch)
            gradients = (
                torch.autograd.grad(loss, list(wanted.values()), allow_unused=True) if loss.requires_grad else ()
            )
    finally:
        for hook in hooks:
            hook.remove()
    return {name for name, gradient in zip(wanted, gradients, strict=False) if gradient is not None}


def _adding(zero: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda _module, _args, output: output + zero.to(output.dtype)


@contextmanager
def _trainable_alone(model: nn.Module, wanted: Parameters) -> Iterator[None]:
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in wanted)
        yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)


def _check_found(recipe: GeneratorRecipe, found: set[str], model: nn.Module) -> None:
    problems = [
        Problem(
            f"the {part} of {type(model).__name__} has nothing to train",
            expected="a Linear in its blocks" if part != "projector" else "a weight",
            got=f"none that the answers depend on, with lora.targets {list(recipe.lora.targets) or 'auto'}",
            hint="leave the part out of the recipe, or name other layers in its lora.targets",
        )
        for part in recipe.parts
        if part not in found
    ]
    if problems:
        raise UsageError(problems)


def _put_lora(model: Any, targets: list[str], recipe: GeneratorRecipe) -> PeftModel:
    settings = recipe.lora
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        bias="none",
    )
    return get_peft_model(model, config)


def lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """The layers with a LoRA, by name."""
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
