"""PMC-CLIP: a modified ResNet-50 with attention pooling, PubMedBERT, and a fusion module over both.

Published in the data set repository axiong/pmc_oa, as three files of encoders or as one `checkpoint.pt` of the training
code, which also holds the fusion module. Layers keep the names they have there.

What can't be read from the weights follows the training code, github.com/WeixiongLin/PMC-CLIP: attention heads 64
channels wide in the pooling (32 heads in the published model), 8 heads in the fusion module, texts padded to the full
context *without* an attention mask, and the last hidden state of [CLS] projected. The authors' notebook for the three
files differs in two places: it pools with 8 heads, and projects BERT's own pooled output, which training never touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import Transformer
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel, BertTokenizerFast

from vlmed.errors import InputError
from vlmed.models.attention_pool import call_projections
from vlmed.models.companion import Companion, ModelFiles
from vlmed.models.encoders import TwoTowerEncoder, check_tokenizer, preprocessing_key
from vlmed.models.protocols import WITH_FUSION
from vlmed.models.published import build_exactly, read_weights
from vlmed.models.safety import read_pickle
from vlmed.models.snapshot import read_config

# Its name when PMC-CLIP was trained; the Hub redirects it to BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext.
BERT = "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract-fulltext"

_CHECKPOINT, _IMAGE, _TEXT, _PROJECTION = (
    "checkpoint.pt",
    "image_encoder(resnet50).pth",
    "text_encoder.pth",
    "text_projection_layer.pth",
)
_CONTEXT = 77
_POOLING_HEAD_WIDTH = 64
_FUSION_HEADS = 8
# The three files lack it; the authors give this one for them.
_LOGIT_SCALE = 4.4292
# What an older transformers stored although it is computed, and what training kept without ever using it.
_IGNORABLE = (r"text_encoder\.embeddings\.position_ids", r"positional_embedding", r"ln_final\.(weight|bias)")
# OpenAI's normalisation of images.
_PREPROCESSING = {
    "mode": "RGB",
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


class Fusion(nn.Module):
    """Transformer over the tokens of a text and one token for its image, trained to fill in masked words.

    Args:
        width: W, of text tokens and of image embeddings alike.
        layers: Number of transformer blocks.
        words: Size of the vocabulary for `log_probabilities`; 0 where the checkpoint has no head for words.
    """

    def __init__(self, width: int, layers: int, words: int) -> None:
        super().__init__()
        self.img_special_token = nn.Parameter(torch.zeros(1, 1, width))
        self.fusion_module = Transformer(width, layers, _FUSION_HEADS)
        if words:
            self.mlm_projection = nn.Parameter(torch.zeros(width, words))

    def forward(self, text_tokens: Tensor, image_embeddings: Tensor) -> Tensor:
        """Fused text tokens float32 (B, T, W).

        Args:
            text_tokens: Last hidden states of the text encoder (B, T, W), padding included and attended to.
            image_embeddings: From `visual`, (B, W); normalised here, as in training.
        """
        image = functional.normalize(image_embeddings, dim=-1)[:, None]
        separator = self.img_special_token.expand(len(image), -1, -1)
        fused: Tensor = self.fusion_module(torch.cat([text_tokens, separator, image], dim=1))
        return fused[:, :-2]

    def log_probabilities(self, fused: Tensor) -> Tensor:
        """Fused tokens (B, T, W) -> log-probabilities float32 (B, T, vocabulary) of the word at each place."""
        return functional.log_softmax(fused @ self.mlm_projection, dim=-1)


class PmcClip(nn.Module):
    """The network; `fusion` is None where the checkpoint holds the encoders only."""

    def __init__(self, weights: Mapping[str, Tensor], bert: BertConfig) -> None:
        super().__init__()
        width, dim = _size(weights, "visual.conv3.weight", 64), _size(weights, "visual.attnpool.c_proj.weight", 768)
        side = math.isqrt(_size(weights, "visual.attnpool.positional_embedding", 50) - 1)
        self.visual = ModifiedResNet(
            layers=[_blocks(weights, f"visual.layer{stage}.", blocks) for stage, blocks in enumerate((3, 4, 6, 3), 1)],
            output_dim=dim,
            heads=width * 32 // _POOLING_HEAD_WIDTH,
            image_size=side * 32,
            width=width,
        )
        call_projections(self.visual)
        self.text_encoder = BertModel(bert)
        self.text_projection = nn.Parameter(torch.zeros(bert.hidden_size, dim))
        self.logit_scale = nn.Parameter(torch.tensor(_LOGIT_SCALE))
        layers = _blocks(weights, "fusion_module.resblocks.", 0)
        words = _size(weights, "mlm_projection", 0, axis=1)
        self.fusion = Fusion(bert.hidden_size, layers, words) if layers else None

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> the map before pooling, (B, H/32 * W/32, 2048)."""
        layers = self.visual.forward_intermediates(pixels, indices=1, intermediates_only=True)
        last: Tensor = layers["image_intermediates"][-1]
        return last.flatten(2).transpose(1, 2)

    def text_tokens(self, token_ids: Tensor) -> Tensor:
        """Token ids (N, T) -> last hidden states (N, T, 768). Padding is attended to, as in training."""
        hidden: Tensor = self.text_encoder(input_ids=token_ids).last_hidden_state
        return hidden

    def embed_texts(self, token_ids: Tensor) -> Tensor:
        """Token ids (N, T) -> embeddings (N, D)."""
        return self.text_tokens(token_ids)[:, 0] @ self.text_projection


