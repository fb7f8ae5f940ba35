"""From a reference to a model that is ready to run."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from vlmed.errors import InputError, UsageError, VlmedError
from vlmed.models.companion import Companion, ModelFiles, model_files
from vlmed.models.controls import CONTROL_CLASSES, mid_grey
from vlmed.models.layouts import CONFIG, is_adapter, layout_of
from vlmed.models.protocols import AdapterInfo, DualEncoder, Generator, Kind, LoadedModel, ModelInfo
from vlmed.models.reference import Reference, parse_reference
from vlmed.models.resolve import Resolved, resolve
from vlmed.models.snapshot import check_remote_code, read_config, root_files

if TYPE_CHECKING:
    from torch import nn

    from vlmed.models.encoders import TowerEncoder

__all__ = ["LoadedModel", "load_model"]


class Family(Protocol):
    """What a module that knows one published layout offers."""

    def companions(self, folder: Path) -> Sequence[Companion]:
        """What the checkpoint in the folder needs from other repositories."""
        ...

    def load_weights(self, files: ModelFiles) -> nn.Module:
        """The model with its weights, on the CPU."""
        ...

    def family_of(self, model: nn.Module) -> tuple[str, str]:
        """Family and architecture to show."""
        ...

    def make_predictor(self, model: nn.Module, files: ModelFiles, device: str) -> TowerEncoder | Generator:
        """What evaluates with the model, which lies on `device` in eval mode."""
        ...


def load_model(
    ref: str, adapter: str | None = None, device: str = "cpu", trust_remote_code: bool = False
) -> LoadedModel:
    """Load what `ref` names, in float32 and eval mode.

    Args:
        ref: A model, a control, or an adapter alone, whose config then names the base.
        adapter: A PEFT adapter to put on the model.
        device: `cpu`, `cuda`, `cuda:1`, `mps`.
        trust_remote_code: Let Python code that the model brings along run; the info says so.

    Raises:
        UsageError: Model, revision or device does not exist, or model and adapter don't belong together.
        MissingError: Access is gated, or there is no network and no cached copy.
        InputError: The files are damaged or contradict each other.
    """
    reference = parse_reference(ref)
    if reference.scheme == "endpoint":
        raise UsageError(
            "an endpoint gives text, no embeddings",
            expected="a model that embeds images: hf:, open_clip: or dir:",
            got=str(reference),
        )
    if reference.scheme == "control":
        return _load_control(reference, adapter, device, trust_remote_code)
    _check_device(device)
    base, on_top, warnings = _find(reference, adapter)
    loaded = _load_files(base, on_top, device, trust_remote_code)
    if loaded.info.adapter and loaded.info.adapter.changes_nothing:
        warnings.append("the adapter changes nothing: every B of its LoRA is zero")
    ref = str(base.reference) if base.reference != reference else ref
    return dataclasses.replace(loaded, info=dataclasses.replace(loaded.info, ref=ref, warnings=tuple(warnings)))


def _load_files(base: Resolved, on_top: Resolved | None, device: str, trust_remote_code: bool) -> LoadedModel:
    remote_code = check_remote_code(base.path, trust_remote_code)
    family = _family(base.path)
    files = model_files(base.path, family.companions(base.path), trust_remote_code)
    with _told_as_input_error("the model can't be loaded", base.reference):
        model = family.load_weights(files)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    adapter = _put_on(model, on_top, base) if on_top else None
    with _told_as_input_error("the model doesn't work with its preprocessing or tokenizer", base.reference):
        predictor = family.make_predictor(model.to(device).eval(), files, device)
    name, architecture = family.family_of(model)
    info = ModelInfo(
        ref=str(base.reference),
        name=_name(base.reference),
        revision=base.revision,
        family=name,
        architecture=architecture,
        kind=_kind(predictor),
        parameters=parameters,
        adapter=adapter,
        remote_code=remote_code,
        companions=files.revisions,
    )
    return LoadedModel(info, predictor)


def _kind(predictor: TowerEncoder | Generator) -> Kind:
    if isinstance(predictor, Generator):
        return "generator"
    return "dual_encoder" if isinstance(predictor, DualEncoder) else "image_encoder"


def _find(reference: Reference, adapter: str | None) -> tuple[Resolved, Resolved | None, list[str]]:
    """The base's files, the adapter's if there is one, and warnings about how well they are known to match."""
    found = resolve(reference)
    alone = is_adapter(root_files(found.path))
    if alone and adapter:
        raise UsageError(
            "the model is an adapter itself",
            expected="a whole model under --model, with one adapter on it",
            got=str(reference),
            hint="an adapter alone finds its base in its own config",
        )
    if not alone and not adapter:
        return found, None, []
    from vlmed.models.adapters import base_reference, check_base

    if alone:
        return resolve(base_reference(found.path)), found, []
    on_top = resolve(parse_reference(str(adapter)))
    return found, on_top, check_base(on_top, found)


def _family(folder: Path) -> Family:
    """The module that knows the folder's layout, imported only when it is needed."""
    layout = layout_of(root_files(folder), str(folder))
    name = _family_by_config(folder / CONFIG) if layout.name == "config" else layout.name
    return cast(Family, importlib.import_module(f"vlmed.models.{name}"))


