"""A submission -> a pull request on a data set repository of the Hub."""

from __future__ import annotations

from pathlib import Path

from vlmed.errors import MissingError, VlmedError


def open_pull_request(folder: Path, repository: str, title: str) -> str:
    """Offer `<org>__<model>/<run>` as a pull request that adds it under `submissions/`; gives its address.

    The repository itself is not changed; whoever keeps it decides.

    Args:
        folder: The submission, as `submit` made it.
        repository: `owner/name` of a data set repository.

    Raises:
        MissingError: `huggingface_hub` is not installed, or there is no token.
        VlmedError: The Hub refuses or can't be reached; has its words.
    """
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import (  # type: ignore[attr-defined]
            HfHubHTTPError,
            HFValidationError,
            HTTPError,
            LocalTokenNotFoundError,
        )
    except ImportError:
        raise MissingError("huggingface_hub is not installed", hint="pip install 'vlmed[run]'") from None
    place = f"submissions/{folder.parent.name}/{folder.name}"
    added = [
        CommitOperationAdd(f"{place}/{path.relative_to(folder).as_posix()}", str(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    try:
        commit = HfApi().create_commit(repository, added, commit_message=title, repo_type="dataset", create_pr=True)
    except LocalTokenNotFoundError:
        raise MissingError("the Hub needs to know who you are", hint="log in with `hf auth login`") from None
    except (HfHubHTTPError, HFValidationError, HTTPError, OSError) as error:
        hint = "check the repository's name, that it is a data set, and that your token may write"
        raise VlmedError(f"the Hub says: {str(error).splitlines()[0]}", file=repository, hint=hint) from None
    return str(commit.pr_url)
