"""Which loader reads which family of data sets."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from vlmed.data.records import Source
from vlmed.errors import unknown
from vlmed.suite.types import Dataset

_SOURCES = {
    "camelyon17": "vlmed.data.camelyon17:Camelyon17Source",
    "chexpert": "vlmed.data.chexpert:CheXpertSource",
    "fairvlmed": "vlmed.data.fairvlmed:FairVLMedSource",
    "fairvlmed_vqa": "vlmed.data.fairvlmed_vqa:FairVlmedVqaSource",
    "gf3300": "vlmed.data.gf3300:GF3300Source",
    "ham10000": "vlmed.data.ham10000:Ham10000Source",
    "medmnist": "vlmed.data.medmnist:MedMNISTSource",
    "papila": "vlmed.data.papila:PapilaSource",
    "pathvqa": "vlmed.data.pathvqa:PathVqaSource",
    "phantom": "vlmed.data.phantom:PhantomSource",
    "roco": "vlmed.data.roco:RocoSource",
    "slake": "vlmed.data.slake:SlakeSource",
    "vqa_rad": "vlmed.data.vqa_rad:VqaRadSource",
}


def open_source(dataset: Dataset, root: Path) -> Source:
    """The loader of a data set, looking into `root`.

    Raises:
        UsageError: `tasks.yaml` names a source that vlmed does not have.
    """
    if dataset.source not in _SOURCES:
        raise unknown("data source", dataset.source, _SOURCES)
    module, name = _SOURCES[dataset.source].split(":")
    source: type[Source] = getattr(import_module(module), name)
    return source(dataset.options, root)
