"""Memory that a process keeps, seen from outside: how often the system has to give it fresh pages."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys

import pytest

from vlmed.process import keep_memory

_BATCHES = """
import resource, sys
import numpy as np
from vlmed.process import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
def batch():
    return [np.ones(6_000_000, np.float32), np.ones(9_000_000, np.float32)]
batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", _BATCHES, how], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc lets a process keep freed memory")
def test_batches_one_after_the_other_share_their_memory():
    assert faults("kept") < 0.2 * faults("given back")


def test_a_system_without_glibc_is_left_as_it_is(monkeypatch):
    before = gc.get_threshold()
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    try:
        keep_memory()
    finally:
        gc.set_threshold(*before)
