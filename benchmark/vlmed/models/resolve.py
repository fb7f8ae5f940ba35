"""From a reference to files on this machine at an immutable revision."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmed.errors import InputError, MissingError, UsageError, VlmedError, unknown
from vlmed.models.layouts import MARKERS, OPEN_CLIP_CONFIG, files_that_matter
from vlmed.models.reference import Reference
from vlmed.models.snapshot import content_revision, root_files


@dataclass(frozen=True)
class Resolved:
    """A model's or adapter's files.

    Attributes:
        reference: What was asked for.
        revision: 40-hex commit of a repository, or `sha256:` content hash of a folder.
        path: The folder with the files.
    """

    reference: Reference
    revision: str
    path: Path


def resolve(reference: Reference) -> Resolved:
    """Find the files of a `hf`, `open_clip` or `dir` reference, downloading those that matter if need be.

    A repository is looked up once, its branch or tag is pinned to the commit, and without a network the Hub's local
    cache answers. `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they always mean.

    Raises:
        UsageError: The model, folder or revision does not exist.
        MissingError: Access is gated, or there is no network and the cache lacks the model.
        InputError: What was found is not a model.
    """
    if reference.scheme == "dir":
        return _resolve_folder(reference)
    if reference.scheme not in ("hf", "open_clip"):
        raise UsageError(f"{reference} has no files to resolve", expected="a hf:, open_clip: or dir: reference")
    repository = reference.location
    if reference.scheme == "open_clip":
        repository = _open_clip_repository(reference.location)
    path = _from_hub(repository, reference.revision, lambda names: files_that_matter(names, repository))
    if reference.scheme == "open_clip" and OPEN_CLIP_CONFIG not in root_files(path):
        raise InputError(
            "not an open_clip model", file=repository, expected=OPEN_CLIP_CONFIG, hint=f"try hf:{repository}"
        )
    return Resolved(reference, path.name, path)


def _resolve_folder(reference: Reference) -> Resolved:
    path = Path(reference.location).expanduser()
    if not path.is_dir():
        raise UsageError("the model folder does not exist", file=path, got=str(path.absolute()))
    revision = content_revision(path)
    if reference.revision not in ("", revision):
        raise UsageError(
            "the folder's content is not the revision asked for", file=path, expected=reference.revision, got=revision
        )
    return Resolved(reference, revision, path)


def _open_clip_repository(location: str) -> str:
    """The repository behind `ARCHITECTURE/TAG`; any other location is one already."""
    from open_clip import get_pretrained_cfg, list_models, list_pretrained_tags_by_model

    architecture, _, tag = location.partition("/")
    if architecture not in list_models():
        return location
    tags = list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise unknown(f"open_clip weights for {architecture}", tag, tags, hint="open_clip.list_pretrained() lists all")
    entry = get_pretrained_cfg(architecture, tag).get("hf_hub", "")
    if not entry:
        raise UsageError(
            f"open_clip knows {location} only as a download without revisions",
            expected="weights in a repository on the Hub",
            hint="save the model with open_clip.push_to_hf_hub or as a folder, and name that",
        )
    return "/".join(entry.split("/")[:2])


def download(repository: str, names: Sequence[str]) -> Path:
    """The snapshot folder, named after its commit, with those of the named files that the repository has.

    Raises:
        UsageError: There is no such repository.
        MissingError: Access is gated, or there is no network and the cache has none of the files.
    """
    return _from_hub(repository, "", lambda held: [name for name in held if name in names], names)


def _from_hub(
    repository: str, revision: str, choose: Callable[[list[str]], list[str]], markers: Sequence[str] = MARKERS
) -> Path:
    """The snapshot folder, named after its commit, with the files that `choose` takes of those in the repository.

    Without a network it comes from the cache: where one of `markers` lies, and `choose` accepts what is there.
    """
    from huggingface_hub import HfApi, snapshot_download

    # HTTPError: the base class of the HTTP client's errors, whichever client this version of the Hub's library uses.
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HFValidationError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        siblings = HfApi().model_info(repository, revision=revision or None).siblings or []
        patterns = [glob.escape(name) for name in choose([file.rfilename for file in siblings])]
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    except RevisionNotFoundError as error:
        raise _no_such_revision(repository, revision) from error
    except GatedRepoError as error:
        raise _gated(repository) from error
    except RepositoryNotFoundError as error:
        raise _no_such_model(repository) from error
    except HFValidationError as error:
        raise UsageError(f"{repository!r} is no name for a repository", got=str(error)) from error
    except (OSError, HTTPError) as error:
        return _from_cache(repository, revision, choose, markers, error)


def _from_cache(
    repository: str,
    revision: str,
    choose: Callable[[list[str]], list[str]],
    markers: Sequence[str],
    cause: Exception,
) -> Path:
    from huggingface_hub import try_to_load_from_cache

    for marker in markers:
        found = try_to_load_from_cache(repository, marker, revision=revision or None)
        if isinstance(found, str) and _accepted(choose, Path(found).parent):
            return Path(found).parent
    raise MissingError(
        f"the Hub can't be reached, and the local cache lacks {repository} at {revision or 'main'}",
        got=f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}",
        hint="run once with a network, set HF_ENDPOINT to a mirror, or download the model and name it dir:PATH",
    )


def _accepted(choose: Callable[[list[str]], list[str]], folder: Path) -> bool:
    """Whether the files of a snapshot suffice; a download that broke off left fewer."""
    try:
        return bool(choose(root_files(folder)))
    except InputError:
        return False


def _no_such_model(repository: str) -> VlmedError:
    return UsageError(
        f"the model {repository!r} does not exist on the Hub, or is private",
        expected="a repository you can read",
        got=repr(repository),
        hint="check the spelling; for a private model set HF_TOKEN; a folder is written dir:PATH",
    )


def _no_such_revision(repository: str, revision: str) -> VlmedError:
    return UsageError(
        f"the model {repository!r} has no revision {revision!r}",
        expected="a branch, a tag or a full 40-digit commit",
        got=repr(revision),
        hint="leave out '@revision' to use the newest; the result pins its commit",
    )


def _gated(repository: str) -> VlmedError:
    return MissingError(
        f"the model {repository!r} is gated: its authors give access on request",
        hint="accept the terms on the model's page, then run `hf auth login` or set HF_TOKEN to your token",
    )
