"""What fuzzers do to a submission: put bytes into one of its files, and hold validation to its word."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from forgery import check, sign
from submission_factory import World
from vlmed.files import write_json
from vlmed.hashing import file_hash
from vlmed.results.description import Description
from vlmed.results.predictions import read_predictions

KINDS = {"chest": "zero_shot", "figures": "retrieve", "questions": "answer"}
RESULT, PREDICTIONS, DESCRIPTION, FINGERPRINT = "result.json", "predictions", "submission.json", "fingerprint.parquet"
PARTS = (RESULT, PREDICTIONS, DESCRIPTION, FINGERPRINT, "retraction.json", "audits/a.json", "judgements/a.json")
# What a file of JSON of its kind begins with.
_STARTS: dict[str, Any] = {
    DESCRIPTION: Description("2026-11-22", "mit", contact="me", paper="https://example.org").to_json(),
    "retraction.json": {"schema_version": 1, "date": "2026-11-22", "reason": "wrong weights"},
}


@dataclass(frozen=True)
class Target:
    """One honest run of one kind, and a copy of it that is attacked."""

    world: World
    kind: str
    folder: Path

    @cached_property
    def honest(self) -> Path:
        return self.world.add(f"honest-{self.kind}", tasks=(self.kind,), tracks=(KINDS[self.kind],))

    @cached_property
    def run(self) -> Path:
        return Path(shutil.copytree(self.honest, self.folder / self.kind / "run"))

    def restore(self) -> None:
        """Undo every attack."""
        for path in self.run.rglob("*"):
            if path.is_file() and not (self.honest / path.relative_to(self.run)).exists():
                path.unlink()
        shutil.copytree(self.honest, self.run, dirs_exist_ok=True)

    def start(self, part: str) -> bytes:
        """Bytes from which a fuzzer may begin."""
        if part == RESULT:
            return (self.honest / RESULT).read_bytes()
        if part in (PREDICTIONS, FINGERPRINT):
            (file,) = (self.honest / PREDICTIONS).iterdir()
            return file.read_bytes()
        return json.dumps(_STARTS.get(part, {"schema_version": 1})).encode()

    def attack(self, part: str, content: bytes) -> None:
        """Put `content` into a part of the run; raises AssertionError if validation believes what it should not."""
        self.restore()
        if part == RESULT:
            self._result(content)
        elif part == PREDICTIONS:
            self._predictions(content)
        else:
            (self.run / part).parent.mkdir(exist_ok=True)
            (self.run / part).write_bytes(content)
            if part == FINGERPRINT:
                said = Description("2026-11-22", "mit", fingerprint=sha256(content).hexdigest())
                write_json(self.run / DESCRIPTION, said.to_json())
            check(self.world, self.run, intervals=False)

    def _result(self, content: bytes) -> None:
        (self.run / RESULT).write_bytes(content)
        if check(self.world, self.run, intervals=False).accepted:
            assert proved(self.run) == proved(self.honest), "a result was accepted that nobody recomputed"

    def _predictions(self, content: bytes) -> None:
        (file,) = (self.run / PREDICTIONS).iterdir()
        (source,) = (self.honest / PREDICTIONS).iterdir()
        file.write_bytes(content)
        same = content == source.read_bytes()
        assert check(self.world, self.run, intervals=False).accepted is same, "bytes that were not hashed were accepted"
        _resign(self.run, file)
        if check(self.world, self.run, intervals=False).accepted:
            task = self.world.suite.tasks[f"{self.kind}@1"]
            ours, theirs = (read_predictions(path, task) for path in (file, source))
            rows = range(len(theirs.sample_ids))
            assert (ours.sample_ids, ours.groups) == (theirs.sample_ids, theirs.groups), "other samples were accepted"
            assert ours.claims(list(rows)) == theirs.claims(list(rows)), "other targets were accepted"


def proved(run: Path) -> Any:
    """What validation vouches for."""
    units = json.loads((run / RESULT).read_text())["units"]
    names = ("task", "task_digest", "track", "track_digest", "predictions")
    return [({name: unit[name] for name in names}, _without_intervals(unit["scores"])) for unit in units]


def _without_intervals(scores: Any) -> Any:
    if isinstance(scores, dict):
        return {
            key: _without_intervals(item) for key, item in scores.items() if key not in ("low", "high", "undefined")
        }
    return scores


def _resign(run: Path, file: Path) -> None:
    """Write the new hash, and the number of rows if the file has one."""
    try:
        sign(run)
    except Exception:
        result = json.loads((run / RESULT).read_text())
        result["units"][0]["predictions"]["sha256"] = file_hash(file)
        write_json(run / RESULT, result)
