"""How far two honest runs of one model may be apart, by what its family gives and by the precision it computed in.

Other hardware, batch sizes and libraries add numbers up in another order. What that may do is bounded by what the
rounding itself does: in a ViT-B/32 of twelve layers under a logit scale of 100, float16 moves a probability by up to
0.0007 and bfloat16 by 0.005 from float32. Encoders give probabilities and ranks, generators probabilities and answers;
these always compute as their weights say, so that only the first row is about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from vlmed.errors import InputError

Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class Tolerance:
    """What a sample may differ by, and how many may differ by more.

    Attributes:
        probability: Largest difference of any class probability.
        rank_share: Largest difference of a rank beyond one, as a share of the gallery.
        answers: Share of parsed answers that may be others. Greedy decoding forks where two words are as likely; on
            other hardware a few answers in a hundred do.
    """

    probability: float
    rank_share: float
    answers: float


TOLERANCES: Mapping[Precision, Tolerance] = {
    "fp32": Tolerance(probability=0.02, rank_share=0.02, answers=0.05),
    "fp16": Tolerance(probability=0.02, rank_share=0.02, answers=0.05),
    "bf16": Tolerance(probability=0.04, rank_share=0.03, answers=0.05),
}


def precision_of(result: Mapping[str, Any]) -> Precision:
    """In what a run computed; runs older than the choice computed in float32.

    Raises:
        InputError: The result names no precision that there is.
    """
    said = result["environment"].get("precision", "fp32")
    if said not in TOLERANCES:
        raise InputError(
            "no such precision", path="$.environment.precision", expected=", ".join(TOLERANCES), got=str(said)[:80]
        )
    return cast(Precision, said)
