"""Classification without tuning of weights: by prompts, by a linear probe, by letter, and by the controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vlmed.data.table import Sample
from vlmed.evaluate.blocks import in_blocks
from vlmed.evaluate.choose import choose
from vlmed.evaluate.job import Job, Outcome
from vlmed.evaluate.probe import fit_probe
from vlmed.evaluate.zero_shot import zero_shot
from vlmed.models.protocols import Control, DualEncoder, Generator, ImageEncoder
from vlmed.results.predictions import ClassificationPredictions


def by_prompts(job: Job) -> Outcome:
    """Zero-shot: the classes' prompts are the classifier."""
    task = job.unit.task
    prompts = task.prompts[job.unit.track.recipe["prompts"]]
    encoder, features = cast(DualEncoder, job.model.predictor), job.features(job.test)
    texts = job.text_features([text for spec in task.classes for text in prompts[spec.name]])
    return Outcome(predictions(job.test, *zero_shot(encoder, features, texts, len(task.classes))))


def by_probe(job: Job) -> Outcome:
    """A linear probe on frozen features, its penalty chosen on val."""
    classes = len(job.unit.task.classes)
    train, val = ((job.features(samples), labels(samples)) for samples in (job.train, job.val))
    probe = fit_probe(train, val, classes, job.unit.track.recipe["penalties"])
    trained = (cast(ImageEncoder, job.model.predictor).dim + 1) * classes
    # An L-BFGS fit has no epochs; the samples seen once count, as for any method on cached features.
    return Outcome(
        predictions(job.test, probe.probabilities(job.features(job.test))),
        chosen={"penalty": probe.penalty, "val_loss": round(probe.val_loss, 6), "trained_parameters": trained},
        training=float(len(train[1]) * trained),
    )


def by_letter(job: Job) -> Outcome:
    """A generator chooses among the classes listed in its prompt."""
    names = [spec.name for spec in job.unit.task.classes]
    generator, recipe = cast(Generator, job.model.predictor), job.unit.track.recipe

    def ask(samples: Sequence[Sample]) -> list[Any]:
        return list(choose(generator, [job.image(sample) for sample in samples], names, recipe).tolist())

    by_order = np.array(in_blocks(job, "choices", job.test, ask), np.float64)
    return Outcome(predictions(job.test, by_order.mean(axis=1), by_order))


def by_control(job: Job) -> Outcome:
    """What a control says without seeing an image."""
    control = cast(Control, job.model.predictor)
    targets = labels(job.train), labels(job.test)
    return Outcome(predictions(job.test, control.probabilities(*targets, len(job.unit.task.classes), job.unit.seed)))


def labels(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """Class indices (n,)."""
    return np.array([sample.label for sample in samples], np.int64)


def predictions(
    samples: Sequence[Sample], probabilities: NDArray[np.float64], by_template: NDArray[np.float64] | None = None
) -> ClassificationPredictions:
    """What the prediction file holds, from probabilities (n, C) and, where there are templates, (n, T, C)."""
    nothing = np.empty((len(samples), 0, probabilities.shape[1]))
    return ClassificationPredictions(
        sample_ids=[sample.id for sample in samples],
        groups=[sample.group for sample in samples],
        targets=labels(samples),
        probabilities=probabilities,
        by_template=nothing if by_template is None else by_template,
    )
