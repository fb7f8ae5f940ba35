"""In which published layout a model's files are, and which of them matter."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vlmed.errors import InputError

OPEN_CLIP_CONFIG = "open_clip_config.json"
CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"

# The only folder of which anything is loaded: InstructBLIP's second tokenizer.
SECOND_TOKENIZER = "qformer_tokenizer"

_INDEX = ".index.json"
# Configurations, tokenizers, preprocessing and, for those who allow it to run, code.
_SIDE_FILES = (".json", ".txt", ".model", ".jinja", ".py")
_MODEL_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class Layout:
    """One way in which checkpoints are published.

    Attributes:
        name: `config` where `config.json` tells the family; else the module of `vlmed.models` that loads it.
        marker: Regular expression of the file name that gives the layout away.
        weights: Sets of weights from the one to prefer down; each is a tuple of names that belong together.
    """

    name: str
    marker: str
    weights: tuple[tuple[str, ...], ...]

    def is_in(self, names: Collection[str]) -> bool:
        """Whether a folder with these files has the layout."""
        return any(re.fullmatch(self.marker, name) for name in names)


def _one_of(*names: str) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in names)


_PMC_CLIP = ("text_projection_layer.pth", "checkpoint.pt")
# By image tower and by what it was trained on: MIMIC-CXR, CheXpert, ChestX-ray14.
_CXR_CLIP = tuple(f"{tower}_{corpora}.tar" for tower in ("r50", "swint") for corpora in ("mcc", "mc", "m"))
# The first whose marker is there. MedCLIP's archive holds nothing but a pickle, so it comes last.
LAYOUTS = (
    Layout(
        "open_clip",
        re.escape(OPEN_CLIP_CONFIG),
        # open_clip's own order: a repository may hold transformers' model.safetensors too.
        _one_of(
            "open_clip_model.safetensors",
            "open_clip_pytorch_model.safetensors",
            "open_clip_pytorch_model.bin",
            "open_clip_pytorch_model.pth",
            "model.safetensors",
            "pytorch_model.bin",
            "pytorch_model.pth",
            "model.pth",
        ),
    ),
    Layout("config", re.escape(CONFIG), _one_of(*_MODEL_WEIGHTS)),
    Layout("adapter", re.escape(ADAPTER_CONFIG), _one_of("adapter_model.safetensors", "adapter_model.bin")),
    Layout(
        "pmc_clip",
        "|".join(map(re.escape, _PMC_CLIP)),
        (("image_encoder(resnet50).pth", "text_encoder.pth", "text_projection_layer.pth"), ("checkpoint.pt",)),
    ),
    Layout(
        "cxr_clip",
        "|".join(map(re.escape, _CXR_CLIP)),
        _one_of(*_CXR_CLIP),
    ),
    Layout("medclip", r"pytorch_model\.bin", _one_of("pytorch_model.bin")),
)
_ADAPTER = LAYOUTS[2]
MARKERS = (OPEN_CLIP_CONFIG, CONFIG, ADAPTER_CONFIG, *_PMC_CLIP, *_CXR_CLIP, "pytorch_model.bin")


def layout_of(names: Collection[str], where: str) -> Layout:
    """The layout of a folder or repository with these files at its root.

    Raises:
        InputError: It has none that is known.
    """
    found = next((layout for layout in LAYOUTS if layout.is_in(names)), None)
    if found is None:
        raise InputError("no model here", file=where, expected=f"one of {', '.join(MARKERS)}", got=_listed(names))
    return found


def is_adapter(names: Collection[str]) -> bool:
    """Whether these files are an adapter alone, whose base lies elsewhere."""
    return ADAPTER_CONFIG in names and CONFIG not in names and OPEN_CLIP_CONFIG not in names


def files_that_matter(names: Collection[str], where: str) -> list[str]:
    """The files a model or adapter is loaded from, sorted: configurations and one set of weights, safetensors first.

    Args:
        names: All files at the root of the repository or folder, and those of a second tokenizer.
        where: The repository or folder, for the error.

    Raises:
        InputError: No known layout, or no weights beside its configuration.
    """
    layout = layout_of(names, where)
    known = {name for each in LAYOUTS for weights in each.weights for name in weights}
    wanted = {name for name in names if name.endswith(_SIDE_FILES) and name not in known and not name.endswith(_INDEX)}
    wanted |= _weights(names, layout, where)
    # Some authors publish an adapter beside the model it belongs to.
    if ADAPTER_CONFIG in names and layout is not _ADAPTER:
        wanted |= _weights(names, _ADAPTER, where)
    return sorted(wanted)


def weight_files(names: Collection[str], layout: Layout, where: str) -> Sequence[str]:
    """The set of weight files that is loaded, without the shards that an index names.

    Raises:
        InputError: None of the layout's sets is complete.
    """
    first = next((weights for weights in layout.weights if all(name in names for name in weights)), None)
    if first is None:
        expected = "; or ".join(" with ".join(weights) for weights in layout.weights)
        raise InputError("no weights beside the configuration", file=where, expected=expected, got=_listed(names))
    return first


def _weights(names: Collection[str], layout: Layout, where: str) -> set[str]:
    first, *more = weight_files(names, layout, where)
    if not first.endswith(_INDEX):
        return {first, *more}
    stem, _, suffix = first.removesuffix(_INDEX).rpartition(".")
    shard = re.compile(rf"{re.escape(stem)}-\d+-of-\d+\.{suffix}")
    return {first, *(name for name in names if shard.fullmatch(name))}


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown or "no files"
