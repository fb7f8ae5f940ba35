"""What an encoder is made of, found by running it once: its blocks, what an embedding depends on, LoRA's targets.

No architecture is named here. A *stack* is a `ModuleList` or `Sequential` whose elements each hold at least two weight
matrices; a *block* is an element of a stack without a stack of its own. So the blocks are

    transformers CLIP, SigLIP     vision_model.encoder.layers.N
    transformers ViT, Swin        layers.N; encoder.layers.STAGE.blocks.N
    transformers ResNet           encoder.stages.STAGE.layers.N
    open_clip ViT, ModifiedResNet transformer.resblocks.N; layer1.N to layer4.N
    timm ViT, ResNet, ConvNeXt    blocks.N; layer1.N to layer4.N; stages.STAGE.blocks.N

with the open_clip tower's own prefix (`visual.`, `visual.trunk.`) in front. *Partial* is whatever still gets a gradient
when every block is cut off from its input: the last block, and what is computed after it:

    transformers CLIP             post_layernorm, visual_projection
    transformers SigLIP           post_layernorm and the attention pooling head, its probe and its MLP
    transformers ViT, Swin        layernorm, the pooler where there is one
    open_clip ViT                 ln_post, proj
    open_clip ModifiedResNet      attnpool with its positional embedding and its projections
    open_clip around timm         trunk.norm, trunk.attn_pool where there is one, head
    timm ViT, ConvNeXt            norm; head.norm
    ResNets                       nothing: pooling has no parameters
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import nn

from vlmed.errors import CheckError, UsageError
from vlmed.models.protocols import DualEncoder, ImageEncoder

Parameters = dict[str, nn.Parameter]
Encode = Callable[[torch.Tensor], torch.Tensor]
EncodeTexts = Callable[[list[str]], torch.Tensor]


def whole(encoder: ImageEncoder) -> nn.Module:
    """The module in which parameters are named: a dual encoder's whole network, else the image tower."""
    return encoder.model if isinstance(encoder, DualEncoder) else encoder.image_tower


