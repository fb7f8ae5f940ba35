"""`submission.json`: what only a submitter knows, held against what can be known without them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlmed.errors import InputError, Problem, VlmedError
from vlmed.files import read_bytes
from vlmed.leakage.contamination import load_graph
from vlmed.leakage.fingerprint import Fingerprint, check_fingerprint, read_fingerprint, read_task_hashes
from vlmed.results.document import read_document
from vlmed.results.frozen import Frozen
from vlmed.results.pages import check_footer, check_pages
from vlmed.results.untrusted import printable
from vlmed.suite.types import Suite, Task

FILE = "submission.json"
FINGERPRINT = "fingerprint.parquet"
RETRACTION = "retraction.json"
_SCHEMA = "submission.schema.json"
_LARGEST_FINGERPRINT = 64 * 2**20


@dataclass(frozen=True)
class Training:
    """What a submitter says that the model was trained on, beyond its bases.

    Attributes:
        corpora: Names in `leakage/corpora.yaml`; empty if it saw no image, None if nothing is declared.
        other: Free text on what that file does not name.
    """

    corpora: Sequence[str] | None = None
    other: str = ""


@dataclass(frozen=True)
class Description:
    """A `submission.json`; its texts are printable.

    Attributes:
        date: Day of the submission, `YYYY-MM-DD`.
        licence: Of the weights.
        paper, code: `https` addresses, or empty.
        fingerprint: SHA-256 of `fingerprint.parquet`; None without one.
        supersedes: The run of the same model that this one corrects.
    """

    date: str
    licence: str
    training: Training = Training()
    contact: str = ""
    paper: str = ""
    code: str = ""
    fingerprint: str | None = None
    supersedes: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        return {"schema_version": 1, **asdict(self)}


def read_description(run: Path) -> Description | None:
    """The description of a run; None for a run that has none, as the oldest have.

    Raises:
        InputError: It is no strict JSON, or does not follow the schema.
    """
    if not (run / FILE).exists():
        return None
    return _description(read_document(run / FILE, _SCHEMA).value)


def description_problems(run: Path, result: Mapping[str, Any], suite: Suite, frozen: Frozen) -> Iterator[Problem]:
    """What is wrong with a run's description and fingerprint, and a warning of every task that was trained on."""
    if not (run / FILE).exists():
        return
    try:
        document = read_document(run / FILE, _SCHEMA)
    except VlmedError as error:
        yield from error.problems
        return
    yield from document.form_problems()
    described = _description(document.value)
    yield from _corpora_problems(described, str(run / FILE))
    yield from _supersedes_problems(described, run)
    tasks = [suite.tasks[name] for name in sorted({unit["task"] for unit in result["units"]}) if name in suite.tasks]
    yield from _fingerprint_problems(described, run, tasks, frozen)


def _description(value: Mapping[str, Any]) -> Description:
    fields = {name: item for name, item in printable(value).items() if name != "schema_version"}
    return Description(**{**fields, "training": Training(**fields["training"])})


def _corpora_problems(described: Description, file: str) -> Iterator[Problem]:
    known = load_graph().corpora
    for index, name in enumerate(described.training.corpora or ()):
        if name not in known:
            hint = "write what corpora.yaml does not name into $.training.other"
            yield Problem(
                "no corpus has this name", file, f"$.training.corpora[{index}]", "a name in corpora.yaml", name, hint
            )


def _supersedes_problems(described: Description, run: Path) -> Iterator[Problem]:
    # A run folder that nobody has submitted yet has no siblings.
    if described.supersedes is None or "__" not in run.resolve().parent.name:
        return
    if described.supersedes == run.name or not (run.parent / described.supersedes / "result.json").is_file():
        expected = "another run of this model"
        yield Problem(
            "there is no such run to supersede", str(run / FILE), "$.supersedes", expected, described.supersedes
        )
    elif run.resolve().name in (chain := _superseded(run.parent, described.supersedes)):
        what = "these runs supersede each other, so that none would stand"
        got = " -> ".join([run.resolve().name, *chain])
        yield Problem(what, str(run / FILE), "$.supersedes", "a run that came before", got)


def _superseded(model: Path, name: str | None) -> list[str]:
    """A run of a model, the run that this one supersedes, and so on, until one stands twice."""
    chain: list[str] = []
    while name and name not in chain:
        chain.append(name)
        try:
            described = read_description(model / name)
        except VlmedError:
            break  # Its own validation tells what is wrong with it.
        name = described.supersedes if described else None
    return chain


def _fingerprint_problems(
    described: Description, run: Path, tasks: Sequence[Task], frozen: Frozen
) -> Iterator[Problem]:
    file = str(run / FILE)
    if (described.fingerprint is not None) != (run / FINGERPRINT).exists():
        got = "none" if described.fingerprint is None else described.fingerprint
        yield Problem(f"{FINGERPRINT} and its hash stand together", file, "$.fingerprint", "both, or neither", got)
        return
    if described.fingerprint is None:
        return
    try:
        made = _read_fingerprint(run / FINGERPRINT, described.fingerprint)
        for task in tasks:
            yield from _exposure(made, task, frozen, str(run / FINGERPRINT))
    except VlmedError as error:
        yield from error.problems


def _exposure(made: Fingerprint, task: Task, frozen: Frozen, file: str) -> Iterator[Problem]:
    if task.pending:
        return
    manifest = frozen.manifest(task)
    check = check_fingerprint(made, task, manifest, read_task_hashes(task, manifest, frozen.folder))
    for kind, what in (("pixels", "has"), ("near", "seems to have")):
        found = [match for match in check.matches if match.kind == kind]
        if found:
            said = f"the model's training {what} {len(found)} of {check.samples} test images of {task.id}"
            yield Problem(said, file, f"row {found[0].row}", got=found[0].sample, severity="warning")


def _read_fingerprint(path: Path, expected: str) -> Fingerprint:
    """A fingerprint that was hashed and is parsed from the same bytes."""
    content = read_bytes(path, _LARGEST_FINGERPRINT, links=False)
    if (got := sha256(content).hexdigest()) != expected:
        raise InputError("the fingerprint is not the one that was hashed", file=path, expected=expected, got=got)
    check_footer(content, path)
    try:
        check_pages(content, pq.ParquetFile(pa.BufferReader(content)).metadata, path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"this is not a readable Parquet file: {error}", file=path) from None
    with tempfile.NamedTemporaryFile(suffix=".parquet") as copy:
        copy.write(content)
        copy.flush()
        return read_fingerprint(Path(copy.name))
