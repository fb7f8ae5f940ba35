"""CheXpert v1.0 (or its small copy): chest radiographs of Stanford patients with 14 findings mined from reports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vlmed.data.locate import holder
from vlmed.data.records import Record
from vlmed.data.tables import Row, age_band, collect, pick, read_csv, read_image
from vlmed.errors import InputError

FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
# Copies of the tables differ in how they write the same number.
_VALUES = {"": "", "0": "0", "0.0": "0", "1": "1", "1.0": "1", "-1": "-1", "-1.0": "-1"}
_PATH = re.compile(r"(?:.*/)?((?:train|valid)/(patient\d+)/(study\d+)/(view\d+_(?:frontal|lateral)))\.(jpg|png)$")
_HINT = (
    "Register at https://stanfordaimi.azurewebsites.net, accept the CheXpert research use agreement, download "
    "CheXpert-v1.0-small, and keep its files as unpacked: train.csv, valid.csv, train/, valid/."
)


class CheXpertSource:
    """`train.csv`, `valid.csv` and the images that they name; groups are patients.

    Each finding is a field under its lower-case name: `1` present, `0` absent, `-1` uncertain, empty for not
    mentioned. Further fields: `sex` (`female`, `male` or empty), `age`, `age_band`, `view` (`frontal`, `lateral`),
    `projection` (`AP`, `PA`, ...), `study`.

    Options: `valid_split`, the split that `valid.csv` makes, `val` (default) or `test` as in the papers.
    """

    def __init__(self, options: Mapping[str, Any], root: Path) -> None:
        self._root = holder(root, "valid.csv")
        self._valid_split = options.get("valid_split", "val")

    def records(self) -> list[Record]:
        """The rows of `train.csv`, then of `valid.csv`; ids as `chexpert-patient00001-study1-view1_frontal`."""
        found = []
        for name, split in (("train.csv", "train"), ("valid.csv", self._valid_split)):
            path = self._root / name
            found += collect(read_csv(path, _COLUMNS, _HINT), partial(_record, split=split), path, _HINT)
        return found

    def image(self, key: str) -> bytes:
        """The JPEG of a key such as `valid/patient64541/study1/view1_frontal.jpg`."""
        return read_image(self._root / key, _HINT)


def _record(row: Row, split: str) -> Record:
    match = _PATH.match(row["Path"])
    if not match:
        expected = "…/valid/patient00000/study0/view0_frontal.jpg"
        raise InputError("the image path names no patient, study and view", expected=expected, got=row["Path"])
    stem, patient, study, view, suffix = match.groups()
    fields = {finding.lower(): _VALUES[pick(row, finding, _VALUES)] for finding in FINDINGS}
    fields |= {
        "sex": {"female": "female", "male": "male"}.get(row["Sex"].lower(), ""),
        "age": row["Age"],
        "age_band": age_band(row["Age"]),
        "view": row["Frontal/Lateral"].lower(),
        "projection": row["AP/PA"],
        "study": study,
    }
    return Record(f"chexpert-{patient}-{study}-{view}", f"{stem}.{suffix}", patient, split, fields)
