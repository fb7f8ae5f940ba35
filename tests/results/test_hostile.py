"""A submission is a stranger's folder: whatever lies in it is refused with its place, or read without harm."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forgery import check, edit, sign
from submission_factory import World
from vlmed.leaderboard.read import read_submissions

GIB = 2**30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("hostile"), all_kinds=True)


@pytest.fixture
def run(world: World, request: pytest.FixtureRequest) -> Path:
    return world.add(f"m{zlib.crc32(request.node.name.encode())}", 1.5)


def predictions(run: Path) -> Path:
    (file,) = (run / "predictions").iterdir()
    return file


def refusal(world: World, run: Path) -> str:
    report = check(world, run, intervals=False)
    assert not report.accepted
    return "\n".join(map(str, report.problems))


# What is no file


def no_file(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def change(path: Path) -> None:
        kept = path.with_name(f"{path.name}.kept")
        path.rename(kept)
        make(path)
        kept.unlink()

    return change


def outside(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("make", [outside, os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path.name)])
@pytest.mark.parametrize("name", ["result.json", "predictions/chest-1.zero_shot-1.0.1.parquet"])
def test_links_pipes_and_folders_are_no_evidence(world: World, run: Path, name: str, make: Any) -> None:
    no_file(make)(run / name)
    said = refusal(world, run)
    assert "evidence" in said
    assert name in said


@pytest.mark.parametrize("name", ["submission.json", "fingerprint.parquet", "audits", "predictions/spare.parquet"])
def test_links_beside_the_evidence_are_refused_too(world: World, run: Path, name: str) -> None:
    (run / name).symlink_to("/etc/passwd")
    assert "a link is no evidence" in refusal(world, run)


def test_a_folder_of_predictions_that_lies_elsewhere_is_refused(world: World, run: Path, tmp_path: Path) -> None:
    (run / "predictions").rename(tmp_path / "elsewhere")
    (run / "predictions").symlink_to(tmp_path / "elsewhere")
    assert "a link is no evidence" in refusal(world, run)


def test_a_hard_link_is_the_file_that_it_is(world: World, run: Path, tmp_path: Path) -> None:
    (tmp_path / "other").hardlink_to(predictions(run))
    assert check(world, run, intervals=False).problems == []


def test_a_hundred_thousand_files_are_not_listed(world: World, run: Path) -> None:
    for number in range(10_001):
        (run / "predictions" / f"{number}.parquet").touch()
    assert "too many files" in refusal(world, run)


@pytest.mark.parametrize(
    "name",
    [
        "../x.parquet",
        "/etc/passwd",
        "predictions/../result.json",
        "predictions/a.parquet\n",
        "predictions/\u2024.parquet",
        "predictions\\x.parquet",
        "predictions/a\x00.parquet",
        "PREDICTIONS/a.parquet",
        "predictions/A.parquet",
    ],
)
def test_a_prediction_file_lies_inside_the_folder(world: World, run: Path, name: str) -> None:
    edit(run, "units/0/predictions/file", name)
    assert "$.units[0].predictions.file" in refusal(world, run)


# Documents


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "refused"),
        (b"[" * 70 + b"]" * 70, "64 levels"),
        (b'{"units": 1e400}', "too large"),
        (b"1" * 5000, "too large"),
        (b'{"a": 1, "\\u0061": 2}', "stands twice"),
        (b"\xef\xbb\xbf{}", "JSON"),
        (b"{}\x00", "JSON"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b'{"' + b"k" * 300 + b'": 1}', "key is too long"),
        (b"[" + b"[]," * 200_000 + b"[]]", "too large"),
    ],
)
def test_documents_that_break_parsers(world: World, run: Path, content: bytes, says: str) -> None:
    (run / "result.json").write_bytes(content)
    assert says in refusal(world, run)


def test_ten_gigabytes_of_json_are_refused_unread(world: World, run: Path) -> None:
    with (run / "result.json").open("wb") as file:
        file.truncate(10 * GIB)
    assert "too long" in refusal(world, run)


def test_another_form_of_the_same_document_is_a_warning(world: World, run: Path) -> None:
    file = run / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text())))
    (problem,) = check(world, run, intervals=False).problems
    assert (problem.severity, problem.what) == ("warning", "this is not in canonical form")


@pytest.mark.parametrize("path", ["model/revision", "suite", "units/0/task", "units/0/task_digest", "units/0/unit"])
def test_a_line_end_behind_a_name_is_no_name(world: World, run: Path, path: str) -> None:
    edit(run, path, lambda value: value + "\n")
    assert "does not match" in refusal(world, run)


def test_what_is_said_can_be_printed(world: World, run: Path) -> None:
    """Neither a terminal nor a build server takes a submitted text for a command."""
    edit(run, "units/0/unit", "a\n::add-mask::b\x1b[2J" + "x" * 5000)
    for problem in check(world, run).problems:
        for text in vars(problem).values():
            assert len(text) <= 300
            assert text.isprintable() or "\ufffd" in text
            assert not set("\n\r\x1b\x00") & set(text)


@pytest.mark.parametrize("number", [2**53, 10**30, 10**400])
def test_a_huge_integer_is_no_metric(world: World, run: Path, number: int) -> None:
    edit(run, "units/0/scores/metrics/all/auc/value", number)
    assert "too large" in refusal(world, run)


# Contradictions


def test_one_file_serves_one_unit(world: World) -> None:
    run = world.add("two-seeds", seeds=(0, 1))
    edit(run, "units/1/predictions", json.loads((run / "result.json").read_text())["units"][0]["predictions"])
    assert "two units name this file" in refusal(world, run)


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("units/0/track", "retrieve@1", "$.units[0].track"),
        ("units/0/cost/training", 5, "$.units[0].cost.training"),
        ("model/kind", "control", "$.model.revision"),
        ("model/revision", "builtin", "$.model.revision"),
    ],
)
def test_contradictions_name_their_place(world: World, run: Path, path: str, value: Any, place: str) -> None:
    edit(run, path, value)
    assert place in {problem.path for problem in check(world, run, intervals=False).problems}


def test_an_adapter_is_no_larger_than_its_model(world: World) -> None:
    from submission_factory import LORA

    run = world.add("fat", adapter={**LORA, "parameters": 10**12})
    assert "$.model.adapter.parameters" in refusal(world, run)


# Parquet


def table(rows: int = 120, width: int = 2, name: str = "") -> pa.Table:
    flat = pa.array(np.full(rows * width, 1 / width, np.float32))
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    empty = pa.array(np.zeros(rows + 1, np.int32))
    vector = pa.list_(pa.float32())
    schema = pa.schema([
        pa.field("sample_id", pa.string(), False), pa.field("group", pa.string(), False),
        pa.field("target", pa.int32(), False), pa.field("probabilities", vector, False),
        pa.field("by_template", vector, False),
    ])  # fmt: skip
    ids = pa.array([name or f"s{row:05d}" for row in range(rows)], pa.string())
    columns = [ids, ids, pa.array(np.zeros(rows, np.int32)), pa.ListArray.from_arrays(offsets, flat, type=vector),
               pa.ListArray.from_arrays(empty, flat[:0], type=vector)]  # fmt: skip
    return pa.Table.from_arrays(columns, schema=schema)


def put(column: str, values: Any, kind: pa.DataType) -> pa.Table:
    made = table()
    return made.set_column(made.column_names.index(column), pa.field(column, kind, False), pa.array(values, kind))


class Extension(pa.ExtensionType):
    def __init__(self) -> None:
        super().__init__(pa.string(), "vlmed.test")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: Any) -> Extension:
        return cls()


IDS = [f"s{row:05d}" for row in range(120)]
OTHER_TYPES = {
    "large text": put("sample_id", IDS, pa.large_string()),
    "dictionary": put("sample_id", IDS, pa.dictionary(pa.int32(), pa.string())),
    "bytes": put("sample_id", [b"\xff"] * 120, pa.binary()),
    "long": put("target", [0] * 120, pa.int64()),
    "decimal": put("target", [0] * 120, pa.decimal128(30, 2)),
    "time": put("target", [0] * 120, pa.timestamp("ns")),
    "nested": put("probabilities", [[[1.0]]] * 120, pa.list_(pa.list_(pa.float32()))),
    "struct": put("group", [{"a": "b"}] * 120, pa.struct([("a", pa.string())])),
    "double": put("probabilities", [[0.5, 0.5]] * 120, pa.list_(pa.float64())),
}


@pytest.mark.parametrize("made", OTHER_TYPES.values(), ids=OTHER_TYPES.keys())
def test_other_types_are_refused(world: World, run: Path, made: pa.Table) -> None:
    pq.write_table(made, predictions(run))
    assert "wrong columns" in refusal(world, run)


def test_an_extension_type_is_refused(world: World, run: Path) -> None:
    pa.register_extension_type(Extension())
    try:
        made = table()
        column = pa.ExtensionArray.from_storage(Extension(), pa.array(IDS))
        pq.write_table(made.set_column(0, pa.field("sample_id", Extension(), False), column), predictions(run))
        assert "wrong columns" in refusal(world, run)
    finally:
        pa.unregister_extension_type("vlmed.test")


def test_text_that_is_no_utf8_is_refused(world: World, run: Path) -> None:
    made = table()
    raw = pa.array([b"\xff\xfe"] * 120, pa.binary())
    text = pa.StringArray.from_buffers(120, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(made.set_column(1, made.schema.field("group"), text), predictions(run))
    assert "UTF8" in refusal(world, run)


def bomb(make: Callable[[], pa.Table], **options: Any) -> Callable[[Path], None]:
    return lambda path: pq.write_table(make(), path, **{"compression": "zstd", **options})


def one_text(rows: int, text: str) -> pa.Table:
    """Folded in a dictionary here too; without Arrow's own schema in the file its type is a text."""
    made = table(rows)
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))
    return made.set_column(0, pa.field("sample_id", column.type, False), column)


