"""Retrieval with a dual encoder that is tuned on captions, and put back as it was afterwards."""

from __future__ import annotations

from typing import cast

from vlmed.errors import UsageError
from vlmed.evaluate.job import Job, Outcome
from vlmed.evaluate.retrieve import outcome
from vlmed.evaluate.tuned import Images, keep, told
from vlmed.evaluate.zero_shot import image_vectors
from vlmed.models.protocols import DualEncoder
from vlmed.tuning.contrastive import Captioned, embeddings, tune_on_captions
from vlmed.tuning.recipe import parse_recipe


def by_captions(job: Job) -> Outcome:
    """Tune on the captions of the unit's share of train, stop and choose on val, retrieve in test as without tuning.

    Embeddings of the tuned encoder never enter the cache of features, whose keys know the published weights alone.

    Raises:
        UsageError: The recipe is for classes.
    """
    track, images = job.unit.track, Images(job)
    recipe = parse_recipe(track.method, track.recipe, f"tasks.yaml: {track.id}")
    if recipe.head != "captions":
        raise UsageError("the track's recipe is for classes, and the task has captions", file="tasks.yaml",
                         path=f"$.tracks.{track.id}.recipe.head", expected="captions", got=recipe.head)  # fmt: skip
    train, val = (Captioned(images.of(each), [sample.target for sample in each]) for each in (job.train, job.val))
    encoder = cast(DualEncoder, job.model.predictor)
    with tune_on_captions(
        encoder, recipe, train, val, seed=job.unit.seed, folder=job.scratch, progress=job.progress
    ) as tuned:
        shown, texts = embeddings(tuned, images.of(job.test), [sample.target for sample in job.test])
        found = outcome(job, image_vectors(encoder, shown), texts)
        keep(tuned, job)
    return Outcome(found.predictions, told(tuned, job), tuned.cost.training)
