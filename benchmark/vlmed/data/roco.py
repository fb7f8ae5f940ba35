"""ROCO v1 in the layout of github.com/razorx89/roco-dataset: text files per split and part, images fetched from PMC."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmed.data.locate import holder
from vlmed.data.records import Record
from vlmed.data.tables import missing_file, read_csv, read_image, refuse
from vlmed.errors import Problem, unknown

HINT = (
    "clone https://github.com/razorx89/roco-dataset, run its scripts/fetch.py (images come from PubMed Central, each "
    "under its own licence in licences.txt) and keep its folder `data` with the splits in it"
)
PARTS = {"radiology": ("radiology",), "non-radiology": ("non-radiology",), "both": ("radiology", "non-radiology")}
_SPLITS = {"train": "train", "val": "validation", "test": "test"}


class RocoSource:
    """Figures of open-access articles with their captions; the group is the article's PMC id.

    The option `part` takes `radiology`, `non-radiology` or `both` (the default). Identities come from
    `licences.txt`, which holds every id with its file name, `PMC<article>_<figure>.jpg`; `dlinks.txt` repeats both and
    is not read. The file name is the image key, because one figure may stand in both parts under two ids.
    """

    def __init__(self, options: Mapping[str, Any], root: Path) -> None:
        part = options.get("part", "both")
        if part not in PARTS:
            raise unknown("part of ROCO", str(part), PARTS)
        self._root = holder(root, "test")
        self._parts = PARTS[part]

    def records(self) -> list[Record]:
        """One record per figure: by part, then train, val, test, in the file's order; needs no images.

        A figure whose caption is not at hand (no `captions.txt`, no line, or an empty one) has an empty `caption`.

        Raises:
            MissingError: A `licences.txt` is not there.
            InputError: Ids stand twice, or captions belong to no id (all of them are listed).
        """
        return list(self._index[0])

    def image(self, key: str) -> bytes:
        """The JPEG file of a figure, named as `fetch.py` does or by its ROCO id; raises as `Source.image` says.

        Some figures are gone from PubMed Central: their keys raise MissingError for good.
        """
        places = self._index[1].get(key, [])
        names = [folder / name for folder, sample_id in places for name in (key, f"{sample_id}.jpg")]
        for path in names:
            if path.exists():
                return read_image(path, HINT)
        known = ", ".join(sample_id for _, sample_id in places) or "no id"
        raise missing_file(names[0] if names else self._root / key, f"the figure of {known}", HINT)

    @cached_property
    def _index(self) -> tuple[list[Record], dict[str, list[tuple[Path, str]]]]:
        """All records, and image key -> the image folders and ids under which it stands."""
        records: dict[str, Record] = {}
        places: dict[str, list[tuple[Path, str]]] = {}
        problems: list[Problem] = []
        for part in self._parts:
            for split, name in _SPLITS.items():
                folder = self._root / name / part
                read, faults = _read_folder(folder, part, split)
                problems += faults
                for record in read:
                    if records.setdefault(record.id, record) is not record:
                        problems.append(_twice(folder / "licences.txt", record.id))
                    places.setdefault(record.image, []).append((folder / "images", record.id))
        refuse(problems)
        return list(records.values()), places


def _read_folder(folder: Path, part: str, split: str) -> tuple[list[Record], list[Problem]]:
    licences = folder / "licences.txt"
    captions, problems = _captions(folder / "captions.txt")
    records = []
    for number, row in enumerate(read_csv(licences, ["ROCO_ID", "PMC_ID", "CC"], HINT), start=2):
        sample_id, figure = row["ROCO_ID"], row["PMC_ID"]
        article, _, name = figure.partition("_")
        if not sample_id or not name:
            got = f"{sample_id!r}, {figure!r}"
            problems.append(Problem("no id or figure", str(licences), f"row {number}", "PMC1234_name.jpg", got, HINT))
            continue
        fields = {"caption": captions.pop(sample_id, ""), "licence": row["CC"], "article": article, "part": part}
        records.append(Record(sample_id, figure, article, split, fields))
    orphans = [
        Problem(f"caption of {name!r}, which licences.txt lacks", str(folder / "captions.txt")) for name in captions
    ]
    return records, problems + orphans


def _captions(path: Path) -> tuple[dict[str, str], list[Problem]]:
    """ROCO id -> caption. The file is no CSV: captions hold bare quotation marks."""
    captions: dict[str, str] = {}
    problems: list[Problem] = []
    content = path.read_bytes() if path.exists() else b""
    for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        sample_id, _, caption = (part.strip() for part in _decoded(line).partition("\t"))
        if sample_id in captions:
            problems.append(_twice(path, sample_id))
        elif sample_id:
            captions[sample_id] = caption
    return captions, problems


def _decoded(line: bytes) -> str:
    """UTF-8, else Latin-1; by line, so that one odd caption does not spoil the others."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _twice(path: Path, sample_id: str) -> Problem:
    return Problem(f"id {sample_id!r} stands twice", str(path), expected="one row", hint=HINT)