def companions(folder: Path) -> tuple[Companion, ...]:  # noqa: ARG001
    """PubMedBERT's configuration and tokenizer."""
    return (Companion(BERT, ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")),)


def load_weights(files: ModelFiles) -> PmcClip:
    """The model in float32; pickles load with `weights_only=True`.

    Raises:
        InputError: Lists all weights that are missing, left over or of another shape.
    """
    split = (files.path / _PROJECTION).is_file()
    weights = _encoders(files.path) if split else _checkpoint(files.path / _CHECKPOINT)
    bert = _bert_config(files.companions[BERT], weights)
    where = files.path if split else files.path / _CHECKPOINT
    return build_exactly(lambda: PmcClip(weights, bert), weights, where, _IGNORABLE, _name_in_file)


def family_of(model: Any) -> tuple[str, str]:
    """Family and architecture to show."""
    return "pmc_clip", f"ModifiedResNet and BertModel{WITH_FUSION if model.fusion else ''}"


def make_predictor(model: Any, files: ModelFiles, device: str) -> TwoTowerEncoder:
    """The dual encoder with PubMedBERT's tokenizer.

    Raises:
        InputError: The tokenizer lacks its vocabulary.
    """
    folder = files.companions[BERT]
    tokenizer = BertTokenizerFast.from_pretrained(folder, local_files_only=True)
    check_tokenizer(tokenizer, folder)
    context = min(_CONTEXT, model.text_encoder.config.max_position_embeddings)

    def tokenize(texts: list[str]) -> Any:
        padded = {"padding": "max_length", "max_length": context, "truncation": True}
        return tokenizer(texts, **padded, return_tensors="pt").to(device)

    def text_tokens(texts: list[str]) -> tuple[Tensor, Tensor]:
        tokens = tokenize(texts)
        return model.text_tokens(tokens["input_ids"]), tokens["attention_mask"].bool()

    settings = {"size": model.visual.image_size, **_PREPROCESSING}
    return TwoTowerEncoder(
        image_tower=model.visual,
        transform=image_transform_v2(PreprocessCfg(**settings), is_train=False),
        preprocessing=preprocessing_key("open_clip", settings),
        device=device,
        model=model,
        embed_texts=lambda texts: model.embed_texts(tokenize(texts)["input_ids"]),
        image_tokens=model.image_tokens,
        text_tokens=text_tokens,
        logit_scale=float(model.logit_scale.detach().exp()),
    )


def _encoders(folder: Path) -> dict[str, Tensor]:
    """The weights of the three files, under their names in the training code's checkpoint."""
    image, text = read_weights(folder / _IMAGE), read_weights(folder / _TEXT)
    return {
        **{f"visual.{name}": tensor for name, tensor in image.items()},
        **{f"text_encoder.{name}": tensor for name, tensor in text.items()},
        "text_projection": _read_tensor(folder / _PROJECTION),
        "logit_scale": torch.tensor(_LOGIT_SCALE),
    }


def _read_tensor(file: Path) -> Tensor:
    tensor = read_pickle(file)
    if not isinstance(tensor, Tensor):
        raise InputError("the text projection is not one tensor", file=file, got=type(tensor).__name__)
    return tensor


def _checkpoint(file: Path) -> dict[str, Tensor]:
    """The weights of a training checkpoint, without the prefix that training on several GPUs gives them."""
    weights = read_weights(file, within="state_dict")
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}


def _bert_config(folder: Path, weights: Mapping[str, Tensor]) -> BertConfig:
    """The published configuration, with as many layers as there are weights for."""
    file = folder / "config.json"
    if not file.is_file():
        raise InputError("the text encoder lacks its configuration", file=file, expected=f"config.json of {BERT}")
    layers = _blocks(weights, "text_encoder.encoder.layer.", 12)
    return BertConfig.from_dict(read_config(file) | {"num_hidden_layers": layers})


def _size(weights: Mapping[str, Tensor], name: str, published: int, axis: int = 0) -> int:
    """The length of a weight; the published model's where it is missing, so that all that is missing gets listed."""
    tensor = weights.get(name)
    return int(tensor.shape[axis]) if tensor is not None and tensor.ndim > axis else published


def _blocks(weights: Mapping[str, Tensor], prefix: str, published: int) -> int:
    """How many blocks have weights under `PREFIX<number>.`; as many as published where none has."""
    return len({name[len(prefix) :].partition(".")[0] for name in weights if name.startswith(prefix)}) or published


def _name_in_file(name: str) -> str:
    return name.removeprefix("fusion.")
