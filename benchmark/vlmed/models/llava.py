"""LLaVA as its authors publish it: LLaVA 1.5 (model type `llava`) and LLaVA-Med 1.5 (`llava_mistral`).

Sources: Liu et al. 2024, "Improved Baselines with Visual Instruction Tuning"; Li et al. 2023, "LLaVA-Med"; their code,
github.com/haotian-liu/LLaVA and github.com/microsoft/LLaVA-Med. The layout is a language model's, with the projector
and mostly the vision tower among its weights. Here it fills transformers' LLaVA key by key.

The authors cut the prompt at the image, tokenize the pieces one by one, and put the projected patches between their
embeddings. transformers puts them where an image token stands. So that both see the same sequence, and no token of the
vocabulary changes its meaning, `LlavaProcessor` cuts and tokenizes in the same way and writes an id after the last in
between, for which the embeddings get one more row. The head gets none: the image token can't be an answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    BatchFeature,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
)
from transformers.initialization import no_init_weights
from transformers.models.clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vlmed.errors import InputError, Problem
from vlmed.models.chat import Form
from vlmed.models.companion import Companion, ModelFiles
from vlmed.models.encoders import check_tokenizer
from vlmed.models.generators import HfGenerator
from vlmed.models.layouts import CONFIG, layout_of, weight_files
from vlmed.models.published import load_exactly, read_weights
from vlmed.models.snapshot import read_config, root_files

IMAGE = "<image>"
# Templates vicuna_v1 and mistral_instruct of the authors' conversation.py; LLaVA-Med's readme asks for the latter.
_VICUNA = Form(
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: {image}{prompt} ASSISTANT:",
    image=f"{IMAGE}\n",
    anchor="ASSISTANT:",
    lead=" ",
    needs_image=False,
)
_MISTRAL = Form("[INST] {image}{prompt} [/INST]", f"{IMAGE}\n", "[/INST]", " ", needs_image=False)
# Model type -> configuration of its language model, and how it is spoken to.
_KINDS: dict[str, tuple[Any, Form]] = {
    "llava": (LlamaConfig, _VICUNA),
    "llava_llama": (LlamaConfig, _VICUNA),
    "llava_mistral": (MistralConfig, _MISTRAL),
}

_TOWER = "model.vision_tower.vision_tower.vision_model."
# Its authors' own name, or where somebody who trained a model further had put it.
_TOWER_NAME = re.compile(r"(?:.*/)?(clip-vit-(?:base|large)-patch\d+(?:-336)?)/?")
# All of OpenAI's towers have heads of this width.
_HEAD_WIDTH = 64
_TOWER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Tables that each version of transformers computes by itself.
_COMPUTED = (r".*\.position_ids", r".*\.rotary_emb\.inv_freq")

# What a configuration may ask for -> what of it is supported. The rest belongs to LLaVA 1, 1.6 or to nobody.
_SUPPORTED = {
    "model_type": tuple(_KINDS),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch", "cls_patch"),
    "mm_patch_merge_type": ("flat",),
    "mm_use_im_start_end": (False,),
    "image_aspect_ratio": ("pad", "square"),
}
_DEFAULTS = {
    "mm_projector_type": "linear",
    "mm_vision_select_feature": "patch",
    "mm_patch_merge_type": "flat",
    "mm_use_im_start_end": False,
    "image_aspect_ratio": "square",
}
_HINT = "many LLaVA models are also published in transformers' own layout: look for one that names `vision_config`"


def companions(folder: Path) -> tuple[Companion, ...]:
    """OpenAI's CLIP where the checkpoint leaves out its vision tower.

    Raises:
        InputError: The configuration asks for something unsupported; lists all of it.
    """
    config = _checked_config(folder)
    if any(name.startswith(_TOWER) for name in _weight_names(folder)):
        return ()
    return (Companion(_tower_repository(config), _TOWER_WEIGHTS, apart=True),)


def load_weights(files: ModelFiles) -> nn.Module:
    """The model, still on the CPU: in the checkpoint's own precision if it is to run on a CUDA device, else float32.

    Raises:
        InputError: Lists every weight that is missing, left over or of another shape, or what of the configuration is
            unsupported.
    """
    raw = _checked_config(files.path)
    weights = _read(files.path)
    stored = next((tensor.dtype for tensor in weights.values() if tensor.is_floating_point()), torch.float32)
    precision = stored if files.on_cuda else torch.float32
    for folder in files.companions.values():
        weights |= _read_tower(folder)
    config = _config(raw, _tower_config(weights, files.path))
    with no_init_weights():
        model = LlavaForConditionalGeneration._from_config(config, dtype=precision)
    load_exactly(model, weights, files.path, _COMPUTED, _name_in_file)
    _add_image_row(model)
    loaded: nn.Module = model
    return loaded


def family_of(model: Any) -> tuple[str, str]:
    """Family and architecture to show."""
    return str(model.config.model_type), type(model).__name__


def make_predictor(model: Any, files: ModelFiles, device: str) -> HfGenerator:  # noqa: ARG001
    """The generator with the authors' prompt, tokenization and preprocessing.

    Raises:
        InputError: The tokenizer is missing or knows tokens that the model does not.
    """
    raw = _checked_config(files.path)
    tokenizer = LlamaTokenizer.from_pretrained(files.path, local_files_only=True)
    if not (files.path / "tokenizer.json").is_file():
        check_tokenizer(tokenizer, files.path)
    if len(tokenizer) > model.config.image_token_id:
        raise InputError(
            "the tokenizer knows more tokens than the model",
            file=files.path,
            expected=f"at most {model.config.image_token_id}",
            got=str(len(tokenizer)),
        )
    processor = LlavaProcessor(model.config, tokenizer, pad=_value(raw, "image_aspect_ratio") == "pad")
    chat = _KINDS[raw["model_type"]][1]
    return HfGenerator(model, processor, chat)


class LlavaProcessor:
    """Texts with a mark for the image, and images -> what transformers' LLaVA takes.

    Args:
        config: The model's.
        tokenizer: It need not know the image token.
        pad: Make images square with borders in the mean colour first, instead of cropping them.
    """

    image_token = IMAGE

    def __init__(self, config: Any, tokenizer: Any, pad: bool) -> None:
        vision = config.vision_config
        self.tokenizer = tokenizer
        # Its other settings are OpenAI's, which transformers has as defaults. The authors resize with Pillow too.
        self.image_processor = CLIPImageProcessorPil(
            size={"shortest_edge": vision.image_size},
            crop_size={"height": vision.image_size, "width": vision.image_size},
        )
        self._pad = pad
        self._image_id = config.image_token_id
        patches = (vision.image_size // vision.patch_size) ** 2
        self._n_tokens = patches + (config.vision_feature_select_strategy == "full")

    def __call__(
        self, *, text: Sequence[str], images: Sequence[Sequence[Image.Image]] | None, **_: Any
    ) -> BatchFeature:
        """Token ids and mask int64 (B, T), padded on the tokenizer's side, and pixels float32 (B, 3, H, W)."""
        rows = [self._ids(each) for each in text]
        inputs = self.tokenizer.pad({"input_ids": rows}, padding=True, return_tensors="pt")
        if images:
            squares = [self._square(image) for group in images for image in group]
            inputs = {**inputs, **self.image_processor(squares, return_tensors="pt")}
        return BatchFeature(dict(inputs))

    def _ids(self, text: str) -> list[int]:
        """The beginning's token, then each piece between marks by itself, with the image's tokens for the marks."""
        ids = [self.tokenizer.bos_token_id]
        for number, piece in enumerate(text.split(IMAGE)):
            ids += [self._image_id] * self._n_tokens if number else []
            ids += self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        return ids

    def _square(self, image: Image.Image) -> Image.Image:
        # LLaVA-Med's code shifts the image by a pixel at random; here it is always in the middle, as in LLaVA's.
        if not self._pad:
            return image
        side = max(image.size)
        mean = tuple(int(255 * value) for value in self.image_processor.image_mean)
        square = Image.new("RGB", (side, side), mean)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square


