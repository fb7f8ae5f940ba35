"""The original `medclip` package on tiny towers, to compare with.

`python tests/medclip_original.py` wrote `models/vectors/medclip.json`. It ran where `pip install medclip==0.0.3
transformers==4.24.0 'numpy<2'` and torch are installed: later versions of transformers lack what the package's image
processor is built on. The towers alone also run under transformers 4.48 to 4.57, as `models/test_medclip.py` does.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

import medclip_factory as factory

TEXTS = ["There is no pleural effusion.", "clear lungs", "Edema of the left lung with an opacity of the right lung."]
# Which rows and columns of the preprocessed images are stored.
GRID = slice(8, None, 16)


def images() -> list[Image.Image]:
    """A large and a small one in colour, a grey one of exactly the models' size."""
    draw = np.random.RandomState(7)
    shapes = (180, 301, 3), (50, 41, 3), (224, 224)
    return [Image.fromarray(draw.randint(0, 256, shape).astype(np.uint8)) for shape in shapes]


@contextmanager
def offline(folder: Path) -> Iterator[None]:
    """The package builds its towers from the factory's configurations and stays on the CPU."""
    from torchvision.models.resnet import Bottleneck, ResNet
    from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast, SwinConfig, SwinModel

    def model(name: str, **options: Any) -> Any:
        if "Bio_ClinicalBERT" in name:
            return BertModel(BertConfig(**factory.TEXT_CONFIG, **options))
        return SwinModel(SwinConfig(**factory.SWIN_CONFIG))

    def resnet(pretrained: bool) -> Any:
        return ResNet(Bottleneck, factory.RESNET["blocks"], width_per_group=factory.RESNET["width"])

    tokenizer = BertTokenizerFast.from_pretrained(factory.text_companion(folder))
    with (
        patch.object(AutoModel, "from_pretrained", model),
        patch.object(AutoTokenizer, "from_pretrained", lambda _: tokenizer),
        patch("torchvision.models.resnet50", resnet),
        patch.object(torch.Tensor, "cuda", lambda tensor: tensor),
    ):
        yield


def original(vision: str) -> Any:
    """The original's model, `swin` or `resnet`, with the factory's weights."""
    from medclip import MedCLIPModel, MedCLIPVisionModel, MedCLIPVisionModelViT

    model = MedCLIPModel(MedCLIPVisionModelViT if vision == "swin" else MedCLIPVisionModel)
    # The package takes the towers' widths for granted; those of the tiny ones are smaller.
    width = factory.TEXT_CONFIG["hidden_size"]
    model.text_model.projection_head = torch.nn.Linear(width, factory.DIM, bias=False)
    if vision == "swin":
        width = model.vision_model.model.num_features
        model.vision_model.projection_head = torch.nn.Linear(width, factory.DIM, bias=False)
    else:
        model.vision_model.model.fc = torch.nn.Linear(2048, factory.DIM, bias=False)
    own = model.state_dict()
    drawn = factory.weights({name: list(tensor.shape) for name, tensor in own.items()})
    model.load_state_dict({name: drawn[name] if own[name].is_floating_point() else own[name] for name in own})
    return model.eval()


@torch.no_grad()
def outputs(model: Any, pixels: torch.Tensor, tokens: Any) -> dict[str, list[Any]]:
    """Embeddings before they are normalised, and logits images × texts."""
    logits = model(pixel_values=pixels, **tokens)["logits"]
    image = model.vision_model(pixel_values=pixels)
    text = model.text_model(tokens["input_ids"], tokens["attention_mask"])
    return {"image_embeddings": image.tolist(), "text_embeddings": text.tolist(), "logits": logits.tolist()}


def vectors() -> dict[str, Any]:
    """All that is stored."""
    from medclip import MedCLIPProcessor

    with tempfile.TemporaryDirectory() as folder, offline(Path(folder)):
        processor = MedCLIPProcessor()
        tokens = dict(processor(text=TEXTS, return_tensors="pt", padding=True, truncation=True))
        tokens.pop("token_type_ids")
        alone = [processor(text=[text], return_tensors="pt", padding=True, truncation=True) for text in TEXTS]
        pixels = torch.cat([processor(images=[each], return_tensors="pt")["pixel_values"] for each in images()])
        found: dict[str, Any] = {
            "input_ids": tokens["input_ids"].tolist(),
            "attention_mask": tokens["attention_mask"].tolist(),
            "pixels": pixels[:, 0, GRID, GRID].tolist(),
        }
        for vision in ("swin", "resnet"):
            model = original(vision)
            shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
            found[vision] = {"weights": shapes, **outputs(model, pixels, tokens)}
            found[vision]["alone"] = [
                model.text_model(each["input_ids"], each["attention_mask"])[0].tolist() for each in alone
            ]
    return found


def _rounded(value: Any) -> Any:
    """Nine digits say all about a float32."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


if __name__ == "__main__":
    text = json.dumps(_rounded(vectors()), separators=(",", ":")).replace("],", "],\n")
    factory.VECTORS.write_text(text + "\n", encoding="utf-8")
