"""From a reference to a model that is ready to run."""

from __future__ import annotations

import dataclasses
import importlib
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from vlmed.errors import InputError, UsageError, VlmedError
from vlmed.models.adapter_base import adapter_chain, check_base
from vlmed.models.companion import Companion, ModelFiles, model_files
from vlmed.models.controls import CONTROL_CLASSES
from vlmed.models.layouts import ADAPTER_CONFIG, CONFIG, files_that_matter, is_adapter, layout_of
from vlmed.models.numerics import EXACT, Numerics
from vlmed.models.protocols import AdapterInfo, DualEncoder, Generator, Kind, LoadedModel, ModelInfo
from vlmed.models.recall import Asked, recalled
from vlmed.models.reference import Reference, parse_reference
from vlmed.models.resolve import Resolved, resolve
from vlmed.models.safety import check_files, refused_pickle, weight_bytes
from vlmed.models.snapshot import PICKLES, check_inside, check_remote_code, read_config, root_files

if TYPE_CHECKING:
    from torch import nn

    from vlmed.models.encoders import TowerEncoder

__all__ = ["LoadedModel", "family_name", "load_model"]


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
    ref: str,
    adapter: str | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    numerics: Numerics = EXACT,
    memory: Path | None = None,
) -> LoadedModel:
    """Load what `ref` names, in float32 and eval mode.

    Args:
        ref: A model, a control, or an adapter alone, whose config then names the base.
        adapter: A PEFT adapter to put on the model.
        device: `cpu`, `cuda`, `cuda:1`, `mps`.
        trust_remote_code: Let Python code that the model brings along run; the info says so.
        numerics: How exactly an encoder computes; a model that embeds nothing always computes exactly.
        memory: A folder that keeps what encoders say of themselves. One that it knows, with the same files, libraries
            and arguments, is loaded only when something needs its weights. Without a folder it is loaded at once.

    Raises:
        UsageError: Model, revision or device does not exist, model and adapter don't belong together, or the device
            or the model can't compute so.
        MissingError: Access is gated, or there is no network and no cached copy.
        InputError: The files are damaged or contradict each other.
    """
    reference = parse_reference(ref)
    inner = reference.location.partition("/")[2] if reference.scheme == "control" else ""
    if not inner:
        return _load(ref, adapter, device, trust_remote_code, numerics, memory, None)
    return _load(inner, adapter, device, trust_remote_code, numerics, memory, reference)


def _load(
    ref: str,
    adapter: str | None,
    device: str,
    trust_remote_code: bool,
    numerics: Numerics,
    memory: Path | None,
    blinded: Reference | None,
) -> LoadedModel:
    """The same, where `blinded` is the control that the model shall be, if any."""
    reference = parse_reference(ref)
    if reference.scheme == "endpoint":
        from vlmed.models.endpoint import load_endpoint

        return _blinded(_computing(load_endpoint(reference, adapter), numerics), blinded)
    _check_device(device)
    if numerics != EXACT:
        numerics.check(device)
    if reference.scheme == "control":
        return _load_control(reference, adapter, numerics)
    base, adapters, warnings = _find(reference, adapter)
    ref = str(base.reference) if base.reference != reference else ref

    def load() -> LoadedModel:
        loaded = _computing(_load_files(base, adapters, device, trust_remote_code), numerics)
        info = dataclasses.replace(loaded.info, ref=ref, warnings=(*loaded.info.warnings, *warnings))
        return _blinded(dataclasses.replace(loaded, info=info), blinded)

    if memory is None:
        return load()
    asked = Asked(base, adapters, device, numerics, [ref, str(blinded or ""), trust_remote_code, *warnings])
    return recalled(memory, asked, load, lambda: _family(base.path).companions(base.path))


def _blinded(loaded: LoadedModel, control: Reference | None) -> LoadedModel:
    if control is None:
        return loaded
    from vlmed.models.blind import BLINDED

    return BLINDED[control.location.partition("/")[0]](loaded, str(control))


