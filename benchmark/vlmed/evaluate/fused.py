"""Questions answered by a fusion on a dual encoder, trained as a classifier over the answers of the training set."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlmed.data.questions import questions
from vlmed.data.table import Sample
from vlmed.errors import UsageError
from vlmed.evaluate.answer import outcome
from vlmed.evaluate.job import Job, Outcome
from vlmed.evaluate.tuned import Images, keep, told
from vlmed.metrics.text import normalise
from vlmed.models.protocols import LoadedModel, TokenEncoder
from vlmed.suite.types import Track
from vlmed.tuning.fusion import UNKNOWN, QuestionSet, tune_fusion
from vlmed.tuning.recipe import Recipe, parse_recipe


def by_fusion(job: Job) -> Outcome:
    """Train on the unit's share of train, stop and choose on val, answer test.

    As in Huang et al. 2026, every question, closed or open, chooses among all training answers: a closed question gets
    no hint from its candidates. A test answer that training never had can't be given; how many there are is told.

    Raises:
        UsageError: The model gives no tokens.
    """
    encoder, recipe = _token_encoder(job.model), recipe_of(job.unit.track)
    vocabulary, images = Vocabulary.of([sample.target for sample in job.train]), Images(job)

    def asked(samples: Sequence[Sample]) -> QuestionSet:
        texts = [each.text for each in questions(job.table, samples).values()]
        labels = np.array([vocabulary.label(sample.target) for sample in samples], np.int64)
        # A test image may be shown in place of another one, always the same one for the same image.
        return QuestionSet(images.of(samples), [sample.image for sample in samples], texts, labels)

    train, val, test = map(asked, (job.train, job.val, job.test))
    with tune_fusion(
        encoder, recipe, train, val, vocabulary.answers, seed=job.unit.seed, folder=job.scratch, progress=job.progress
    ) as tuned:
        answers = tuned.predict(test)
        keep(tuned, job)
    unseen = int((test.labels == UNKNOWN).sum())
    chosen = {
        **told(tuned, job),
        "answers": len(vocabulary.answers),
        "unseen_answers": unseen,
        "unseen_answer_share": round(unseen / len(test), 6),
    }
    predicted = outcome(job, list(questions(job.table, job.test).values()), answers).predictions
    return Outcome(predicted, chosen, tuned.cost.training)


def _token_encoder(model: LoadedModel) -> TokenEncoder:
    if isinstance(model.predictor, TokenEncoder):
        return model.predictor
    lacking = [name for name in ("encode_image_tokens", "encode_text_tokens") if not hasattr(model.predictor, name)]
    raise UsageError(
        f"{model.info.name} gives no tokens of images and texts, so a fusion has nothing to attend to",
        expected="a model with " + " and ".join(lacking or ["all of TokenEncoder"]),
        got=type(model.predictor).__name__,
        hint="see vlmed.models.protocols.TokenEncoder",
    )


def recipe_of(track: Track) -> Recipe:
    """A fusion track's recipe.

    Raises:
        InputError: It is none; lists every fault.
    """
    given = {**track.recipe, "head": "fusion"}
    return parse_recipe(given.pop("encoders"), given, f"tasks.yaml: {track.id}")


@dataclass(frozen=True)
class Vocabulary:
    """Answers to choose among.

    Attributes:
        answers: One spelling for each, in the order of their normal forms.
        places: Normal form -> place among the answers.
    """

    answers: tuple[str, ...]
    places: Mapping[str, int]

    @classmethod
    def of(cls, targets: Sequence[str]) -> Vocabulary:
        """The distinct normal forms of targets, each in its most frequent spelling, the first of equally frequent."""
        spellings: dict[str, Counter[str]] = defaultdict(Counter)
        for target in targets:
            spellings[normalise(target)][target] += 1
        ordered = sorted(spellings)
        answers = tuple(min(spellings[form], key=lambda text: (-spellings[form][text], text)) for form in ordered)
        return cls(answers, {form: place for place, form in enumerate(ordered)})

    def label(self, target: str) -> int:
        """The place of a target's normal form, `UNKNOWN` where it is none of the answers."""
        return self.places.get(normalise(target), UNKNOWN)
