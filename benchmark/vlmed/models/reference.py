"""How a person names a model: `[scheme:]location[@revision]`, before anything is looked up.

Schemes: `hf` (the default) and `open_clip`, a repository on the Hub (`datasets/ORGANISATION/NAME` where authors
publish their model in a data set repository); `dir`, a folder; `control`, one of the controls;
`endpoint`, a model behind an OpenAI-compatible server, as `endpoint:URL#MODEL`. URL is what OpenAI's clients call the
base URL, such as `http://localhost:8000/v1`; MODEL is the name the server knows it by and may hold `/`, `:` and `@`.
The key is never part of a reference, because results show references.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vlmed.errors import Problem, UsageError, unknown

CONTROLS = ("blank", "majority", "oracle", "random", "swapped")
# The controls that are another model, kept from seeing the right image.
BLIND = ("blank", "swapped")

_GRAMMAR = "[scheme:]location[@revision], such as openai/clip-vit-base-patch32@main, dir:./model or control:random"
_SCHEME = re.compile(r"([A-Za-z]\w*):(.*)", re.ASCII)
_REPOSITORY = re.compile(r"((datasets/)?\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
_CONTENT_HASH = re.compile(r"sha256:[0-9a-f]{64}")
# The pages of a repository begin alike; what follows its name is a view, a branch and perhaps a file.
_PAGE = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/((?:datasets/)?[^/@?#]+/[^/@?#]+)(?:/[a-z]+/([^/?#]+))?.*"
)


@dataclass(frozen=True)
class Reference:
    """A model as it was asked for.

    Attributes:
        scheme: `hf`, `open_clip`, `dir`, `endpoint` or `control`.
        location: Repository, `ARCHITECTURE/TAG`, folder, `URL#MODEL`, or the control's name.
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
        UsageError: The scheme is unknown (names the nearest), or the location can't be one of its scheme; says what
            was meant, if that is plain.

    >>> parse_reference("vinid/plip@main")
    Reference(scheme='hf', location='vinid/plip', revision='main')
    >>> str(parse_reference("control:blank/vinid/plip"))
    'control:blank/vinid/plip'
    """
    if page := _PAGE.fullmatch(text.removeprefix("hf:")):
        revision = f"@{page[2]}" if page[2] else ""
        why = "a model is named by its repository, not by the address of its page"
        raise _malformed(text, why, hint=f"write {page[1]}{revision}")
    if text in CONTROLS:
        why = "this is the name of a control, and not of a repository"
        raise _malformed(text, why, hint=f"write control:{text}")
    match = _SCHEME.fullmatch(text)
    scheme, rest = (match[1], match[2]) if match else ("hf", text)
    if scheme not in _PARSERS:
        raise unknown(
            "model scheme", scheme, _PARSERS, hint="a folder is written dir:PATH, a repository of the Hub OWNER/NAME"
        )
    if not rest or rest != rest.strip():
        raise _malformed(text, "the location is empty or has blanks around it")
    return _PARSERS[scheme](scheme, rest, text)


def check_references(refs: Iterable[str | None]) -> None:
    """Refuse what can be no reference, or may be meant for a folder here, before anybody asks the Hub.

    Raises:
        UsageError: With the problems of all.
    """
    problems: list[Problem] = []
    for ref in filter(None, refs):
        try:
            parse_reference(ref)
        except UsageError as error:
            problems += error.problems
        if not {":", "/", "@"} & set(ref) and Path(ref).is_dir():
            what = "there is a folder of this name, and perhaps a repository"
            problems.append(Problem(what, got=ref, hint=f"write dir:{ref} or hf:{ref}"))
    if problems:
        raise UsageError(problems)


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
    # A folder's or served model's name may hold an '@'; only a content hash after it is a revision.
    location, _, revision = rest.rpartition("@")
    if location and _CONTENT_HASH.fullmatch(revision):
        return Reference(scheme, location, revision)
    return Reference(scheme, rest)


def _endpoint(scheme: str, rest: str, text: str) -> Reference:
    url, _, model = rest.partition("#")
    if "@" in url or "?" in url:
        # What was given is not shown again: it may be a password.
        raise UsageError(
            "malformed model reference: the endpoint's URL holds a password or a query",
            expected="endpoint:URL#MODEL, such as endpoint:http://localhost:8000/v1#llava-hf/llava-1.5-7b-hf",
            hint="put the key into VLMED_ENDPOINT_KEY",
        )
    if not re.fullmatch(r"https?://[^\s/]+\S*", url):
        raise _malformed(text, "an endpoint is the base URL of an OpenAI-compatible server, http:// or https://")
    if not re.fullmatch(r"\S+", model):
        raise _malformed(
            text, "an endpoint's model stands after '#'", hint=f"write endpoint:{url}#MODEL; {url}/models lists them"
        )
    return _folder(scheme, rest, text)


def _control(scheme: str, rest: str, text: str) -> Reference:
    name, _, inner = rest.partition("/")
    if name not in CONTROLS:
        raise unknown("control", name, CONTROLS)
    if (name in BLIND) != bool(inner):
        what = f"takes no model: control:{name}" if inner else f"needs a model: control:{name}/MODEL"
        raise _malformed(text, f"the control {name!r} {what}")
    if inner and parse_reference(inner).scheme == "control":
        raise _malformed(text, f"the control {name!r} needs a model that sees, not another control")
    return Reference(scheme, rest)


_PARSERS: dict[str, Callable[[str, str, str], Reference]] = {
    "hf": _repository,
    "open_clip": _repository,
    "dir": _folder,
    "endpoint": _endpoint,
    "control": _control,
}
