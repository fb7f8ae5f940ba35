"""A generator made ready for a recipe: what trains in it, the gradients of a step, and its own weights back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vlmed.models.generators import HfGenerator
from vlmed.tuning.anatomy import Parameters, blocks
from vlmed.tuning.batches import Rows, in_order
from vlmed.tuning.generator_batches import Batch, Feed, Pairs, Teacher
from vlmed.tuning.generator_parts import answer_loss, lora_layers, trained_parts
from vlmed.tuning.generator_recipe import GeneratorRecipe
from vlmed.tuning.parallel import ALONE, World
from vlmed.tuning.trainee import Trainee


@dataclass
class GeneratorLearner(Trainee):
    """A generator whose parts train in place.

    Attributes:
        trained: What trains, by part and by its name in the model. Held in float32 until `round`.
        wrapped: The model under its LoRA, or None.
        block_names: Blocks of the model by name.
        required: Which parameters wanted gradients before, by name.
        world: The processes that tune the generator together.
        at_once: Questions, as in `Trainee`.
        sparing: Activations are computed again in the backward pass instead of being kept, since not even one question
            fitted into memory.
    """

    generator: HfGenerator
    recipe: GeneratorRecipe
    teacher: Teacher
    trained: dict[str, Parameters]
    wrapped: PeftModel | None
    block_names: tuple[str, ...]
    required: dict[str, bool]
    world: World = ALONE
    at_once: int = field(init=False)
    sparing: bool = field(init=False, default=False)
    _precisions: dict[str, torch.dtype] = field(init=False)
    _unmerged: dict[str, torch.Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.at_once = self.recipe.batch_size
        trained = self.parameters()
        self._precisions = {name: parameter.dtype for name, parameter in trained.items()}
        for name, parameter in self.root.named_parameters():
            parameter.requires_grad_(name in trained)
        # An update of 1e-5 would be lost in bfloat16.
        for parameter in trained.values():
            parameter.data = parameter.data.float()

    @property
    def root(self) -> nn.Module:
        """The module in which parameters are named."""
        model: nn.Module = self.generator.model
        return model

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = self.generator.model.device
        return device

    def parameters(self) -> Parameters:
        """All that trains."""
        return {name: parameter for part in self.trained.values() for name, parameter in part.items()}

    def groups(self, rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """An optimiser's parameter groups; `highest` is each one's highest learning rate."""
        owners = {part: "projector" if part == "projector" else "lora" for part in self.trained}
        return [
            {
                "params": list(trained.values()),
                "lr": rates[owners[part]],
                "highest": rates[owners[part]],
                "weight_decay": self.recipe.weight_decay,
            }
            for part, trained in self.trained.items()
        ]

    def set_training(self, on: bool) -> None:
        """Switch dropout on in the whole model, as its makers train it; batch norms keep their statistics."""
        for module in self.root.train(on).modules():
            if isinstance(module, _BatchNorm):
                module.eval()

    def backward(self, pairs: Pairs, rows: Rows, ready: list[Batch], tokens: int) -> torch.Tensor:
        """Leave the gradients of the mean cross-entropy over all answers' tokens in `.grad`; gives the loss.

        Computed in chunks whose gradients are summed, so that memory decides nothing but the time. So are those of all
        processes.

        Args:
            rows: Positions of this process's share of the step's pairs.
            ready: Those pairs in chunks; made anew where they don't fit into memory.
            tokens: How many tokens of the step carry loss, over all processes.

        Raises:
            VlmedError: Not even one question fits into memory, or a process is lost.
        """
        chunks = ready

        def attempt() -> torch.Tensor:
            nonlocal chunks
            if max(map(len, chunks), default=0) > self.at_once:
                chunks = self.teacher.chunks(pairs, rows, self.at_once)
            return self._backward(chunks, tokens)

        loss = self.fitting(attempt)
        self._add_others(loss)
        return loss

    def _add_others(self, loss: torch.Tensor) -> None:
        if self.world.size == 1:
            return
        parameters = list(self.parameters().values())
        for parameter in parameters:
            # This process's share may be empty, or may not reach all that trains.
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        self.world.add([loss, *(parameter.grad for parameter in parameters if parameter.grad is not None)])

    def _backward(self, chunks: list[Batch], tokens: int) -> torch.Tensor:
        self.start_step()
        total = torch.zeros((), device=self.device)
        for chunk in chunks:
            loss = answer_loss(self.generator, chunk) / tokens
            torch.autograd.backward(loss)
            total += loss.detach()
        return total

    @torch.no_grad()
    def mean_loss(self, pairs: Pairs) -> float:
        """Mean cross-entropy over the tokens of all answers, in eval mode; each process computes its share.

        Raises:
            VlmedError: Not even one question fits into memory, or a process is lost.
        """
        self.set_training(False)
        total, tokens = 0.0, 0
        share = self.world.share(np.arange(len(pairs)))
        batches = [share[places] for places in in_order(len(share), self.at_once)]
        for rows, ready in Feed(self.teacher, pairs, batches, lambda: self.at_once):
            total += self.fitting(lambda rows=rows, ready=ready: self._sum(pairs, rows, ready))  # type: ignore[misc]
            tokens += sum(chunk.tokens for chunk in ready)
        totals, counts = zip(*self.world.gather((total, tokens)), strict=True)
        return float(sum(totals) / sum(counts))

    def _sum(self, pairs: Pairs, rows: Rows, ready: list[Batch]) -> float:
        fits = max(map(len, ready)) <= self.at_once
        chunks = ready if fits else self.teacher.chunks(pairs, rows, self.at_once)
        return sum(float(answer_loss(self.generator, chunk)) for chunk in chunks)

    def _shrink(self) -> bool:
        if super()._shrink():
            return True
        if self.sparing:
            return False
        self.spare()
        return True

    def spare(self) -> None:
        """Compute activations again in the backward pass from now on."""
        self.sparing, model = True, self.generator.model
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # Only reentrant checkpoints need gradients of the embeddings, which transformers asks for and forgets.
        if hasattr(model, "_require_grads_hook"):
            model.disable_input_require_grads()

    @torch.no_grad()
    def round(self) -> None:
        """End the training: give what trained the precision that a saved model has; a LoRA stays in float32."""
        for name, parameter in self.parameters().items():
            if ".lora_" not in name:
                parameter.data = parameter.data.to(self._precisions[name])
        self._end()

    @torch.no_grad()
    def merge(self) -> None:
        """Merge a LoRA into the weights under it, as loading a saved adapter does."""
        for name, layer in lora_layers(self.root):
            self._unmerged[name] = layer.get_base_layer().weight.detach().cpu().clone()
            layer.merge(safe_merge=True)

    @torch.no_grad()
    def release(self) -> None:
        """Take a LoRA off, and leave weights under it, modes and gradients as they were found."""
        for name, layer in lora_layers(self.root):
            if name in self._unmerged:
                layer.get_base_layer().weight.copy_(self._unmerged[name])
        if self.wrapped is not None:
            self.wrapped.unload()
        for name, parameter in self.parameters().items():
            parameter.data = parameter.data.to(self._precisions[name])
        for name, parameter in self.root.named_parameters():
            parameter.requires_grad_(self.required[name])
        self._end()

    def _end(self) -> None:
        for parameter in self.root.parameters():
            parameter.grad = None
        if self.sparing:
            self.generator.model.gradient_checkpointing_disable()
        self.set_training(False)


def make_generator_learner(generator: HfGenerator, recipe: GeneratorRecipe, world: World = ALONE) -> GeneratorLearner:
    """Find the recipe's parts in the model and put its LoRA on them; every B is zero, so answers stay what they were.

    Raises:
        InputError: The model's parts aren't known here, or it has no token that ends an answer.
        UsageError: A part has nothing to train: no layer for a LoRA, or none that the answers depend on.
    """
    teacher, block_names = Teacher(generator), tuple(blocks(generator.model))
    required = {name: parameter.requires_grad for name, parameter in generator.model.named_parameters()}
    trained, wrapped = trained_parts(generator, teacher, recipe, block_names)
    return GeneratorLearner(generator, recipe, teacher, trained, wrapped, block_names, required, world)
