"""The results of a built site for model cards of the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from vlmed.leaderboard.published_results import Shown
from vlmed.results.hub_card import Evaluation, evaluation, front_matter
from vlmed.suite.types import Suite


def card_files(runs: Sequence[Shown], suite: Suite) -> Iterator[tuple[str, str]]:
    """Path -> front matter of a model card, for every model among `runs`."""
    for _, of_model in groupby(runs, key=lambda run: run.name):
        mine = list(of_model)
        yield f"{mine[0].org}__{mine[0].model}.md", card_front_matter(mine, suite)


def card_front_matter(runs: Sequence[Shown], suite: Suite) -> str:
    """The front matter of a model card with the results of one model, and nothing else of the card."""
    return front_matter(runs[0].name, (one for run in runs for one in _evaluations(run, suite)))


def _evaluations(run: Shown, suite: Suite) -> Iterator[Evaluation]:
    for unit, table in run.units:
        task, track = suite.tasks[table["task"]["id"]], suite.tracks[table["track"]["id"]]
        yield evaluation(unit, task, track, table["ranked_on"], run.url)
