"""One training of an encoder at one learning rate: steps and epochs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from vlmed.progress import Advance
from vlmed.tuning.batches import shuffled
from vlmed.tuning.course import Course, State
from vlmed.tuning.objective import Objective


@dataclass
class Trial(Course[State]):
    """Trains an objective's learner from its current weights.

    Args:
        lr: The learning rate, constant.
        key, checkpoint: As in `Course`; the training is kept after every epoch.
        advance: Told the number of images after every step.
    """

    objective: Objective
    lr: float
    seed: int
    key: str
    checkpoint: Path | None
    advance: Advance

    def __post_init__(self) -> None:
        self.learner = self.trainee = self.objective.learner
        self.samples, self.rates = len(self.objective), {"": self.lr}
        self.state, self.best = State(batch=self.learner.at_once), {}
        self.optimiser = self._make_optimiser()

    def _make_optimiser(self) -> torch.optim.Optimizer:
        recipe = self.learner.recipe
        # By name: a LoRA that came and went has left a network's parameters in another order than a fresh one's, and a
        # checkpoint knows an optimiser's parameters by their place alone.
        trained, head = (
            [each for _, each in sorted(parameters.items())]
            for parameters in (self.learner.trained, self.learner.head.parameters())
        )
        groups = [
            {"params": trained, "weight_decay": recipe.weight_decay},
            {"params": head, "weight_decay": recipe.head_weight_decay},
        ]
        kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
        return kind([group for group in groups if group["params"]], lr=self.lr)

    def _epoch(self, epoch: int) -> None:
        # Dropout draws from a generator that only seed and epoch decide, so that a resumed training draws the same.
        torch.manual_seed(int(np.random.default_rng([self.seed, epoch, 1]).integers(2**62)))
        batches = shuffled(self.samples, self.learner.recipe.batch_size, self.seed, epoch)
        start = time.perf_counter()
        stream = self.objective.stream(batches)
        self.learner.set_training(True)
        losses = []
        for rows, inputs in stream:
            losses.append(self._step(rows, inputs))
            self.advance(len(rows))
        train_loss = self._mean(losses, batches, epoch)
        seconds = time.perf_counter() - start
        self._keep(self._row(epoch, train_loss, self._val_loss(epoch), seconds, stream.waited))
        self._save()

    def _step(self, rows: NDArray[np.int64], inputs: torch.Tensor) -> torch.Tensor:
        if self.state.step_flops:
            loss = self.objective.backward(rows, inputs)
        else:
            with FlopCounterMode(display=False) as counter:
                loss = self.objective.backward(rows, inputs)
            self.state.step_flops = counter.get_total_flops()
        self.optimiser.step()
        return loss

    def _mean(self, losses: list[torch.Tensor], batches: list[NDArray[np.int64]], epoch: int) -> float:
        """The samples' weighted mean loss. Losses are read here, once per epoch: each reading waits for the device."""
        values = torch.stack(losses).cpu().double()
        if not values.isfinite().all():
            step = int((~values.isfinite()).nonzero()[0])
            raise self._diverged(f"epoch {epoch}, step {step + 1} of {len(values)}", float(values[step]))
        masses = torch.tensor([self.objective.mass(rows) for rows in batches], dtype=torch.float64)
        return float((values * masses).sum() / masses.sum())

    def _loss_on_val(self) -> float:
        return self.objective.val_loss()
