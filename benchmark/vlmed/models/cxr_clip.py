"""CXR-CLIP: ResNet-50 or Swin-T with Bio_ClinicalBERT, each with a linear projection.

Published at github.com/Soombit-ai/cxr-clip as training checkpoints, `{r50,swint}_{m,mc,mcc}.tar`: pickles of weights,
optimizer and configuration. Weights and preprocessing follow the code there. Two of its ways are kept although they
surprise: Swin, which has no class token, is pooled by taking its first patch; and the cased vocabulary of
Bio_ClinicalBERT is used in lower case, as transformers reads a tokenizer that comes without a configuration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizerFast, SwinConfig, SwinModel

from vlmed.errors import InputError
from vlmed.models.companion import Companion, ModelFiles
from vlmed.models.encoders import TwoTowerEncoder, check_tokenizer, preprocessing_key
from vlmed.models.hf import image_half
from vlmed.models.layouts import layout_of, weight_files
from vlmed.models.published import build_exactly, read_weights, swin_as_in_file
from vlmed.models.safety import read_pickle
from vlmed.models.snapshot import read_config, root_files

BERT = "emilyalsentzer/Bio_ClinicalBERT"

_SWIN, _RESNET, _TEXT = "image_encoder.image_encoder.", "image_encoder.resnet.", "text_encoder.text_encoder."
# What an older transformers stored although it is computed.
_IGNORABLE = (r"text_encoder\.text_encoder\.embeddings\.position_ids", r"image_encoder\..*\.relative_position_index")
_IMAGE_SIZE = 224
_NORMALISATION = {
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "half": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
}


class CxrClip(nn.Module):
    """The network; sizes come from the weights, for Swin and ResNet alike."""

    def __init__(self, weights: Mapping[str, Tensor], bert: BertConfig) -> None:
        super().__init__()
        self.is_swin = any(name.startswith(_SWIN) for name in weights)
        self.image_encoder = _swin(weights) if self.is_swin else _resnet(weights)
        self.text_encoder = BertModel(bert)
        dim = _shape(weights, "image_projection.projection.weight", (512, 0))[0]
        self.image_projection = nn.Linear(self.image_encoder.num_features, dim)
        self.text_projection = nn.Linear(bert.hidden_size, dim)
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> last map or last hidden states (B, H/32 * W/32, V)."""
        if self.is_swin:
            hidden: Tensor = self.image_encoder(pixel_values=pixels).last_hidden_state
            return hidden
        last_map: Tensor = self.image_encoder.forward_features(pixels)
        return last_map.flatten(2).transpose(1, 2)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> embeddings (B, D)."""
        tokens = self.image_tokens(pixel_values)
        embeddings: Tensor = self.image_projection(tokens[:, 0] if self.is_swin else tokens.mean(dim=1))
        return embeddings

    def text_tokens(self, **tokens: Tensor) -> Tensor:
        """The tokenizer's output for N texts -> last hidden states (N, T, 768)."""
        hidden: Tensor = self.text_encoder(**tokens).last_hidden_state
        return hidden

    def get_text_features(self, **tokens: Tensor) -> Tensor:
        """The tokenizer's output for N texts, padded at their ends -> embeddings (N, D) of their last tokens, [SEP]."""
        hidden = self.text_tokens(**tokens)
        last = tokens["attention_mask"].sum(dim=1) - 1
        embeddings: Tensor = self.text_projection(hidden[torch.arange(len(hidden), device=last.device), last])
        return embeddings


