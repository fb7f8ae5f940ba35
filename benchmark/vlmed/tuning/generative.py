"""Tune a generator on questions and answers under one recipe: projector, LoRA on vision or language, or several."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from vlmed.errors import UsageError
from vlmed.models.generators import HfGenerator
from vlmed.progress import Progress, Silent
from vlmed.tuning.course import DivergedError, Row
from vlmed.tuning.generator_batches import Pairs, check_pairs
from vlmed.tuning.generator_learner import GeneratorLearner, make_generator_learner
from vlmed.tuning.generator_recipe import GeneratorRecipe
from vlmed.tuning.generator_trial import GeneratorState, GeneratorTrial
from vlmed.tuning.parallel import ALONE, World
from vlmed.tuning.proof import GroupChange, Proof, Snapshot, change_of, prove, snapshot
from vlmed.tuning.tune import Cost, cost_of, key_of, seeded, write_log


@dataclass
class TunedGenerator:
    """A generator tuned in place. As a context manager it gives the generator its old weights back at the end.

    Attributes:
        learner: The generator, its LoRA merged into its weights, so that it answers as the saved adapter will.
        chosen: `lr` (by `lora` and `projector`), `epoch` and `val_loss`, which the validation set chose.
        proof: What changed, by block.
        by_part: The same for vision, projector and language, those that trained.
        cost: What it took.
        log: As in `vlmed.tuning.tune.Tuned`; an image is a question here, `lr` the highest rate of the LoRA where
            there is one, and losses are means over the tokens of answers and their ends.
        notes: What a reader of the result should know.
    """

    learner: GeneratorLearner
    chosen: dict[str, Any]
    proof: Proof
    by_part: tuple[GroupChange, ...]
    cost: Cost
    log: list[Row]
    notes: list[str]
    _before: Snapshot
    _undone: bool = False

    def check(self) -> None:
        """See that the generator still has its tuned weights.

        Raises:
            UsageError: It has not.
        """
        if self._undone:
            raise UsageError("the generator has its old weights again", hint="answer and save before undo()")

    def undo(self) -> None:
        """Give the generator the weights that it had before, bit for bit."""
        if not self._undone:
            self.learner.take(self._before.trained)
            self.learner.release()
            self._undone = True

    def __enter__(self) -> TunedGenerator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def tune_generator(
    generator: HfGenerator,
    recipe: GeneratorRecipe,
    train: Pairs,
    val: Pairs,
    *,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
    world: World = ALONE,
) -> TunedGenerator:
    """Train the generator in place, at each of the recipe's learning rates from the same start, and keep the best.

    The loss is the mean cross-entropy over the tokens of answers and of their ends; a prompt is what it is at
    inference, and carries none. Test samples are no argument: nothing here can look at them.

    Args:
        train, val: Questions and answers to learn from, and to stop and choose by.
        seed: Decides order, dropout and the start of a LoRA.
        folder: Where checkpoints (`trial-N.pt`, one per try, replaced after every epoch and every ten minutes) and the
            log go. A training that was killed is taken up from there.
        progress: Told about every epoch's questions.
        world: The processes that train together; each calls this with the same arguments and ends with the same
            weights. Only the first one writes to the folder, which all of them see.

    Raises:
        InputError: A set or an answer is empty, the model's parts aren't known here, or an image can't be shown.
        UsageError: A part has nothing to train, the folder holds another training's checkpoints (one by another number
            of processes is another), or the processes' weights, data or checkpoints differ.
        CheckError: The proof failed: see `prove`.
        VlmedError: The loss became NaN at every learning rate, a single question doesn't fit into memory, or a process
            is lost.
    """
    check_pairs(train, val)
    with seeded(generator.model.device, seed):
        learner = make_generator_learner(generator, recipe, world)
        before = snapshot(learner.root, learner.parameters())
        try:
            runner = _Runner(learner, before, train, val, seed, folder, progress or Silent())
            trials = runner.run()
            best, state = min(trials, key=lambda trial: trial[1].best_loss)
            learner.take(best.best)
            learner.round()
            proof = prove(before, learner.root, learner.parameters(), learner.block_names)
            learner.merge()
        except BaseException:
            learner.take(before.trained)
            learner.release()
            raise
    chosen = {"lr": dict(best.rates), "epoch": state.best_epoch, "val_loss": state.best_loss}
    by_part = tuple(
        change_of(part, list(trained), before.trained, trained) for part, trained in sorted(learner.trained.items())
    )
    log = [row for _, each in trials for row in each.log]
    notes = runner.notes + _notes(learner, state)
    return TunedGenerator(
        learner,
        chosen,
        proof,
        by_part,
        cost_of([each for _, each in trials], proof, len(train), recipe.batch_size),
        log,
        notes,
        before,
    )


@dataclass
class _Runner:
    """Tries the recipe's learning rates one after another."""

    learner: GeneratorLearner
    before: Snapshot
    train: Pairs
    val: Pairs
    seed: int
    folder: Path | None
    progress: Progress
    notes: list[str] = field(default_factory=list)

    def run(self) -> list[tuple[GeneratorTrial, GeneratorState]]:
        """Every trial that did not diverge.

        Raises:
            DivergedError: All did.
        """
        world, sets = self.learner.world, (self.train, self.val)
        key = _key(self.learner.recipe, self.seed, sets, world, self.before)
        done: list[tuple[GeneratorTrial, GeneratorState]] = []
        failed: list[DivergedError] = []
        for number, rates in enumerate(self.learner.recipe.rates):
            self.learner.take(self.before.trained)
            try:
                done.append(self._try(number, rates, key))
            except DivergedError as error:
                failed.append(error)
                self.notes.append(f"{error.problems[0].got} in {error.problems[0].path}")
            write_log(self.folder if world.leads else None, [state for _, state in done])
        if not done:
            raise DivergedError([problem for error in failed for problem in error.problems])
        return done

    def _try(self, number: int, rates: Mapping[str, float], key: str) -> tuple[GeneratorTrial, GeneratorState]:
        recipe = self.learner.recipe
        self.learner.at_once = recipe.batch_size
        checkpoint = self.folder / f"trial-{number}.pt" if self.folder else None
        what = f"training at {' and '.join(f'{rate:g}' for rate in rates.values())}"
        with self.progress.task(what, len(self.train) * recipe.epochs, "questions") as advance:
            trial = GeneratorTrial(self.learner, self.train, self.val, rates, self.seed, key, checkpoint, advance)
            return trial, trial.run()


