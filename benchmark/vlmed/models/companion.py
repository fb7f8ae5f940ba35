"""Files that a checkpoint needs and that its authors published in another repository, such as a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlmed.hashing import digest, file_hash
from vlmed.models.resolve import download
from vlmed.models.snapshot import root_files


@dataclass(frozen=True)
class Companion:
    """What a checkpoint needs from elsewhere.

    Attributes:
        repository: Where its authors took it from.
        files: Names of the files that are wanted; any of them may be absent there.
    """

    repository: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class ModelFiles:
    """All that a family needs to load a model.

    Attributes:
        path: The checkpoint's folder.
        trust_remote_code: Whether Python code that the model brings along may run.
        companions: Repository -> folder with its files.
        revisions: `repository@commit` of each, or `repository@sha256:...` where it lay beside the checkpoint.
    """

    path: Path
    trust_remote_code: bool = False
    companions: Mapping[str, Path] = field(default_factory=dict)
    revisions: tuple[str, ...] = ()


def model_files(path: Path, companions: Sequence[Companion], trust_remote_code: bool) -> ModelFiles:
    """The checkpoint with its companions: from a folder beside its files named like the repository's last part, from
    among its files, or from the Hub.

    Raises:
        UsageError, MissingError: A companion can't be had.
    """
    found = {each.repository: _find(each, path) for each in companions}
    revisions = tuple(f"{name}@{revision}" for name, (_, revision) in found.items())
    return ModelFiles(path, trust_remote_code, {name: folder for name, (folder, _) in found.items()}, revisions)


def _find(companion: Companion, path: Path) -> tuple[Path, str]:
    """Its folder and revision."""
    for folder in (path / companion.repository.rpartition("/")[2], path):
        held = [name for name in root_files(folder) if name in companion.files] if folder.is_dir() else []
        if held:
            return folder, "sha256:" + digest([[name, file_hash(folder / name)] for name in held])
    folder = download(companion.repository, companion.files)
    return folder, folder.name
