"""The layout that the Harvard Ophthalmology AI Lab publishes its data sets in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from vlmed.data.arrays import grey_png, npz_array
from vlmed.data.locate import holder
from vlmed.data.records import Record
from vlmed.data.tables import Row, age_band, collect, pick, read_csv

_COLUMNS = ("filename", "age", "gender", "race", "ethnicity", "language", "maritalstatus", "glaucoma", "use")
# Split and folder of each value of `use`.
_USES = {"training": ("train", "Training"), "validation": ("val", "Validation"), "test": ("test", "Test")}


class HarvardSource:
    """`data_summary.csv` beside (or in `ReadMe/` beside) `Training/`, `Validation/`, `Test/` with one npz per eye.

    Each patient has one eye, so groups are files. Fields: `label` (`yes` or `no`, the same as `glaucoma`), the
    published columns, `sex` (`female`, `male` or empty) and `age_band`.

    Attributes:
        name: What ids start with.
        array: The array of each npz that is the image.
        hint: Where to get the data, and the licence step.
    """

    name: ClassVar[str]
    array: ClassVar[str]
    hint: ClassVar[str]

    def __init__(self, options: Mapping[str, Any], root: Path) -> None:  # noqa: ARG002
        self._root = holder(root, "Test")

    def records(self) -> list[Record]:
        """The rows of the summary; reads no npz. Ids as `gf3300-data_0001`, image keys as `Training/data_0001`."""
        inner = self._root / "ReadMe" / "data_summary.csv"
        path = inner if inner.exists() else self._root / "data_summary.csv"
        return collect(read_csv(path, _COLUMNS, self.hint), self._record, path, self.hint)

    def image(self, key: str) -> bytes:
        """The map or photograph of an eye as a grey PNG."""
        path = self._root / f"{key}.npz"
        return grey_png(self.grey_levels(npz_array(path, self.array, self.hint)), path, self.hint)

    def grey_levels(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The image array, (H, W), in grey levels from 0 to 255."""
        return values

    def _record(self, row: Row) -> Record:
        split, folder = _USES[pick(row, "use", _USES)]
        stem = Path(row["filename"]).stem
        fields = {
            **row,
            "label": pick(row, "glaucoma", ("no", "yes")),
            "sex": {"female": "female", "male": "male"}.get(row["gender"], ""),
            "age_band": age_band(row["age"]),
        }
        return Record(f"{self.name}-{stem}", f"{folder}/{stem}", stem, split, fields)
