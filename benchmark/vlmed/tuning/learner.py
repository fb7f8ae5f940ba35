"""An encoder with what a recipe puts on it: what trains in them, one step's gradients, and predictions."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from vlmed.errors import UsageError
from vlmed.models.protocols import DualEncoder, ImageEncoder
from vlmed.tuning.anatomy import Encode, EncodeTexts, Parameters, blocks, image_parameters, text_parameters, whole
from vlmed.tuning.batches import Pixels, Stream, in_order, rgb
from vlmed.tuning.head import Head, Part, Prompts, make_head
from vlmed.tuning.lora import lora_parameters, put_lora, remove_lora
from vlmed.tuning.recipe import Recipe
from vlmed.tuning.trainee import Trainee


@dataclass
class Learner(Trainee):
    """An encoder made ready for a recipe.

    Attributes:
        encoder: Trained in place.
        head: What stands on it, such as a classifier.
        trained: What trains in the encoder, by its name in `root`.
        wrapped: The image tower under its LoRA, or None.
        block_names: The encoder's blocks, by their names in `root`.
        required: Which parameters wanted gradients before, by name.
        at_once: Images, as in `Trainee`.
    """

    encoder: ImageEncoder
    head: Part
    trained: Parameters
    wrapped: PeftModel | None
    block_names: tuple[str, ...]
    required: dict[str, bool]
    recipe: Recipe
    at_once: int = field(init=False)

    def __post_init__(self) -> None:
        self.at_once = self.recipe.batch_size
        for name, parameter in self.root.named_parameters():
            parameter.requires_grad_(name in self.trained)

    @classmethod
    def of(
        cls,
        encoder: ImageEncoder,
        recipe: Recipe,
        head: Any,
        images: Encode | None = None,
        texts: EncodeTexts | None = None,
        borrowed: Parameters | None = None,
    ) -> Self:
        """Find what the recipe trains in the encoder, with a LoRA put on it where it is one.

        Args:
            images, texts: What the head reads: functions of preprocessed pixels and of texts; embeddings by default.
            borrowed: Parameters of the encoder's network that train besides, with the head, by name.

        Raises:
            UsageError: The encoder lacks what the recipe needs: blocks, layers for a LoRA.
            CheckError: No gradient comes through the encoder.
        """
        images = images or encoder.encode_images
        root = whole(encoder)
        trained, block_names = _in_towers(encoder, recipe, images, texts), tuple(blocks(root))
        required = {name: parameter.requires_grad for name, parameter in root.named_parameters()}
        wrapped = None
        if recipe.scope == "lora":
            wrapped = put_lora(encoder, recipe.lora)
            trained = _in_lora(encoder, wrapped, images)
        return cls(encoder, head, {**trained, **(borrowed or {})}, wrapped, block_names, required, recipe)

    @property
    def root(self) -> nn.Module:
        """The module in which parameters are named."""
        return whole(self.encoder)

    @property
    def device(self) -> torch.device:
        """Where the image tower lies."""
        return device_of(self.encoder)

    def parameters(self) -> Parameters:
        """All that trains, with the head."""
        return {**self.trained, **self.head.parameters()}

    def set_training(self, on: bool) -> None:
        """Switch dropout on in the towers that train; batch norms keep their published statistics all the time."""
        towers = [self.encoder.image_tower]
        if isinstance(self.encoder, DualEncoder) and self.recipe.text == "trained":
            towers.append(self.encoder.model)
        for module in (module for tower in towers for module in tower.train(on).modules()):
            if isinstance(module, _BatchNorm):
                module.eval()

    def autocast(self) -> AbstractContextManager[object]:
        """The recipe's precision for a training step."""
        if self.recipe.precision == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported():
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    @torch.no_grad()
    def features(self, pixels: Pixels, count: int) -> torch.Tensor:
        """Embeddings float64 (N, D) on the CPU of `count` images, in eval mode and float32, as a saved model does it.

        Raises:
            InputError: `pixels` gives something else than RGB images.
            VlmedError: Not even one image fits into memory.
        """
        self.set_training(False)
        stream = Stream(rgb(pixels), in_order(count, self.recipe.batch_size), self.device)
        parts = [self.fitting(lambda batch=batch: self._batch_features(batch)) for _, batch in stream]  # type: ignore[misc]
        return torch.cat(parts) if parts else torch.empty(0, self.encoder.dim, dtype=torch.float64)

    def _batch_features(self, pixels: torch.Tensor) -> torch.Tensor:
        parts = [self.encoder.encode_images(part).cpu().double() for part in torch.split(pixels, self.at_once)]
        return torch.cat(parts)

    def release(self) -> None:
        """Take a LoRA off, and leave modes and gradients as they were found; trained weights stay what they are."""
        if self.wrapped is not None:
            remove_lora(self.wrapped)
        for name, parameter in self.root.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(self.required[name])
        self.set_training(False)


