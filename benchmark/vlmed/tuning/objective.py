"""What a training minimises: a loss on its own samples. A trial knows nothing else of the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

from vlmed.tuning.batches import Labelled, Rows, Stream, rgb
from vlmed.tuning.learner import Classifier, Learner


class Objective(Protocol):
    """A loss, the samples that it is trained on, and those that it is judged by."""

    @property
    def learner(self) -> Learner:
        """What trains."""
        ...

    def __len__(self) -> int:
        """How many training samples there are."""
        ...

    def stream(self, batches: Sequence[Rows]) -> Stream:
        """What `backward` computes with, for batches of training samples, loading in the background."""
        ...

    def backward(self, rows: Rows, inputs: torch.Tensor) -> torch.Tensor:
        """Leave the gradients of a batch's mean loss in `.grad`; gives that loss, on the device.

        Raises:
            VlmedError: Not even one image fits into memory.
        """
        ...

    def mass(self, rows: Rows) -> float:
        """What a batch's loss counts for in the epoch's mean."""
        ...

    def val_loss(self) -> float:
        """The loss on the validation samples, in eval mode and float32."""
        ...


@dataclass
class ClassObjective:
    """Cross-entropy over a task's classes.

    Attributes:
        classes: Their names in order.
        weights: (C,) float32 on the CPU, class weights of the loss in training and validation.
    """

    learner: Classifier
    train: Labelled
    val: Labelled
    classes: tuple[str, ...]
    weights: torch.Tensor

    def __len__(self) -> int:
        return len(self.train)

    def stream(self, batches: Sequence[Rows]) -> Stream:
        """See `Objective.stream`."""
        return Stream(rgb(self.train.pixels), batches, self.learner.device)

    def backward(self, rows: Rows, inputs: torch.Tensor) -> torch.Tensor:
        """See `Objective.backward`."""
        targets = torch.from_numpy(self.train.labels[rows]).to(inputs.device)
        return self.learner.backward(inputs, targets, self.weights.to(inputs.device))

    def mass(self, rows: Rows) -> float:
        """See `Objective.mass`."""
        return float(self.weights[self.train.labels[rows]].double().sum())

    def val_loss(self) -> float:
        """See `Objective.val_loss`."""
        logits = self.learner.logits(self.val.pixels, len(self.val))
        return float(functional.cross_entropy(logits, torch.from_numpy(self.val.labels), self.weights.double()))
