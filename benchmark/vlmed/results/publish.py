"""What a submitter offers to the Hub: a submission to a data set repository, or results to a model's own card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vlmed.errors import InputError, MissingError, VlmedError
from vlmed.results.hub_card import Evaluation, with_evaluations

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

_CARD = "README.md"


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
    with _told(repository, "a data set"):
        from huggingface_hub import CommitOperationAdd

        place = f"submissions/{folder.parent.name}/{folder.name}"
        added = [
            CommitOperationAdd(f"{place}/{path.relative_to(folder).as_posix()}", str(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        return _offered(repository, added, title, "dataset")


def card_changes(repository: str, evaluations: Sequence[Evaluation]) -> tuple[str, str, str]:
    """A model's card as it stands, as it would be with these evaluations, and the commit at which it stands.

    Args:
        repository: `owner/name` of a model; without a card, it gets one.

    Raises:
        MissingError: `huggingface_hub` is not installed, or the repository is gated and there is no token.
        InputError: What stands in the card can't be read; it would be lost.
        VlmedError: The Hub refuses or can't be reached; has its words.
    """
    with _told(repository, "a model"):
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        commit = str(HfApi().model_info(repository).sha)
        try:
            before = Path(hf_hub_download(repository, _CARD, revision=commit)).read_bytes().decode()
        except EntryNotFoundError:
            before = ""
        except UnicodeDecodeError:
            raise InputError("the card is no UTF-8", file=f"{repository}/{_CARD}") from None
    name = repository.rpartition("/")[2]
    return before, with_evaluations(before, name, evaluations, f"{repository}/{_CARD}"), commit


def offer_card(repository: str, card: str, commit: str, title: str) -> str:
    """Offer a model's card as a pull request on top of `commit`; gives its address. Nothing else is changed.

    Raises:
        MissingError, VlmedError: As `open_pull_request`.
    """
    with _told(repository, "a model"):
        from huggingface_hub import CommitOperationAdd

        return _offered(repository, [CommitOperationAdd(_CARD, card.encode())], title, "model", commit)


def _offered(
    repository: str, added: Sequence[CommitOperationAdd], title: str, kind: str, parent: str | None = None
) -> str:
    from huggingface_hub import HfApi

    commit = HfApi().create_commit(
        repository, added, commit_message=title, repo_type=kind, create_pr=True, parent_commit=parent
    )
    return str(commit.pr_url)


@contextmanager
def _told(repository: str, kind: str) -> Iterator[None]:
    """Whatever goes wrong with the Hub, in its own words."""
    try:
        from huggingface_hub.errors import (  # type: ignore[attr-defined]
            HfHubHTTPError,
            HTTPError,
            LocalTokenNotFoundError,
        )
    except ImportError:
        raise MissingError("huggingface_hub is not installed", hint="pip install 'vlmed[run]'") from None
    try:
        yield
    except LocalTokenNotFoundError:
        raise MissingError("the Hub needs to know who you are", hint="log in with `hf auth login`") from None
    except (HfHubHTTPError, HTTPError, OSError) as error:
        hint = f"check the repository's name, that it is {kind}, and that your token may write"
        raise VlmedError(f"the Hub says: {str(error).splitlines()[0]}", file=repository, hint=hint) from None
    except ValueError as error:  # a name that is none, or a card that the Hub refuses
        raise VlmedError(f"the Hub says: {' '.join(str(error).split())[:500]}", file=repository) from None
