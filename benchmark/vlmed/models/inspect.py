"""What a reference is, read from its files. Nothing in them runs, and weights are not fetched for it."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlmed.errors import Problem, UsageError, VlmedError
from vlmed.models.adapter_base import adapter_chain
from vlmed.models.cards import find_card
from vlmed.models.layouts import ADAPTER_CONFIG, CONFIG, OPEN_CLIP_CONFIG, is_adapter, layout_of
from vlmed.models.load import Family, family_name
from vlmed.models.reference import Reference, parse_reference
from vlmed.models.resolve import Resolved, look_at
from vlmed.models.safetensors_header import read_header
from vlmed.models.safety import check_files, count_pickled
from vlmed.models.snapshot import code_requests, is_weights, read_config, root_files

# The names of safetensors and of torch for what can be a weight -> bytes per number.
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_GENERATORS = ("generators", "llava")
# What an image is taken for where the configuration doesn't say: ViT-B/16 at 224 px.
_TOKENS, _WIDTH = 197, 768
_BATCH = 64
# Tensors of one layer that are alive at once, in units of its input.
_ALIVE = 12
# Share of a plain matrix product's rate that whole networks usually reach.
_REACHED = 0.5


@dataclass(frozen=True)
class Part:
    """A model, or an adapter on it, as files.

    Attributes:
        ref: The reference.
        revision: As in `ModelInfo`.
        layout: Published layout, such as `config` or `open_clip`.
        files: Name -> bytes of what would be loaded; None where that isn't known.
        parameters: Numbers in the weights, without integers; None where they are not on this machine.
        dtypes: Type -> numbers of it; empty where the weights are not on this machine.
        remote_code: Places at which configurations name Python code.
        problems: For what it would be refused.
    """

    ref: str
    revision: str
    layout: str
    files: dict[str, int | None]
    parameters: int | None
    dtypes: dict[str, int]
    remote_code: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Inspection:
    """What is known of a reference before anything has run.

    Attributes:
        model: The model's files.
        family: The module of `vlmed.models` that would load it.
        kind: See `ModelInfo`.
        architecture: As its configuration names it.
        card: Name of its card; empty where there is none.
        companions: Repositories that it needs files of; None where only its weights would tell.
        adapter: The adapter's files, if there is one.
        adapter_facts: What the adapter's config says: type, rank, targets, base.
        adapters_below: As in `ModelInfo`.
        estimate: Memory and time, with what they rest on; empty where the number of parameters isn't known.
    """

    model: Part
    family: str
    kind: str
    architecture: str
    card: str
    companions: tuple[str, ...] | None
    adapter: Part | None
    adapter_facts: dict[str, Any]
    adapters_below: tuple[Part, ...]
    estimate: dict[str, Any]

    @property
    def problems(self) -> list[Problem]:
        """Everything for which model or adapter would be refused."""
        return [problem for part in self._parts() for problem in part.problems]

    def _parts(self) -> list[Part]:
        return [self.model, *self.adapters_below, *([self.adapter] if self.adapter else [])]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        value = asdict(self)
        shown = [value["model"], *value["adapters_below"], *([value["adapter"]] if self.adapter else [])]
        for part, held in zip(shown, self._parts(), strict=True):
            part["problems"] = [problem.to_json() for problem in held.problems]
        return value


def inspect(ref: str, adapter: str | None = None) -> Inspection:
    """Say what a reference is.

    Args:
        ref: A model, or an adapter alone, whose config then names the base.
        adapter: An adapter on the model.

    Raises:
        UsageError: Model or revision does not exist, or it is a control or an endpoint, which have no files.
        MissingError: Access is gated, or there is no network and no cached copy.
        InputError: There is no model.
    """
    reference = parse_reference(ref)
    if reference.scheme in ("control", "endpoint"):
        raise UsageError(
            f"{reference} has no files to inspect",
            expected="a hf:, open_clip: or dir: reference",
            hint="a control needs none; of an endpoint's model only its server knows",
        )
    sizes: dict[Path, Mapping[str, int | None]] = {}

    def find(each: Reference) -> Resolved:
        found, sizes[found.path] = look_at(each)
        return found

    base, *adapters = _chain(find(reference), find)
    if adapter:
        adapters.append(find(parse_reference(adapter)))
    return _inspect(base, adapters, [_part(each, sizes[each.path]) for each in (base, *adapters)])


def _chain(found: Resolved, find: Callable[[Reference], Resolved]) -> list[Resolved]:
    """What was asked for; below an adapter alone, its base and what lies between."""
    if not is_adapter(root_files(found.path)):
        return [found]
    return adapter_chain(found, find)


def _inspect(base: Resolved, adapters: Sequence[Resolved], parts: Sequence[Part]) -> Inspection:
    model, *on_top = parts
    family = family_name(base.path) if model.layout == "config" else model.layout
    config = _config(base.path)
    card = find_card(str(base.reference))
    return Inspection(
        model=model,
        family=family,
        kind=_kind(family, config),
        architecture=_architecture(config),
        card=card.name if card else "",
        companions=_companions(family, base.path),
        adapter=on_top[-1] if on_top else None,
        adapter_facts=_adapter_facts(adapters[-1].path) if adapters else {},
        adapters_below=tuple(on_top[:-1]),
        estimate=_estimate(model.parameters, config) if model.parameters else {},
    )


def _part(found: Resolved, sizes: Mapping[str, int | None]) -> Part:
    here = [name for name in sizes if (found.path / name).is_file()]
    problems = check_files(found.path, here)
    weights = [name for name in sizes if is_weights(name)]
    dtypes = {} if problems or not set(weights) <= set(here) else _count(found.path, weights)
    return Part(
        ref=str(found.reference),
        revision=found.revision,
        layout=layout_of(list(sizes), str(found.reference)).name,
        files=dict(sizes),
        parameters=sum(count for dtype, count in dtypes.items() if dtype in _FLOATS) if dtypes else None,
        dtypes=dtypes,
        remote_code=_code(found.path, problems),
        problems=tuple(problems),
    )


def _code(folder: Path, problems: Sequence[Problem]) -> tuple[str, ...]:
    # A configuration that can't be read is a problem already.
    try:
        return tuple(code_requests(folder))
    except VlmedError:
        if problems:
            return ()
        raise


def _count(folder: Path, weights: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in weights:
        if name.endswith(".safetensors"):
            held = [(entry.dtype, entry.numel) for entry in read_header(folder / name).values()]
        else:
            held = list(count_pickled(folder / name).items())
        for dtype, numel in held:
            counts[dtype] = counts.get(dtype, 0) + numel
    return counts


def _config(folder: Path) -> dict[str, Any]:
    """The model's configuration; empty for layouts without one."""
    names = [name for name in (OPEN_CLIP_CONFIG, CONFIG) if (folder / name).is_file()]
    config = read_config(folder / names[0]) if names else {}
    held = config.get("model_cfg", config)
    return held if isinstance(held, dict) else {}


