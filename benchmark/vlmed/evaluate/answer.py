"""Visual question answering without tuning: generators answer, dual encoders choose among candidates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from vlmed.data.questions import Question, questions
from vlmed.data.table import Sample
from vlmed.evaluate.blocks import in_blocks
from vlmed.evaluate.job import Job, Outcome
from vlmed.evaluate.zero_shot import image_vectors, normalised
from vlmed.metrics.answers import YES_NO
from vlmed.models.protocols import Asked, Control, DualEncoder, Generator, Request
from vlmed.results.predictions import AnswerPredictions


def by_generation(job: Job) -> Outcome:
    """Every question goes into the recipe's template for its kind; the model answers greedily."""
    recipe, asked = job.unit.track.recipe, questions(job.table, job.test)
    generator = cast(Generator, job.model.predictor)

    def ask(samples: Sequence[Sample]) -> list[Any]:
        requests = [Request(job.image(each), prompt(asked[each.id], recipe), recipe["max_tokens"]) for each in samples]
        return list(generator.answer(requests))

    return outcome(job, list(asked.values()), in_blocks(job, "answers", job.test, ask))


def by_candidates(job: Job) -> Outcome:
    """The candidate whose text, put together with the question, is most similar to the image.

    An open question has no candidates, so a dual encoder says nothing to it and scores nothing.
    """
    pair: str = job.unit.track.recipe["pair"]
    encoder = cast(DualEncoder, job.model.predictor)
    asked = list(questions(job.table, job.test).values())
    texts = [pair.format(question=each.text, candidate=name) for each in asked for name in each.candidates]
    distinct = sorted(set(texts))
    embedded = normalised(job.text_features(distinct).astype(np.float64))
    rows = dict(zip(distinct, embedded, strict=True))
    images = normalised(image_vectors(encoder, job.features(job.test)).astype(np.float64))
    ours = iter(texts)
    answers = []
    for question, image in zip(asked, images, strict=True):
        similar = [float((image @ rows[text]).max()) for text in itertools.islice(ours, len(question.candidates))]
        answers.append(question.candidates[int(np.argmax(similar))] if similar else "")
    return outcome(job, asked, answers)


def by_control(job: Job) -> Outcome:
    """What a control answers without seeing an image."""
    control = cast(Control, job.model.predictor)
    train, test = (questions(job.table, samples) for samples in (job.train, job.test))
    seen = [_asked(train[sample.id], sample) for sample in job.train]
    unseen = [_asked(test[sample.id], sample) for sample in job.test]
    return outcome(job, list(test.values()), control.answers(seen, unseen, job.unit.seed))


def prompt(question: Question, recipe: Mapping[str, Any]) -> str:
    """A question in the recipe's template for its kind.

    Args:
        recipe: `open` of `{question}`, `yes_no` of the same, `choice` of `{question}` and `{candidates}`.
    """
    kind = "open" if not question.candidates else "yes_no" if question.candidates == YES_NO else "choice"
    template: str = recipe[kind]
    return template.format(question=question.text, candidates=", ".join(question.candidates))


def _asked(question: Question, sample: Sample) -> Asked:
    return Asked(question.text, question.candidates, sample.target)


def outcome(job: Job, asked: Sequence[Question], answers: Sequence[str]) -> Outcome:
    """Raw answers to the test split's questions, in order."""
    return Outcome(AnswerPredictions(
        sample_ids=[sample.id for sample in job.test],
        groups=[sample.group for sample in job.test],
        targets=[sample.target for sample in job.test],
        closed=np.array([bool(question.candidates) for question in asked]),
        candidates=[question.candidates for question in asked],
        answers=list(answers),
        question_types=[question.type for question in asked],
        # No recipe lists candidates by letter yet.
        lettered=np.zeros(len(asked), bool),
    ))  # fmt: skip
