"""One training of a generator at one pair of learning rates: steps, epochs, early stopping, checkpoints on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from vlmed.errors import UsageError
from vlmed.files import new_file
from vlmed.progress import Advance
from vlmed.tuning.batches import Rows, shuffled
from vlmed.tuning.generator_batches import Batch, Feed, Pairs
from vlmed.tuning.generator_learner import GeneratorLearner
from vlmed.tuning.generator_recipe import GeneratorRecipe
from vlmed.tuning.trial import DivergedError, Row, State, _read

# One epoch of a large model may take hours, so a checkpoint doesn't wait for its end.
SAVE_EVERY_SECONDS = 600.0
# Reading a loss waits for the device.
_READ_EVERY = 32


@dataclass
class GeneratorState(State):
    """What a training has come to, also in the middle of an epoch.

    Attributes:
        step: Steps done of the epoch under way.
        loss, tokens: Sum over the tokens that carried loss in these steps, and their number.
        seconds, waited: What these steps took, and how long they waited for data.
        sparing: As in `GeneratorLearner`.
    """

    step: int = 0
    loss: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    sparing: bool = False


@dataclass
class GeneratorTrial:
    """Trains a learner from its current weights.

    Args:
        rates: Highest learning rates of `lora` and `projector`, where they train.
        key: Names all that decides the outcome; a checkpoint with another key is refused.
        checkpoint: Where to keep the training, or None.
        advance: Told the number of questions after every step.
    """

    learner: GeneratorLearner
    train: Pairs
    val: Pairs
    rates: Mapping[str, float]
    seed: int
    key: str
    checkpoint: Path | None
    advance: Advance
    state: GeneratorState = field(init=False, default_factory=GeneratorState)
    best: dict[str, torch.Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.state.batch = self.learner.at_once
        kind = torch.optim.AdamW if self.learner.recipe.optimiser == "adamw" else torch.optim.Adam
        self._optimiser = kind(self.learner.groups(self.rates))
        self._unread: list[tuple[int, int, torch.Tensor]] = []

    def run(self) -> GeneratorState:
        """Train until the recipe says stop; the learner ends with the weights of the best epoch.

        The same seed gives the same weights on one kind of machine; on a CPU they are bit for bit those of a training
        that was killed after any step and taken up again.

        Raises:
            DivergedError: The loss became NaN or infinite.
            UsageError: The checkpoint is another training's.
            VlmedError: Not even one question fits into memory, or the checkpoint can't be written.
        """
        if not self._resume():
            self.state.log.append(self._row(0, None, self._val_loss(0)))
        while not self._finished():
            self._epoch(self.state.epoch + 1)
        self.learner.take(self.best)
        return self.state

    def _finished(self) -> bool:
        recipe, state = self.learner.recipe, self.state
        return state.epoch >= recipe.epochs or state.epoch - state.best_epoch >= recipe.patience

    def _epoch(self, epoch: int) -> None:
        state, learner = self.state, self.learner
        batches = shuffled(len(self.train), learner.recipe.batch_size, self.seed, epoch)
        if learner.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(learner.device)
        feed = Feed(learner.teacher, self.train, batches[state.step :], lambda: learner.at_once)
        before, start = (state.seconds, state.waited), time.perf_counter()
        saved = start
        learner.set_training(True)
        for rows, ready in feed:
            self._step(epoch, len(batches), rows, ready)
            state.seconds, state.waited = before[0] + time.perf_counter() - start, before[1] + feed.waited
            if time.perf_counter() - saved >= SAVE_EVERY_SECONDS:
                self._save(len(batches))
                saved = time.perf_counter()
        self._read_losses(len(batches))
        state.seconds = before[0] + time.perf_counter() - start
        self._keep(self._row(epoch, state.loss / state.tokens, self._val_loss(epoch)))
        self._save(len(batches))

    def _step(self, epoch: int, steps: int, rows: Rows, ready: list[Batch]) -> None:
        # Dropout draws from a generator that only seed and step decide, so that a resumed training draws the same.
        torch.manual_seed(int(np.random.default_rng([self.seed, epoch, self.state.step, 1]).integers(2**62)))
        loss = self._gradients(rows, ready)
        recipe = self.learner.recipe
        if recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.learner.parameters().values(), recipe.clip)
        factor = rate_factor((epoch - 1) * steps + self.state.step, recipe.epochs * steps, recipe)
        for group in self._optimiser.param_groups:
            group["lr"] = group["highest"] * factor
        self._optimiser.step()
        self.state.step += 1
        self._unread.append((self.state.step, sum(chunk.tokens for chunk in ready), loss))
        if len(self._unread) >= _READ_EVERY:
            self._read_losses(steps)
        self.advance(len(rows))

    def _gradients(self, rows: Rows, ready: list[Batch]) -> torch.Tensor:
        if self.state.step_flops:
            return self.learner.backward(self.train, rows, ready)
        with FlopCounterMode(display=False) as counter:
            loss = self.learner.backward(self.train, rows, ready)
        self.state.step_flops = counter.get_total_flops()
        return loss

    def _read_losses(self, steps: int) -> None:
        for step, tokens, loss in self._unread:
            value = float(loss)
            if not math.isfinite(value):
                raise self._diverged(f"epoch {self.state.epoch + 1}, step {step} of {steps}", value)
            self.state.loss += value * tokens
            self.state.tokens += tokens
        self._unread.clear()

    def _val_loss(self, epoch: int) -> float:
        loss = self.learner.mean_loss(self.val)
        if not math.isfinite(loss):
            raise self._diverged(f"epoch {epoch}, validation", loss)
        return loss

    def _diverged(self, where: str, loss: float) -> DivergedError:
        rates = ", ".join(f"{rate:g} ({how})" for how, rate in self.rates.items())
        return DivergedError(
            "the loss is no number any more",
            path=where,
            expected="a finite loss",
            got=f"{loss} at learning rate {rates}",
            hint="try a smaller learning rate, and see that the model's own weights hold no NaN",
        )

    def _row(self, epoch: int, train_loss: float | None, val_loss: float) -> Row:
        state, cuda = self.state, self.learner.device.type == "cuda"
        return {
            "epoch": epoch,
            "train_loss": train_loss,
            "val_loss": val_loss,
            "lr": self.rates.get("lora", self.rates.get("projector")),
            "seconds": round(state.seconds, 4),
            "images_per_second": round(len(self.train) / state.seconds, 2) if state.seconds else None,
            "data_wait_seconds": round(state.waited, 4),
            "peak_memory_bytes": torch.cuda.max_memory_allocated(self.learner.device) if cuda else None,
            "images_at_once": self.learner.at_once,
        }

    def _keep(self, row: Row) -> None:
        state = self.state
        state.log.append(row)
        state.epoch += 1
        state.step, state.loss, state.tokens, state.seconds, state.waited = 0, 0.0, 0, 0.0, 0.0
        loss = float(row["val_loss"] or 0.0)
        if loss < state.best_loss:
            state.best_loss, state.best_epoch = loss, state.epoch
            self.best = self.learner.copies()

    def _save(self, steps: int) -> None:
        self._read_losses(steps)
        self.state.batch, self.state.sparing = self.learner.at_once, self.learner.sparing
        if self.checkpoint is None:
            return
        content = {
            "key": self.key,
            "state": asdict(self.state),
            "weights": self.learner.copies(),
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
                expected="the same weights, recipe, questions, answers and seed",
                hint="delete it, or choose another folder",
            )
        self.state, self.best = GeneratorState(**content["state"]), content["best"]
        self.learner.take(content["weights"])
        self._optimiser.load_state_dict(content["optimiser"])
        self.learner.at_once = self.state.batch
        if self.state.sparing:
            self.learner.spare()
        return True


def rate_factor(step: int, steps: int, recipe: GeneratorRecipe) -> float:
    """What the highest learning rate is multiplied with in a step, counted from 0, of so many in all epochs.

    After the warm-up, `cosine` is (1 + cos(pi t)) / 2 with t from 0 to 1 (Loshchilov and Hutter 2017, equation 5).
    """
    rising = math.ceil(recipe.warmup * steps)
    if step < rising:
        return (step + 1) / rising
    if recipe.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2