def _computing(loaded: LoadedModel, numerics: Numerics) -> LoadedModel:
    """The model, computing as it shall."""
    if numerics == EXACT:
        return loaded
    if loaded.info.kind not in ("dual_encoder", "image_encoder"):
        expected = "a model that embeds images, or no --precision, --channels-last and --compile"
        raise UsageError("only encoders compute other than exactly", expected=expected, got=f"a {loaded.info.kind}")
    encoder = cast("TowerEncoder", loaded.predictor)
    numerics.prepare(encoder.image_tower)
    return dataclasses.replace(loaded, predictor=dataclasses.replace(encoder, numerics=numerics))


def _load_files(base: Resolved, adapters: Sequence[Resolved], device: str, trust_remote_code: bool) -> LoadedModel:
    from vlmed.models.confined import Allowance, alone, confined

    remote_code = check_remote_code(base.path, trust_remote_code)
    names = _checked_files(base)
    family = _family(base.path)
    files = model_files(base.path, family.companions(base.path), trust_remote_code, device)
    _check_companions(files)
    # Code that a model brings may lie in folders of its own; what was allowed to run is not shut in.
    home = (
        nullcontext(base.path) if remote_code else alone(base.path, [name for name in names if name != ADAPTER_CONFIG])
    )
    with home as folder, confined():
        files = dataclasses.replace(files, path=folder)
        with (
            _told_as_input_error("the model can't be loaded", base.reference),
            Allowance(weight_bytes(base.path, names), base.reference),
        ):
            model = family.load_weights(files)
        _note_origin(model, base.path)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        put_on = [_put_on(model, adapter, base) for adapter in adapters]
        with _told_as_input_error("the model doesn't work with its preprocessing or tokenizer", base.reference):
            predictor = family.make_predictor(model.to(device).eval(), files, device)
    for resolved in (base, *adapters):
        resolved.check_unchanged()
    name, architecture = family.family_of(model)
    info = ModelInfo(
        ref=str(base.reference),
        name=_name(base.reference),
        revision=base.revision,
        family=name,
        architecture=architecture,
        kind=_kind(predictor),
        parameters=parameters,
        adapter=put_on[-1] if put_on else None,
        adapters_below=tuple(put_on[:-1]),
        remote_code=remote_code,
        companions=files.revisions,
        warnings=(*_broken_numbers(model), *_idle(put_on)),
    )
    return LoadedModel(info, predictor)


def _note_origin(model: nn.Module, folder: Path) -> None:
    """Let transformers and PEFT name the folder in what they write, not the passing one that they loaded from."""
    for part in (model, getattr(model, "config", None)):
        if hasattr(part, "name_or_path"):
            cast(Any, part).name_or_path = str(folder)


def _checked_files(resolved: Resolved) -> list[str]:
    """The names of the files that are loaded, all of them found harmless.

    Raises:
        InputError: Lists everything that is not.
    """
    names = files_that_matter(root_files(resolved.path), str(resolved.path))
    problems = check_files(resolved.path, names)
    if problems:
        raise InputError(problems)
    return names


def _check_companions(files: ModelFiles) -> None:
    problems = []
    for folder in files.companions.values():
        # What came from the Hub's cache is a link into its store.
        if folder.is_relative_to(files.path):
            problems += check_inside(
                files.path, [str(folder.relative_to(files.path) / name) for name in root_files(folder)]
            )
        check_remote_code(folder, files.trust_remote_code)
        problems += check_files(folder, [name for name in root_files(folder) if not name.endswith(PICKLES)])
    if problems:
        raise InputError(problems)


