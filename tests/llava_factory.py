"""Tiny seeded checkpoints in LLaVA's own layout: LLaVA 1.5 (`llava`) and LLaVA-Med 1.5 (`llava_mistral`)."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TOWER = "openai/clip-vit-large-patch14-336"
LANGUAGE = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 420,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}
# Heads of 64, as all of OpenAI's have.
VISION = {
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
# What differs in the two published configurations.
KINDS: dict[str, dict[str, Any]] = {
    "llava": {"architectures": ["LlavaLlamaForCausalLM"], "pretraining_tp": 1, "rope_scaling": None},
    "llava_mistral": {"architectures": ["LlavaMistralForCausalLM"], "rope_theta": 1000000.0, "sliding_window": None},
}
_INSIDE = "model.vision_tower.vision_tower.vision_model."


def tiny_llava(
    folder: Path,
    kind: str = "llava",
    *,
    seed: int = 0,
    tower_inside: bool = True,
    weights: str = "model.safetensors",
    shards: int = 1,
    **settings: Any,
) -> Path:
    """A checkpoint; `settings` replace those of its configuration.

    Args:
        tower_inside: Among the weights, as in both published ones.
        weights: `model.safetensors` or `pytorch_model.bin`.
        shards: More than one come with an index.
    """
    folder.mkdir(parents=True)
    state = _language(kind, seed) | _projector(seed)
    if tower_inside:
        state |= {_INSIDE + name: tensor for name, tensor in _vision(seed).items()}
    config = {
        "model_type": kind,
        **LANGUAGE,
        **KINDS[kind],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "image_aspect_ratio": "pad",
        "mm_hidden_size": VISION["hidden_size"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": TOWER,
        "tie_word_embeddings": False,
        "use_mm_proj": True,
        **settings,
    }
    _write_json(folder / "config.json", config)
    save_weights(folder, state, weights, shards)
    _tokenizer(folder, legacy=kind == "llava_mistral")
    return folder


def tiny_tower(folder: Path, *, seed: int = 0) -> Path:
    """The CLIP that a LLaVA without its tower takes it from: both halves, as OpenAI published it."""
    folder.mkdir(parents=True)
    state = {f"vision_model.{name}": tensor for name, tensor in _vision(seed).items()}
    state |= {"logit_scale": torch.tensor(4.6), "text_model.final_layer_norm.weight": torch.ones(16)}
    torch.save(state, folder / "pytorch_model.bin")
    _write_json(folder / "config.json", {"model_type": "clip", "vision_config": VISION})
    return folder


def save_weights(folder: Path, state: dict[str, Tensor], file: str = "model.safetensors", shards: int = 1) -> None:
    if shards == 1:
        _save(state, folder / file)
        return
    stem, suffix = file.split(".")
    names = sorted(state)
    places = {name: f"{stem}-{index % shards + 1:05}-of-{shards:05}.{suffix}" for index, name in enumerate(names)}
    for place in set(places.values()):
        _save({name: state[name] for name in names if places[name] == place}, folder / place)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    _write_json(folder / f"{file}.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def _save(state: dict[str, Tensor], file: Path) -> None:
    if file.suffix == ".bin":
        torch.save(state, file)
    else:
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)


def language_model(kind: str) -> Any:
    """The language model alone, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    if kind == "llava":
        return LlamaForCausalLM(LlamaConfig(**LANGUAGE))
    rope = {"rope_type": "default", "rope_theta": 1000000.0}
    return MistralForCausalLM(MistralConfig(**LANGUAGE, rope_parameters=rope, sliding_window=None))


def vision_model() -> Any:
    """The vision tower alone, with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**VISION))


def _language(kind: str, seed: int) -> dict[str, Tensor]:
    return _shaken(lambda: language_model(kind), seed)


def _projector(seed: int) -> dict[str, Tensor]:
    wide = LANGUAGE["hidden_size"]

    def layers() -> torch.nn.Module:
        first, second = torch.nn.Linear(VISION["hidden_size"], wide), torch.nn.Linear(wide, wide)
        return torch.nn.Sequential(first, torch.nn.GELU(), second)

    return {f"model.mm_projector.{name}": tensor for name, tensor in _shaken(layers, seed + 1).items()}


def _vision(seed: int) -> dict[str, Tensor]:
    state = _shaken(vision_model, seed + 2)
    # Older versions of transformers kept this table among the weights, and so do the published checkpoints.
    return state | {"embeddings.position_ids": torch.arange(17)[None]}


def _shaken(make: Callable[[], torch.nn.Module], seed: int) -> dict[str, Tensor]:
    """Weights large enough for every part to matter to the answer."""
    torch.manual_seed(seed)
    return {name: tensor + 0.15 * torch.randn(tensor.shape) for name, tensor in make().state_dict().items()}


def _tokenizer(folder: Path, *, legacy: bool) -> None:
    (folder / "tokenizer.model").write_bytes(_sentencepiece())
    specials = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"add_bos_token": True, "add_eos_token": False, "legacy": legacy, "padding_side": "right"}
    settings |= {"model_max_length": 2048, "tokenizer_class": "LlamaTokenizer", "pad_token": None, **specials}
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", specials | {"pad_token": "<unk>"})


@cache
def _sentencepiece() -> bytes:
    """A model like Llama's: byte pairs with bytes to fall back to, a blank before the first word."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(_CORPUS),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=3,
    )
    return model.getvalue()


_CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: ASSISTANT:",
    "[INST] Is there a fracture in this image? [/INST] yes no left right lung heart 0123456789",
]


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
