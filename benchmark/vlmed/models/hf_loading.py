"""What all that transformers loads has in common: no chatter, and no random weights in place of missing ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging

from vlmed.errors import InputError


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no load report: what matters in the report becomes an error here."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def refuse_missing(names: Collection[str], folder: Path) -> None:
    """Refuse a checkpoint without these weights of its architecture, for which transformers made up random ones.

    Raises:
        InputError: There are any.
    """
    if not names:
        return
    listed = ", ".join(sorted(names)[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    raise InputError("the checkpoint lacks weights", file=folder, expected=listed, got="random values in their place")
