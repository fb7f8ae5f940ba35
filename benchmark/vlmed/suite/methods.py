"""What is known of a track's method without running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlmed.suite.types import Kind


@dataclass(frozen=True)
class MethodFacts:
    """A method, as the suite and the validator see it.

    Attributes:
        kinds: Kinds of task that it is for.
        varies_with: What else than task and track decides its outcome: `fraction`, where it learns from training
            samples, and `seed`, where chance has a part in that.
    """

    kinds: tuple[Kind, ...]
    varies_with: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether it learns from training samples."""
        return bool(self.varies_with)


_TUNED = MethodFacts(("classification", "retrieval"), ("fraction", "seed"))
METHODS: Mapping[str, MethodFacts] = {
    "zero_shot": MethodFacts(("classification",)),
    "linear_probe": MethodFacts(("classification",), ("fraction",)),
    "lora": _TUNED,
    "partial": _TUNED,
    "full": _TUNED,
    "choose": MethodFacts(("classification",)),
    "retrieve": MethodFacts(("retrieval",)),
    "answer": MethodFacts(("vqa",)),
    "fusion": MethodFacts(("vqa",), ("fraction", "seed")),
    "sft": MethodFacts(("vqa",), ("fraction", "seed")),
}
