"""PAPILA: colour fundus photographs of both eyes of 244 patients, with clinical data."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vlmed.data.locate import holder
from vlmed.data.records import Record
from vlmed.data.tables import Row, age_band, check_columns, collect, missing_file, pick, read_image
from vlmed.errors import InputError

_EYES = {"OD": "right", "OS": "left"}
_SEX = {"0": "male", "1": "female", "": ""}
_REQUIRED = ("Age", "Gender", "Diagnosis")
_HINT = (
    "Download PAPILA from figshare, https://doi.org/10.6084/m9.figshare.14798004 (CC BY 4.0, no registration), and "
    "keep its folders ClinicalData and FundusImages."
)


class PapilaSource:
    """`ClinicalData/patient_data_{od,os}.xlsx` and `FundusImages/RET{patient}{OD,OS}.jpg`; groups are patients.

    Fields: `label` (`0` healthy, `1` glaucoma, `2` suspect), `sex` (`female`, `male` or empty), `age`, `age_band`,
    `eye` (`OD`, `OS`), `laterality` (`right`, `left`), and the published clinical columns in lower case. No split is
    published.
    """

    def __init__(self, options: Mapping[str, Any], root: Path) -> None:  # noqa: ARG002
        self._root = holder(root, "ClinicalData")

    def records(self) -> list[Record]:
        """Right eyes, then left eyes, in the order of the tables; ids as `papila-RET002OD`."""
        found = []
        for eye in _EYES:
            path = self._root / "ClinicalData" / f"patient_data_{eye.lower()}.xlsx"
            found += collect(_rows(path), partial(_record, eye=eye), path, _HINT)
        return found

    def image(self, key: str) -> bytes:
        """The JPEG of a key such as `RET002OD`."""
        return read_image(self._root / "FundusImages" / f"{key}.jpg", _HINT)


def _record(row: Row, eye: str) -> Record:
    patient = row["ID"].removeprefix("#")
    key = f"RET{patient}{eye}"
    fields = {name.lower(): value for name, value in row.items() if name != "ID"} | {
        "label": pick(row, "Diagnosis", ("0", "1", "2")),
        "sex": _SEX[pick(row, "Gender", _SEX)],
        "age_band": age_band(row["Age"]),
        "eye": eye,
        "laterality": _EYES[eye],
    }
    return Record(f"papila-{key}", key, f"patient-{patient}", fields=fields)


def _rows(path: Path) -> Iterator[Row]:
    """One row per patient. Above the patients stand up to three header rows: a column's name is its lowest cell."""
    sheet = _sheet(path)
    start = next((number for number, cells in enumerate(sheet) if re.match(r"#\d+$", cells[0])), None)
    if start is None:
        expected, got = "rows that start with '#' and a number", f"{len(sheet)} rows"
        raise InputError("the table has no patients", file=path, expected=expected, got=got, hint=_HINT)
    heads = zip(*sheet[:start], strict=True)
    columns = ["ID", *(_lowest(column) for column in list(heads)[1:])] if start else []
    check_columns(columns, _REQUIRED, path, _HINT)
    for cells in sheet[start:]:
        if any(cells):
            yield {name: cell for name, cell in zip(columns, cells, strict=True) if name}


def _lowest(cells: Sequence[str]) -> str:
    return next((cell for cell in reversed(cells) if cell), "")


def _sheet(path: Path) -> list[list[str]]:
    """The cells of the first sheet as text."""
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    if not path.is_file():
        raise missing_file(path, "the clinical table", _HINT)
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        rows = book.worksheets[0].iter_rows(values_only=True)
        cells = [[_text(value) for value in row] for row in rows]
        book.close()
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError, IndexError, OSError) as error:
        raise InputError("the file is no Excel workbook", file=path, got=str(error), hint=_HINT) from error
    width = max(map(len, cells), default=0)
    return [row + [""] * (width - len(row)) for row in cells]


def _text(value: object) -> str:
    """A cell as text; whole numbers without a decimal point, since Excel has no integers."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
