"""From a reference to files on this machine at an immutable revision."""

from __future__ import annotations

import errno
import glob
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmed.errors import InputError, MissingError, UsageError, VlmedError, unknown
from vlmed.files import write_text
from vlmed.models.layouts import MARKERS, OPEN_CLIP_CONFIG, SECOND_TOKENIZER, files_that_matter
from vlmed.models.reference import Reference
from vlmed.models.snapshot import check_sizes, content_revision, is_weights, root_files

_ROOT_FILE = re.compile(rf"({SECOND_TOKENIZER}/)?[^/\\]+")
_ATTEMPTS = 5
# Seconds that a busy server may ask us to wait; who is told to come back later than that is told so.
_LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class Resolved:
    """A model's or adapter's files.

    Attributes:
        reference: What was asked for.
        revision: 40-hex commit of a repository, or `sha256:` content hash of a folder.
        path: The folder with the files.
        stamps: Name, size and time of change in ns of each file, as they were when the revision was found.
    """

    reference: Reference
    revision: str
    path: Path
    stamps: tuple[tuple[str, int, int], ...] = ()

    def check_unchanged(self) -> None:
        """Refuse a folder whose files are no longer those that `revision` speaks of.

        Raises:
            InputError: Names every file that changed.
        """
        changed = [name for name, *then in self.stamps if _stamp(self.path / name) != tuple(then)]
        if changed:
            raise InputError(
                "files changed while the model was loaded",
                file=self.path,
                path=", ".join(changed),
                expected=f"what {self.revision} names",
                hint="run it again when nothing writes into the folder",
            )


def _stamp(file: Path) -> tuple[int, int]:
    """Size and time of the last change; nothing that can be for a file that is gone."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _stamped(reference: Reference, path: Path, revision: Callable[[], str]) -> Resolved:
    """The stamps are taken before the revision is found: what changes later is noticed, whenever that is."""
    names = files_that_matter(root_files(path), str(path))
    stamps = tuple((name, *_stamp(path / name)) for name in names)
    return Resolved(reference, revision(), path, stamps)


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
    repository = _repository(reference)
    path = _from_hub(repository, reference.revision, lambda names: files_that_matter(names, repository))
    if reference.scheme == "open_clip" and OPEN_CLIP_CONFIG not in root_files(path):
        raise InputError(
            "not an open_clip model", file=repository, expected=OPEN_CLIP_CONFIG, hint=f"try hf:{repository}"
        )
    return _stamped(reference, path, lambda: path.name)


def look_at(reference: Reference) -> tuple[Resolved, dict[str, int | None]]:
    """Like `resolve`, without fetching weights, and the size in bytes of every file that would be loaded, if known.

    Raises:
        UsageError, MissingError, InputError: As `resolve`.
    """
    if reference.scheme == "dir":
        found = _resolve_folder(reference)
        names = [name for name, *_ in found.stamps]
        return found, {name: (found.path / name).stat().st_size for name in names}
    repository = _repository(reference)
    wanted: dict[str, int | None] = {}

    def without_weights(names: list[str]) -> list[str]:
        wanted.update(dict.fromkeys(files_that_matter(names, repository)))
        # Some layouts have nothing but weights.
        return [name for name in wanted if not is_weights(name)] or list(wanted)

    path = _from_hub(repository, reference.revision, without_weights)
    sizes = _sizes(repository, path)
    return Resolved(reference, path.name, path), {name: sizes.get(name) for name in wanted}


def _sizes(repository: str, snapshot: Path) -> dict[str, int | None]:
    """Sizes as the Hub tells them; without a network, of what is there."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        return _look_up(repository, snapshot.name)[1]
    except (OSError, HTTPError):
        return {name: (snapshot / name).stat().st_size for name in root_files(snapshot)}


def _repository(reference: Reference) -> str:
    if reference.scheme not in ("hf", "open_clip"):
        raise UsageError(f"{reference} has no files to resolve", expected="a hf:, open_clip: or dir: reference")
    return _open_clip_repository(reference.location) if reference.scheme == "open_clip" else reference.location


