"""Visual question answering by a generator that is tuned for it, and put back as it was afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace

from PIL import Image

from vlmed.data.questions import questions
from vlmed.data.table import Sample
from vlmed.errors import UsageError
from vlmed.evaluate.answer import by_generation, prompt
from vlmed.evaluate.job import Job, Outcome
from vlmed.evaluate.tuned import account
from vlmed.models.controls import mid_grey
from vlmed.models.generators import HfGenerator
from vlmed.models.reference import Reference, parse_reference
from vlmed.models.resolve import resolve
from vlmed.tuning.generative import TunedGenerator, tune_generator
from vlmed.tuning.generator_batches import Pairs
from vlmed.tuning.generator_recipe import parse_generator_recipe
from vlmed.tuning.generator_save import save_generator
from vlmed.tuning.parallel import world
from vlmed.tuning.tune import LOG

# What of the recipe says how questions are asked, in training as in the test.
_ASKING = ("open", "yes_no", "choice", "max_tokens", "decoding")


def by_answers(job: Job) -> Outcome:
    """Tune on the answers of the unit's share of train, stop and choose on val, answer test.

    Raises:
        UsageError: The generator's weights aren't here, as behind an endpoint.
    """
    with tuned_on(job) as tuned:
        outcome = by_generation(job)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(job.scratch / LOG, job.log)
        if job.weights:
            _save(tuned, job)
    return replace(outcome, chosen=_told(tuned, job), training=tuned.cost.training)


def tuned_on(job: Job) -> TunedGenerator:
    """The unit's generator, tuned on its share of train; by all processes of the run where there are several.

    Raises:
        As `by_answers`.
    """
    track, generator = job.unit.track, job.model.predictor
    how = {key: value for key, value in track.recipe.items() if key not in _ASKING}
    recipe = parse_generator_recipe(how, f"tasks.yaml: {track.id}")
    if not isinstance(generator, HfGenerator):
        hint = "give the model itself, or a track that trains nothing"
        raise UsageError(f"{job.model.info.name} can't be tuned from here", expected="a model's weights", hint=hint)
    train, val = (_pairs(job, samples) for samples in (job.train, job.val))
    return tune_generator(
        generator, recipe, train, val, seed=job.unit.seed, folder=job.scratch, progress=job.progress, world=world()
    )


def _pairs(job: Job, samples: Sequence[Sample]) -> Pairs:
    asked = questions(job.table, samples)
    # A blindfolded generator is one in training too.
    blind = job.model.info.family == "control" and not job.model.swaps_images

    def image(row: int) -> Image.Image:
        shown = job.image(samples[row])
        return mid_grey(shown) if blind else shown

    prompts = [prompt(asked[sample.id], job.unit.track.recipe) for sample in samples]
    return Pairs(image, prompts, [sample.target for sample in samples])


def _save(tuned: TunedGenerator, job: Job) -> None:
    """Write what was tuned in the form that `vlmed run` takes; one that is there is replaced."""
    info, about = job.model.info, f"{job.unit.task.title} (vlmed task {job.unit.task.id}, unit {job.unit.id})"
    folder = job.weights
    assert folder, "it was asked for"
    shutil.rmtree(folder, ignore_errors=True)
    reference = parse_reference(info.ref)
    base = resolve(Reference(reference.scheme, reference.location, info.revision)).path
    save_generator(tuned, folder, base, info.ref, info.revision, about)


def _told(tuned: TunedGenerator, job: Job) -> Mapping[str, float | str | bool]:
    """What was chosen, what it took and the proof that it trained, for the result."""
    rates = {f"{how}_lr": rate for how, rate in tuned.chosen["lr"].items()}
    return {**rates, **account(tuned, tuned.by_part, job)}
