"""The course of a training: epochs until the recipe says stop, the best one kept, a checkpoint to go on from."""

from __future__ import annotations

import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from vlmed.errors import UsageError, VlmedError
from vlmed.files import new_file
from vlmed.tuning.trainee import Trainee

Row = dict[str, float | int | None]


class DivergedError(VlmedError):
    """The loss became NaN or infinite."""


@dataclass
class State:
    """What a training has come to; a checkpoint holds it with the weights and the optimiser.

    Attributes:
        epoch: Epochs done.
        best_epoch, best_loss: The epoch with the least validation loss.
        batch: Samples computed at once.
        step_flops: Floating-point operations of the first step, forward and backward.
        log: One row per epoch, and one before the first.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    batch: int = 0
    step_flops: int = 0
    log: list[Row] = field(default_factory=list)


_State = TypeVar("_State", bound=State)


class Course(ABC, Generic[_State]):
    """One training from the trainee's current weights.

    Attributes:
        trainee: Ends with the weights of the best epoch.
        samples: Training samples in an epoch.
        rates: Highest learning rates by what they are for; a single one is for all.
        key: Names all that decides the outcome; a checkpoint with another key is refused.
        checkpoint: Where to keep the training, or None.
    """

    trainee: Trainee
    samples: int
    rates: Mapping[str, float]
    key: str
    checkpoint: Path | None
    state: _State
    best: dict[str, torch.Tensor]
    optimiser: torch.optim.Optimizer

    @abstractmethod
    def _epoch(self, epoch: int) -> None:
        """Train one epoch, then `_keep` its row and `_save`."""

    @abstractmethod
    def _loss_on_val(self) -> float: ...

    def run(self) -> _State:
        """Train until the recipe says stop; the trainee ends with the weights of the best epoch.

        The same seed gives the same weights on one kind of machine; on a CPU they are bit for bit those of a training
        that was killed after any checkpoint and taken up again.

        Raises:
            DivergedError: The loss became NaN or infinite.
            UsageError: The checkpoint is another training's.
            VlmedError: Not even one sample fits into memory, or the checkpoint can't be written.
        """
        if not self._resume():
            self.state.log.append(self._row(0, None, self._val_loss(0), 0.0, 0.0))
        while not self._finished():
            if self.trainee.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.trainee.device)
            self._epoch(self.state.epoch + 1)
        self.trainee.take(self.best)
        return self.state

    def _finished(self) -> bool:
        recipe, state = self.trainee.recipe, self.state
        return state.epoch >= recipe.epochs or state.epoch - state.best_epoch >= recipe.patience

    def _val_loss(self, epoch: int) -> float:
        loss = self._loss_on_val()
        if not math.isfinite(loss):
            raise self._diverged(f"epoch {epoch}, validation", loss)
        return loss

    def _diverged(self, where: str, loss: float) -> DivergedError:
        rates = ", ".join(f"{rate:g}" + (f" ({what})" if what else "") for what, rate in self.rates.items())
        return DivergedError(
            "the loss is no number any more",
            path=where,
            expected="a finite loss",
            got=f"{loss} at learning rate {rates}",
            hint="try a smaller learning rate or precision: float32, and see that neither images nor weights hold NaN",
        )

    def _row(self, epoch: int, train_loss: float | None, val_loss: float, seconds: float, waited: float) -> Row:
        device = self.trainee.device
        return {
            "epoch": epoch,
            "train_loss": train_loss,
            "val_loss": val_loss,
            "lr": next(iter(self.rates.values())),
            "seconds": round(seconds, 4),
            "images_per_second": round(self.samples / seconds, 2) if seconds else None,
            "data_wait_seconds": round(waited, 4),
            "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
            "images_at_once": self.trainee.at_once,
        }

    def _keep(self, row: Row) -> None:
        state = self.state
        state.log.append(row)
        state.epoch += 1
        loss = float(row["val_loss"] or 0.0)
        if loss < state.best_loss:
            state.best_loss, state.best_epoch = loss, state.epoch
            self.best = self.trainee.copies()

    def _save(self) -> None:
        self.state.batch = self.trainee.at_once
        if self.checkpoint is None:
            return
        content = {
            "key": self.key,
            "state": asdict(self.state),
            "weights": self.trainee.copies(),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
        }
        with new_file(self.checkpoint) as part:
            torch.save(content, part)

    def _resume(self) -> bool:
        if self.checkpoint is None or not self.checkpoint.exists():
            return False
        content = _read(self.checkpoint)
        if content["key"] != self.key:
            raise UsageError(
                "this checkpoint belongs to another training",
                file=self.checkpoint,
                expected="the same weights, recipe, data, seed and number of processes",
                hint="delete it, or choose another folder",
            )
        self.state, self.best = type(self.state)(**content["state"]), content["best"]
        self.trainee.take(content["weights"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.trainee.at_once = self.state.batch
        return True


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        hint = "delete it; the training starts again"
        got = " ".join(str(error).split())[:200]
        raise VlmedError("this checkpoint can't be read", file=path, got=got, hint=hint) from error
    return content
