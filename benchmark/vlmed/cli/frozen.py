"""Where the frozen files of a suite lie: manifests and what stands beside them, the ledger and the questions.

One rule for all commands: beside its tasks.yaml, once there is a folder `manifests`; until then they are vlmed's own.
Whoever freezes something of another task file than vlmed's begins that folder; vlmed's own files are left alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path


def ledger_of(suite: Path | None) -> Path:
    """The ledger that a task file is held against; None is vlmed's."""
    from vlmed.results.compare import manifests_of
    from vlmed.suite.ledger import LEDGER

    return manifests_of(suite).parent / LEDGER.name


def borrows(suite: Path) -> bool:
    """Whether a task file is another than vlmed's and has nothing frozen of its own."""
    from vlmed.suite.load import suite_path

    return suite.resolve() != suite_path().resolve() and not (suite.parent / "manifests").is_dir()


def own_manifests(suite: Path | None) -> Path:
    """The folder of manifests that a command may write into, begun if need be.

    What a new one needs of vlmed's own, for tasks that the file has from there, is copied.

    Raises:
        MissingError, InputError: As `load_suite`.
    """
    from vlmed.results.compare import manifests_of

    if suite and borrows(suite):
        _begin(suite, suite.parent / "manifests")
    return manifests_of(suite)


def _begin(suite: Path, folder: Path) -> None:
    from vlmed.suite.ledger import questions_path
    from vlmed.suite.load import load_suite
    from vlmed.suite.manifest import FOLDER, manifest_path

    tasks = [task for task in load_suite(suite).tasks.values() if not task.pending]
    folder.mkdir()
    for task in tasks:
        questions = questions_path(task)
        for file in (*FOLDER.glob(f"{manifest_path(task).stem}.*"), *questions.parent.glob(questions.name)):
            target = folder.parent / file.relative_to(FOLDER.parent)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
