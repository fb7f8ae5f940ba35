"""HAM10000: dermatoscopic images of pigmented skin lesions, several images of some lesions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmed.data.records import Record
from vlmed.data.tables import Row, age_band, collect, missing_file, pick, read_csv, read_image

DIAGNOSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
_COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
_FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_images", ".")
_HINT = (
    "Download HAM10000_metadata.csv, HAM10000_images_part_1.zip and HAM10000_images_part_2.zip from Harvard "
    "Dataverse, doi:10.7910/DVN/DBW86T (CC BY-NC 4.0, no registration), and unpack the images beside the table."
)


class Ham10000Source:
    """`HAM10000_metadata.csv`, and images in `HAM10000_images_part_1` and `_part_2`, in one folder, or beside it.

    Groups are lesions; no patient ids and no split are published. Fields: `label` (the same as `dx`), the published
    columns, `age_band`, and `sex` as `female`, `male` or empty.
    """

    def __init__(self, options: Mapping[str, Any], root: Path) -> None:  # noqa: ARG002
        self._root = root

    def records(self) -> list[Record]:
        """The rows of the table; image keys are image ids such as `ISIC_0027419`."""
        path = self._root / "HAM10000_metadata.csv"
        return collect(read_csv(path, _COLUMNS, _HINT), _record, path, _HINT)

    def image(self, key: str) -> bytes:
        """The JPEG of an image id."""
        if key not in self._images:
            raise missing_file(self._root / _FOLDERS[0] / f"{key}.jpg", "the image (looked for in every part)", _HINT)
        return read_image(self._images[key], _HINT)

    @cached_property
    def _images(self) -> dict[str, Path]:
        # An earlier folder wins, so that a mixed layout still gives each image one place.
        return {path.stem: path for folder in reversed(_FOLDERS) for path in (self._root / folder).glob("ISIC_*.jpg")}


def _record(row: Row) -> Record:
    fields = {
        **row,
        "label": pick(row, "dx", DIAGNOSES),
        "age_band": age_band(row["age"]),
        "sex": {"female": "female", "male": "male"}.get(row["sex"].lower(), ""),
    }
    return Record(f"ham10000-{row['image_id']}", row["image_id"], row["lesion_id"], fields=fields)