def _broken_numbers(model: nn.Module) -> tuple[str, ...]:
    # Both bounds are NaN where anything is, and finding them is far cheaper than asking every number.
    broken = [
        name
        for name, tensor in model.named_parameters()
        if tensor.numel() and not all(bound.isfinite() for bound in tensor.detach().aminmax())
    ]
    if not broken:
        return ()
    listed = ", ".join(broken[:4]) + (f" and {len(broken) - 4} more" if len(broken) > 4 else "")
    return (f"weights hold NaN or infinity: {listed}",)


def _idle(adapters: Sequence[AdapterInfo]) -> list[str]:
    return [
        f"the adapter {adapter.ref} changes nothing: no weight moved" for adapter in adapters if adapter.changes_nothing
    ]


def _kind(predictor: TowerEncoder | Generator) -> Kind:
    if isinstance(predictor, Generator):
        return "generator"
    return "dual_encoder" if isinstance(predictor, DualEncoder) else "image_encoder"


def _find(reference: Reference, adapter: str | None) -> tuple[Resolved, list[Resolved], list[str]]:
    """The base's files, those of the adapters from the lowest up, and warnings about how well they match."""
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
        return found, [], []
    if alone:
        base, *adapters = adapter_chain(found)
        return base, adapters, []
    on_top = resolve(parse_reference(str(adapter)))
    return found, [on_top], check_base(on_top, found)


def _family(folder: Path) -> Family:
    """The same as a module, imported only when it is needed."""
    return cast(Family, importlib.import_module(f"vlmed.models.{family_name(folder)}"))


def family_name(folder: Path) -> str:
    """The module of `vlmed.models` that knows the folder's layout.

    Raises:
        InputError: None does.
    """
    layout = layout_of(root_files(folder), str(folder))
    return _family_by_config(folder / CONFIG) if layout.name == "config" else layout.name


def _family_by_config(file: Path) -> str:
    config = read_config(file)
    # The original LLaVA code names its vision tower so; transformers' own configurations hold it as `vision_config`.
    if "mm_vision_tower" in config:
        return "llava"
    if "model_type" in config:
        return "generators" if _writes_text(config) else "hf"
    if "architecture" in config:
        return "image_only"
    raise InputError(
        "the configuration names no architecture",
        file=file,
        expected="`model_type` (transformers) or `architecture` (timm)",
        got=f"keys {', '.join(list(config)[:8])}",
    )


def _writes_text(config: dict[str, Any]) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    architectures = config.get("architectures")
    return isinstance(architectures, list) and bool(
        set(architectures) & set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values())
    )


def _put_on(model: nn.Module, adapter: Resolved, base: Resolved) -> AdapterInfo:
    from vlmed.models.adapters import apply_adapter
    from vlmed.models.confined import Allowance

    # PEFT is tried on several parts of the model, and makes the adapter's layers anew for each.
    share = 8 * weight_bytes(adapter.path, _checked_files(adapter))
    with (
        _told_as_input_error("the adapter can't be put on the model", adapter.reference),
        Allowance(share, adapter.reference),
    ):
        return apply_adapter(model, adapter, base)


def _load_control(reference: Reference, adapter: str | None, numerics: Numerics) -> LoadedModel:
    name = reference.location
    if adapter:
        raise UsageError(f"the control {name!r} has no weights for an adapter", got=adapter, hint="leave out --adapter")
    control = CONTROL_CLASSES[name]
    info = ModelInfo(str(reference), name, "builtin", "control", control.__name__, "control", parameters=0)
    return _computing(LoadedModel(info, control()), numerics)


def _name(reference: Reference) -> str:
    return Path(reference.location).expanduser().resolve().name if reference.scheme == "dir" else reference.location


def _check_device(device: str) -> None:
    # Every machine has it, and asking torch takes seconds.
    if device == "cpu":
        return
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
        cause: BaseException | None = error
        while cause and not isinstance(cause, pickle.UnpicklingError):
            cause = cause.__cause__ or cause.__context__
        if cause:
            raise refused_pickle(reference, cause) from error
        raise InputError(
            what,
            file=reference,
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}",
            hint="check that the files are complete and made for one another",
        ) from error
