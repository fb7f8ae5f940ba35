"""Camelyon17 patches as WILDS v1.0 published them: lymph node sections from five hospitals."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmed.data.locate import holder
from vlmed.data.records import Record
from vlmed.data.tables import Row, collect, pick, read_csv, read_image

_COLUMNS = ("patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split")
# The split of a hospital that is held out as a whole; the table's own column splits the other three.
_HELD_OUT = {"1": "val", "2": "test"}
_WILDS_SPLITS = {"0": "train", "1": "id_val"}
_HINT = (
    "Get camelyon17_v1.0 from https://wilds.stanford.edu/datasets/#camelyon17 (CC0, no registration; about 10 GB) and "
    "keep metadata.csv and patches/."
)


class Camelyon17Source:
    """`metadata.csv` and `patches/patient_XXX_node_Y/patch_patient_XXX_node_Y_x_X_y_Y.png`, 96 by 96 pixels.

    The official split is by hospital: 2 is test, 1 is val, the other three are train. WILDS also draws a validation
    set from the slides of train (`id_val`); its patches get no split, since no group may be in two. Groups are
    patients within their hospital. Fields: `label` (the same as `tumor`: `1` if the central 32 by 32 pixels hold
    tumour), `center`, `patient`, `node`, `slide`, and `wilds_split` with the official name.
    """

    def __init__(self, options: Mapping[str, Any], root: Path) -> None:  # noqa: ARG002
        self._root = holder(root, "metadata.csv")

    def records(self) -> list[Record]:
        """The rows of the table; ids and image keys as `patient_004_node_4_x_3328_y_21792`."""
        path = self._root / "metadata.csv"
        return collect(read_csv(path, _COLUMNS, _HINT), _record, path, _HINT)

    def image(self, key: str) -> bytes:
        """The PNG of a patch."""
        folder, _, _ = key.partition("_x_")
        return read_image(self._root / "patches" / folder / f"patch_{key}.png", _HINT)


def _record(row: Row) -> Record:
    center = pick(row, "center", ("0", "1", "2", "3", "4"))
    patient = row["patient"].zfill(3)  # a table that went through a spreadsheet lost the zeros
    key = f"patient_{patient}_node_{row['node']}_x_{row['x_coord']}_y_{row['y_coord']}"
    wilds_split = _HELD_OUT.get(center) or _WILDS_SPLITS[pick(row, "split", _WILDS_SPLITS)]
    fields = {
        "label": pick(row, "tumor", ("0", "1")),
        "center": center,
        "patient": sys.intern(patient),
        "node": row["node"],
        "slide": row["slide"],
        "wilds_split": wilds_split,
    }
    group = sys.intern(f"center_{center}-patient_{patient}")
    return Record(f"camelyon17-{key}", key, group, "" if wilds_split == "id_val" else wilds_split, fields)
