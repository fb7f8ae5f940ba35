"""Retrieval without tuning: captions for images and images for captions, by cosine similarity."""

from __future__ import annotations

from typing import Any, cast

from numpy.typing import NDArray

from vlmed.evaluate.job import Job, Outcome
from vlmed.evaluate.zero_shot import image_vectors
from vlmed.hashing import target_digest
from vlmed.metrics.retrieval import retrieve
from vlmed.models.protocols import Control, DualEncoder
from vlmed.results.predictions import Found, RetrievalPredictions


def by_similarity(job: Job) -> Outcome:
    """Both directions among the test split's images and captions."""
    captions = [sample.target for sample in job.test]
    distinct = sorted(set(captions))
    encoder = cast(DualEncoder, job.model.predictor)
    embedded = job.text_features(distinct)
    row = {caption: place for place, caption in enumerate(distinct)}
    images = image_vectors(encoder, job.features(job.test))
    return outcome(job, images, embedded[[row[caption] for caption in captions]])


def by_control(job: Job) -> Outcome:
    """What a control finds without seeing an image."""
    control = cast(Control, job.model.predictor)
    return outcome(job, *control.vectors([sample.target for sample in job.test], job.unit.seed))


def outcome(job: Job, images: NDArray[Any], texts: NDArray[Any]) -> Outcome:
    """Both directions' ranks from embeddings (N, D) of the test split's images and captions, in order."""
    ids = [sample.id for sample in job.test]
    keys = [target_digest(job.unit.task.name, sample.target) for sample in job.test]
    return Outcome(RetrievalPredictions(
        sample_ids=ids,
        groups=[sample.group for sample in job.test],
        targets=keys,
        image_to_text=Found.of(retrieve(images, texts, keys, keys), ids),
        text_to_image=Found.of(retrieve(texts, images, keys, keys), ids),
    ))  # fmt: skip
