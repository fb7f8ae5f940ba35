"""Known systems: what is said of a model before anyone has run it (`cards.yaml`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

from vlmed.errors import unknown
from vlmed.models.reference import parse_reference
from vlmed.yaml_files import read_yaml

CARDS = Path(__file__).parent / "cards.yaml"
Overlap = Literal["in", "partly", "out"]


@dataclass(frozen=True)
class Card:
    """One known system.

    Attributes:
        refs: Patterns for `scheme:location` in lower case; `hf` and `open_clip` where no scheme is given.
        kind: What the model can do.
        parameters: All of them, rounded to three digits.
        corpora: Images of its own training, by their names in the graph of corpora; those of its bases come on top.
        modalities: What it has seen, its bases included.
        base: Names of the cards whose image weights it started from.
        paper: Text and URL.
        weights: Where the weights lie, if no reference leads to them.
    """

    name: str
    title: str
    refs: tuple[str, ...]
    kind: Literal["dual_encoder", "image_encoder", "generator"]
    family: str
    domain: Literal["general", "medical"]
    parameters: int
    corpora: tuple[str, ...]
    modalities: tuple[str, ...]
    base: tuple[str, ...]
    licence: str
    paper: tuple[str, str]
    weights: str = ""
    note: str = ""

    def overlap(self, modalities: Collection[str]) -> Overlap:
        """Whether a task on images of these modalities is in-domain for the model: all, some or none of them seen."""
        seen = set(modalities) & set(self.modalities)
        if not seen:
            return "out"
        return "in" if len(seen) == len(set(modalities)) else "partly"

    def inherited(self) -> dict[str, tuple[str, ...]]:
        """Every card that it descends from -> that card's own corpora; nearest first."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self.base:
            parent = card(name)
            found |= {name: parent.corpora} | parent.inherited()
        return found


@cache
def load_cards() -> Mapping[str, Card]:
    """All cards by name, in the order of the file."""
    tree = read_yaml(CARDS, "file of model cards")
    return {name: _card(name, entry) for name, entry in tree.items()}


def card(name: str) -> Card:
    """A card by its name.

    Raises:
        UsageError: There is none; the message has the nearest names.
    """
    if name not in load_cards():
        raise unknown("model card", name, load_cards(), hint="list them with `vlmed models`")
    return load_cards()[name]


def find_card(ref: str) -> Card | None:
    """The card of the model that a reference names, whatever its revision; None for folders, endpoints and strangers.

    A card speaks of published weights, so that a fine-tuned copy under another name never inherits it.

    Raises:
        UsageError: This is no reference.

    >>> find_card("vinid/plip@main").name
    'plip'
    """
    reference = parse_reference(ref)
    location = reference.location.lower()
    named = {f"{reference.scheme}:{location}"}
    if reference.scheme in ("hf", "open_clip"):
        named.add(location)
    for found in load_cards().values():
        if any(fnmatchcase(text, pattern) for pattern in found.refs for text in named):
            return found
    return None


def _card(name: str, entry: Mapping[str, Any]) -> Card:
    lists = {key: tuple(entry[key]) for key in ("refs", "corpora", "modalities", "base")}
    return Card(name, **{**entry, **lists, "paper": (entry["paper"]["text"], entry["paper"]["url"])})
