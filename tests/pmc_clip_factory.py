"""PMC-CLIP checkpoints of a few megabytes in both published layouts, and the original network on the same weights.

The weights come from numpy, seeded with the name of each, so that they are the same everywhere and are never stored.
Where the authors' package `pmc_clip` (github.com/WeixiongLin/PMC-CLIP, folder `src`) can be imported,
`python tests/pmc_clip_factory.py` writes what it computes with them to `tests/models/vectors/pmc_clip.json`.
"""

from __future__ import annotations

import json
import math
import string
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

VECTORS = Path(__file__).parent / "models" / "vectors" / "pmc_clip.json"
TEXTS = ["a chest x-ray", "Pneumonia, left lower lobe", "no " * 60]
CONTEXT, WIDTH, TOWER_WIDTH, IMAGE_SIZE, BLOCKS = 77, 32, 4, 64, (2, 1, 1, 1)
COMPANION = "BiomedNLP-PubMedBERT-base-uncased-abstract-fulltext"
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *string.ascii_lowercase,
    *(f"##{a}" for a in string.ascii_lowercase),
]
WORDS += [*string.ascii_uppercase, *(f"##{a}" for a in string.ascii_uppercase), *string.digits, *string.punctuation]
BERT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": len(WORDS),
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def filled(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights by name and shape: norms near one, other values small enough for activations to stay near one."""
    return {name: torch.from_numpy(_values(name, shape)) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    draw = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.array(1000)
    if name.endswith("position_ids"):
        return np.arange(shape[-1]).reshape(shape)
    if not shape:
        return np.array(draw.uniform(3, 4), dtype=np.float32)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return draw.uniform(0.5, 1.5, shape).astype(np.float32)
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 100
    return (draw.standard_normal(shape) / math.sqrt(fan_in)).astype(np.float32)


def pixels(size: int) -> Tensor:
    """Three images after preprocessing, float32 (3, 3, size, size): four by four patches of noise around a colour."""
    draw = np.random.RandomState(size)
    colours = np.kron(draw.standard_normal((3, 3, 4, 4)), np.ones((size // 4, size // 4)))
    return torch.from_numpy((colours + 0.5 * draw.standard_normal(colours.shape)).astype(np.float32))


def bert_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a BERT as transformers stored it in 2023, position ids included."""
    from transformers import BertConfig, BertModel

    shapes = {name: tuple(tensor.shape) for name, tensor in BertModel(BertConfig(**config)).state_dict().items()}
    return {**shapes, "embeddings.position_ids": (1, config["max_position_embeddings"])}


def write_bert(folder: Path) -> None:
    """A companion's configuration and vocabulary, as PubMedBERT and Bio_ClinicalBERT have them; no weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(BERT), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")


def pmc_clip_weights(*, fusion: bool = True, words: bool = True) -> dict[str, Tensor]:
    """The state dict of the training code's network."""
    from open_clip.modified_resnet import ModifiedResNet

    visual = ModifiedResNet(list(BLOCKS), WIDTH, 2, IMAGE_SIZE, TOWER_WIDTH).state_dict()
    shapes = {f"visual.{name}": tuple(tensor.shape) for name, tensor in visual.items()}
    shapes |= {f"text_encoder.{name}": shape for name, shape in bert_shapes(BERT).items()}
    shapes |= {"text_projection": (WIDTH, WIDTH), "logit_scale": ()}
    shapes |= {"positional_embedding": (CONTEXT, WIDTH), "ln_final.weight": (WIDTH,), "ln_final.bias": (WIDTH,)}
    if fusion:
        shapes |= {"img_special_token": (1, 1, WIDTH)}
        shapes |= {name: shape for layer in range(2) for name, shape in _fusion_block(layer).items()}
    if words:
        shapes["mlm_projection"] = (WIDTH, len(WORDS))
    return filled(shapes)


def _fusion_block(layer: int) -> dict[str, tuple[int, ...]]:
    block = {
        "attn.in_proj_weight": (3 * WIDTH, WIDTH),
        "attn.in_proj_bias": (3 * WIDTH,),
        "attn.out_proj.weight": (WIDTH, WIDTH),
        "attn.out_proj.bias": (WIDTH,),
        "mlp.c_fc.weight": (4 * WIDTH, WIDTH),
        "mlp.c_fc.bias": (4 * WIDTH,),
        "mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
        "mlp.c_proj.bias": (WIDTH,),
        **{f"ln_{norm}.{part}": (WIDTH,) for norm in (1, 2) for part in ("weight", "bias")},
    }
    return {f"fusion_module.resblocks.{layer}.{name}": shape for name, shape in block.items()}


def tiny_pmc_clip(folder: Path, *, fusion: bool = True, words: bool = True, prefix: str = "module.") -> Path:
    """The layout of one `checkpoint.pt`, as training on several GPUs saves it, with its companion beside it."""
    weights = pmc_clip_weights(fusion=fusion, words=words)
    write_bert(folder / COMPANION)
    state = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    optimizer = {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}
    checkpoint = {"epoch": 3, "name": "pmc", "state_dict": state, "optimizer": optimizer, "scaler": {"scale": 65536.0}}
    torch.save(checkpoint, folder / "checkpoint.pt")
    return folder


def tiny_pmc_clip_encoders(folder: Path) -> Path:
    """The layout of three files, with its companion beside them."""
    weights = pmc_clip_weights()
    write_bert(folder / COMPANION)
    for file, prefix in (("image_encoder(resnet50).pth", "visual."), ("text_encoder.pth", "text_encoder.")):
        part = {name[len(prefix) :]: tensor for name, tensor in weights.items() if name.startswith(prefix)}
        torch.save(part, folder / file)
    torch.save(torch.nn.Parameter(weights["text_projection"]), folder / "text_projection_layer.pth")
    return folder


def original_outputs(companion: Path) -> dict[str, Any]:
    """What the authors' network computes with `pmc_clip_weights` from `pixels` and `TEXTS`."""
    from pmc_clip.model import pmc_clip as original
    from transformers import BertConfig, BertModel, BertTokenizerFast

    text = {"context_length": CONTEXT, "vocab_size": len(WORDS), "width": WIDTH, "heads": 8, "fusion_layers": 2}
    name = "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract-fulltext"
    vision = {"layers": BLOCKS, "width": TOWER_WIDTH, "image_size": IMAGE_SIZE, "patch_size": None}
    with (
        mock.patch.object(
            original, "AutoModel", SimpleNamespace(from_pretrained=lambda _: BertModel(BertConfig(**BERT)))
        ),
        mock.patch.object(
            original,
            "AutoTokenizer",
            SimpleNamespace(from_pretrained=lambda _: BertTokenizerFast.from_pretrained(companion)),
        ),
    ):
        arguments = SimpleNamespace(device="cpu", mlm=True)
        network = original.PMC_CLIP(arguments, WIDTH, vision, {**text, "bert_model_name": name}).eval()
    weights = pmc_clip_weights()
    ids = weights.pop("text_encoder.embeddings.position_ids")
    assert ids.shape == (1, 512)
    network.load_state_dict(weights)
    images = pixels(IMAGE_SIZE)
    with torch.inference_mode():
        image = network.encode_image(images)["image_features"]
        out = network({"images": images, "bert_input": TEXTS, "bert_label": TEXTS})
    return {
        "image": image.tolist(),
        "text, normalised": out["text_features"].tolist(),
        "log-probabilities of the first words": out["bert_prediction"][:, :5, :12].tolist(),
        "logit scale": float(out["logit_scale"]),
    }


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        write_bert(Path(home) / COMPANION)
        outputs = original_outputs(Path(home) / COMPANION)
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text(json.dumps(outputs, indent=1) + "\n", encoding="utf-8")
