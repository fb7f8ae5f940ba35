"""How a process that does nothing but vlmed's work treats memory. What others' processes do is theirs to say."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

# Of glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 2**30
_MADE = 10_000  # objects after which the garbage collector looks for cycles among them, instead of 700


def keep_memory() -> None:
    """Keep up to 1 GiB of freed memory for what comes next, and look for garbage less often.

    A batch of images and its activations take tens of megabytes, which the allocator would give back after each step,
    so that the system has to clear fresh pages for the next: a tenth of the time of a small model. Libraries make a
    million objects while they are imported, and nearly none of them is garbage. Without glibc only the latter is done.
    """
    gc.set_threshold(_MADE)
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _KEPT)
        mallopt(_TRIM_THRESHOLD, _KEPT)