def _key(recipe: GeneratorRecipe, seed: int, sets: Sequence[Pairs], world: World, before: Snapshot) -> str:
    texts = [hashlib.sha256(json.dumps([list(each.prompts), list(each.answers)]).encode()).hexdigest() for each in sets]
    # Each process draws its own dropout, so their number decides too.
    together = [] if world.size == 1 else [world.size]
    return key_of([asdict(recipe), seed, texts, *together], before)


def _notes(learner: GeneratorLearner, state: GeneratorState) -> list[str]:
    notes = []
    if learner.at_once < learner.recipe.batch_size:
        notes.append(
            f"{learner.recipe.batch_size} questions did not fit into memory: computed {learner.at_once} at a time, "
            "their gradients summed, so the effective batch is the recipe's"
        )
    if learner.sparing:
        notes.append("activations were computed twice to save memory")
    if learner.world.size > 1:
        notes.append(f"trained by {learner.world.size} processes, each on its share of every batch")
    start = state.log[0]["val_loss"]
    if start is not None and state.best_loss >= start:
        notes.append(f"training never lowered the validation loss: {start:.4g} before, {state.best_loss:.4g} at best")
    if 1 < state.best_epoch == learner.recipe.epochs:
        notes.append("the last epoch was the best: more epochs might still have helped")
    return notes
