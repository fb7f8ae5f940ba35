"""Tiny seeded models and adapters in the layouts in which real ones are published, each made in a second or two.

Every factory fills an empty or absent folder and returns it. The weights are random: they test plumbing, not skill.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from torch import nn

CONTEXT = 16
IMAGE_SIZE = 32
WIDTH = 32
EMBEDDING = 24

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
TOWER = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": IMAGE_SIZE, "patch_size": 8}
SQUARE = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}


def tiny_open_clip(folder: Path, *, seed: int = 0, hf_tokenizer: bool = False) -> Path:
    """An open_clip `CLIP` with the library's own BPE tokenizer or, like BiomedCLIP and SigLIP, one that it brings."""
    from open_clip import CLIP
    from safetensors.torch import save_file

    text: dict[str, Any] = {"context_length": CONTEXT, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2}
    if hf_tokenizer:
        tokenizer = clip_tokenizer(folder)
        text |= {"hf_tokenizer_name": "org/tokenizer", "vocab_size": len(tokenizer)}
    vision = {"image_size": IMAGE_SIZE, "layers": 2, "width": WIDTH, "head_width": 16, "patch_size": 8}
    config = {"embed_dim": EMBEDDING, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    torch.manual_seed(seed)
    model = CLIP(**config)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocess})
    return folder


def tiny_clip(folder: Path, *, seed: int = 0) -> Path:
    """A transformers `CLIPModel`, laid out like openai/clip-vit-base-patch32."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = clip_tokenizer(folder)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, **ends, "pad_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=EMBEDDING)
    processor = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=SQUARE, image_mean=MEAN, image_std=STD)
    return save_transformers(folder, CLIPModel, config, processor, seed)


def tiny_siglip(folder: Path, *, seed: int = 0) -> Path:
    """A transformers `SiglipModel`, laid out like google/siglip2-base-patch16-224 (Gemma tokenizer)."""
    from transformers import GemmaTokenizer, SiglipConfig, SiglipImageProcessor, SiglipModel

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *string.ascii_letters, *string.digits, *string.punctuation]
    tokenizer = GemmaTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], padding_side="right"
    )
    tokenizer.save_pretrained(folder)
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT}
    config = SiglipConfig(text_config=text, vision_config=VISION)
    processor = SiglipImageProcessor(size=SQUARE)
    return save_transformers(folder, SiglipModel, config, processor, seed)


def tiny_vit(folder: Path, *, seed: int = 0, classifier: bool = False) -> Path:
    """A transformers `ViTModel`, or as most are published, a `ViTForImageClassification`, which has no pooler."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

    model = ViTForImageClassification if classifier else ViTModel
    return save_transformers(folder, model, ViTConfig(**VISION), ViTImageProcessor(size=SQUARE), seed)


def tiny_resnet(folder: Path, *, seed: int = 0) -> Path:
    """A transformers `ResNetModel`, whose pooled output is a feature map of one pixel."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return save_transformers(
        folder, ResNetModel, config, ConvNextImageProcessor(size={"shortest_edge": IMAGE_SIZE}), seed
    )


def tiny_timm(folder: Path, *, seed: int = 0) -> Path:
    """A timm classifier, as `timm.push_to_hf_hub` lays it out."""
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(seed)
    model = timm.create_model("test_vit", pretrained=False, num_classes=3)
    save_for_hf(model, str(folder), model_args={"num_classes": 3}, safe_serialization=True)
    return folder


def lora(
    folder: Path,
    base: Path,
    *,
    targets: list[str] | str,
    base_ref: str | None = None,
    base_revision: str | None = None,
    image_tower: bool = False,
    zero: bool = False,
    rank: int = 4,
    task_type: str | None = None,
    seed: int = 0,
) -> Path:
    """A LoRA as `PeftModel.save_pretrained` writes it, on a tiny open_clip or transformers model.

    Args:
        targets: PEFT's `target_modules`.
        base_ref, base_revision: What the config says about its base; by default the base's path and no revision.
        image_tower: Wrap the image tower (`visual`, `vision_model`) instead of the whole model.
        zero: Leave every B at zero, as before the first training step.
    """
    from peft import LoraConfig, get_peft_model

    model = plain_model(base)
    target = (model.visual if hasattr(model, "visual") else model.vision_model) if image_tower else model
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=8, target_modules=targets, lora_dropout=0.05, task_type=task_type)
    wrapped = get_peft_model(target, config)
    for name, parameter in wrapped.named_parameters():
        if ".lora_B." in name and not zero:
            nn.init.normal_(parameter, std=0.2)
    wrapped.peft_config["default"].base_model_name_or_path = str(base) if base_ref is None else base_ref
    wrapped.peft_config["default"].revision = base_revision
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return folder


def plain_model(folder: Path) -> Any:
    """The model in a folder, loaded by its library and nothing else, in eval mode."""
    if (folder / "open_clip_config.json").exists():
        from open_clip import create_model

        return create_model(f"local-dir:{folder}").eval()
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder).eval()


def save_transformers(folder: Path, model_class: Any, config: Any, processor: Any, seed: int) -> Path:
    """A seeded model with its configuration and processor, as transformers saves them."""
    torch.manual_seed(seed)
    model = model_class(config)
    for name, value in (("logit_scale", 2.5), ("logit_bias", -7.0)):
        if hasattr(model, name):
            nn.init.constant_(getattr(model, name), value)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def clip_tokenizer(folder: Path) -> Any:
    """CLIP's byte-level BPE with no merges: one token per character."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CONTEXT)
    tokenizer.save_pretrained(folder)
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return tokenizer


def write_json(path: Path, value: Any) -> None:
    """`value` as a JSON file."""
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
