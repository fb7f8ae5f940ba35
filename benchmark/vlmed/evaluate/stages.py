"""Where a run's time goes: seconds by stage, counted only while somebody wants to know."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Account:
    """Seconds by stage.

    Attributes:
        foreground: Of the thread that opened the account; stages do not overlap, the inner of two counts.
        background: Of all other threads together, as the loaders'; they overlap with the foreground.
    """

    foreground: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    background: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _thread: int = field(default_factory=threading.get_ident)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, seconds: float, within: str | None) -> None:
        """Count seconds for a stage, and take them from the one it lies in."""
        with self._lock:
            counted = self.foreground if threading.get_ident() == self._thread else self.background
            counted[name] += seconds
            if within:
                counted[within] -= seconds


_account: Account | None = None
_current = threading.local()


@contextmanager
def accounted() -> Iterator[Account]:
    """Count the stages of this process, from this thread's point of view, until the block ends."""
    global _account
    _account = Account()
    try:
        yield _account
    finally:
        _account = None


@contextmanager
def stage(name: str) -> Iterator[None]:
    """What runs in this block counts as `name`; costs next to nothing where nobody counts."""
    account = _account
    if account is None:
        yield
        return
    within, _current.stage = getattr(_current, "stage", None), name
    start = time.perf_counter()
    try:
        yield
    finally:
        account.add(name, time.perf_counter() - start, within)
        _current.stage = within
