"""Features of images and texts, embedded once per model and set of them, shared by every track, seed and fraction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from vlmed.data.prepare import PreparedDataset
from vlmed.errors import InputError, VlmedError
from vlmed.evaluate.part import Part, drop_ranges, part_of, range_file, rows_made
from vlmed.evaluate.pixels import PixelStore, libraries
from vlmed.evaluate.stages import stage
from vlmed.files import new_file
from vlmed.hashing import digest
from vlmed.models.protocols import DualEncoder, ImageEncoder
from vlmed.progress import Progress, Silent

if TYPE_CHECKING:
    import torch


@dataclass
class FeatureCache:
    """A folder of memory-mapped feature files, named by the digest of all that decides their content.

    Attributes:
        model_key: Revisions of the model, its companions and adapters, and how it computes where that is not exact.
        embedded: Images embedded so far, for the cost account; cached ones don't count.
        store: Where preprocessed images are kept; without one they are preprocessed each time.
    """

    folder: Path
    encoder: ImageEncoder
    model_key: Sequence[str]
    batch_size: int = 64
    progress: Progress = field(default_factory=Silent)
    embedded: int = 0
    store: PixelStore | None = None

    def features(self, dataset: PreparedDataset, images: Sequence[str]) -> NDArray[np.float32]:
        """Features of images by pixel hash, (len(images), D) float32, as the encoder gives them.

        Each distinct image is embedded once, also by several runs at a time: one embeds and the others wait. A killed
        run's images are embedded on from where its last whole batch ends.

        Raises:
            VlmedError: The disk is full.
        """
        distinct = sorted(set(images))
        row = {image: index for index, image in enumerate(distinct)}
        stored = self._stored(dataset, distinct)
        return np.asarray(stored[[row[image] for image in images]])

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features of texts, (len(texts), D) float32, as the encoder gives them for all of these together.

        Kept where the folder can be written; unlike those of images they cost little.
        """
        path = self.folder / "texts" / f"{digest([list(self.model_key), libraries(), list(texts)])}.npy"
        if (kept := _read(path, len(texts))) is not None:
            return kept
        self._load()
        with stage("text features"):
            features = embed_texts(cast(DualEncoder, self.encoder), texts)
        with suppress(VlmedError), new_file(path) as part, part.open("wb") as file:
            np.save(file, features)
        return features

    def holds(self, images: Sequence[str]) -> bool:
        """Whether the features of these images, all together, are there already."""
        return self.file(images).exists()

    def file(self, images: Sequence[str]) -> Path:
        """Where the features of these images, all together, lie or would lie."""
        return self._path(sorted(set(images)))

    def embed_range(self, dataset: PreparedDataset, images: Sequence[str], start: int, stop: int) -> Path:
        """Embed images `start` to `stop` of the distinct ones, in the order of their hashes; gives the file.

        `features` of all of them takes the rows from there instead of embedding them. A range holds whole batches, so
        that they are the same bits.

        Raises:
            VlmedError: The disk is full.
        """
        distinct = sorted(set(images))
        path = range_file(self._path(distinct), start, stop)
        self._make(path, dataset, distinct[start:stop])
        return path

    def pixels(self, dataset: PreparedDataset, images: Sequence[str]) -> torch.Tensor:
        """Preprocessed images by pixel hash, float32 (len(images), 3, H, W)."""
        store = self.store or PixelStore(self.folder, self.encoder, budget=0)
        return store.batch(dataset, images)

    def _path(self, distinct: Sequence[str]) -> Path:
        # The batch size is part of the key: other batches round differently in the last bit.
        key = [list(self.model_key), libraries(), self.encoder.preprocessing, self.batch_size, list(distinct)]
        return self.folder / f"{digest(key)}.npy"

    def _stored(self, dataset: PreparedDataset, distinct: Sequence[str]) -> NDArray[np.float32]:
        path = self._path(distinct)
        self._make(path, dataset, distinct)
        stored: NDArray[np.float32] = np.load(path, mmap_mode="r")
        return stored

    def _make(self, path: Path, dataset: PreparedDataset, distinct: Sequence[str]) -> None:
        if path.exists():
            return
        with part_of(path, (len(distinct), self.encoder.dim), self.batch_size) as part:
            if part:
                self._embed(dataset, distinct, part, rows_made(path, self.batch_size))
        drop_ranges(path)

    def _embed(
        self, dataset: PreparedDataset, distinct: Sequence[str], part: Part, made: Mapping[int, NDArray[np.float32]]
    ) -> None:
        self._load()
        starts = range(part.done, len(distinct), self.batch_size)
        batches = self._batches(dataset, distinct, [start for start in starts if start not in made])
        with self.progress.task("embedding images", len(distinct), "images") as advance:
            advance(part.done)
            for start in starts:
                rows = made[start] if start in made else self._forward(next(batches))
                part.write(rows)
                self.embedded += len(rows)
                advance(len(rows))

    def _load(self) -> None:
        """Have the weights, which a remembered model loads only now: here, and not amid a batch in another thread."""
        with stage("load model"):
            _ = self.encoder.image_tower

    def _forward(self, batch: torch.Tensor) -> NDArray[np.float32]:
        with stage("forward"):
            return embed(self.encoder, batch)

    def _batches(
        self, dataset: PreparedDataset, images: Sequence[str], starts: Sequence[int]
    ) -> Iterator[torch.Tensor]:
        from vlmed.evaluate.loading import loaded

        def load(first: int) -> torch.Tensor:
            return self.pixels(dataset, images[first : first + self.batch_size])

        return loaded(load, starts, self.encoder.image_tower)


def _read(path: Path, rows: int) -> NDArray[np.float32] | None:
    """Kept features (rows, D); None where there are none, or no whole ones."""
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return features if features.dtype == np.float32 and features.ndim == 2 and len(features) == rows else None


def embed_texts(encoder: DualEncoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Features of texts (len(texts), D), as float32 on the CPU."""
    import torch

    with torch.inference_mode():
        features: NDArray[np.float32] = encoder.encode_texts(list(texts)).float().cpu().numpy()
    return features


def embed(encoder: ImageEncoder, batch: torch.Tensor) -> NDArray[np.float32]:
    """Features of one preprocessed batch (B, 3, H, W), as float32 on the CPU.

    A batch for which the device's memory is too small is embedded in halves, which may round otherwise in the last bit.

    Raises:
        InputError: The model gives NaN or an infinity.
        VlmedError: Not even one image fits into memory.
    """
    import torch

    try:
        with torch.inference_mode():
            features: NDArray[np.float32] = encoder.encode_images(batch).float().cpu().numpy()
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            raise VlmedError(
                "a single image does not fit into the device's memory",
                got=" ".join(str(error).split())[:200],
                hint="use a device with more memory, or a smaller model",
            ) from error
    else:
        return _finite(features)
    # Out here the failed attempt's tensors are no longer referred to.
    torch.cuda.empty_cache()
    return np.concatenate([embed(encoder, half) for half in batch.chunk(2)])


def _finite(features: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        hint = "check the checkpoint, and its precision"
        raise InputError("the model gives NaN or an infinity", path=f"image {row} of the batch", hint=hint)
    return features
