"""A model that somebody wrote in Python -> a loaded model with an identity that results can name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vlmed.errors import InputError, Problem, UsageError
from vlmed.hashing import digest
from vlmed.models.protocols import WITH_FUSION, Kind, LoadedModel, ModelInfo

if TYPE_CHECKING:
    import torch

FAMILY = "object"
_REVISION = re.compile(r"[0-9a-f]{40}|sha256:[0-9a-f]{64}")
_IMAGE = ("dim", "preprocessing", "image_tower", "preprocess", "encode_images")
# What shows which protocol is meant -> that kind, and all its members.
_NEEDS: Mapping[str, tuple[Kind, tuple[str, ...]]] = {
    "encode_texts": ("dual_encoder", (*_IMAGE, "encode_texts", "logit_scale", "logit_bias", "model")),
    "encode_images": ("image_encoder", _IMAGE),
    "answer": ("generator", ("answer",)),
}


def own_model(model: Any, name: str | None = None, revision: str | None = None) -> LoadedModel:
    """Wrap an object that follows `ImageEncoder`, `DualEncoder` or `Generator`.

    Its revision is SHA-256 over the name and the weights of its torch modules (the object itself, `model`,
    `image_tower`). Code is not part of it.

    Args:
        name: What results call it; by default its class.
        revision: What identifies it instead of its weights: a commit, `sha256:` and 64 hex digits, or any text, of
            which the SHA-256 together with the name is taken. An object without torch modules needs one.

    Raises:
        UsageError: It follows none of the protocols, names what is missing; or it needs a revision.
        InputError: A module is in training mode.
    """
    kind = _kind(model)
    name = name or type(model).__name__
    modules = dict(_modules(model))
    if not modules and not revision:
        raise UsageError(
            f"{name} holds no torch module, so that nothing tells its revisions apart",
            expected="a revision",
            hint="pass revision=, such as the commit of your repository",
        )
    _check_mode(modules, name)
    info = ModelInfo(
        ref=f"{FAMILY}:{name}",
        name=name,
        revision=_revision(name, modules, revision),
        family=FAMILY,
        architecture=f"{type(model).__name__}{WITH_FUSION if _fuses(modules) else ''}",
        kind=kind,
        parameters=_parameters(modules),
    )
    return LoadedModel(info, model)


def _kind(model: Any) -> Kind:
    for mark, (kind, members) in _NEEDS.items():
        if hasattr(model, mark):
            if missing := [member for member in members if not hasattr(model, member)]:
                raise UsageError(
                    f"{type(model).__name__} is no complete {kind}",
                    expected=", ".join(members),
                    got=f"no {', '.join(missing)}",
                    hint="see vlmed.models.protocols for what each one is",
                )
            return kind
    raise UsageError(
        "this object follows none of the protocols of models",
        expected="a reference, or an object with encode_images, with encode_images and encode_texts, or with answer",
        got=type(model).__name__,
    )


def _modules(model: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    from torch import nn

    parts = {"": model} | {name: getattr(model, name, None) for name in ("model", "image_tower")}
    yield from ((name, part) for name, part in parts.items() if isinstance(part, nn.Module))


def _fuses(modules: Mapping[str, torch.nn.Module]) -> bool:
    return "model" in modules and getattr(modules["model"], "fusion", None) is not None


def _check_mode(modules: Mapping[str, torch.nn.Module], name: str) -> None:
    training = [part for part, module in modules.items() if module.training]
    if training:
        problems = [
            Problem("the module is in training mode, so that its outputs may be random", name, part, "eval mode",
                    hint="call .eval() on it")
            for part in training
        ]  # fmt: skip
        raise InputError(problems)


def _revision(name: str, modules: Mapping[str, torch.nn.Module], given: str | None) -> str:
    if given:
        return given if _REVISION.fullmatch(given) else f"sha256:{digest([name, given])}"
    weights = hashlib.sha256(name.encode())
    for part, module in modules.items():
        for key, value in sorted(module.state_dict().items()):
            weights.update(f"\n{part} {key} {_kind_of_value(value)}\n".encode())
            weights.update(_content(value))
    return f"sha256:{weights.hexdigest()}"


def _kind_of_value(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if hasattr(value, "dtype") else type(value).__name__


def _content(value: Any) -> bytes:
    """The bytes of one entry of a state; entries other than tensors (extra state) count by what they print."""
    import torch

    if not isinstance(value, torch.Tensor):
        return repr(value).encode()
    flat = value.detach().cpu().contiguous().reshape(-1)
    content: bytes = flat.view(torch.uint8).numpy().tobytes()
    return content


def _parameters(modules: Mapping[str, torch.nn.Module]) -> int:
    """Numbers in all modules; what two of them share counts once."""
    distinct = {id(parameter): parameter.numel() for module in modules.values() for parameter in module.parameters()}
    return sum(distinct.values())
