"""A judge of open answers: a language model behind an endpoint, asked with the frozen prompt of `results.judge_prompt`.

The answers are a stranger's text, and some of it may try to be graded well by other means than by being right. So each
text goes in as one JSON string in which every character is escaped that could end a string, a line, a fence or a
turn, between fence lines with a code that is a hash of all that is asked: whoever writes an answer can't know it, as it
changes with the answer. What comes back is no number unless it is exactly the JSON asked for.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from vlmed.errors import VlmedError
from vlmed.files import parse_json
from vlmed.hashing import digest
from vlmed.models.answer_cache import AnswerCache
from vlmed.models.endpoint_client import ChatClient, RefusedError
from vlmed.progress import Progress, Silent
from vlmed.results.judge_prompt import JudgePrompt
from vlmed.results.judged import CRITERIA, PASSES
from vlmed.suite.load import schema_problems

MAX_TOKENS = 256
_TEMPERATURE = 0
# What a model with 64 tokens can't reach; longer ones are cut, and the judge is told.
_LONGEST = 4000
_PLAIN = frozenset(" .,;:'()/%+=?!-")
# Letters by their category that nobody sees: fillers of Korean syllables.
_UNSEEN = frozenset("\u115f\u1160\u3164\uffa0")
# A token for each byte of text, as byte-level tokenizers need at most, and the chat template.
_TEMPLATE_TOKENS = 256
# Where so many requests are refused, it is not for what is in them.
_MOST_REFUSALS = 32


@dataclass(frozen=True)
class Item:
    """One answer to judge, with what was asked and what an expert answered."""

    question: str
    target: str
    answer: str


Message = dict[str, str]


def messages(prompt: JudgePrompt, item: Item, number: int = 1) -> list[Message]:
    """The turns that ask about an item.

    Args:
        number: The pass; the second shows the three texts in the opposite order.
    """
    code = digest([prompt.sha256, item.question, item.target, item.answer, number])[:32]
    shown = item.answer[:_LONGEST]
    cut = f" (first {_LONGEST} of {len(item.answer)} characters)" if len(item.answer) > _LONGEST else ""
    blocks = [
        fenced("question", item.question, code),
        fenced("reference", item.target, code),
        fenced(f"answer{cut}", shown, code),
    ]
    user = Template(prompt.user).substitute(fence=code, blocks="\n\n".join(blocks[:: 1 if number == 1 else -1]))
    return [{"role": "system", "content": prompt.system}, {"role": "user", "content": user}]


def fenced(name: str, text: str, code: str) -> str:
    """A text as one JSON string between fence lines."""
    return f"<<<{name} {code}>>>\n{quoted(text)}\n<<<end {name} {code}>>>"


def quoted(text: str) -> str:
    """A text as a JSON string of letters and digits of any script, blanks and plain punctuation; all else is escaped.

    So no quote, line break, angle bracket, backtick, control or invisible character, nor any that looks like one, is
    left in it.

    >>> quoted("no <mass>")
    '"no \\\\u003cmass\\\\u003e"'
    """
    return '"' + "".join(mark if _is_plain(mark) else _escape(mark) for mark in text) + '"'


def _is_plain(mark: str) -> bool:
    return mark in _PLAIN or (unicodedata.category(mark) in ("Lu", "Ll", "Lo", "Nd") and mark not in _UNSEEN)


def _escape(mark: str) -> str:
    """A character as `\\uXXXX`, two of them beyond the first plane."""
    escaped = json.dumps(mark)[1:-1]
    return escaped if escaped.startswith("\\u") else f"\\u{ord(mark):04x}"


def read_reply(reply: str) -> tuple[int, ...] | None:
    """The scores in a reply, in the order of `CRITERIA`; None unless it is exactly the JSON asked for.

    >>> read_reply('{"helpfulness": 90, "relevance": 95, "accuracy": 100, "level_of_detail": 80}')
    (90, 95, 100, 80)
    >>> read_reply("I give it 90 of 100.")
    """
    try:
        value = parse_json(reply.encode(), Path("reply"))
    except (VlmedError, UnicodeEncodeError):
        return None
    return (
        None if schema_problems(value, "judge_reply.schema.json", "") else tuple(int(value[name]) for name in CRITERIA)
    )


@dataclass
class Judge:
    """Judges items through a server; equal requests are asked once, and every reply is kept as soon as it is there.

    Attributes:
        client: Speaks to the server; its budget counts the cost.
        model: The name that the server knows the model by.
        revision: What the kept replies belong to.
        replies: Where they are kept.
        kept: How many replies were there before.
    """

    client: ChatClient
    model: str
    revision: str
    prompt: JudgePrompt
    replies: AnswerCache = field(default_factory=AnswerCache)
    progress: Progress = field(default_factory=Silent)
    kept: int = 0

    def scores(self, items: Sequence[Item], passes: int = PASSES) -> NDArray[np.float64]:
        """The scores (N, 2, 4) of N items by pass and criterion; NaN for what could not be judged or was not asked.

        A reply that is no JSON of scores is asked for once more; after that, or where the server refuses the request,
        the item has no scores in that pass.

        Raises:
            VlmedError: The server failed for good, the budget is spent, or nearly everything was refused; replies
                so far are kept.
        """
        found = np.full((len(items), PASSES, len(CRITERIA)), np.nan)
        asked: dict[str, list[tuple[int, int]]] = {}
        turns: dict[str, list[Message]] = {}
        for row, item in enumerate(items):
            for number in range(1, passes + 1):
                request = messages(self.prompt, item, number)
                key = self._key(request)
                turns[key] = request
                asked.setdefault(key, []).append((row, number - 1))
        self.kept += sum(key in self.replies for key in asked)
        for key, scores in self._all(turns).items():
            for row, number in asked[key] if scores else ():
                found[row, number] = scores
        return found

    def _all(self, turns: dict[str, list[Message]]) -> dict[str, tuple[int, ...] | None]:
        stop, refused = self.client.stop, 0
        stop.clear()
        scores: dict[str, tuple[int, ...] | None] = {}
        with (
            ThreadPoolExecutor(self.client.connections) as pool,
            self.progress.task("judging", len(turns), "requests") as advance,
        ):
            try:
                futures = {pool.submit(self._one, request): key for key, request in turns.items()}
                for future in as_completed(futures):
                    try:
                        scores[futures[future]] = future.result()
                    except RefusedError:
                        refused += 1
                        scores[futures[future]] = None
                        if refused >= _MOST_REFUSALS:
                            raise
                    advance(1)
            finally:
                # Where this is left early, nothing more is sent; what is under way still ends and is kept.
                stop.set()
        return scores

    def _one(self, request: list[Message]) -> tuple[int, ...] | None:
        if scores := read_reply(self._reply(request)):
            return scores
        system, user = request
        again = {"role": "user", "content": f"{user['content']}\n\n{self.prompt.repair}"}
        return read_reply(self._reply([system, again]))

    def _reply(self, request: list[Message]) -> str:
        key = self._key(request)
        if key not in self.replies:
            if self.client.stop.is_set():
                return ""
            body = {"model": self.model, "messages": request, "temperature": _TEMPERATURE, "max_tokens": MAX_TOKENS}
            self.replies[key] = self.client.complete(body, _most_tokens(request)).strip()
        return self.replies[key]

    def _key(self, request: list[Message]) -> str:
        return digest([self.revision, request, {"temperature": _TEMPERATURE, "max_tokens": MAX_TOKENS}])


@dataclass(frozen=True)
class Plan:
    """What judging costs at most.

    Attributes:
        answers: How many are judged.
        requests: Asked at least, if nothing is kept from before; a reply that is no JSON is asked for once more.
        tokens: For these at most, read and written, by a token for each byte.
    """

    answers: int
    requests: int
    tokens: int


def plan_for(prompt: JudgePrompt, items: Sequence[Item], passes: int) -> Plan:
    """What judging `items` costs; equal ones are asked once."""
    distinct = set(items)
    asked = [messages(prompt, item, number) for item in distinct for number in range(1, passes + 1)]
    return Plan(len(items), len(asked), sum(map(_most_tokens, asked)))


def _most_tokens(request: Sequence[Message]) -> int:
    return sum(len(turn["content"].encode()) for turn in request) + _TEMPLATE_TOKENS + MAX_TOKENS
