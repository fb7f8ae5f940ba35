"""Every family of models with a tiny checkpoint in its published layout, and what a model of it can do."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import cxr_clip_factory
import dual_factories
import factories
import generator_factories
import llava_factory
import medclip_factory
import pmc_clip_factory
from hub_server import HubServer
from vlmed.models.load import family_name

Maker = Callable[[Path], Path]

DUAL: dict[str, Maker] = {
    **dual_factories.HF,
    **dual_factories.OPEN_CLIP,
    "medclip_resnet": lambda folder: medclip_factory.tiny_medclip(folder, "resnet"),
    "medclip_swin": lambda folder: medclip_factory.tiny_medclip(folder, "swin"),
    "pmc_clip": pmc_clip_factory.tiny_pmc_clip,
    "pmc_clip_encoders": pmc_clip_factory.tiny_pmc_clip_encoders,
    "cxr_clip_resnet": lambda folder: cxr_clip_factory.tiny_cxr_clip(folder, "resnet"),
    "cxr_clip_swin": lambda folder: cxr_clip_factory.tiny_cxr_clip(folder, "swin"),
}
IMAGE: dict[str, Maker] = {
    "vit": factories.tiny_vit,
    "resnet": factories.tiny_resnet,
    "timm": factories.tiny_timm,
}
GENERATORS: dict[str, Maker] = {
    **generator_factories.MAKERS,
    "llava_original": lambda folder: llava_factory.tiny_llava(folder, "llava"),
    "llava_med_original": lambda folder: llava_factory.tiny_llava(folder, "llava_mistral"),
}
FAMILIES = {**DUAL, **IMAGE, **GENERATORS}
# The tracks that a family can follow without tuning.
TRACKS = {
    **dict.fromkeys(DUAL, ("zero_shot", "linear_probe", "zero_shot_retrieval", "zero_shot_vqa")),
    **dict.fromkeys(IMAGE, ("linear_probe",)),
    **dict.fromkeys(GENERATORS, ("zero_shot_choice", "zero_shot_vqa")),
}
# The repositories whose kind or name matters; the others may have any.
REPOSITORIES = {"pmc_clip": "datasets/axiong/pmc_oa_beta", "pmc_clip_encoders": "datasets/axiong/pmc_oa"}


_HOME = TemporaryDirectory(prefix="vlmed-families-")


@cache
def checkpoint(name: str) -> Path:
    """The tiny checkpoint of a family, made once for all tests. Read-only: copy it before you change anything."""
    return FAMILIES[name](Path(_HOME.name) / name)


def publish(hub: HubServer, name: str) -> tuple[str, str]:
    """Put a checkpoint and all that it needs from elsewhere on a Hub; gives repository and commit."""
    folder = checkpoint(name)
    module = importlib.import_module(f"vlmed.models.{family_name(folder)}")
    for companion in module.companions(folder):
        hub.add(companion.repository, folder / companion.repository.rpartition("/")[2])
    repository = REPOSITORIES.get(name, f"org/tiny-{name}")
    return repository, hub.add(repository, folder)