def _kind(family: str, config: Mapping[str, Any]) -> str:
    if family in _GENERATORS:
        return "generator"
    if family == "image_only" or (family == "hf" and not {"text_config", "qformer_config"} & config.keys()):
        return "image_encoder"
    return "dual_encoder"


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures") or config.get("architecture") or config.get("model_type") or ""
    if "vision_cfg" in config:
        vision, text = (config.get(side) or {} for side in ("vision_cfg", "text_cfg"))
        return f"CLIP with {vision.get('timm_model_name') or 'ViT'} and {text.get('hf_model_name') or 'transformer'}"
    return ", ".join(map(str, named)) if isinstance(named, list) else str(named)


def _companions(family: str, folder: Path) -> tuple[str, ...] | None:
    module: Family = importlib.import_module(f"vlmed.models.{family}")
    try:
        return tuple(companion.repository for companion in module.companions(folder))
    # Some layouts tell it by their weights, which may be elsewhere or not what they should be.
    except (OSError, VlmedError):
        return None


def _adapter_facts(folder: Path) -> dict[str, Any]:
    config = read_config(folder / ADAPTER_CONFIG)
    asked = ("peft_type", "r", "lora_alpha", "use_dora", "target_modules", "modules_to_save", "task_type", "revision")
    facts = {"base": config.get("base_model_name_or_path"), **{key: config.get(key) for key in asked}}
    return {key: value for key, value in facts.items() if value not in (None, "", [], False)}


def _estimate(parameters: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """Rough memory in bytes and time in seconds.

    A transformer computes two operations per weight and token. All weights are counted, those of the text side too,
    and every network is taken for a transformer, so that time is rather too long for dual encoders and too short for
    convolutions.
    """
    tokens, width, said = _geometry(config)
    rate = _matmul_rate()
    return {
        "weights_float32": 4 * parameters,
        "weights_bfloat16": 2 * parameters,
        "activations_float32": 4 * _BATCH * tokens * width * _ALIVE,
        "batch_size": _BATCH,
        "tokens_per_image": tokens,
        "tokens_from": "the configuration" if said else "an assumption, ViT-B/16 at 224 px",
        "seconds_per_1000_images": 1000 * 2 * parameters * tokens / (rate * _REACHED),
        "operations_per_second": rate,
        "rate_from": f"a float32 matrix product timed on this machine's CPU, of which {_REACHED:.0%} is reached",
    }


def _geometry(config: Mapping[str, Any]) -> tuple[int, int, bool]:
    """Tokens per image, their width, and whether the configuration says so."""
    vision = next((config[key] for key in ("vision_config", "vision_cfg") if key in config), config)
    size, patch = (vision.get(key) if isinstance(vision, dict) else None for key in ("image_size", "patch_size"))
    if not (isinstance(size, int) and isinstance(patch, int) and 0 < patch <= size):
        return _TOKENS, _WIDTH, False
    width = vision.get("hidden_size") or vision.get("width")
    return (size // patch) ** 2 + 1, width if isinstance(width, int) else _WIDTH, True


def _matmul_rate() -> float:
    """Float32 operations per second of a matrix product; takes some tens of milliseconds."""
    import torch

    side = 768
    factor = torch.ones(side, side)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        factor @ factor
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)
