"""Weights as their authors published them, put key by key into a network of ours: all of them, or an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vlmed.errors import InputError, Problem
from vlmed.models.safety import read_pickle

_Network = TypeVar("_Network", bound=nn.Module)

# transformers 5 renamed the layers inside its Swin blocks: name now, name in checkpoints from before.
_SWIN_RENAMED = (
    (".attention.q_proj.", ".attention.self.query."),
    (".attention.k_proj.", ".attention.self.key."),
    (".attention.v_proj.", ".attention.self.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".attention.relative_position_bias.", ".attention.self."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)


def read_weights(path: Path, within: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU and where possible still on disk. No code in it runs.

    Args:
        path: A safetensors file, or what `torch.save` wrote.
        within: The key of the weights in a training checkpoint that holds more than them.

    Raises:
        InputError: The file is damaged, wants to run code, or holds something else than tensors by name.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    if within:
        content = _inside(content, within, path)
    if not isinstance(content, Mapping):
        raise InputError(
            "the checkpoint holds no weights by name", file=path, expected="a state dict", got=type(content).__name__
        )
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise InputError(
            "the checkpoint holds something else than tensors", file=path, expected="a state dict", got=_few(others)
        )
    return {str(name): value for name, value in content.items()}


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        hint = "check that the download was complete"
        raise InputError("the weights can't be read", file=path, got=str(error), hint=hint) from error


def _inside(content: Any, key: str, path: Path) -> Any:
    if not isinstance(content, Mapping) or key not in content:
        held = _few([str(name) for name in content]) if isinstance(content, Mapping) else type(content).__name__
        raise InputError("the checkpoint lacks its weights", file=path, path=key, expected=repr(key), got=held)
    return content[key]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def as_in_file(name: str) -> str:
    """A weight under the name it has here, as checkpoints name it."""
    return name


def swin_as_in_file(name: str) -> str:
    """A weight of transformers' `SwinModel` of any version, as checkpoints name it; other names stay as they are."""
    for now, before in _SWIN_RENAMED:
        name = name.replace(now, before)
    return name


def load_exactly(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    file: Path,
    ignorable: Sequence[str] = (),
    name_in_file: Callable[[str], str] = as_in_file,
) -> None:
    """Copy weights into a module, every one into its place; a module on the meta device is only compared with them.

    Args:
        weights: From `read_weights`.
        file: For the error.
        ignorable: Regular expressions of whole names in the file that the module computes itself; they may be absent,
            and are never read.
        name_in_file: The module's name of a weight -> the file's.

    Raises:
        InputError: Lists every weight that is missing, left over or of another shape.
    """
    places = {name_in_file(name): tensor for name, tensor in module.state_dict(keep_vars=True).items()}
    ignored = {name for name in places.keys() | weights.keys() if any(re.fullmatch(each, name) for each in ignorable)}
    problems = _misfits(places, weights, ignored, str(file))
    if problems:
        raise InputError(problems)
    with torch.no_grad():
        for name in places.keys() - ignored:
            if not places[name].is_meta:
                places[name].copy_(weights[name])


def build_exactly(
    build: Callable[[], _Network],
    weights: Mapping[str, Tensor],
    file: Path,
    ignorable: Sequence[str] = (),
    name_in_file: Callable[[str], str] = as_in_file,
) -> _Network:
    """Build a network and load it exactly; a configuration that asks for more than the file holds gets no memory.

    Raises:
        InputError: See `load_exactly`.
    """
    with torch.device("meta"):
        load_exactly(build(), weights, file, ignorable, name_in_file)
    network = build()
    load_exactly(network, weights, file, ignorable, name_in_file)
    return network


def _misfits(
    places: Mapping[str, Tensor], weights: Mapping[str, Tensor], ignored: set[str], file: str
) -> list[Problem]:
    problems = []
    for name in sorted((places.keys() | weights.keys()) - ignored):
        if name not in weights:
            expected = f"shape {tuple(places[name].shape)}"
            problems.append(Problem("the checkpoint lacks weights", file, name, expected))
        elif name not in places:
            got = f"shape {tuple(weights[name].shape)}"
            problems.append(Problem("the architecture has no place for these weights", file, name, got=got))
        elif places[name].shape != weights[name].shape:
            expected, got = (f"shape {tuple(each[name].shape)}" for each in (places, weights))
            problems.append(Problem("the weights don't fit the architecture", file, name, expected, got))
    return problems
