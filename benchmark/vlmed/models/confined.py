"""The conditions under which a library may load a model: its own files, no network, no more memory than it needs."""

from __future__ import annotations

import math
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.overrides import TorchFunctionMode

from vlmed.errors import InputError, Problem, VlmedError

# What an architecture may allocate beyond its weights: masks, positions, a head that a checkpoint leaves out.
_FREE = 100_000_000
_BY_SIZE = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn}
_NEW = {torch.Tensor.new_empty, torch.Tensor.new_zeros, torch.Tensor.new_ones, torch.Tensor.new_full}
# What is changed belongs to the whole process; two threads would put back each other's changes.
_ONE_AT_A_TIME = threading.RLock()
_FORCED, _FORBIDDEN = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class Allowance(TorchFunctionMode):
    """Within it, a program that makes more numbers than its share is stopped before it gets memory for them.

    A configuration is cheap to write: one with ten times too many layers would otherwise fill the machine before
    anyone compares it with the weights.

    Args:
        weight_bytes: Size of the files with the weights, which hold at most one number per byte.
        where: The model, for the error.

    Raises:
        InputError: The share is spent.
    """

    def __init__(self, weight_bytes: int, where: object) -> None:
        super().__init__()
        self._where = where
        self.share = weight_bytes + _FREE
        self._made = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what `func` makes, then call it."""
        kwargs = kwargs or {}
        self._made += _made_by(func, args, kwargs)
        if self._made > self.share:
            raise InputError(
                "the configuration asks for a far larger model than the weights beside it",
                file=self._where,
                expected=f"at most {self.share:,} numbers",
                got=f"{self._made:,} and perhaps more",
                hint="check that configuration and weights belong to one model",
            )
        return func(*args, **kwargs)


def _made_by(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """How many numbers a call makes; 0 for calls that don't make tensors from nothing."""
    if func in _BY_SIZE:
        return _numel(kwargs.get("size", args))
    if func in _NEW:
        return _numel(kwargs.get("size", args[1:2] if func is torch.Tensor.new_full else args[1:]))
    if func is torch.full:
        return _numel(kwargs.get("size", args[:1]))
    if func is torch.eye:
        return _numel(args[:2]) ** (2 if len(args) == 1 else 1)
    if func in (torch.arange, torch.linspace):
        return max((int(abs(value)) for value in args if isinstance(value, int)), default=0)
    return 0


def _numel(size: Any) -> int:
    flat = size[0] if len(size) == 1 and isinstance(size[0], Sequence) else size
    return math.prod(length for length in flat if isinstance(length, int))


@contextmanager
def confined() -> Iterator[None]:
    """No connection opens, the Hub's library works from its cache, and pickles give nothing but tensors.

    Raises:
        InputError: Something in the block wanted to connect.
    """
    with _ONE_AT_A_TIME:
        yield from _confined()


def _confined() -> Iterator[None]:
    from huggingface_hub import constants

    offline, look_up, environment = constants.HF_HUB_OFFLINE, socket.getaddrinfo, dict(os.environ)
    constants.HF_HUB_OFFLINE = True
    socket.getaddrinfo = _refuse_network
    os.environ[_FORCED] = "1"
    os.environ.pop(_FORBIDDEN, None)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, socket.getaddrinfo = offline, look_up
        for name in (_FORCED, _FORBIDDEN):
            os.environ.pop(name, None)
            if name in environment:
                os.environ[name] = environment[name]


def _refuse_network(host: Any, *_: Any, **__: Any) -> NoReturn:
    raise InputError(
        "the model wanted to connect while it was loaded",
        expected="all that it needs among its files",
        got=str(host),
        hint="put what it wants to fetch beside its other files, if you trust it",
    )


@contextmanager
def alone(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A folder that shows the named files of `folder` and nothing else, so that only what was hashed is loaded.

    Libraries look for more than weights and configuration: transformers puts an adapter that lies beside a model on
    it without being asked. Errors in the block speak of `folder`.
    """
    with tempfile.TemporaryDirectory(prefix="vlmed-") as home:
        for name in names:
            (Path(home) / name).parent.mkdir(exist_ok=True)
            (Path(home) / name).symlink_to((folder / name).resolve())
        try:
            yield Path(home)
        except VlmedError as error:
            raise type(error)([_renamed(problem, home, str(folder)) for problem in error.problems]) from error


def _renamed(problem: Problem, old: str, new: str) -> Problem:
    return replace(problem, file=problem.file.replace(old, new), got=problem.got.replace(old, new))
