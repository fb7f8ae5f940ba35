"""Features of a model that is an object of the caller's: never kept, since no revision tells its code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlmed.data.load import DataLoader
from vlmed.data.prepare import PreparedDataset
from vlmed.models.own import FAMILY
from vlmed.models.protocols import LoadedModel
from vlmed.suite.types import Dataset


@dataclass
class _Scratch(DataLoader):
    """The data sets of another loader, with a cache of its own for what is made from them."""

    shared: DataLoader | None = None

    def dataset(self, dataset: Dataset) -> PreparedDataset:
        """See `DataLoader.dataset`."""
        assert self.shared is not None
        return self.shared.dataset(dataset)


def data_for(model: LoadedModel, data: DataLoader, scratch: Path) -> DataLoader:
    """The loader to evaluate a model with: `data`, or for an object one that keeps its features in `scratch`."""
    if model.info.family != FAMILY:
        return data
    return _Scratch(data.root, cache=scratch, progress=data.progress, manifests=data.manifests, shared=data)