def _family_by_config(file: Path) -> str:
    config = read_config(file)
    if "model_type" in config:
        return "hf"
    if "architecture" in config:
        return "image_only"
    raise InputError(
        "the configuration names no architecture",
        file=file,
        expected="`model_type` (transformers) or `architecture` (timm)",
        got=f"keys {', '.join(list(config)[:8])}",
    )


def _put_on(model: nn.Module, adapter: Resolved, base: Resolved) -> AdapterInfo:
    from vlmed.models.adapters import apply_adapter

    with _told_as_input_error("the adapter can't be put on the model", adapter.reference):
        return apply_adapter(model, adapter, base)


def _load_control(reference: Reference, adapter: str | None, device: str, trust_remote_code: bool) -> LoadedModel:
    name, _, inner = reference.location.partition("/")
    if inner:
        return _blank(load_model(inner, adapter, device, trust_remote_code), reference)
    if adapter:
        raise UsageError(f"the control {name!r} has no weights for an adapter", got=adapter, hint="leave out --adapter")
    control = CONTROL_CLASSES[name]
    info = ModelInfo(str(reference), name, "builtin", "control", control.__name__, "control", parameters=0)
    return LoadedModel(info, control())


def _blank(model: LoadedModel, reference: Reference) -> LoadedModel:
    """The same model, shown a mid-grey image in place of every image."""
    encoder = cast("TowerEncoder", model.predictor)
    seeing = encoder.transform
    blind = dataclasses.replace(
        encoder,
        transform=lambda image: seeing(mid_grey(image)),
        preprocessing=f"blank:{encoder.preprocessing}",
    )
    info = dataclasses.replace(
        model.info, ref=str(reference), name=f"{model.info.name} on blank images", family="control"
    )
    return LoadedModel(info, blind)


def _name(reference: Reference) -> str:
    return Path(reference.location).expanduser().resolve().name if reference.scheme == "dir" else reference.location


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    # An absent accelerator raises RuntimeError or AssertionError, depending on how torch was built.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        available = "cpu" + (", cuda" if torch.cuda.is_available() else "")
        raise UsageError(f"no device {device!r} here", expected=available, got=str(error).splitlines()[0]) from error


@contextmanager
def _told_as_input_error(what: str, reference: Reference) -> Iterator[None]:
    """Whatever a library raises over a damaged file becomes one error that names the model."""
    try:
        yield
    except VlmedError:
        raise
    except Exception as error:
        raise InputError(
            what,
            file=reference,
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}",
            hint="check that the files are complete and made for one another",
        ) from error
