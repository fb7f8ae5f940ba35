"""CXR-CLIP checkpoints of a few megabytes in the published layout, and the original network on the same weights.

The weights come from `pmc_clip_factory.filled`. Where the authors' package `cxrclip` (github.com/Soombit-ai/cxr-clip)
can be imported, `python tests/cxr_clip_factory.py` writes what it computes with them to
`tests/models/vectors/cxr_clip_{resnet,swin}.json`.
"""

from __future__ import annotations

import json
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from pmc_clip_factory import BERT, bert_shapes, filled, pixels, write_bert

TOWERS = ("resnet", "swin")
VECTORS = Path(__file__).parent / "models" / "vectors"
TEXTS = ["No evidence of pneumonia", "Findings suggesting pneumonia.", "cardiomegaly " * 40]
COMPANION, DIM, IMAGE_SIZE = "Bio_ClinicalBERT", 24, 224
BLOCKS, BASE_WIDTH = (1, 2, 1, 1), 8
SWIN: dict[str, Any] = {"embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 7, "patch_size": 8}
FILES = {"resnet": "r50_mcc.tar", "swin": "swint_mcc.tar"}


def cxr_clip_weights(tower: str) -> dict[str, Tensor]:
    """The state dict under `model`, with the names that transformers 4.26 gave to Swin's layers."""
    shapes, width = _resnet_shapes() if tower == "resnet" else _swin_shapes()
    shapes |= {f"text_encoder.text_encoder.{name}": shape for name, shape in bert_shapes(BERT).items()}
    for side, size in (("image", width), ("text", BERT["hidden_size"])):
        shapes |= {f"{side}_projection.projection.weight": (DIM, size), f"{side}_projection.projection.bias": (DIM,)}
    weights = filled(shapes | {"logit_scale": ()})
    for name in weights:
        if name.endswith("relative_position_index"):
            weights[name] = _relative_positions(SWIN["window_size"])
    return weights


def _resnet_shapes() -> tuple[dict[str, tuple[int, ...]], int]:
    state = _torchvision_resnet().state_dict()
    kept = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.startswith("fc.")}
    return {f"image_encoder.resnet.{name}": shape for name, shape in kept.items()}, 2048


def _torchvision_resnet() -> Any:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, list(BLOCKS), width_per_group=BASE_WIDTH)


