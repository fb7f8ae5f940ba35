"""MedCLIP as its authors publish it: an archive with `pytorch_model.bin` and nothing else.

The network is that of the package `medclip` 0.0.3: a Swin transformer or a ResNet-50 beside Bio_ClinicalBERT, each with
a linear projection without bias. Its sizes come from the weights and from the configurations of the two repositories
from which the authors took their towers.

**Texts are never padded.** The original averages over all tokens, padding among them, and pads to the longest text of
a call, so that an embedding depends on its neighbours. With one prompt per class, its own zero-shot code pads nothing:
it tokenizes class by class. That is what happens here to every text, so an embedding depends on its text alone;
`TextTower` still counts padding as the original does. The tokenizer is the original's too: lower case, unless the
repository's `tokenizer_config.json` says otherwise, and at most 77 tokens.

The original's own zero-shot habit, the mean over prompts composed of severity, subtype and location, is not used: every
model gets the frozen prompts of the task.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet  # type: ignore[import-untyped]
from transformers import BertConfig, BertModel, BertTokenizerFast, PretrainedConfig, SwinConfig, SwinModel

from vlmed.errors import InputError
from vlmed.models.companion import Companion, ModelFiles
from vlmed.models.encoders import TwoTowerEncoder, check_tokenizer, preprocessing_key
from vlmed.models.published import build_exactly, read_weights, swin_as_in_file
from vlmed.models.snapshot import read_config

TEXT = Companion(
    "emilyalsentzer/Bio_ClinicalBERT",
    ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
)
SWIN = Companion("microsoft/swin-tiny-patch4-window7-224", ("config.json",))
CONTEXT = 77
IMAGE_SIZE = 224
MEAN, STD = 0.5862785803043838, 0.27950088968644304

_WEIGHTS = "pytorch_model.bin"
_TEXT_PROJECTION = "text_model.projection_head.weight"
_RESNET_WIDTH = "vision_model.model.layer1.0.conv1.weight"
# Which hidden states the text embedding averages over; 0 would be the embeddings before the first layer.
_LAYERS = (1, 2, -1)
_MAX_LOGIT_SCALE = 4.6052
# Indices that older versions of transformers saved beside the weights and that newer ones compute.
_COMPUTED = (r"text_model\.model\.embeddings\.position_ids", r"vision_model\..+\.relative_position_index")


class SwinTower(nn.Module):
    """Pixels (B, 3, H, W) -> embeddings (B, D), through the mean over the last layer's positions."""

    def __init__(self, config: SwinConfig, dim: int) -> None:
        super().__init__()
        self.model = SwinModel(config)
        self.projection_head = nn.Linear(self.model.num_features, dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        embeddings: Tensor = self.projection_head(self.model(pixels).pooler_output)
        return embeddings

    def tokens(self, pixels: Tensor) -> Tensor:
        """Pixels -> (B, P, V), the last layer's positions."""
        hidden: Tensor = self.model(pixels).last_hidden_state
        return hidden


class ResNetTower(nn.Module):
    """Pixels (B, 3, H, W) -> embeddings (B, D); the last layer of the ResNet is the projection.

    Args:
        blocks: Number of blocks in each of the four stages.
        width: Channels inside the blocks of the first stage.
        dim: D.
    """

    def __init__(self, blocks: list[int], width: int, dim: int) -> None:
        super().__init__()
        self.model = ResNet(Bottleneck, blocks, width_per_group=width)
        self.model.fc = nn.Linear(self.model.fc.in_features, dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        embeddings: Tensor = self.model(pixels)
        return embeddings

    def tokens(self, pixels: Tensor) -> Tensor:
        """Pixels -> (B, P, V), the positions of the last feature map."""
        feature_map: Tensor = nn.Sequential(*list(self.model.children())[:-2])(pixels)
        return feature_map.flatten(2).mT


class TextTower(nn.Module):
    """Token ids (N, T), and a mask over them where some are padding -> embeddings (N, D).

    The mask only guides attention: the mean over tokens counts padding, as in the original.
    """

    def __init__(self, config: BertConfig, dim: int) -> None:
        super().__init__()
        self.model = BertModel(config)
        self.projection_head = nn.Linear(config.hidden_size, dim, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.model(input_ids, attention_mask, output_hidden_states=True).hidden_states
        averaged = torch.stack([hidden[layer].mean(1) for layer in _LAYERS]).mean(0)
        embeddings: Tensor = self.projection_head(averaged)
        return embeddings


class MedCLIP(nn.Module):
    """Both towers and the logarithm of the logit scale, with the original's names of weights."""

    def __init__(self, vision_model: SwinTower | ResNetTower, text_model: TextTower) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.text_model = text_model
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


def companions(folder: Path) -> tuple[Companion, ...]:
    """Tokenizer and configuration of the text tower, and of the vision tower where that is a Swin transformer.

    Raises:
        InputError: The weights can't be read, or are another model's.
    """
    file = folder / _WEIGHTS
    return (TEXT, SWIN) if _has_swin(read_weights(file), file) else (TEXT,)


def load_weights(files: ModelFiles) -> MedCLIP:
    """The network in float32.

    Raises:
        InputError: Lists every weight that is missing, left over or of another shape.
    """
    file = files.path / _WEIGHTS
    weights = read_weights(file)
    text = _config(files, TEXT, BertConfig)
    swin = _config(files, SWIN, SwinConfig) if _has_swin(weights, file) else None
    dim = _rows(weights, _TEXT_PROJECTION)

    def build() -> MedCLIP:
        return MedCLIP(SwinTower(swin, dim) if swin else _resnet(weights, dim), TextTower(text, dim))

    return build_exactly(build, weights, file, _COMPUTED, swin_as_in_file)


def _has_swin(weights: Mapping[str, Tensor], file: Path) -> bool:
    kinds = {match[1] for name in weights if (match := re.match(r"vision_model\.model\.(encoder|layer1)\.", name))}
    if len(kinds) != 1:
        raise InputError(
            "these are not MedCLIP's weights",
            file=file,
            expected="a Swin transformer under vision_model.model.encoder, or a ResNet under vision_model.model.layer1",
            got=f"{', '.join(sorted(weights)[:4])}, ..." if weights else "no weights",
            hint="another model needs its configuration beside its weights, such as config.json",
        )
    return kinds == {"encoder"}


def _config(files: ModelFiles, companion: Companion, kind: type[PretrainedConfig]) -> Any:
    file = files.companions[companion.repository] / "config.json"
    if not file.is_file():
        raise InputError("the tower's configuration is missing", file=file, expected=f"that of {companion.repository}")
    config = read_config(file)
    named = config.get("model_type", kind.model_type)
    if named != kind.model_type:
        expected = repr(kind.model_type)
        raise InputError("this configures another tower", file=file, path="$.model_type", expected=expected, got=named)
    return kind.from_dict(config)


def _resnet(weights: Mapping[str, Tensor], dim: int) -> ResNetTower:
    """A ResNet as deep and as wide as its weights."""
    found = {re.match(r"vision_model\.model\.layer(\d)\.(\d+)\.", name) for name in weights}
    blocks = {match.groups() for match in found if match}
    depths = [sum(stage == each for each, _ in blocks) for stage in "1234"]
    return ResNetTower(depths, _rows(weights, _RESNET_WIDTH), dim)


def _rows(weights: Mapping[str, Tensor], name: str) -> int:
    # Where the weight is missing, any number will do: the error names it.
    return len(weights[name]) if name in weights else 1


def family_of(model: MedCLIP) -> tuple[str, str]:
    """Family and architecture to show."""
    return "medclip", f"MedCLIP {type(model.vision_model.model).__name__}"


def make_predictor(model: MedCLIP, files: ModelFiles, device: str) -> TwoTowerEncoder:
    """The dual encoder with the original's preprocessing and tokenizer.

    Raises:
        InputError: The tokenizer is missing, or knows more tokens than the text tower.
    """
    tokenizer = _tokenizer(files.companions[TEXT.repository], model.text_model.model.config.vocab_size)
    return TwoTowerEncoder(
        image_tower=model.vision_model,
        transform=transform,
        preprocessing=preprocessing_key("medclip", {"square": IMAGE_SIZE, "mean": MEAN, "std": STD}),
        device=device,
        model=model,
        embed_texts=lambda texts: _embed_unpadded(model.text_model, tokenizer, texts, device),
        image_tokens=model.vision_model.tokens,
        text_tokens=lambda texts: _text_tokens(model.text_model, tokenizer, texts, device),
        logit_scale=float(model.logit_scale.detach().clamp(0, _MAX_LOGIT_SCALE).exp()),
    )


def transform(image: Image.Image) -> Tensor:
    """RGB image -> float32 (3, 224, 224), three times the same.

    Grey; a black frame makes a square of at least 224 × 224; bicubic to 224 × 224, whose centre crop is all of it.
    """
    size = max(IMAGE_SIZE, *image.size)
    square = Image.new("L", (size, size), 0)
    square.paste(image.convert("L"), ((size - image.width) // 2, (size - image.height) // 2))
    resized = square.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized, dtype=np.float32)) / 255
    return ((pixels - MEAN) / STD).repeat(3, 1, 1)


def _tokenizer(folder: Path, vocabulary: int) -> Any:
    check_tokenizer(BertTokenizerFast, folder)
    tokenizer = BertTokenizerFast.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) > vocabulary:
        raise InputError(
            "the tokenizer belongs to another model",
            file=folder,
            expected=f"at most {vocabulary} tokens, as many as the text tower knows",
            got=f"{len(tokenizer)} tokens",
        )
    return tokenizer


def _embed_unpadded(tower: TextTower, tokenizer: Any, texts: list[str], device: str) -> Tensor:
    """Texts of one length go through the tower together."""
    ids = tokenizer(texts, truncation=True, max_length=CONTEXT)["input_ids"]
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    lengths = sorted({len(each) for each in ids})
    parts = [[ids[row] for row in order if len(ids[row]) == length] for length in lengths]
    embeddings = torch.cat([tower(torch.tensor(part, device=device)) for part in parts])
    return embeddings[torch.tensor(order, device=device).argsort()]


def _text_tokens(tower: TextTower, tokenizer: Any, texts: list[str], device: str) -> tuple[Tensor, Tensor]:
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt").to(device)
    hidden = tower.model(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state
    return hidden, tokens["attention_mask"].bool()