def _resolve_folder(reference: Reference) -> Resolved:
    path = Path(reference.location).expanduser()
    if not path.is_dir():
        what = "this is a file; name the folder it lies in" if path.is_file() else "the model folder does not exist"
        raise UsageError(what, file=path, got=str(path.absolute()))
    found = _stamped(reference, path, lambda: content_revision(path))
    if reference.revision not in ("", found.revision):
        raise UsageError(
            "the folder's content is not the revision asked for",
            file=path,
            expected=reference.revision,
            got=found.revision,
        )
    return found


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
    from huggingface_hub import snapshot_download

    # HTTPError: the base class of the HTTP client's errors, whichever client this version of the Hub's library uses.
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HFValidationError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    commit = revision
    try:
        commit, sizes = _look_up(repository, revision)
        names = choose(list(sizes))
        problems = check_sizes({name: sizes[name] for name in names}, repository)
        if problems:
            raise InputError(problems)
        with _quiet_without_terminal():
            patterns = [glob.escape(name) for name in names]
            path = Path(snapshot_download(**_address(repository), revision=commit, allow_patterns=patterns))
        _remember(path, revision or "main")
        return path
    except RevisionNotFoundError as error:
        raise _no_such_revision(repository, revision) from error
    except GatedRepoError as error:
        raise _gated(repository) from error
    except RepositoryNotFoundError as error:
        raise _no_such_model(repository) from error
    except HFValidationError as error:
        raise UsageError(f"{repository!r} is no name for a repository", got=str(error)) from error
    except (OSError, HTTPError) as error:
        if _disk_is_full(error):
            raise VlmedError("the disk is full", file=repository, hint="free some space, or set HF_HOME") from error
        return _from_cache(repository, commit, choose, markers, error)


def _look_up(repository: str, revision: str) -> tuple[str, dict[str, int | None]]:
    """The commit that a branch or tag means now, and the files at its root with their sizes in bytes."""
    from huggingface_hub import HfApi

    info = _patiently(lambda: HfApi().repo_info(**_address(repository), revision=revision or None, files_metadata=True))
    commit = str(info.sha)
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise InputError("the Hub gives no commit", file=repository, expected="40 hex digits", got=repr(commit)[:200])
    # Models lie at the root; what else a repository holds, and any path that would leave it, is never asked for.
    return commit, {file.rfilename: file.size for file in info.siblings or [] if _ROOT_FILE.fullmatch(file.rfilename)}


def _address(repository: str) -> dict[str, Any]:
    """How the Hub's library is told of a repository: a data set's, `datasets/ORGANISATION/NAME`, is one by its type."""
    name = repository.removeprefix("datasets/")
    return {"repo_id": name, "repo_type": "dataset" if name != repository else "model"}


def _patiently(ask: Callable[[], Any]) -> Any:
    """The answer of a server that may be busy: asked again as often as `_ATTEMPTS` says, after the time that it names.

    Downloads need no such care, the Hub's library takes it.
    """
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(_ATTEMPTS):
        try:
            return ask()
        except HfHubHTTPError as error:
            wait = _waiting_time(error, attempt)
            if wait is None or attempt + 1 == _ATTEMPTS:
                raise
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _waiting_time(error: Any, attempt: int) -> float | None:
    """Seconds until another attempt makes sense; None where none does."""
    if _status(error) not in (429, 500, 502, 503, 504):
        return None
    named = str(error.response.headers.get("Retry-After", ""))
    wait = float(named) if named.isdigit() else 2.0**attempt
    return wait if wait <= _LONGEST_WAIT else None


def _status(error: BaseException | None) -> int:
    """The HTTP status behind an error; 0 where there was no answer."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status:
            return int(status)
        error = error.__cause__ or error.__context__
    return 0


def _disk_is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def _quiet_without_terminal() -> Iterator[None]:
    """The Hub's own progress bars, where somebody can see them move."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    quiet = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            enable_progress_bars()


def _remember(snapshot: Path, revision: str) -> None:
    """Note in the cache, as the Hub's library does, which commit a branch or tag means: it answers without a network.

    The library does so itself only when it looks the branch up, which might by then have moved.
    """
    note = snapshot.parent.parent / "refs" / revision
    if revision == snapshot.name or ".." in revision or (note.is_file() and note.read_text() == snapshot.name):
        return
    # A cache that others manage may be read-only; then it just doesn't know the branch.
    with suppress(VlmedError):
        write_text(note, snapshot.name)


def _from_cache(
    repository: str,
    revision: str,
    choose: Callable[[list[str]], list[str]],
    markers: Sequence[str],
    cause: Exception,
) -> Path:
    from huggingface_hub import try_to_load_from_cache

    for marker in markers:
        found = try_to_load_from_cache(**_address(repository), filename=marker, revision=revision or None)
        if isinstance(found, str) and _accepted(choose, Path(found).parent):
            return Path(found).parent
    status = _status(cause)
    what = f"the Hub answers with HTTP {status}" if status else "the Hub can't be reached"
    raise MissingError(
        f"{what}, and the local cache lacks {repository} at {revision or 'main'}",
        got=f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}",
        hint=_after(status),
    )


def _after(status: int) -> str:
    if status == 403:
        return "your token may not read this model: check its permissions, or ask for access on the model's page"
    if status == 429 or status >= 500:
        return "try again in some minutes: what was downloaded is kept"
    return "run once with a network, set HF_ENDPOINT to a mirror, or download the model and name it dir:PATH"


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