def _swin_shapes() -> tuple[dict[str, tuple[int, ...]], int]:
    width, patch, window = SWIN["embed_dim"], SWIN["patch_size"], SWIN["window_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
        **_linear("embeddings.norm", width),
    }
    for stage, (depth, heads) in enumerate(zip(SWIN["depths"], SWIN["num_heads"], strict=True)):
        for block in range(depth):
            parts = _swin_block(width, heads, window)
            shapes |= {f"encoder.layers.{stage}.blocks.{block}.{name}": shape for name, shape in parts.items()}
        if stage + 1 < len(SWIN["depths"]):
            shapes[f"encoder.layers.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
            shapes |= _linear(f"encoder.layers.{stage}.downsample.norm", 4 * width)
            width *= 2
    shapes |= _linear("layernorm", width)
    return {f"image_encoder.image_encoder.{name}": shape for name, shape in shapes.items()}, width


def _swin_block(width: int, heads: int, window: int) -> dict[str, tuple[int, ...]]:
    attention: dict[str, tuple[int, ...]] = {
        "attention.self.relative_position_bias_table": ((2 * window - 1) ** 2, heads),
        "attention.self.relative_position_index": (window**2, window**2),
    }
    for role in ("self.query", "self.key", "self.value", "output.dense"):
        attention |= _linear(f"attention.{role}", width, width)
    return {
        **attention,
        **_linear("layernorm_before", width),
        **_linear("layernorm_after", width),
        **_linear("intermediate.dense", 4 * width, width),
        **_linear("output.dense", width, 4 * width),
    }


def _linear(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _relative_positions(window: int) -> Tensor:
    """For each pair of places in a window, the row of the bias table for their offset."""
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offsets = places[:, None] - places[None] + window - 1
    return offsets[..., 0] * (2 * window - 1) + offsets[..., 1]


def tiny_cxr_clip(
    folder: Path,
    tower: str,
    *,
    model: dict[str, Tensor] | None = None,
    config: dict[str, Any] | None = None,
    lists: bool = False,
) -> Path:
    """A training checkpoint with its companion beside it.

    Args:
        model: What stands under `model`; by default `cxr_clip_weights`.
        config: What stands under `config`; by default a part of the trainer's.
        lists: Let the lists in the configuration be omegaconf's, as the trainer leaves them.
    """
    write_bert(folder / COMPANION)
    checkpoint = {
        "model": cxr_clip_weights(tower) if model is None else model,
        "optimizer": {"state": {}, "param_groups": [{"lr": 5e-5}]},
        "scheduler": {"base_lrs": [5e-5], "last_epoch": 9, "lr_lambdas": [{}], "tsteps": 10, "wsteps": 1},
        "epoch": 15,
        "train_loss": 0.25,
    }
    with omegaconf() if lists else nullcontext(list) as list_config:
        checkpoint["config"] = _configuration(tower, list_config) if config is None else config
        torch.save(checkpoint, folder / FILES[tower])
    return folder


def _configuration(tower: str, list_config: Any) -> dict[str, Any]:
    scale = list_config([0.8, 1.1])
    return {
        "base": {"seed": 1234, "image_size": IMAGE_SIZE, "text_max_length": 48},
        "transform": {"train": {"RandomResizedCrop": {"size": IMAGE_SIZE, "scale": scale}}},
        "model": {
            "name": "clip_custom",
            "temperature": 0.07,
            "image_encoder": {"name": "resnet" if tower == "resnet" else "microsoft/swin-tiny-patch4-window7-224"},
            "text_encoder": {"name": "emilyalsentzer/Bio_ClinicalBERT", "pooling": "eos"},
            "projection_head": {"name": "linear", "dropout": 0.1, "proj_dim": DIM},
        },
    }


@contextmanager
def omegaconf() -> Iterator[Callable[[list[float]], Any]]:
    """A maker of lists that are pickled as omegaconf's are: under its names, with its attributes, without it."""
    names = (
        "base.ContainerMetadata",
        "base.Metadata",
        "dictconfig.DictConfig",
        "listconfig.ListConfig",
        "nodes.AnyNode",
    )
    modules: dict[str, Any] = {"omegaconf": types.ModuleType("omegaconf")}
    for module, _, name in (each.partition(".") for each in names):
        path = f"omegaconf.{module}"
        modules.setdefault(path, types.ModuleType(path))
        setattr(modules[path], name, type(name, (), {"__module__": path}))

    def made(path: str, **state: object) -> Any:
        module, _, name = path.partition(".")
        instance = getattr(modules[f"omegaconf.{module}"], name)()
        instance.__dict__.update(state)
        return instance

    def list_config(values: list[float]) -> Any:
        cache = defaultdict(dict, {"now": {"%Y": "2023"}})
        holder: dict[str, Any] = {"ref_type": Any, "element_type": Any, "key_type": int, "resolver_cache": cache}
        parent = made("dictconfig.DictConfig", _metadata=made("base.ContainerMetadata", object_type=dict, **holder))
        nodes = [made("nodes.AnyNode", _val=value, _metadata=made("base.Metadata", ref_type=Any)) for value in values]
        metadata = made("base.ContainerMetadata", object_type=list, **holder)
        whole = made("listconfig.ListConfig", _metadata=metadata, _parent=parent, _content=nodes)
        parent.__dict__["_content"] = {"scale": whole}
        return whole

    with mock.patch.dict(sys.modules, modules):
        yield list_config


def original_outputs(tower: str, companion: Path) -> dict[str, Any]:
    """What the authors' network computes with `cxr_clip_weights` from `pixels` and `TEXTS`."""
    from cxrclip.model import modules
    from cxrclip.model.clip import CXRClip
    from transformers import BertConfig, BertModel, BertTokenizerFast, SwinConfig, SwinModel

    tokenizer = BertTokenizerFast.from_pretrained(companion)
    configuration = _configuration(tower, list)["model"]
    common = {"pretrained": True, "gradient_checkpointing": False, "cache_dir": str(companion)}
    vision = {"source": "torchvision" if tower == "resnet" else "huggingface", "model_type": tower, **common}
    configuration["image_encoder"] |= vision
    configuration["text_encoder"] |= {"source": "huggingface", "trust_remote_code": False, **common}
    swin = SwinConfig(image_size=IMAGE_SIZE, **SWIN)
    image_encoder, text_encoder = (sys.modules[f"{modules.__name__}.{side}_encoder"] for side in ("image", "text"))
    with (
        mock.patch.object(image_encoder, "resnet50", lambda pretrained: _torchvision_resnet()),
        mock.patch.object(image_encoder, "SwinModel", SimpleNamespace(from_pretrained=lambda _: SwinModel(swin))),
        mock.patch.object(
            text_encoder, "AutoModel", SimpleNamespace(from_pretrained=lambda *_, **__: BertModel(BertConfig(**BERT)))
        ),
    ):
        network = CXRClip(configuration, {}, tokenizer).eval()
    _load_into_original(network, cxr_clip_weights(tower))
    images = pixels(IMAGE_SIZE)
    tokens = tokenizer(TEXTS, padding="longest", truncation=True, return_tensors="pt", max_length=48)
    with torch.inference_mode():
        return {
            "image": network.image_projection(network.encode_image(images)).tolist(),
            "text": network.text_projection(network.encode_text(tokens)).tolist(),
            "logit scale": float(network.logit_scale.exp()),
        }


def _load_into_original(network: Any, weights: dict[str, Tensor]) -> None:
    """Strictly; transformers 5 names Swin's layers anew and computes two of the stored tensors."""
    renamed = {
        ".attention.self.query.": ".attention.q_proj.",
        ".attention.self.key.": ".attention.k_proj.",
        ".attention.self.value.": ".attention.v_proj.",
        ".attention.self.relative_position_bias_": ".attention.relative_position_bias.relative_position_bias_",
        ".attention.output.dense.": ".attention.o_proj.",
        ".intermediate.dense.": ".mlp.fc1.",
        ".output.dense.": ".mlp.fc2.",
    }
    state = dict(weights)
    if any(".attention.q_proj." in name for name in network.image_encoder.state_dict()):
        for old, new in renamed.items():
            swin = {name: name.replace(old, new) for name in state if name.startswith("image_encoder.")}
            state = {swin.get(name, name): tensor for name, tensor in state.items()}
    computed = ("position_ids", "relative_position_index")
    state = {
        name: tensor for name, tensor in state.items() if name in network.state_dict() or not name.endswith(computed)
    }
    network.load_state_dict(state)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        write_bert(Path(home) / COMPANION)
        for each in TOWERS:
            outputs = original_outputs(each, Path(home) / COMPANION)
            (VECTORS / f"cxr_clip_{each}.json").write_text(json.dumps(outputs, indent=1) + "\n", encoding="utf-8")
