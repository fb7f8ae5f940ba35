"""Numbers, ranks and names as readers see them, and where pages lie in the site."""

from __future__ import annotations

from vlmed.suite.types import Task


def decimal(value: float | None) -> str:
    """A number with three decimals.

    >>> decimal(0.5), decimal(None)
    ('0.500', '–')
    """
    return "–" if value is None else f"{value:.3f}"


def plain(value: float | None) -> str:
    """A number as programs read it; empty for None."""
    return "" if value is None else repr(value)


def signed(value: float) -> str:
    """A difference with three decimals.

    >>> signed(-0.5)
    '−0.500'
    """
    return f"{value:+.3f}".replace("-", "−")


def task_page(task: Task) -> str:
    """Where a task's page lies in the site."""
    return f"tasks/{task.name}-{task.version}.html"


def croissant_file(task: Task) -> str:
    """Where a task's metadata lie in the site."""
    return f"data/croissant/{task.name}-{task.version}.json"


def model_page(org: str, model: str) -> str:
    """Where a model's page lies in the site."""
    return f"models/{org}__{model}.html"


def span(rank: tuple[int, int]) -> str:
    """A rank interval for readers.

    >>> span((2, 2)), span((2, 4))
    ('2', '2–4')
    """
    low, high = rank
    return str(low) if low == high else f"{low}–{high}"


def quantity(count: float) -> str:
    """A count with three digits or so.

    >>> quantity(950), quantity(151_277_313), quantity(2.5e15)
    ('950', '151\xa0M', '2.5e+15')
    """
    if count >= 1e12:
        return f"{count:.2g}"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}\u00a0{letter}"
    return f"{count:g}"


def short_revision(revision: str) -> str:
    """The first digits of a commit or content hash.

    >>> short_revision("sha256:" + "0a" * 32), short_revision("builtin")
    ('0a0a0a0a', 'builtin')
    """
    return revision.removeprefix("sha256:")[:8]


def shortened(text: str, length: int) -> str:
    """A text, cut to `length` letters where it is much longer.

    >>> shortened("a" * 12, 8), shortened("a" * 14, 8)
    ('aaaaaaaaaaaa', 'aaaaa...')
    """
    return text if len(text) <= length + 5 else text[: length - 3] + "..."
