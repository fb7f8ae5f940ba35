"""How a person names a model: `[scheme:]location[@revision]`, before anything is looked up."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vlmed.errors import UsageError, unknown

CONTROLS = ("blank", "majority", "oracle", "random")

_GRAMMAR = "[scheme:]location[@revision], such as openai/clip-vit-base-patch32@main, dir:./model or control:random"
_SCHEME = re.compile(r"([A-Za-z]\w*):(.*)", re.ASCII)
_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_CONTENT_HASH = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """A model as it was asked for.

    Attributes:
        scheme: `hf`, `open_clip`, `dir`, `endpoint` or `control`.
        location: Repository, `ARCHITECTURE/TAG`, folder, URL, or the control's name.
        revision: Branch, tag, commit or content hash as given; empty where none was.
    """

    scheme: str
    location: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}:{self.location}" + (f"@{self.revision}" if self.revision else "")


def parse_reference(text: str) -> Reference:
    """Read a reference; a location without a scheme is a repository on the Hub.

    Raises:
        UsageError: The scheme is unknown (names the nearest), or the location can't be one of its scheme.

    >>> parse_reference("vinid/plip@main")
    Reference(scheme='hf', location='vinid/plip', revision='main')
    >>> str(parse_reference("control:blank/vinid/plip"))
    'control:blank/vinid/plip'
    """
    match = _SCHEME.fullmatch(text)
    scheme, rest = (match[1], match[2]) if match else ("hf", text)
    if scheme not in _PARSERS:
        raise unknown("model scheme", scheme, _PARSERS, hint="a folder is written dir:PATH")
    if not rest or rest != rest.strip():
        raise _malformed(text, "the location is empty or has blanks around it")
    return _PARSERS[scheme](scheme, rest, text)


def _malformed(text: str, why: str, hint: str = "") -> UsageError:
    return UsageError(f"malformed model reference: {why}", expected=_GRAMMAR, got=repr(text), hint=hint)


def _repository(scheme: str, rest: str, text: str) -> Reference:
    location, at, revision = rest.partition("@")
    if rest.startswith(("/", ".", "~")):
        raise _malformed(text, "a path stands where a repository is expected", hint=f"write dir:{rest}")
    if not _REPOSITORY.fullmatch(location):
        raise _malformed(text, "a repository is NAME or ORGANISATION/NAME in letters, digits, '.', '_' and '-'")
    if at and not re.fullmatch(r"[^\s@:~^?*\[\\]+", revision):
        raise _malformed(text, "after '@' comes a branch, tag or commit")
    return Reference(scheme, location, revision)


def _folder(scheme: str, rest: str, _text: str) -> Reference:
    # A folder's name may hold an '@'; only a content hash after it is a revision.
    location, _, revision = rest.rpartition("@")
    if location and _CONTENT_HASH.fullmatch(revision):
        return Reference(scheme, location, revision)
    return Reference(scheme, rest)


def _endpoint(scheme: str, rest: str, text: str) -> Reference:
    if not re.fullmatch(r"https?://\S+", rest):
        raise _malformed(text, "an endpoint is the base URL of an OpenAI-compatible server, http:// or https://")
    return Reference(scheme, rest)


def _control(scheme: str, rest: str, text: str) -> Reference:
    name, _, inner = rest.partition("/")
    if name not in CONTROLS:
        raise unknown("control", name, CONTROLS)
    if (name == "blank") != bool(inner):
        raise _malformed(text, "only the blank-image control takes a model, and it needs one: control:blank/MODEL")
    if inner and parse_reference(inner).scheme in ("control", "endpoint"):
        raise _malformed(text, "the blank-image control needs a model with an image encoder")
    return Reference(scheme, rest)


_PARSERS: dict[str, Callable[[str, str, str], Reference]] = {
    "hf": _repository,
    "open_clip": _repository,
    "dir": _folder,
    "endpoint": _endpoint,
    "control": _control,
}
