"""Files that a checkpoint needs and that its authors published in another repository, such as a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlmed.errors import MissingError
from vlmed.hashing import digest, file_hash
from vlmed.models.resolve import download
from vlmed.models.snapshot import root_files


@dataclass(frozen=True)
class Companion:
    """What a checkpoint needs from elsewhere.

    Attributes:
        repository: Where its authors took it from.
        files: Names of the files that are wanted; some of them may be absent there.
        apart: Files of these names among the checkpoint's own are something else.
    """

    repository: str
    files: tuple[str, ...]
    apart: bool = False


@dataclass(frozen=True)
class ModelFiles:
    """All that a family needs to load a model.

    Attributes:
        path: The checkpoint's folder.
        trust_remote_code: Whether Python code that the model brings along may run.
        device: Where the model is to run.
        companions: Repository -> folder with its files.
        revisions: `repository@commit` of each, or `repository@sha256:...` where it lay beside the checkpoint.
    """

    path: Path
    trust_remote_code: bool = False
    device: str = "cpu"
    companions: Mapping[str, Path] = field(default_factory=dict)
    revisions: tuple[str, ...] = ()

    @property
    def on_cuda(self) -> bool:
        """Whether the model is to run on a CUDA device."""
        return self.device.startswith("cuda")


def model_files(path: Path, companions: Sequence[Companion], trust_remote_code: bool, device: str) -> ModelFiles:
    """The checkpoint with its companions: from a folder beside its files named like the repository's last part, from
    among its files, or from the Hub.

    Raises:
        UsageError: A companion's repository does not exist.
        MissingError: It can't be reached, or has none of the files.
    """
    found = {each.repository: _find(each, path) for each in companions}
    revisions = tuple(f"{name}@{revision}" for name, (_, revision) in found.items())
    folders = {name: folder for name, (folder, _) in found.items()}
    return ModelFiles(path, trust_remote_code, device, folders, revisions)


def _find(companion: Companion, path: Path) -> tuple[Path, str]:
    """Its folder and revision."""
    beside = path / companion.repository.rpartition("/")[2]
    for folder in (beside,) if companion.apart else (beside, path):
        held = _held(companion, folder)
        if held:
            return folder, "sha256:" + digest([[name, file_hash(folder / name)] for name in held])
    try:
        folder = download(companion.repository, companion.files)
    except MissingError as error:
        instead = f"put files of {companion.repository} into a folder {beside.name} beside the model's own files"
        raise MissingError([replace(each, hint=f"{each.hint}; or {instead}") for each in error.problems]) from error
    if not _held(companion, folder):
        raise MissingError(
            f"the model needs files of {companion.repository}, which has none of them",
            file=companion.repository,
            expected=f"one of {', '.join(companion.files)}",
            hint=f"put them into a folder {beside.name} beside the model's own files",
        )
    return folder, folder.name


def _held(companion: Companion, folder: Path) -> list[str]:
    """The wanted files that are there."""
    return [name for name in root_files(folder) if name in companion.files] if folder.is_dir() else []