@dataclass
class Classifier(Learner):
    """A learner whose head tells classes apart."""

    head: Head

    def backward(self, pixels: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Leave the gradients of the batch's weighted mean cross-entropy in `.grad`; gives the loss, on the device.

        Computed in parts of `at_once` images whose gradients are summed, so that memory decides nothing but the time.

        Args:
            pixels: (B, 3, H, W).
            targets: (B,) class indices.
            weights: (C,) of the classes.

        Raises:
            VlmedError: Not even one image fits into memory.
        """
        return self.fitting(lambda: self._backward(pixels, targets, weights))

    def _backward(self, pixels: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        self.start_step()
        with self.autocast():
            vectors = self.head.vectors()
        # The parts share one graph of the texts: their gradients gather here and go back through it once.
        shared = vectors.detach().requires_grad_(vectors.requires_grad)
        total = torch.zeros((), device=pixels.device)
        mass = weights[targets].sum()
        for part, truth in zip(torch.split(pixels, self.at_once), torch.split(targets, self.at_once), strict=True):
            with self.autocast():
                features = self.encoder.encode_images(part)
            logits = self.head.logits(features, shared)
            loss = functional.cross_entropy(logits, truth, weights, reduction="sum") / mass
            torch.autograd.backward(loss)
            total += loss.detach()
        if shared.grad is not None:
            torch.autograd.backward(vectors, shared.grad)
        return total

    @torch.no_grad()
    def logits(self, pixels: Pixels, count: int) -> torch.Tensor:
        """Logits float64 (N, C) on the CPU for `count` images.

        Raises:
            InputError, VlmedError: As `features`.
        """
        features = self.features(pixels, count)
        return self.head.logits(features, self.head.vectors().cpu().double())


def make_learner(encoder: ImageEncoder, recipe: Recipe, prompts: Prompts) -> Classifier:
    """Find what the recipe trains in the encoder, and put a LoRA or a head on it.

    Raises:
        UsageError: The encoder lacks what the recipe needs: texts, blocks, layers for a LoRA.
        CheckError: No gradient comes through the encoder.
    """
    return Classifier.of(encoder, recipe, make_head(encoder, recipe, prompts, device_of(encoder)))


def _in_towers(encoder: ImageEncoder, recipe: Recipe, images: Encode, texts: EncodeTexts | None) -> Parameters:
    """What trains in the towers, or where a LoRA will."""
    if recipe.scope == "frozen":
        return {}
    trained = image_parameters(encoder, recipe.scope == "partial", images)
    if recipe.text == "trained" and isinstance(encoder, DualEncoder):
        trained |= text_parameters(encoder, texts)
    return trained


def _in_lora(encoder: ImageEncoder, wrapped: PeftModel, images: Encode) -> Parameters:
    """A and B of every layer that `images` depends on."""
    reached = image_parameters(encoder, False, images)
    trained = {name: each for name, each in lora_parameters(whole(encoder)).items() if name in reached}
    if not trained:
        remove_lora(wrapped)
        raise UsageError(
            "no layer that a LoRA could go on lies before what the head reads of the image tower",
            hint="name other layers in the recipe's lora.targets, or train with the scope partial or full",
        )
    return trained


def device_of(encoder: ImageEncoder) -> torch.device:
    """Where the image tower lies."""
    return next(encoder.image_tower.parameters()).device
