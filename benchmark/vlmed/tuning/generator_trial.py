"""One training of a generator at one pair of learning rates: steps and epochs, with checkpoints on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from vlmed.progress import Advance
from vlmed.tuning.batches import Rows, shuffled
from vlmed.tuning.course import Course, State
from vlmed.tuning.generator_batches import Batch, Feed, Pairs
from vlmed.tuning.generator_learner import GeneratorLearner
from vlmed.tuning.generator_recipe import GeneratorRecipe

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
class GeneratorTrial(Course[GeneratorState]):
    """Trains a learner from its current weights.

    Args:
        rates: Highest learning rates of `lora` and `projector`, where they train.
        key, checkpoint: As in `Course`; the training is kept after every epoch and every ten minutes, by the first of
            the processes that train together.
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

    def __post_init__(self) -> None:
        self.trainee, self.samples = self.learner, len(self.train)
        self.state, self.best = GeneratorState(batch=self.learner.at_once), {}
        kind = torch.optim.AdamW if self.learner.recipe.optimiser == "adamw" else torch.optim.Adam
        self.optimiser = kind(self.learner.groups(self.rates))
        self._unread: list[tuple[int, int, torch.Tensor]] = []

    def _epoch(self, epoch: int) -> None:
        state, learner = self.state, self.learner
        world, batches = learner.world, shuffled(len(self.train), learner.recipe.batch_size, self.seed, epoch)
        shares = [world.share(rows) for rows in batches[state.step :]]
        feed = Feed(learner.teacher, self.train, shares, lambda: learner.at_once)
        before, start = (state.seconds, state.waited), time.perf_counter()
        saved = start
        learner.set_training(True)
        for rows, ready in feed:
            self._step(epoch, len(batches), rows, ready)
            self.advance(len(batches[state.step - 1]))
            state.seconds, state.waited = before[0] + time.perf_counter() - start, before[1] + feed.waited
            # Together, since whoever saves reads the losses, and the first that is no number ends the training.
            if world.first(time.perf_counter() - saved >= SAVE_EVERY_SECONDS):
                self._save()
                saved = time.perf_counter()
        self._read_losses()
        state.seconds = before[0] + time.perf_counter() - start
        row = self._row(epoch, state.loss / state.tokens, self._val_loss(epoch), state.seconds, state.waited)
        state.step, state.loss, state.tokens, state.seconds, state.waited = 0, 0.0, 0, 0.0, 0.0
        self._keep(row)
        self._save()

    def _step(self, epoch: int, steps: int, rows: Rows, ready: list[Batch]) -> None:
        world = self.learner.world
        # Dropout draws from a generator that only seed, step and process decide, so that a resumed training draws the
        # same.
        entropy = [self.seed, epoch, self.state.step, 1, *([] if world.leads else [world.rank])]
        torch.manual_seed(int(np.random.default_rng(entropy).integers(2**62)))
        tokens = sum(world.gather(sum(chunk.tokens for chunk in ready)))
        loss = self._gradients(rows, ready, tokens)
        recipe = self.learner.recipe
        if recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.learner.parameters().values(), recipe.clip)
        factor = rate_factor((epoch - 1) * steps + self.state.step, recipe.epochs * steps, recipe)
        for group in self.optimiser.param_groups:
            group["lr"] = group["highest"] * factor
        self.optimiser.step()
        self.state.step += 1
        self._unread.append((self.state.step, tokens, loss))
        if len(self._unread) >= _READ_EVERY:
            self._read_losses()

    def _gradients(self, rows: Rows, ready: list[Batch], tokens: int) -> torch.Tensor:
        if self.state.step_flops:
            return self.learner.backward(self.train, rows, ready, tokens)
        with FlopCounterMode(display=False) as counter:
            loss = self.learner.backward(self.train, rows, ready, tokens)
        self.state.step_flops = sum(self.learner.world.gather(counter.get_total_flops()))
        return loss

    def _read_losses(self) -> None:
        steps = -(-self.samples // self.learner.recipe.batch_size)
        for step, tokens, loss in self._unread:
            value = float(loss)
            if not math.isfinite(value):
                raise self._diverged(f"epoch {self.state.epoch + 1}, step {step} of {steps}", value)
            self.state.loss += value * tokens
            self.state.tokens += tokens
        self._unread.clear()

    def _loss_on_val(self) -> float:
        return self.learner.mean_loss(self.val)

    def _save(self) -> None:
        self._read_losses()
        self.state.sparing = self.learner.sparing
        if self.learner.world.leads:
            super()._save()

    def _resume(self) -> bool:
        resumed = super()._resume()
        self.learner.world.agree([self.key, self.state.epoch, self.state.step])
        if self.state.sparing:
            self.learner.spare()
        return resumed


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
