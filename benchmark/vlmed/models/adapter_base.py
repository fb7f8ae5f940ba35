"""Which model a PEFT adapter belongs to, as its config tells. Importing this costs no torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from vlmed.errors import UsageError
from vlmed.models.layouts import ADAPTER_CONFIG, is_adapter
from vlmed.models.reference import Reference, parse_reference
from vlmed.models.resolve import Resolved, resolve
from vlmed.models.snapshot import read_config, root_files


def base_of(adapter: Resolved) -> Reference:
    """The base that an adapter is put on where nobody names another one.

    Raises:
        UsageError: Its config names none, or one that can't be a model; or it comes from the Hub and names a folder.
    """
    base = _named_base(adapter.path)
    if base.scheme == "dir" and adapter.reference.scheme != "dir":
        raise UsageError(
            "an adapter from the Hub names a folder as its base",
            file=adapter.reference,
            path="$.base_model_name_or_path",
            expected="a repository",
            got=repr(base.location),
            hint="name the base with --model, and give the adapter with --adapter",
        )
    return base


def _named_base(folder: Path) -> Reference:
    config = read_config(folder / ADAPTER_CONFIG)
    named, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not named:
        raise UsageError(
            "the adapter doesn't name its base",
            file=folder / ADAPTER_CONFIG,
            path="$.base_model_name_or_path",
            got=repr(named),
            hint="name it with --model, and give the adapter with --adapter",
        )
    reference = _reference(str(named), folder)
    return Reference(reference.scheme, reference.location, reference.revision or str(revision or ""))


def _reference(named: str, folder: Path) -> Reference:
    """PEFT writes a repository or a path; vlmed's own scheme prefixes are understood too."""
    if not named.startswith(("/", ".", "~")) and (":" in named or named.count("/") <= 1):
        return parse_reference(named)
    path = Path(named).expanduser()
    beside = folder / path
    return Reference("dir", str(beside if not path.is_dir() and beside.is_dir() else path))


def check_base(adapter: Resolved, base: Resolved) -> list[str]:
    """Refuse a base that the adapter wasn't trained on; returns warnings about what couldn't be compared.

    Raises:
        UsageError: The config names another model, or another revision of it.
    """
    if not read_config(adapter.path / ADAPTER_CONFIG).get("base_model_name_or_path"):
        return ["the adapter doesn't name its base; only layers and shapes were compared"]
    named = _named_base(adapter.path)
    if "dir" not in (named.scheme, base.reference.scheme):
        expected = _expected_commit(named, adapter, base)
    elif base.reference.scheme == "dir" and named.revision.startswith("sha256:"):
        expected = named.revision
    elif base.reference.scheme == named.scheme and Path(named.location).is_dir():
        expected = resolve(named).revision
    else:
        return [f"the adapter was trained on {named}, which can't be compared with {base.reference}, except in shapes"]
    if expected != base.revision:
        raise _other_base("revision", named, adapter, base)
    return []


def _expected_commit(named: Reference, adapter: Resolved, base: Resolved) -> str:
    """The commit that a repository must have; the model's own where the adapter names no revision."""
    # open_clip's ARCHITECTURE/TAG names a repository under another name.
    aliased = named.scheme != base.reference.scheme
    if named.location != base.reference.location and not aliased:
        raise _other_base("model", named, adapter, base)
    if re.fullmatch("[0-9a-f]{40}", named.revision):
        return named.revision
    return resolve(named).revision if named.revision or aliased else base.revision


def _other_base(what: str, named: Reference, adapter: Resolved, base: Resolved) -> UsageError:
    return UsageError(
        f"the adapter was trained on another {what}",
        file=f"{adapter.reference}: {ADAPTER_CONFIG}",
        path="$.base_model_name_or_path" if what == "model" else "$.revision",
        expected=str(named),
        got=f"{base.reference} at {base.revision}",
        hint="leave out --model to take the adapter's own base",
    )


def adapter_chain(top: Resolved, find: Callable[[Reference], Resolved] = resolve) -> list[Resolved]:
    """The base and the adapters on it, from the lowest up: an adapter may name another adapter as its base.

    Args:
        find: Finds the files of each.

    Raises:
        UsageError: An adapter names no base, or from the Hub a folder; or they name each other.
        MissingError, InputError: One can't be had, or is no model.
    """
    chain = [top]
    while is_adapter(root_files(chain[0].path)):
        below = find(base_of(chain[0]))
        if any(below.path.resolve() == each.path.resolve() for each in chain):
            raise UsageError(
                "the adapters name each other as their base",
                file=chain[0].path / ADAPTER_CONFIG,
                path="$.base_model_name_or_path",
                expected="a model, or an adapter on one",
                got=str(below.reference),
            )
        chain.insert(0, below)
    return chain