def _checked_config(folder: Path) -> dict[str, Any]:
    config = read_config(folder / CONFIG)
    problems = [
        Problem(
            "unsupported LLaVA", str(folder / CONFIG), f"$.{key}", _listed(values), repr(_value(config, key)), _HINT
        )
        for key, values in _SUPPORTED.items()
        if _value(config, key) not in values
    ]
    if not isinstance(config.get("mm_vision_select_layer"), int):
        got = repr(config.get("mm_vision_select_layer"))
        problems.append(Problem("unsupported LLaVA", str(folder / CONFIG), "$.mm_vision_select_layer", "a number", got))
    if not _TOWER_NAME.fullmatch(str(config["mm_vision_tower"])):
        expected = "one of OpenAI's CLIP models, such as openai/clip-vit-large-patch14-336"
        got = repr(config["mm_vision_tower"])
        problems.append(Problem("unknown vision tower", str(folder / CONFIG), "$.mm_vision_tower", expected, got))
    if problems:
        raise InputError(problems)
    return config


def _value(config: Mapping[str, Any], key: str) -> Any:
    """A setting; null is as good as none."""
    value = config.get(key)
    return _DEFAULTS.get(key) if value is None else value


def _listed(values: Sequence[object]) -> str:
    return " or ".join(map(repr, values))


