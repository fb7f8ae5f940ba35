"""One training at one learning rate: epochs, early stopping, a checkpoint after every epoch."""

from __future__ import annotations

import math
import pickle
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from vlmed.errors import UsageError, VlmedError
from vlmed.files import new_file
from vlmed.progress import Advance
from vlmed.tuning.batches import shuffled
from vlmed.tuning.learner import Learner
from vlmed.tuning.objective import Objective

Row = dict[str, float | int | None]


class DivergedError(VlmedError):
    """The loss became NaN or infinite."""


@dataclass
class State:
    """What a training has come to; a checkpoint holds it with the weights and the optimiser.

    Attributes:
        epoch: Epochs done.
        best_epoch, best_loss: The epoch with the least validation loss.
        batch: Images computed at once.
        step_flops: Floating-point operations of the first step, forward and backward.
        log: One row per epoch, and one before the first.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    batch: int = 0
    step_flops: int = 0
    log: list[Row] = field(default_factory=list)


@dataclass
class Trial:
    """Trains an objective's learner from its current weights.

    Args:
        lr: The learning rate, constant.
        key: Names all that decides the outcome; a checkpoint with another key is refused.
        checkpoint: Where to keep the training after every epoch, or None.
        advance: Told the number of images after every step.
    """

    objective: Objective
    lr: float
    seed: int
    key: str
    checkpoint: Path | None
    advance: Advance

    def __post_init__(self) -> None:
        self.learner = self.objective.learner
        self.state = State(batch=self.learner.batch)
        self.best: dict[str, torch.Tensor] = {}
        self._optimiser = self._make_optimiser()

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

    def run(self) -> State:
        """Train until the recipe says stop; the learner ends with the weights of the best epoch.

        The same seed gives the same weights on one kind of machine; on a CPU they are bit for bit those of a training
        that was killed after any epoch and taken up again.

        Raises:
            DivergedError: The loss became NaN or infinite.
            UsageError: The checkpoint is another training's.
            VlmedError: Not even one image fits into memory, or the checkpoint can't be written.
        """
        if not self._resume():
            self.state.log.append(self._row(0, None, self._val_loss(0), 0.0, 0.0))
        while not self._finished():
            row = self._epoch(self.state.epoch + 1)
            self._keep(row)
            self._save()
        copy_into(self.learner, self.best)
        return self.state

    def _finished(self) -> bool:
        recipe, state = self.learner.recipe, self.state
        return state.epoch >= recipe.epochs or state.epoch - state.best_epoch >= recipe.patience

    def _epoch(self, epoch: int) -> Row:
        # Dropout draws from a generator that only seed and epoch decide, so that a resumed training draws the same.
        torch.manual_seed(int(np.random.default_rng([self.seed, epoch, 1]).integers(2**62)))
        batches = shuffled(len(self.objective), self.learner.recipe.batch_size, self.seed, epoch)
        if self.learner.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.learner.device)
        start = time.perf_counter()
        stream = self.objective.stream(batches)
        self.learner.set_training(True)
        losses = []
        for rows, inputs in stream:
            losses.append(self._step(rows, inputs))
            self.advance(len(rows))
        train_loss = self._mean(losses, batches, epoch)
        seconds = time.perf_counter() - start
        return self._row(epoch, train_loss, self._val_loss(epoch), seconds, stream.waited)

    def _step(self, rows: NDArray[np.int64], inputs: torch.Tensor) -> torch.Tensor:
        if self.state.step_flops:
            loss = self.objective.backward(rows, inputs)
        else:
            with FlopCounterMode(display=False) as counter:
                loss = self.objective.backward(rows, inputs)
            self.state.step_flops = counter.get_total_flops()
        self._optimiser.step()
        return loss

    def _mean(self, losses: list[torch.Tensor], batches: list[NDArray[np.int64]], epoch: int) -> float:
        """The samples' weighted mean loss. Losses are read here, once per epoch: each reading waits for the device."""
        values = torch.stack(losses).cpu().double()
        if not values.isfinite().all():
            step = int((~values.isfinite()).nonzero()[0])
            raise self._diverged(f"epoch {epoch}, step {step + 1} of {len(values)}", float(values[step]))
        masses = torch.tensor([self.objective.mass(rows) for rows in batches], dtype=torch.float64)
        return float((values * masses).sum() / masses.sum())

    def _val_loss(self, epoch: int) -> float:
        loss = self.objective.val_loss()
        if not math.isfinite(loss):
            raise self._diverged(f"epoch {epoch}, validation", loss)
        return loss

    def _diverged(self, where: str, loss: float) -> DivergedError:
        return DivergedError(
            "the loss is no number any more",
            path=where,
            expected="a finite loss",
            got=f"{loss} at learning rate {self.lr:g}",
            hint="try a smaller learning rate or precision: float32, and see that no image holds NaN",
        )

    def _row(self, epoch: int, train_loss: float | None, val_loss: float, seconds: float, waited: float) -> Row:
        cuda = self.learner.device.type == "cuda"
        return {
            "epoch": epoch,
            "train_loss": train_loss,
            "val_loss": val_loss,
            "lr": self.lr,
            "seconds": round(seconds, 4),
            "images_per_second": round(len(self.objective) / seconds, 2) if seconds else None,
            "data_wait_seconds": round(waited, 4),
            "peak_memory_bytes": torch.cuda.max_memory_allocated(self.learner.device) if cuda else None,
            "images_at_once": self.learner.batch,
        }

    def _keep(self, row: Row) -> None:
        state = self.state
        state.log.append(row)
        state.epoch += 1
        state.batch = self.learner.batch
        loss = float(row["val_loss"] or 0.0)
        if loss < state.best_loss:
            state.best_loss, state.best_epoch = loss, state.epoch
            self.best = copies(self.learner)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        content = {
            "key": self.key,
            "state": asdict(self.state),
            "weights": copies(self.learner),
            "best": self.best,
            "optimiser": self._optimiser.state_dict(),
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
                expected="the same weights, recipe, labels and seed",
                hint="delete it, or choose another folder",
            )
        self.state = State(**content["state"])
        self.best = content["best"]
        copy_into(self.learner, content["weights"])
        self._optimiser.load_state_dict(content["optimiser"])
        self.learner.batch = self.state.batch
        return True


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        hint = "delete it; the training starts again"
        got = " ".join(str(error).split())[:200]
        raise VlmedError("this checkpoint can't be read", file=path, got=got, hint=hint) from error
    return content


def copies(learner: Learner) -> dict[str, torch.Tensor]:
    """What trains, copied to the CPU."""
    return {name: parameter.detach().cpu().clone() for name, parameter in learner.parameters().items()}


@torch.no_grad()
def copy_into(learner: Learner, weights: dict[str, torch.Tensor]) -> None:
    """Give what trains these values."""
    for name, parameter in learner.parameters().items():
        parameter.copy_(weights[name])
