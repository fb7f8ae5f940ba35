"""What a run may ask of a server that costs money: the run stops before the budget is passed."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vlmed.errors import UsageError, VlmedError

_GRAMMAR = "requests=N, tokens=N or both with a comma between, such as requests=5000,tokens=2000000"


class Budget:
    """Limits on requests sent and on tokens read and written, as the server counts them; safe between threads.

    A request is only sent when what it may cost at most still fits beside all that is under way; where it does not,
    it waits until others have ended for less than they might have. Repeated attempts count as requests of their own.
    Should the server count more tokens than a request was reckoned with, all later ones are reckoned with that much
    more.

    Args:
        requests: How many requests may be sent; None for any number.
        tokens: How many tokens may be used; None for any number.
    """

    def __init__(self, requests: int | None = None, tokens: int | None = None) -> None:
        self.limits = {"requests": requests, "tokens": tokens}
        self.spent = {"requests": 0, "tokens": 0}
        self._under_way = 0
        self._reserved = 0
        self._excess = 0
        self._changed = threading.Condition()

    def __str__(self) -> str:
        return ", ".join(f"{self.spent[kind]} of {limit} {kind}" for kind, limit in self.limits.items() if limit)

    @contextmanager
    def reserve(self, tokens: int) -> Iterator[Callable[[int], None]]:
        """A block that sends one request of at most this many tokens; call what it gives with those really used.

        Where it is not called, all of them count as used.

        Raises:
            VlmedError: The request does not fit into the budget any more; it was not sent.
        """
        reserved = self._take(tokens)
        used = [reserved]
        try:
            yield used.append
        finally:
            self._settle(tokens, reserved, used[-1])

    def _take(self, tokens: int) -> int:
        with self._changed:
            while not self._fits(tokens + self._excess):
                if not self._under_way:
                    raise VlmedError(
                        "the budget is spent: the next request could pass it",
                        got=f"{self}; the next may take {tokens + self._excess} tokens",
                        hint="raise VLMED_ENDPOINT_BUDGET and run the same command again",
                    )
                self._changed.wait()
            reserved = tokens + self._excess
            self.spent["requests"] += 1
            self._reserved += reserved
            self._under_way += 1
            return reserved

    def _fits(self, tokens: int) -> bool:
        wanted = {"requests": self.spent["requests"] + 1, "tokens": self.spent["tokens"] + self._reserved + tokens}
        return all(limit is None or wanted[kind] <= limit for kind, limit in self.limits.items())

    def _settle(self, tokens: int, reserved: int, used: int) -> None:
        with self._changed:
            self.spent["tokens"] += used
            self._reserved -= reserved
            self._under_way -= 1
            self._excess = max(self._excess, used - tokens)
            self._changed.notify_all()


def parse_budget(text: str) -> Budget:
    """Read a budget as `VLMED_ENDPOINT_BUDGET` holds it; an empty text is no limit.

    Raises:
        UsageError: It is not one.

    >>> parse_budget("tokens=2000000, requests=50").limits
    {'requests': 50, 'tokens': 2000000}
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    read = [re.fullmatch(r"(requests|tokens)\s*=\s*([1-9][0-9_]*)", part) for part in parts]
    limits = {match[1]: int(match[2]) for match in read if match}
    if len(limits) < len(parts):
        raise UsageError("this is no budget", path="VLMED_ENDPOINT_BUDGET", expected=_GRAMMAR, got=repr(text))
    return Budget(**limits)