def _tower_repository(config: Mapping[str, Any]) -> str:
    match = _TOWER_NAME.fullmatch(config["mm_vision_tower"])
    assert match, "the configuration was checked"
    return f"openai/{match[1]}"


def _tower_config(weights: Mapping[str, Tensor], where: Path) -> CLIPVisionConfig:
    """OpenAI's vision towers differ only in what their weights' shapes tell."""
    needed = [f"{_TOWER}{name}.weight" for name in ("embeddings.patch_embedding", "embeddings.position_embedding")]
    needed.append(f"{_TOWER}encoder.layers.0.mlp.fc1.weight")
    missing = [Problem("the checkpoint lacks weights", str(where), name) for name in needed if name not in weights]
    if missing:
        raise InputError(missing)
    patches, positions, widening = (weights[name].shape for name in needed)
    layers = {
        name.removeprefix(_TOWER).split(".")[2] for name in weights if name.startswith(f"{_TOWER}encoder.layers.")
    }
    return CLIPVisionConfig(
        hidden_size=patches[0],
        intermediate_size=widening[0],
        num_hidden_layers=len(layers),
        num_attention_heads=patches[0] // _HEAD_WIDTH,
        patch_size=patches[-1],
        image_size=math.isqrt(positions[0] - 1) * patches[-1],
    )


def _config(raw: Mapping[str, Any], vision: CLIPVisionConfig) -> LlavaConfig:
    text = _KINDS[raw["model_type"]][0].from_dict({key: raw[key] for key in raw if not key.startswith("mm_")})
    # With an image row the two tables differ; `load_exactly` asks for both.
    text.tie_word_embeddings = False
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=text.vocab_size,
        projector_hidden_act="gelu",
        vision_feature_layer=raw["mm_vision_select_layer"],
        vision_feature_select_strategy="default" if _value(raw, "mm_vision_select_feature") == "patch" else "full",
        tie_word_embeddings=False,
    )


def _add_image_row(model: Any) -> None:
    """Give the embeddings a row for the image token, which the patches replace before anything reads it."""
    known = model.get_input_embeddings().weight
    table = torch.cat([known.detach(), known.new_zeros(1, known.shape[1])])
    model.set_input_embeddings(nn.Embedding(table.shape[0], table.shape[1], _weight=table))


def _name_in_file(name: str) -> str:
    """transformers' name of a weight -> the authors'."""
    for here, there in (
        ("model.language_model.", "model."),
        ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
        ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
        ("model.vision_tower.", _TOWER),
    ):
        if name.startswith(here):
            return there + name.removeprefix(here)
    return name


def _weight_names(folder: Path) -> set[str]:
    file = _weight_file(folder)
    return set(_weight_map(file)) if file.suffix == ".json" else set(read_weights(file))


def _weight_file(folder: Path) -> Path:
    names = root_files(folder)
    return folder / weight_files(names, layout_of(names, str(folder)), str(folder))[0]


def _weight_map(index: Path) -> dict[str, str]:
    """Weight -> shard, of which each lies beside the index."""
    names = read_config(index).get("weight_map")
    if not isinstance(names, dict):
        raise InputError("the index names no weights", file=index, path="$.weight_map", expected="weight -> file")
    absent = sorted({str(shard) for shard in names.values()} - set(root_files(index.parent)))
    if absent:
        raise InputError([Problem("a part of the weights is missing", str(index.parent), shard) for shard in absent])
    return names


def _read(folder: Path) -> dict[str, Tensor]:
    file = _weight_file(folder)
    shards = sorted(set(_weight_map(file).values())) if file.suffix == ".json" else [file.name]
    return {name: tensor for shard in shards for name, tensor in read_weights(folder / shard).items()}


def _read_tower(folder: Path) -> dict[str, Tensor]:
    """The vision half of a CLIP, under the names it has in a LLaVA."""
    file = next(folder / name for name in _TOWER_WEIGHTS if (folder / name).exists())
    half = "vision_model."
    return {
        _TOWER + name.removeprefix(half): tensor for name, tensor in read_weights(file).items() if name.startswith(half)
    }
