"""What the processes of a launch do in test_parallel.py: `launched.py train|run|fail FOLDER ...`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from vlmed.errors import UsageError, VlmedError
from vlmed.evaluate.ranks import Ranks
from vlmed.evaluate.units import RunFolder, plan
from vlmed.suite.load import load_suite

if TYPE_CHECKING:
    from vlmed.models.protocols import LoadedModel
    from vlmed.tuning.parallel import World

QUESTIONS = ["What is", "What is left", "Is no lung left? yes no", "What is left lung?", "lung?"]
ANSWERS = ["left lung", "yes", "no", "lung yes no left", "is"]
LORA = {"lora_lr": 1e-3, "lora": {"rank": 2, "alpha": 4, "dropout": 0.0}}
# Nine questions make batches of 4, 4 and 1, so that the last one leaves nothing for a second process.
CASES: dict[str, dict[str, Any]] = {
    "all": {"parts": ["vision", "projector", "language"], "projector_lr": 1e-3, "clip": 1.0, **LORA},
    "diverging": {"parts": ["language"], **LORA, "lora_lr": [1e30, 1e-3]},
    "dropout": {"parts": ["language"], **LORA, "lora": {"rank": 2, "alpha": 4, "dropout": 0.5}},
}


def train(model: LoadedModel, world: World, home: Path) -> None:
    """Tune on each case, and write weights, log and notes of this process."""
    import numpy as np
    import torch
    from PIL import Image

    from vlmed.tuning.generative import tune_generator
    from vlmed.tuning.generator_batches import Pairs
    from vlmed.tuning.generator_recipe import parse_generator_recipe

    def image(row: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(row).integers(0, 256, (40, 60, 3), dtype=np.uint8))

    def pairs(count: int) -> Pairs:
        return Pairs(image, [QUESTIONS[row % 5] for row in range(count)], [ANSWERS[row % 5] for row in range(count)])

    def crowded(module: Any, _: Any, inputs: dict[str, torch.Tensor]) -> None:
        if world.rank == 1 and name == "all" and module.training and len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    # The second process has memory for one question only, the first one for all.
    model.predictor.model.model.register_forward_pre_hook(crowded, with_kwargs=True)  # type: ignore[union-attr]
    for name, options in CASES.items():
        recipe = parse_generator_recipe({"epochs": 2, "batch_size": 4, **options})
        with tune_generator(model.predictor, recipe, pairs(9), pairs(5), world=world) as tuned:  # type: ignore[arg-type]
            content = {
                "weights": tuned.learner.copies(),
                "log": tuned.log,
                "notes": tuned.notes,
                "cost": tuned.cost.flops,
            }
        torch.save(content, home / f"{name}.{world.rank}of{world.size}.pt")
    if world.size > 1:
        try:
            tune_generator(model.predictor, recipe, pairs(9 - world.rank), pairs(5), world=world)  # type: ignore[arg-type]
        except UsageError as error:
            (home / f"refused.{world.rank}").write_text(str(error))


def run(ranks: Ranks, model: LoadedModel, home: Path, killed: int | None) -> None:
    """Do the units of the suite; a process may be killed in the second epoch."""
    from vlmed.data.load import DataLoader
    from vlmed.evaluate.run import Runner
    from vlmed.tuning.generator_trial import GeneratorTrial

    gradients = GeneratorTrial._gradients

    def dying(self: GeneratorTrial, *args: Any) -> Any:
        if self.state.epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return gradients(self, *args)

    if ranks.rank == killed:
        GeneratorTrial._gradients = dying  # type: ignore[method-assign]
    suite, folder = load_suite(home / "tasks.yaml"), RunFolder(home / f"run{ranks.size}")
    units = plan(suite, ["asked"], ["zero_shot_vqa", "sft"])
    runner = Runner(suite, model, DataLoader(cache=home / "cache"), keep_weights=True)
    if leader := ranks.take_part(runner, units, folder):
        print(leader.run(units, folder, lambda unit, state: print(unit.id, state)))


def member(rank: int, port: int, place: Path, words: tuple[Any, ...]) -> None:
    """One of two processes that no launcher watches; what it says goes to `out.RANK` and `err.RANK` in `place`."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ |= {"OMP_NUM_THREADS": "1", **{name: str(value) for name, value in own.items()}}
    for number, stream in ((1, "out"), (2, "err")):
        with (place / f"{stream}.{rank}").open("w") as file:
            os.dup2(file.fileno(), number)
    main(*words)


def main(what: str, home: Path, *rest: str) -> None:
    ranks = Ranks()
    print("hello from", ranks.rank)
    try:
        with ranks:
            if what == "fail":
                if str(ranks.rank) in rest:
                    raise UsageError(f"process {ranks.rank} fails", hint="x")
                ranks._world.gather(None)
            from vlmed.models.load import load_model
            from vlmed.tuning.parallel import world

            model = ranks.in_turn(lambda: load_model(f"dir:{home / 'model'}"))
            if what == "train":
                train(model, world(), home)
            run(ranks, model, home, *map(int, rest))
    except VlmedError as error:
        print("error:", json.dumps([problem.to_json() for problem in error.problems]), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
