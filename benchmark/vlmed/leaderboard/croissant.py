"""Croissant 1.0 metadata of the tasks: what a frozen manifest lists, in the words of search engines for data sets.

The images are their publishers'; what is described here is the list of samples, which every result rests on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vlmed.leaderboard.board import Board
from vlmed.leaderboard.overview import by_task
from vlmed.leaderboard.texts import croissant_file
from vlmed.suite.manifest import manifest_path
from vlmed.suite.types import Task

_CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_MANIFESTS = "https://github.com/vlmed/vlmed/raw/main/benchmark/vlmed/suite/manifests/"
_PAGES = "https://github.com/vlmed/vlmed/blob/main/docs/tasks/"
_COLUMNS: Mapping[str, str] = {
    "sample_id": "The publisher's id of the sample.",
    "split": "train, val or test.",
    "image": "First 128 bits of SHA-256 over the decoded pixels; empty where only ids could be frozen.",
    "group": "The coarsest published identity, such as a patient; splits and intervals go by it.",
    "target": "Salted 64-bit digest of the canonical target.",
    "subgroups": "field=value pairs joined by semicolons.",
    "leaks": "Kinds of confirmed leak between train or val and this test sample; empty means clean.",
}
# The terms of Croissant 1.0, as its specification maps them for JSON-LD.
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissants(board: Board) -> Iterator[tuple[str, str]]:
    """Path -> JSON-LD, for every task with a page."""
    for task, _ in by_task(board.tables):
        text = json.dumps(croissant(task), indent=1, ensure_ascii=False, allow_nan=False)
        yield croissant_file(task), text + "\n"


def croissant(task: Task) -> dict[str, Any]:
    """The metadata of one task; without files while its manifest is pending."""
    data = task.dataset
    pending = " Nobody with access has frozen its manifest yet." if task.pending else ""
    return {
        "@context": dict(_CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS_TO,
        "name": f"vlmed_{task.name}",
        "description": f"{task.title}: the frozen samples of the vlmed task {task.id}, a {task.kind} task on "
        f"{data.title} ({data.modality}, {data.body_part}). Digest {task.digest}.{pending}",
        "version": f"{task.version}.0.0",
        "license": data.licence,
        "url": f"{_PAGES}{task.name}.md",
        **({"isBasedOn": data.homepage} if data.homepage else {}),
        "keywords": ["medical imaging", data.modality, task.kind],
        **({} if task.pending else _files(task)),
    }


def _files(task: Task) -> dict[str, Any]:
    name = manifest_path(task).name
    file = {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": "One line per sample: no image, no text and no label in clear.",
        "contentUrl": _MANIFESTS + name,
        "encodingFormat": "text/csv",
        "sha256": task.manifest,
    }
    fields = [_field(column, meaning, name) for column, meaning in _COLUMNS.items()]
    return {
        "distribution": [file],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "samples", "name": "samples", "field": fields}],
    }


def _field(column: str, meaning: str, file: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"samples/{column}",
        "name": column,
        "description": meaning,
        "dataType": "sc:Text",
        "source": {"fileObject": {"@id": file}, "extract": {"column": column}},
    }
