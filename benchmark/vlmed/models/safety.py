"""What a model's files may be. What could run code, leave its folder or exhaust the machine is refused unopened."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmed.errors import InputError, Problem
from vlmed.models.chat_template import check_chat_templates
from vlmed.models.inert import stand_ins
from vlmed.models.layouts import ADAPTER_CONFIG, OPEN_CLIP_CONFIG
from vlmed.models.safetensors_header import read_header
from vlmed.models.snapshot import PICKLES, check_sizes, is_configuration, is_weights, read_config, walk

_INDEX = ".index.json"
# How often a configuration may repeat something. No published model comes near, and Python lists of this length cost
# little; what tensors cost is counted where they are made.
_MOST = 20_000
_COUNTS = re.compile(r"num_labels|(num_|n_)?\w*(layers?|blocks?|heads?|experts?|depths?|stages?|queries)")
# What published open_clip configurations give their tokenizers.
_TOKENIZER_OPTIONS = {"additional_special_tokens", "clean", "language", "reduction_mask", "strip_sep_token"}


def check_files(folder: Path, names: Sequence[str]) -> list[Problem]:
    """Everything that is wrong with the files of a model or adapter, found without running anything in them.

    Args:
        folder: Where they lie.
        names: Those that would be loaded, directly in the folder.
    """
    problems = check_sizes({name: (folder / name).stat().st_size for name in names}, str(folder))
    if problems:
        return problems
    checks: list[tuple[Callable[[Path], list[Problem]], Sequence[str]]] = [
        (_check_counts, [name for name in names if is_configuration(name)]),
        (_check_index, [name for name in names if name.endswith(_INDEX)]),
        (_check_open_clip, [name for name in names if name == OPEN_CLIP_CONFIG]),
        (_check_adapter, [name for name in names if name == ADAPTER_CONFIG]),
        (check_chat_templates, [name for name in names if name.endswith((".json", ".jinja"))]),
        (_check_safetensors, [name for name in names if name.endswith(".safetensors")]),
        (_check_pickle, [name for name in names if name.endswith(PICKLES)]),
    ]
    return [problem for check, files in checks for name in files for problem in _collected(check, folder / name)]


def _collected(check: Callable[[Path], list[Problem]], file: Path) -> list[Problem]:
    try:
        return check(file)
    except InputError as error:
        return error.problems


def _check_counts(file: Path) -> list[Problem]:
    expected, hint = f"at most {_MOST:,}", "check that this is the model's own configuration"
    return [
        Problem("the configuration asks for more than any model has", str(file), path, expected, f"{value:,}", hint)
        for path, key, value in walk(read_config(file))
        if isinstance(value, int) and value > _MOST and _COUNTS.fullmatch(key)
    ]


def _check_index(file: Path) -> list[Problem]:
    places = read_config(file).get("weight_map")
    if not isinstance(places, dict):
        return [Problem("the index names no files", str(file), "$.weight_map", "an object", type(places).__name__)]
    what, expected = "the index names a file that is no shard beside it", "the name of a file in the same folder"
    shards = {str(shard) for shard in places.values()}
    astray = sorted(shard for shard in shards if Path(shard).name != shard or not (file.parent / shard).is_file())
    return [Problem(what, str(file), "$.weight_map", expected, repr(shard)) for shard in astray]


def _check_open_clip(file: Path) -> list[Problem]:
    return [
        Problem("open_clip would read more than this model's own files", str(file), path, expected, repr(value)[:200])
        for path, key, value in walk(read_config(file))
        if (expected := _open_clip_wants(key, value))
    ]


def _open_clip_wants(key: str, value: Any) -> str:
    """What should stand there instead; empty where the value is harmless."""
    if key == "tokenizer_kwargs":
        options = value if isinstance(value, dict) else {"": value}
        harmless = options.keys() <= _TOKENIZER_OPTIONS and options.get("reduction_mask") != "syntax"
        return "" if harmless else f"no options but {', '.join(sorted(_TOKENIZER_OPTIONS))}; no syntax mask"
    if key == "timm_model_name" and ":" in str(value):
        return "the name of an architecture, without hf-hub: or local-dir:"
    if key == "hf_model_name" and (str(value).startswith(("/", "~", ".")) or ".." in str(value)):
        return "a repository"
    return ""


def _check_adapter(file: Path) -> list[Problem]:
    return [
        Problem("PEFT would reach beyond the adapter's own files", str(file), path, expected, repr(value)[:200])
        for path, key, value in walk(read_config(file))
        if (expected := _adapter_wants(key, value))
    ]


def _adapter_wants(key: str, value: Any) -> str:
    """What should stand there instead; empty where the value is harmless."""
    if key == "megatron_config" and value:
        return "null: PEFT would import the module that megatron_core names"
    if key == "peft_type" and str(value).upper() == "XLORA":
        return "an adapter that loads no further ones"
    if key.endswith(("_file", "_dir")) and value:
        return "no path: what is trained lies in the weights"
    return ""


def _check_safetensors(file: Path) -> list[Problem]:
    read_header(file)
    return []


def _check_pickle(file: Path) -> list[Problem]:
    read_pickle(file)
    return []


def read_pickle(file: Path) -> Any:
    """What `torch.save` wrote: tensors in plain containers, on the CPU, where possible still on disk. No code runs.

    Raises:
        InputError: The file is damaged, wants to run code, or unpacks to more than its size.
    """
    import torch

    zipped = zipfile.is_zipfile(file)
    if zipped:
        _refuse_packed(file)
    try:
        with warnings.catch_warnings(), stand_ins():
            # About pickle protocols; what torch can't read it refuses.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise refused_pickle(file, error) from error
    # Depending on where a damaged file breaks, its reader raises almost anything.
    except Exception as error:
        got = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        hint = "check that the download was complete, or ask the authors for safetensors"
        raise InputError("the weights can't be loaded", file=file, got=got, hint=hint) from error


def refused_pickle(file: object, error: BaseException) -> InputError:
    """The error for a pickle that `weights_only=True` stopped; names what it wanted to run."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    what = "a pickle that wants to run code" if wanted else "they are damaged, or nothing that torch.save wrote"
    return InputError(
        f"the weights can't be loaded: {what}",
        file=file,
        expected="tensors and plain containers",
        got=wanted[1] if wanted else " ".join(str(error).split())[-200:],
        hint="don't load it; get the original file, or ask its authors for safetensors",
    )


def _refuse_packed(file: Path) -> None:
    # PyTorch stores tensors as they are, page-aligned for mmap. Packed ones are a way to unfold kilobytes to terabytes.
    with zipfile.ZipFile(file) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise InputError(
            "the weights can't be loaded: they are compressed",
            file=file,
            path=packed[0],
            expected="tensors stored as they are, as torch.save writes them",
            hint="unpack and save them anew where you trust them",
        )


def weight_bytes(folder: Path, names: Sequence[str]) -> int:
    """Size of the files among `names` that hold weights."""
    return sum((folder / name).stat().st_size for name in names if is_weights(name))


def count_pickled(file: Path) -> dict[str, int]:
    """Numbers by dtype in the tensors of a pickle, wherever in it they lie; no code in it runs.

    Raises:
        InputError: See `read_pickle`.
    """
    counts: dict[str, int] = {}
    stack = [read_pickle(file)]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            stack += value.values()
        elif isinstance(value, list | tuple):
            stack += value
        elif hasattr(value, "numel"):
            name = str(value.dtype).removeprefix("torch.")
            counts[name] = counts.get(name, 0) + value.numel()
    return counts
