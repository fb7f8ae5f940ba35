"""What people type for a model that is no reference, and what they mean by it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

# The pages of a repository begin alike; what follows its name is a view, a branch and perhaps a file.
_PAGE = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/@?#]+/[^/@?#]+)(?:/[a-z]+/([^/?#]+))?.*")


def check_references(refs: Iterable[str | None]) -> None:
    """Refuse what is taken for a repository of the Hub and was not meant so, before anybody asks the Hub.

    Raises:
        UsageError: With a problem for each.
    """
    from vlmed.errors import Problem, UsageError

    meant = ((ref, _meant(ref)) for ref in refs if ref)
    if problems := [Problem(what, got=ref, hint=f"write {hint}") for ref, (what, hint) in meant if what]:
        raise UsageError(problems)


def _meant(ref: str) -> tuple[str, str]:
    """What a text is, and how it should be written; empty where nothing is amiss."""
    from vlmed.models.reference import CONTROLS

    if page := _PAGE.fullmatch(ref.removeprefix("hf:")):
        revision = f"@{page[2]}" if page[2] else ""
        return "a model is named by its repository, not by the address of its page", f"{page[1]}{revision}"
    if {":", "/", "@"} & set(ref):
        return "", ""
    if ref in CONTROLS:
        return "this is the name of a control, and not of a repository", f"control:{ref}"
    if Path(ref).is_dir():
        return "there is a folder of this name, and perhaps a repository", f"dir:{ref} or hf:{ref}"
    return "", ""
