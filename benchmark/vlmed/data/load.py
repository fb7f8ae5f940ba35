"""A task of the suite -> its samples and images, found, prepared and proved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from vlmed.data.locate import dataset_folder
from vlmed.data.prepare import PreparedDataset, prepare, prepared_folder
from vlmed.data.sources import open_source
from vlmed.data.table import TaskTable, build_table
from vlmed.files import cache_root
from vlmed.progress import Progress, Silent
from vlmed.suite.manifest import FOLDER, read_manifest
from vlmed.suite.types import Dataset, Task


@dataclass
class DataLoader:
    """Loads tasks; every data set is prepared and opened once.

    Attributes:
        root: The user's data folder (`--data-root`), searched before `VLMED_DATA` and the cache.
        cache: Where prepared files go.
        manifests: Folder of the frozen manifests.
    """

    root: Path | None = None
    cache: Path = field(default_factory=cache_root)
    progress: Progress = field(default_factory=Silent)
    manifests: Path = FOLDER
    _opened: dict[str, PreparedDataset] = field(default_factory=dict, init=False, repr=False)

    def folder(self, dataset: Dataset) -> Path:
        """Where the published files of a data set lie, downloaded first where that is possible.

        Raises:
            MissingError, InputError, UsageError: As `dataset_folder`.
        """
        if dataset.access == "embedded":
            return Path()
        return dataset_folder(dataset.options.get("folder", dataset.name), dataset.options, self.root)

    def prepared_folder(self, dataset: Dataset) -> Path:
        """Where the prepared files of a data set lie, or would lie."""
        return prepared_folder(dataset, self.folder(dataset), self.cache)

    def dataset(self, dataset: Dataset) -> PreparedDataset:
        """A data set in its prepared form.

        Raises:
            MissingError: Files are not there; says where to get them and under which licence.
            InputError: Files are damaged; lists every fault.
        """
        if dataset.name not in self._opened:
            root = self.folder(dataset)
            source = open_source(dataset, root)
            target = prepared_folder(dataset, root, self.cache)
            self._opened[dataset.name] = prepare(dataset, source, target, self.progress)
        return self._opened[dataset.name]

    def table(self, task: Task, images: bool = True) -> TaskTable:
        """A task's samples, proved to be the frozen ones unless its manifest is pending.

        Args:
            images: False reads ids, groups and texts alone, so that no image need be there; the samples' `image` is
                empty.

        Raises:
            MissingError, InputError: As `dataset`, or the samples are not the frozen ones; lists every sample.
        """
        manifest = None if task.pending else read_manifest(task, self.manifests)
        if images:
            return build_table(task, self.dataset(task.dataset).records, manifest)
        records = open_source(task.dataset, self.folder(task.dataset)).records()
        return build_table(task, (replace(record, image="") for record in records), manifest)
