"""Tune an encoder under one recipe, on classes or on another objective, and predict with what came out."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from vlmed.errors import UsageError
from vlmed.files import write_text
from vlmed.hashing import digest
from vlmed.models.protocols import ImageEncoder
from vlmed.progress import Progress, Silent
from vlmed.tuning.batches import Labelled, Pixels, check_labels
from vlmed.tuning.course import DivergedError, Row, State
from vlmed.tuning.head import Prompts
from vlmed.tuning.learner import Learner, device_of, make_learner
from vlmed.tuning.objective import ClassObjective, Objective
from vlmed.tuning.proof import Proof, Snapshot, prove, snapshot, tensor_hash
from vlmed.tuning.recipe import Recipe
from vlmed.tuning.trial import Trial

LOG = "training.jsonl"

_Objective = TypeVar("_Objective", bound=Objective)
_Tuned = TypeVar("_Tuned", bound="Tuned[Any]")


@dataclass(frozen=True)
class Cost:
    """What the training took, over all learning rates that were tried.

    Attributes:
        samples_seen: Training samples x epochs done.
        trained_parameters: Numbers that trained, with the head's.
        steps: Optimiser steps.
        flops: Floating-point operations of the steps' forward and backward passes, validation left out. Counted in the
            first step of each learning rate and multiplied, so a smaller last batch counts as a whole one.
        seconds: Time in the epochs' training, validation left out.
    """

    samples_seen: int
    trained_parameters: int
    steps: int
    flops: int
    seconds: float

    @property
    def training(self) -> float:
        """Training samples seen x trained parameters, the cost of Zhong et al. 2025."""
        return float(self.samples_seen) * self.trained_parameters


@dataclass
class Tuned(Generic[_Objective]):
    """An encoder tuned in place. As a context manager it gives the encoder its old weights back at the end.

    Attributes:
        objective: What it was tuned for.
        chosen: `lr`, `epoch` and `val_loss`, which the validation set chose, and `val_losses` by learning rate.
        proof: What changed.
        cost: What it took.
        log: A row per learning rate and epoch, of which 0 is before training: `epoch`, `train_loss`, `val_loss`, `lr`,
            `seconds`, `images_per_second`, `data_wait_seconds`, `peak_memory_bytes` (None on a CPU), `images_at_once`.
        notes: What a reader of the result should know.
    """

    objective: _Objective
    chosen: dict[str, Any]
    proof: Proof
    cost: Cost
    log: list[Row]
    notes: list[str]
    _before: Snapshot
    _undone: bool = False

    @property
    def learner(self) -> Learner:
        """Encoder and head."""
        return self.objective.learner

    def check(self) -> None:
        """See that the encoder still has its tuned weights.

        Raises:
            UsageError: It has not.
        """
        if self._undone:
            raise UsageError("the encoder has its old weights again", hint="predict and save before undo()")

    def undo(self) -> None:
        """Give the encoder the weights that it had before, bit for bit."""
        if not self._undone:
            self.learner.take(self._before.trained)
            self.learner.release()
            self._undone = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


class TunedClassifier(Tuned[ClassObjective]):
    """An encoder that was tuned to tell classes apart."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names in order."""
        return self.objective.classes

    def probabilities(self, pixels: Pixels, count: int) -> NDArray[np.float64]:
        """Class probabilities (N, C) of `count` images; `pixels` as in `Labelled`.

        Raises:
            UsageError: The encoder has its old weights again.
        """
        self.check()
        probabilities: NDArray[np.float64] = self.objective.learner.logits(pixels, count).softmax(dim=-1).numpy()
        return probabilities


