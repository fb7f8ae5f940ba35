"""A built site -> a static Space of the Hub, in one commit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vlmed.errors import MissingError, VlmedError
from vlmed.leaderboard.publish import Published
from vlmed.leaderboard.site import INDEX, check_unchanged

README = """---
title: vlmed leaderboard
emoji: 🩻
colorFrom: blue
colorTo: gray
sdk: static
app_file: index.html
pinned: false
short_description: Medical vision-language models, ranked
---

# vlmed leaderboard

Recomputed results of medical vision-language models on frozen public tasks, ranked with their uncertainty.
`vlmed leaderboard build` made it from published submissions, `vlmed leaderboard publish` put it here, and the next one
replaces it. The data are in `data/`, the evidence in `runs/`.
"""
_README = "README.md"


def publish_space(site: Path, repository: str, message: str, dry_run: bool = False) -> Published:
    """Bring a static Space up to date with a built site; makes the Space if there is none.

    What an earlier site put there and the new one lacks is removed; other files stay. Files that are there already
    are not sent again. The token is the one of `HF_TOKEN` or of `hf auth login`.

    Args:
        repository: `owner/name`.
        dry_run: Look at the site alone, without the network: all of its files count as written.

    Raises:
        MissingError: There is no built site, no token, or `huggingface_hub` is not installed.
        InputError: A file of the site is not as it was built.
        VlmedError: The Hub refuses or can't be reached; has its words.
    """
    files = check_unchanged(site)
    size = sum((site / name).stat().st_size for name in files)
    address = f"https://huggingface.co/spaces/{repository}"
    if dry_run:
        return Published(address, len(files) + 1, 0, 0, size)
    with _told(repository):
        return _publish(site, files, repository, message, size)


def _publish(site: Path, files: Mapping[str, str], repository: str, message: str, size: int) -> Published:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise MissingError("the Hub needs to know who you are", hint="set HF_TOKEN, or log in with `hf auth login`")
    api = HfApi()
    address = api.create_repo(repository, repo_type="space", space_sdk="static", exist_ok=True)
    present = set(api.list_repo_files(repository, repo_type="space"))
    earlier = _earlier(repository) if INDEX in present else {}
    gone = sorted((earlier.keys() & present) - files.keys())
    changed = [name for name, sha256 in files.items() if name not in present or earlier.get(name) != sha256]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(_README, README.encode()),
        *(CommitOperationAdd(name, site / name) for name in (*changed, INDEX)),
        *(CommitOperationDelete(name) for name in gone),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a data file may be meant for a data set, for each of them
        api.create_commit(repository, operations, commit_message=message, repo_type="space")
    return Published(str(address), len(changed), len(gone), len(files) - len(changed), size)


def _earlier(repository: str) -> Mapping[str, str]:
    """Path -> SHA-256 of what an earlier site put there; nothing where its index says nothing of the kind."""
    from huggingface_hub import hf_hub_download

    try:
        index = json.loads(Path(hf_hub_download(repository, INDEX, repo_type="space")).read_text("utf-8"))
        return {str(name): str(sha256) for name, sha256 in index["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}


@contextmanager
def _told(repository: str) -> Iterator[None]:
    """The Hub's refusals in its words.

    Raises:
        MissingError: `huggingface_hub` is not installed.
        VlmedError: The Hub refused or could not be reached.
    """
    try:
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined]
    except ImportError:
        raise MissingError("huggingface_hub is not installed", hint="pip install 'vlmed[run]'") from None
    try:
        yield
    except (HfHubHTTPError, HFValidationError, HTTPError, OSError) as error:
        hint = "check the Space's name, and that your token may write to its owner's"
        raise VlmedError(f"the Hub says: {str(error).splitlines()[0]}", file=repository, hint=hint) from None