def companions(folder: Path) -> tuple[Companion, ...]:  # noqa: ARG001
    """Bio_ClinicalBERT's configuration and vocabulary."""
    return (Companion(BERT, ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")),)


def load_weights(files: ModelFiles) -> CxrClip:
    """The model in float32; pickles load with `weights_only=True`.

    Raises:
        InputError: Lists all weights that are missing, left over or of another shape; or the checkpoint pools texts
            in another way than the published ones.
    """
    file = _checkpoint(files.path)
    weights = read_weights(file, within="model")
    pooling = _setting(file, "model", "text_encoder", "pooling", published="eos")
    if pooling != "eos":
        raise InputError("the text encoder is pooled in an unknown way", file=file, expected="'eos'", got=repr(pooling))
    bert = _bert_config(files.companions[BERT], weights)
    tower = _SWIN if any(name.startswith(_SWIN) for name in weights) else _RESNET

    def name_in_file(name: str) -> str:
        name = re.sub(r"^(image|text)_projection\.", r"\1_projection.projection.", name)
        name = re.sub(r"^text_encoder\.", _TEXT, name)
        return swin_as_in_file(re.sub(r"^image_encoder\.", tower, name))

    return build_exactly(lambda: CxrClip(weights, bert), weights, file, _IGNORABLE, name_in_file)


def family_of(model: Any) -> tuple[str, str]:
    """Family and architecture to show."""
    return "cxr_clip", f"{type(model.image_encoder).__name__} and BertModel"


def make_predictor(model: Any, files: ModelFiles, device: str) -> TwoTowerEncoder:
    """The dual encoder with Bio_ClinicalBERT's tokenizer.

    Raises:
        InputError: The tokenizer lacks its vocabulary.
    """
    folder = files.companions[BERT]
    tokenizer = BertTokenizerFast.from_pretrained(folder, local_files_only=True)
    check_tokenizer(tokenizer, folder)
    longest = int(_setting(_checkpoint(files.path), "base", "text_max_length", published=256))
    context = min(longest, model.text_encoder.config.max_position_embeddings)

    def tokenize(texts: list[str]) -> Any:
        return tokenizer(texts, padding="longest", max_length=context, truncation=True, return_tensors="pt").to(device)

    def text_tokens(texts: list[str]) -> tuple[Tensor, Tensor]:
        tokens = tokenize(texts)
        return model.text_tokens(**tokens), tokens["attention_mask"].bool()

    settings = {
        "size": _IMAGE_SIZE,
        "mode": "RGB",
        **_NORMALISATION["half" if model.is_swin else "imagenet"],
        "interpolation": "bilinear",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    return TwoTowerEncoder(
        image_tower=image_half(model),
        transform=image_transform_v2(PreprocessCfg(**settings), is_train=False),
        preprocessing=preprocessing_key("open_clip", settings),
        device=device,
        model=model,
        embed_texts=lambda texts: model.get_text_features(**tokenize(texts)),
        image_tokens=model.image_tokens,
        text_tokens=text_tokens,
        logit_scale=float(model.logit_scale.detach().exp()),
    )


def _checkpoint(folder: Path) -> Path:
    names = root_files(folder)
    return folder / weight_files(names, layout_of(names, str(folder)), str(folder))[0]


def _setting(file: Path, *path: str, published: Any) -> Any:
    """A value of the trainer's configuration; the published models' where it has none."""
    value = read_pickle(file)
    for key in ("config", *path):
        value = value.get(key) if isinstance(value, dict) else None
    return published if value is None else value


def _bert_config(folder: Path, weights: Mapping[str, Tensor]) -> BertConfig:
    """The published configuration, with as many layers as there are weights for."""
    file = folder / "config.json"
    if not file.is_file():
        raise InputError("the text encoder lacks its configuration", file=file, expected=f"config.json of {BERT}")
    layers = _blocks(weights, f"{_TEXT}encoder.layer.", 12)
    return BertConfig.from_dict(read_config(file) | {"num_hidden_layers": layers})


def _resnet(weights: Mapping[str, Tensor]) -> ResNet:
    """ResNet-50 without its classifier; timm's and torchvision's, which the authors used, name their layers alike."""
    blocks = [_blocks(weights, f"{_RESNET}layer{stage}.", blocks) for stage, blocks in enumerate((3, 4, 6, 3), 1)]
    width = _shape(weights, f"{_RESNET}layer1.0.conv1.weight", (64,))[0]
    return ResNet(Bottleneck, blocks, num_classes=0, base_width=width)


def _swin(weights: Mapping[str, Tensor]) -> Any:
    layers = f"{_SWIN}encoder.layers."
    stages = range(_blocks(weights, layers, 4))
    biases = [f"{layers}{stage}.blocks.0.attention.self.relative_position_bias_table" for stage in stages]
    tables = [_shape(weights, name, (13 * 13, 3 * 2**stage)) for stage, name in enumerate(biases)]
    width, channels, patch, _ = _shape(weights, f"{_SWIN}embeddings.patch_embeddings.projection.weight", (96, 3, 4, 4))
    inner = _shape(weights, f"{layers}0.blocks.0.intermediate.dense.weight", (4 * width, width))[0]
    config = SwinConfig(
        image_size=_IMAGE_SIZE,
        patch_size=patch,
        num_channels=channels,
        embed_dim=width,
        depths=[_blocks(weights, f"{layers}{stage}.blocks.", 6 if stage == 2 else 2) for stage in stages],
        num_heads=[table[1] for table in tables],
        window_size=(math.isqrt(tables[0][0]) + 1) // 2,
        mlp_ratio=inner / width,
    )
    return SwinModel(config)


def _shape(weights: Mapping[str, Tensor], name: str, published: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a weight; the published model's where it is missing, so that all that is missing gets listed."""
    tensor = weights.get(name)
    return tuple(tensor.shape) if tensor is not None and tensor.ndim >= len(published) else published


def _blocks(weights: Mapping[str, Tensor], prefix: str, published: int) -> int:
    """How many blocks have weights under `PREFIX<number>.`; as many as published where none has."""
    return len({name[len(prefix) :].partition(".")[0] for name in weights if name.startswith(prefix)}) or published