def numbers_without_end(path: Path) -> None:
    pq.write_table(table(rows=2, width=9_000_000), path)


def long_footer(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-8] + (2**31).to_bytes(4, "little") + b"PAR1")


def encrypted(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")


def cut_off(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:400] + content[500:])


def giant(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * GIB)


BOMBS = {
    "one text, many rows": (bomb(lambda: one_text(200_000, "x" * 15_000), store_schema=False), "too many rows"),
    "one text of megabytes": (bomb(lambda: table(name="x" * 2**21)), "a text too long"),
    "pages of zeros": (bomb(lambda: table(rows=50_000, name="x" * 3_000), use_dictionary=False), "too many rows"),
    "numbers without end": (numbers_without_end, "numbers"),
    "as many numbers as are read": (bomb(lambda: table(rows=2, width=8_000_000)), "a row of another length"),
    "rows without end": (bomb(lambda: table(rows=2**20 + 1, name="x")), "too many rows"),
    "prefixes": (
        bomb(lambda: table(), use_dictionary=False, column_encoding={"sample_id": "DELTA_BYTE_ARRAY"}), "encoding 7"
    ),
    "thousands of columns": (bomb(lambda: pa.table({f"c{number}": [1] for number in range(5000)})), "wrong columns"),
    "thousands of row groups": (bomb(lambda: table(rows=4000), row_group_size=1), "footer is too long"),
    "a long footer": (long_footer, "footer is too long"),
    "encryption": (encrypted, "no footer"),
    "a cut": (cut_off, "Parquet"),
    "ten gigabytes": (giant, "too long"),
}  # fmt: skip