def blocks(root: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a network by name, in the order in which they are defined."""
    return {
        f"{name}.{child}" if name else child: element
        for name, stack in root.named_modules()
        if _is_stack(stack)
        for child, element in stack.named_children()
        if _matrices(element) and not any(map(_is_stack, element.modules()))
    }


def _is_stack(module: nn.Module) -> bool:
    if not isinstance(module, (nn.ModuleList, nn.Sequential)):
        return False
    counts = [count for count in map(_matrices, module) if count]
    return bool(counts) and min(counts) >= 2


def _matrices(module: nn.Module) -> int:
    return sum(parameter.ndim >= 2 for parameter in module.parameters())


def image_parameters(encoder: ImageEncoder, last_block_only: bool, encode: Encode | None = None) -> Parameters:
    """The parameters that image embeddings depend on, or of those the last block's and what comes after it.

    Args:
        encode: Preprocessed pixels -> what is made of images instead of embeddings, such as the encoder's tokens.

    Raises:
        CheckError: No gradient reaches the image tower.
        UsageError: The tower has no blocks, so none is the last.
    """
    cut = list(blocks(encoder.image_tower).values()) if last_block_only else []
    if last_block_only and not cut:
        hint = "tune all of it with the method full"
        raise UsageError("the image tower has no repeated blocks, so it has no last one", hint=hint)
    encode = encode or encoder.encode_images
    return _reached(whole(encoder), lambda: encode(blank(encoder)), cut, "images")


def text_parameters(encoder: DualEncoder, encode: EncodeTexts | None = None) -> Parameters:
    """The parameters that text embeddings depend on, or what else `encode` makes of texts.

    Raises:
        CheckError: No gradient reaches the text tower.
    """
    encode = encode or encoder.encode_texts
    return _reached(whole(encoder), lambda: encode(["an image"]), [], "texts")


def shares_text(encoder: ImageEncoder, images: Encode | None = None, texts: EncodeTexts | None = None) -> bool:
    """Whether texts go through layers that images go through too, as in BLIP-2: training one side then moves the other.

    Args:
        images, texts: As `encode` in `image_parameters` and `text_parameters`.
    """
    if not isinstance(encoder, DualEncoder):
        return False
    try:
        return not image_parameters(encoder, False, images).keys().isdisjoint(text_parameters(encoder, texts))
    except CheckError:
        # Whoever trains a side without gradients is told so; here it only means that nothing is shared.
        return False


def blank(encoder: ImageEncoder) -> torch.Tensor:
    """A batch of one black image."""
    return encoder.preprocess(Image.new("RGB", (32, 32)))[None]


def _reached(root: nn.Module, embed: Callable[[], torch.Tensor], cut: Iterable[nn.Module], what: str) -> Parameters:
    named = dict(root.named_parameters())
    hooks = [module.register_forward_pre_hook(_detach, with_kwargs=True) for module in cut]
    try:
        with torch.enable_grad(), _trainable(named.values()):
            embedding = embed()
            if not embedding.requires_grad:
                raise CheckError(
                    f"no gradient comes through the encoding of {what}, so training would change nothing",
                    expected="an encoder that doesn't switch gradients off",
                    hint="remove torch.no_grad and inference_mode from the model's code",
                )
            gradients = torch.autograd.grad(embedding.sum(), list(named.values()), allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: named[name] for name, gradient in zip(named, gradients, strict=True) if gradient is not None}


def _detach(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(_cut_off, args)), {name: _cut_off(value) for name, value in kwargs.items()}


def _cut_off(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


@contextmanager
def _trainable(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    before = [(parameter, parameter.requires_grad) for parameter in parameters]
    try:
        for parameter, _ in before:
            parameter.requires_grad_()
        yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)


def lora_targets(encoder: ImageEncoder) -> list[str]:
    """The layers of the image tower's blocks that a LoRA goes on, named within the tower.

    Every Linear and every `nn.MultiheadAttention` (whose projections PEFT adapts as one); in towers whose blocks have
    none, every Conv2d without groups. Patch embedding, pooling and final projection lie outside the blocks. Only layers
    that the tower calls count: PyTorch's attention reads the weights of its `out_proj` without ever calling it.

    Raises:
        UsageError: There is no such layer.
    """
    called = _called(encoder)
    layers = {
        f"{block}.{name}" if name else block: layer
        for block, module in blocks(encoder.image_tower).items()
        for name, layer in module.named_modules()
        if layer in called
    }
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear) or _is_fused(layer)]
    targets = linear or [name for name, layer in layers.items() if isinstance(layer, nn.Conv2d) and layer.groups == 1]
    if not targets:
        hint = "name layers in the recipe's lora.targets, or use the method partial or full"
        raise UsageError("the image tower's blocks have no layer that a LoRA could go on", hint=hint)
    return targets


def _is_fused(layer: nn.Module) -> bool:
    return isinstance(layer, nn.MultiheadAttention) and layer._qkv_same_embed_dim


def _called(encoder: ImageEncoder) -> set[nn.Module]:
    called: set[nn.Module] = set()
    modules = encoder.image_tower.modules()
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in modules]
    try:
        # With gradients: PyTorch's transformer layers have a faster path without them that calls nothing inside.
        with torch.enable_grad(), _trainable(encoder.image_tower.parameters()):
            encoder.encode_images(blank(encoder))
    finally:
        for hook in hooks:
            hook.remove()
    return called


def group_of(name: str, block_names: Mapping[str, Any] | Iterable[str]) -> str:
    """The part of the network that a tensor belongs to: its block, or else the module that owns it."""
    inside = [block for block in block_names if name.startswith(f"{block}.")]
    return max(inside, key=len) if inside else name.rpartition(".")[0] or name