def tune(
    encoder: ImageEncoder,
    recipe: Recipe,
    train: Labelled,
    val: Labelled,
    classes: Prompts,
    *,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> TunedClassifier:
    """Train the encoder in place, at each of the recipe's learning rates from the same start, and keep the best.

    Test samples are no argument: nothing here can look at them.

    Args:
        encoder: In eval mode; a `DualEncoder` where prompts are the classifier.
        train, val: Samples to learn from, and to stop and choose by.
        classes: Class name -> its prompts, in class order; with a linear head the prompts may be empty.
        seed: Decides order, dropout, the start of a LoRA and of a linear head.
        folder: Where checkpoints (`trial-N.pt`, one per learning rate, replaced after every epoch) and the log go. A
            training that was killed is taken up from there.
        progress: Told about every epoch's images.

    Raises:
        InputError: Labels that nothing can be learnt from, or images of the wrong shape.
        UsageError: The encoder lacks what the recipe needs, or the folder holds another training's checkpoints.
        CheckError: The proof failed: see `prove`. Or no gradient comes through the encoder.
        VlmedError: The loss became NaN at every learning rate, or a single image doesn't fit into memory.
    """
    names = tuple(classes)
    notes = check_labels(train, val, names)
    weights = _class_weights(recipe, train.labels, len(names))

    def objective() -> ClassObjective:
        return ClassObjective(make_learner(encoder, recipe, classes), train, val, names, weights)

    labels = [hashlib.sha256(each.labels.tobytes()).hexdigest() for each in (train, val)]
    prompts = [[name, list(texts)] for name, texts in classes.items()]
    place = Place(seed, folder, progress or Silent())
    return fit(TunedClassifier, encoder, recipe, objective, [prompts, labels], notes, place)


@dataclass(frozen=True)
class Place:
    """Where a training goes on: its seed, the folder that it can be taken up from, and who is told of it."""

    seed: int
    folder: Path | None
    progress: Progress


def fit(
    kind: type[_Tuned],
    encoder: ImageEncoder,
    recipe: Recipe,
    make: Callable[[], Objective],
    data: Sequence[Any],
    notes: Sequence[str],
    place: Place,
) -> _Tuned:
    """Train an objective's learner at each of the recipe's learning rates from the same start, and keep the best.

    Args:
        make: Makes the objective; torch's generator has been seeded.
        data: JSON values that tell one training's data from another's.
        notes: What is known of the data.

    Raises:
        As `tune`.
    """
    with seeded(device_of(encoder), place.seed):
        objective = make()
        learner = objective.learner
        before = snapshot(learner.root, learner.parameters())
        told = list(notes)
        try:
            key = key_of([asdict(recipe), place.seed, *data], before)
            trials = _Runner(objective, before, key, place).run(told)
            best, state = min(trials, key=lambda trial: trial[1].best_loss)
            learner.take(best.best)
            proof = prove(before, learner.root, learner.parameters(), learner.block_names)
        except BaseException:
            learner.take(before.trained)
            learner.release()
            raise
    log = [row for _, each in trials for row in each.log]
    told += _notes(learner, state)
    chosen = {
        "lr": best.lr,
        "epoch": state.best_epoch,
        "val_loss": state.best_loss,
        "val_losses": {f"{trial.lr:g}": each.best_loss for trial, each in trials},
    }
    return kind(
        objective,
        chosen,
        proof,
        cost_of([each for _, each in trials], proof, len(objective), recipe.batch_size),
        log,
        told,
        before,
    )


@dataclass
class _Runner:
    """Tries the recipe's learning rates one after another."""

    objective: Objective
    before: Snapshot
    key: str
    place: Place

    def run(self, notes: list[str]) -> list[tuple[Trial, State]]:
        """Every trial that did not diverge.

        Raises:
            DivergedError: All did.
        """
        done: list[tuple[Trial, State]] = []
        failed: list[DivergedError] = []
        for number, lr in enumerate(self.objective.learner.recipe.lr):
            self.objective.learner.take(self.before.trained)
            try:
                done.append(self._try(number, lr))
            except DivergedError as error:
                failed.append(error)
                problem = error.problems[0]
                notes.append(f"the learning rate {lr:g} diverged in {problem.path}")
            write_log(self.place.folder, [state for _, state in done])
        if not done:
            raise DivergedError([problem for error in failed for problem in error.problems])
        return done

    def _try(self, number: int, lr: float) -> tuple[Trial, State]:
        learner, folder = self.objective.learner, self.place.folder
        learner.at_once = learner.recipe.batch_size
        checkpoint = folder / f"trial-{number}.pt" if folder else None
        samples = len(self.objective) * learner.recipe.epochs
        with self.place.progress.task(f"training at {lr:g}", samples, "images") as advance:
            trial = Trial(self.objective, lr, self.place.seed, self.key, checkpoint, advance)
            return trial, trial.run()


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Torch's generators start from the seed inside and are as they were outside."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _class_weights(recipe: Recipe, labels: NDArray[np.int64], classes: int) -> torch.Tensor:
    """(C,) float32. A class absent from train weighs 1; only val can meet it."""
    weights = np.ones(classes, np.float32)
    if recipe.class_weights == "balanced":
        present, counts = np.unique(labels, return_counts=True)
        weights[present] = len(labels) / (len(present) * counts)
    return torch.from_numpy(weights)


def key_of(decisive: Sequence[Any], before: Snapshot) -> str:
    """What a checkpoint must agree with to be taken up: what decides a training, as JSON, and the weights before."""
    weights = {**before.frozen, **{name: tensor_hash(tensor) for name, tensor in before.trained.items()}}
    # With JSON's lists in place of tuples.
    return digest(json.loads(json.dumps([*decisive, weights])))


def _notes(learner: Learner, state: State) -> list[str]:
    notes = []
    if learner.at_once < learner.recipe.batch_size:
        notes.append(
            f"{learner.recipe.batch_size} images did not fit into memory: computed {learner.at_once} at a time, their "
            "gradients summed, so the effective batch is the recipe's"
        )
    start = state.log[0]["val_loss"]
    if start is not None and state.best_loss >= start:
        notes.append(f"training never lowered the validation loss: {start:.4g} before, {state.best_loss:.4g} at best")
    if state.best_epoch == learner.recipe.epochs:
        notes.append("the last epoch was the best: more epochs might still have helped")
    return notes


def cost_of(states: Sequence[State], proof: Proof, samples: int, batch_size: int) -> Cost:
    """The cost of all learning rates that were tried, on `samples` training samples."""
    steps = [state.epoch * -(-samples // batch_size) for state in states]
    return Cost(
        samples_seen=sum(samples * state.epoch for state in states),
        trained_parameters=proof.trained_parameters,
        steps=sum(steps),
        flops=sum(count * state.step_flops for count, state in zip(steps, states, strict=True)),
        seconds=sum(float(row["seconds"] or 0) for state in states for row in state.log),
    )


def write_log(folder: Path | None, states: Sequence[State]) -> None:
    """Write the epochs of all learning rates as JSON lines, where there is a folder."""
    if folder:
        rows = [row for state in states for row in state.log]
        write_text(folder / LOG, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