@pytest.mark.parametrize(("plant", "says"), BOMBS.values(), ids=BOMBS.keys())
def test_bombs_are_refused_before_they_unfold(world: World, run: Path, plant: Any, says: str) -> None:
    plant(predictions(run))
    assert says in refusal(world, run)


def test_all_bombs_together_fit_in_a_gigabyte_and_half_a_minute_of_cpu(world: World, tmp_path: Path) -> None:
    for number, (plant, _) in enumerate(BOMBS.values()):
        run = world.add(f"bomb-{number}")
        plant(predictions(run))
        sign(run) if number == 0 else None
    code = """
import sys
from pathlib import Path
from vlmed.results.validate import find_runs, validate_run
from vlmed.suite.load import load_suite
root = Path(sys.argv[1])
suite = load_suite(root / "tasks.yaml")
runs = [run for run in find_runs(root / "submissions") if "bomb-" in str(run)]
print(len(runs), sum(validate_run(run, suite, root / "manifests").accepted for run in runs))
"""

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
        resource.setrlimit(resource.RLIMIT_DATA, (GIB, GIB))

    done = subprocess.run(
        [sys.executable, "-c", code, str(world.root)], capture_output=True, text=True, check=False, preexec_fn=limits
    )
    assert done.stderr == ""
    assert done.stdout.split() == [str(len(BOMBS)), "0"]


def test_many_wrong_rows_are_counted_not_listed(world: World, run: Path) -> None:
    bomb(lambda: table(name="x"))(predictions(run))  # one foreign sample, 119 times again, and 120 missing ones
    problems = check(world, run).problems
    assert len(problems) < 300
    assert any("more problems of this file are not listed" in problem.what for problem in problems)


# Texts and names


HTML = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def test_html_is_only_text_on_the_page(world: World, tmp_path: Path) -> None:
    from vlmed.leaderboard.build import build

    own = World(tmp_path / "own")
    run = own.add("html", name=HTML, family=HTML, architecture=HTML, ref=HTML)
    edit(run, "environment", {HTML: HTML})
    edit(run, "units/0/recipe_outcome", {HTML: HTML})
    built = build(own.submissions, tmp_path / "site", own.suite, own.manifests, intervals=False)
    assert len(built.submissions.entries) == 1
    assert "<script>alert" not in built.page.read_text()
    assert "<img src=x" not in built.page.read_text()


@pytest.mark.parametrize("org", ["Lab", "l\u0430b", "ⅼab", "lab\u200b", "LAB"])
def test_organisations_that_look_like_another_are_no_names(tmp_path: Path, org: str) -> None:
    world = World(tmp_path / "world")
    world.add("a")
    world.add("a", org=org)
    found = read_submissions(world.submissions, world.suite, world.manifests, intervals=False)
    assert [entry.org for entry in found.entries] == ["lab"]
    assert "no folder of a submission" in found.refused[0].problems[0].what
