"""Whether the model of a run may have seen a task's images in training, by what its card says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from vlmed.errors import UsageError
from vlmed.leaderboard.read import Entry
from vlmed.leakage.contamination import Verdict, verdict


class Card(Protocol):
    """What must be known of a model here; `vlmed.models.cards.Card` is one."""

    @property
    def name(self) -> str:
        """The card's name."""
        ...

    @property
    def title(self) -> str:
        """Its name for readers."""
        ...

    @property
    def domain(self) -> Literal["general", "medical"]:
        """What it was made for."""
        ...

    @property
    def modalities(self) -> Sequence[str]:
        """Modalities of the images that it saw, in the words of the graph of corpora; its bases' included."""
        ...

    @property
    def licence(self) -> str:
        """Of its weights."""
        ...

    @property
    def paper(self) -> tuple[str, str]:
        """Text and URL."""
        ...

    @property
    def corpora(self) -> Sequence[str]:
        """Corpora of the model's own training."""
        ...

    def inherited(self) -> Mapping[str, Sequence[str]]:
        """Every base that it descends from -> that base's own corpora."""
        ...


# Reference -> card, None for a stranger; raises UsageError for what is no reference. It is handed in, since this room
# stands above `models`.
FindCard = Callable[[str], Card | None]


def no_cards(ref: str) -> Card | None:  # noqa: ARG001
    """Knows no model, so that all verdicts are `unknown`."""
    return None


def contamination(entry: Entry, dataset: str, find_card: FindCard) -> Verdict | None:
    """What is known of a run's model and a data set; None for controls, which know nothing or all by design.

    An adapter counts as a model whose base is the run's model: it inherits what the base saw. What a submitter declares
    adds to what its card says.
    """
    if entry.control:
        return None
    model = entry.result["model"]
    declared = entry.description.training.corpora if entry.description else None
    base = _card(model["ref"], find_card)
    inherited = base.inherited() if base else {}
    if not model["adapter"]:
        return verdict(dataset, declared, base.corpora if base else None, inherited)
    adapter = _card(model["adapter"]["ref"], find_card)
    started_from = {base.name: base.corpora} if base else {model["ref"]: None}
    return verdict(dataset, declared, adapter.corpora if adapter else None, {**started_from, **inherited})


def _card(ref: str, find_card: FindCard) -> Card | None:
    try:
        return find_card(ref)
    except UsageError:
        return None  # validation takes any text for a reference, and what is none leads to no card
