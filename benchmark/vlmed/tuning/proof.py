"""Proof of training: what changed and by how much, and that nothing else did."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from vlmed.errors import CheckError, Problem
from vlmed.tuning.anatomy import Parameters, group_of


@dataclass(frozen=True)
class Snapshot:
    """Weights before training.

    Attributes:
        trained: Copies of what shall train, on the CPU.
        frozen: SHA-256 of every other parameter and buffer.
    """

    trained: dict[str, torch.Tensor]
    frozen: dict[str, str]


@dataclass(frozen=True)
class GroupChange:
    """What happened to one part of the network.

    Attributes:
        group: Name of a block, or of the module that owns the tensors.
        tensors, tensors_changed: Meant to train; of these, with another value somewhere.
        parameters, parameters_changed: The numbers in them.
        relative_change: L2 norm of the change over the norm before; None where the group started at zero.
    """

    group: str
    tensors: int
    tensors_changed: int
    parameters: int
    parameters_changed: int
    relative_change: float | None


@dataclass(frozen=True)
class Proof:
    """The change of every group that trained, and how many tensors were proved not to have changed."""

    groups: tuple[GroupChange, ...]
    frozen_tensors: int

    @property
    def trained_parameters(self) -> int:
        """Numbers meant to train."""
        return sum(group.parameters for group in self.groups)

    def to_json(self) -> dict[str, Any]:
        """The proof as JSON values, with sums over the groups."""
        sums = {
            name: sum(getattr(group, name) for group in self.groups)
            for name in ("tensors", "tensors_changed", "parameters", "parameters_changed")
        }
        return {**sums, "frozen_tensors": self.frozen_tensors, "groups": [asdict(group) for group in self.groups]}


def snapshot(root: nn.Module, trained: Mapping[str, torch.Tensor]) -> Snapshot:
    """The weights as they are now; `trained` are named as in `root`, except a head's, which are no part of it."""
    copies = {name: tensor.detach().cpu().clone() for name, tensor in trained.items()}
    return Snapshot(copies, _hashes(root, trained))


def _hashes(root: nn.Module, trained: Iterable[str]) -> dict[str, str]:
    named = [*root.named_parameters(), *root.named_buffers()]
    skipped = set(trained)
    return {name: tensor_hash(tensor) for name, tensor in named if name not in skipped}


def tensor_hash(tensor: torch.Tensor) -> str:
    """SHA-256 over shape, type and bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    header = f"{tensor.dtype} {tuple(tensor.shape)}\n".encode()
    return hashlib.sha256(header + flat.view(torch.uint8).numpy().tobytes()).hexdigest()


def prove(before: Snapshot, root: nn.Module, trained: Parameters, block_names: Iterable[str]) -> Proof:
    """Compare the weights with a snapshot.

    Raises:
        CheckError: Something frozen moved, a part that should have trained didn't change, or every B of a block's LoRA
            is zero. All are listed.
    """
    after = _hashes(root, before.trained)
    problems = [
        Problem("a frozen tensor changed in training", path=name, expected=before.frozen.get(name, "no such tensor"))
        for name in sorted(before.frozen.keys() | after.keys())
        if before.frozen.get(name) != after.get(name)
    ]
    members: dict[str, list[str]] = {}
    blocks = list(block_names)
    for name in before.trained:
        members.setdefault(group_of(name, blocks), []).append(name)
    groups = tuple(change_of(group, names, before.trained, trained) for group, names in members.items())
    for group in groups:
        ups = [trained[name] for name in members[group.group] if ".lora_B." in name]
        if not group.tensors_changed or (ups and not any(tensor.any() for tensor in ups)):
            problems.append(
                Problem(
                    "a part that should have trained stayed as it was",
                    path=group.group,
                    expected=f"a change in {group.tensors} tensors",
                    got="none, or a LoRA whose every B is zero",
                    hint="see that the loss depends on this part, and that the learning rate isn't far too small",
                )
            )
    if problems:
        raise CheckError(problems)
    return Proof(groups, len(before.frozen))


def change_of(group: str, names: list[str], before: Mapping[str, torch.Tensor], after: Parameters) -> GroupChange:
    """How the tensors of these names, one part of the network, differ from what they were before."""
    now = {name: after[name].detach().cpu() for name in names}
    moved = {name: int((now[name] != before[name]).sum()) for name in names}
    start = sum(float(before[name].double().square().sum()) for name in names)
    change = sum(float((now[name].double() - before[name].double()).square().sum()) for name in names)
    return GroupChange(
        group=group,
        tensors=len(names),
        tensors_changed=sum(count > 0 for count in moved.values()),
        parameters=sum(tensor.numel() for tensor in now.values()),
        parameters_changed=sum(moved.values()),
        relative_change=(change / start) ** 0.5 if start else None,
    )
