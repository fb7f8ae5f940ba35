"""Models in open_clip's published layout: `open_clip_config.json` with weights and tokenizer beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from open_clip import CoCa, create_model, get_tokenizer
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import nn

from vlmed.models.attention_pool import call_projections
from vlmed.models.companion import Companion, ModelFiles
from vlmed.models.encoders import TwoTowerEncoder, check_tokenizer, preprocessing_key, with_forward
from vlmed.models.layouts import CONFIG, OPEN_CLIP_CONFIG
from vlmed.models.snapshot import read_config, root_files

_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_TOKENIZER = (*_VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def companions(folder: Path) -> tuple[Companion, ...]:
    """The configuration of a transformers text tower, as BiomedCLIP's, and its tokenizer where the folder has none."""
    text = _text_config(folder)
    wanted: dict[str, tuple[str, ...]] = {}
    if text.get("hf_model_name"):
        wanted[text["hf_model_name"]] = (CONFIG,)
    tokenizer = text.get("hf_tokenizer_name")
    if tokenizer and not _has_tokenizer(folder):
        wanted[tokenizer] = (*wanted.get(tokenizer, ()), *_TOKENIZER)
    return tuple(Companion(repository, files) for repository, files in wanted.items())


def _text_config(folder: Path) -> dict[str, Any]:
    model = read_config(folder / OPEN_CLIP_CONFIG).get("model_cfg")
    text = model.get("text_cfg") if isinstance(model, dict) else None
    return text if isinstance(text, dict) else {}


def _has_tokenizer(folder: Path) -> bool:
    return not set(_VOCABULARIES).isdisjoint(root_files(folder))


def load_weights(files: ModelFiles) -> nn.Module:
    """The model in float32; open_clip loads pickles with `weights_only=True` and knows no remote code."""
    text = _text_config(files.path)
    changes = {}
    if text.get("hf_model_name"):
        # open_clip would ask the Hub for the newest; the tower's weights are in the checkpoint.
        here = str(files.companions[text["hf_model_name"]])
        changes["text_cfg"] = {**text, "hf_model_name": here, "hf_model_pretrained": False}
    model = create_model(f"local-dir:{files.path}", require_pretrained=True, **changes)
    call_projections(model.visual)
    weights: nn.Module = model
    return weights


def family_of(model: Any) -> tuple[str, str]:
    """Family and architecture to show."""
    return "open_clip", f"{type(model).__name__} {type(model.visual).__name__}"


def make_predictor(model: Any, files: ModelFiles, device: str) -> TwoTowerEncoder:
    """The dual encoder, with open_clip's own inference transform and tokenizer."""
    settings = model.visual.preprocess_cfg
    tokenizer = _tokenizer(files)

    def embed_texts(texts: list[str]) -> torch.Tensor:
        # Unlike all others, CoCa normalises unless told otherwise.
        embeddings: torch.Tensor = model.encode_text(tokenizer(texts).to(device), normalize=False)
        return embeddings

    bias = model.logit_bias
    return TwoTowerEncoder(
        image_tower=with_forward(model.visual, _pooled) if isinstance(model, CoCa) else model.visual,
        transform=image_transform_v2(PreprocessCfg(**settings), is_train=False),
        preprocessing=preprocessing_key("open_clip", settings),
        device=device,
        model=model,
        embed_texts=embed_texts,
        image_tokens=lambda pixels: _image_tokens(model.visual, pixels),
        text_tokens=lambda texts: _text_tokens(model, tokenizer, tokenizer(texts).to(device)),
        logit_scale=float(model.logit_scale.detach().exp()),
        logit_bias=0.0 if bias is None else float(bias.detach()),
    )


def _tokenizer(files: ModelFiles) -> Any:
    text = _text_config(files.path)
    name = text.get("hf_tokenizer_name")
    if not name:
        return get_tokenizer(f"local-dir:{files.path}")
    folder = files.path if _has_tokenizer(files.path) else files.companions[name]
    settings = {"context_length": text.get("context_length", 77), "tokenizer_mode": text.get("tokenizer_mode")}
    tokenizer = HFTokenizer(str(folder), **settings, **text.get("tokenizer_kwargs", {}))
    check_tokenizer(tokenizer.tokenizer, folder)
    return tokenizer


def _pooled(visual: Any, pixels: torch.Tensor) -> torch.Tensor:
    """CoCa's image tower gives its pooled vector and the tokens that its captioner reads."""
    pooled: torch.Tensor = type(visual).forward(visual, pixels)[0]
    return pooled


def _image_tokens(visual: Any, pixels: torch.Tensor) -> torch.Tensor:
    outputs = visual.forward_intermediates(pixels, indices=1, intermediates_only=True, output_fmt="NCHW")
    tokens: torch.Tensor = outputs["image_intermediates"][-1].flatten(2).transpose(1, 2)
    return tokens


def _text_tokens(model: Any, tokenizer: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mask = _stands(tokens, tokenizer)
    tower = getattr(model, "text", None)
    if isinstance(tower, HFTextEncoder):
        return tower.transformer(input_ids=tokens, attention_mask=mask.long()).last_hidden_state, mask
    outputs = model.forward_intermediates(text=tokens, text_indices=1, intermediates_only=True)
    # CoCa appends a token of its own to every text.
    return outputs["text_intermediates"][-1][:, : tokens.shape[1]], mask


def _stands(tokens: torch.Tensor, tokenizer: Any) -> torch.Tensor:
    """Bool (N, T): true up to the end of each text; some tokenizers pad with what ends a text, one with `!`."""
    own = tokenizer.tokenizer if isinstance(tokenizer, HFTokenizer) else None
    padding = own.pad_token_id if own else 0
    ends_with_padding = own is not None and padding == own.eos_token_id
    places = torch.arange(tokens.shape[1], device=tokens.device)
    last = torch.where(tokens != padding, places, -1).amax(dim=1) + int(ends_with_padding)
    return places <= last[:, None]
