"""What works on this machine, and how to mend what does not. Torch is imported only where it is looked at."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from vlmed.data.locate import data_roots, find_dataset
from vlmed.data.sources import open_source
from vlmed.errors import UsageError, VlmedError
from vlmed.files import cache_root
from vlmed.suite.types import Dataset, Suite, Task

State = Literal["ok", "warning", "missing"]
_HUB = "https://huggingface.co"
_GIB = 2**30
# What a ViT-L in float32 and the largest open data set take together; below the first, not even a small run fits.
_LEAST_DISK, _AMPLE_DISK = 1 * _GIB, 20 * _GIB
_EXTRAS = {
    "run": "evaluates models",
    "plot": "draws trainings (vlmed plot)",
    "ray": "runs units on many machines",
    "test": "evaluates in pytest",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        part: What was looked at, in a word or two.
        state: `ok`; `warning`, works with a limit; `missing`, does not work.
        what: What was found.
        fix: What to do about it; empty where nothing is to be done.
        needed: Whether no run is possible at all while this is missing.
    """

    part: str
    state: State
    what: str
    fix: str = ""
    needed: bool = False

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return asdict(self)


def examine(suite: Suite, root: Path | None = None, timeout: float = 5.0) -> Iterator[Finding]:
    """Everything that a run needs or may use, one finding after the other.

    Args:
        root: The user's data folder, as `--data-root`.
        timeout: Seconds to wait for the Hub.
    """
    yield from _software(suite)
    yield from _compute()
    yield _cache()
    yield from _hub(timeout)
    yield from _data(suite, root)


def ready(findings: Iterable[Finding]) -> bool:
    """Whether a run is possible."""
    return not any(finding.needed and finding.state == "missing" for finding in findings)


def first_run(suite: Suite, findings: Iterable[Finding]) -> str:
    """A command to begin with: on a task whose data need nothing, else on one whose data are here."""
    here = {finding.part.removeprefix("data ") for finding in findings if finding.state == "ok"}
    tasks = [task for task in suite.current_tasks() if task.tracks and task.dataset.name in here]
    chosen = min(tasks, key=lambda task: (task.dataset.access != "embedded", task.pending), default=None)
    if chosen is None:
        return "vlmed tasks"
    # Zero-shot is what a run does where nothing else is said.
    tracks = "" if "zero_shot" in chosen.tracks else f" --tracks {chosen.tracks[0]}"
    return f"vlmed run --model control:majority --tasks {chosen.name}{tracks}"


def _software(suite: Suite) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    pending = sum(task.pending for task in suite.tasks.values())
    yield Finding(
        "vlmed", "ok", f"{_version('vlmed')}, suite {suite.version}: {len(suite.tasks)} tasks, {pending} pending"
    )
    yield from (_extra(name, use) for name, use in _EXTRAS.items())


def _extra(name: str, use: str) -> Finding:
    """Whether the packages of an extra are there and new enough."""
    packages = _packages(name) if name == "run" else [each for each in _packages(name) if each not in _packages("run")]
    faults = [fault for package, least in packages if (fault := _fault(package, least))]
    if faults:
        fix = f"pip install 'vlmed[{name}]', which {use}; in a clone: pip install '.[{name}]'"
        state: State = "missing" if name == "run" else "warning"
        return Finding(f"extra {name}", state, ", ".join(faults), fix, needed=name == "run")
    shown = ", ".join(f"{package} {_version(package)}" for package, _ in packages)
    return Finding(f"extra {name}", "ok", f"{use}: {shown}")


def _packages(extra: str) -> list[tuple[str, str]]:
    """The packages of an extra with their least versions."""
    marked = re.compile(rf"extra == ['\"]{extra}['\"]")
    wanted = [line.partition(";")[0].strip() for line in metadata.requires("vlmed") or [] if marked.search(line)]
    return [_requirement(text) for text in wanted if not text.startswith("vlmed")]


def _requirement(text: str) -> tuple[str, str]:
    """Name and least version of a requirement such as `torch>=2.4`."""
    found = re.match(r"([A-Za-z0-9._-]+)[^>]*(?:>=\s*([0-9.]+))?", text)
    return (found[1], found[2] or "0") if found else (text, "0")


def _fault(package: str, least: str) -> str:
    version = _version(package)
    if not version:
        return f"no {package}"
    return f"{package} {version} is older than {least}" if _numbers(version) < _numbers(least) else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _compute() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        import torch
    except ImportError as error:
        fix = "pip install 'vlmed[run]'; without it, checking, validating and ranking work, and evaluating does not"
        yield Finding("torch", "missing", f"can't be imported: {error}", fix, needed=True)
        yield Finding("processor", "ok", f"{cores} cores")
        return
    yield Finding("torch", "ok", f"{torch.__version__}")
    threads = torch.get_num_threads()
    few = threads < cores
    fix = "unset OMP_NUM_THREADS, or set it to the cores you have" if few else ""
    yield Finding("processor", "warning" if few else "ok", f"{cores} cores, torch uses {threads} threads", fix)
    yield from _accelerators(torch)


def _accelerators(torch: Any) -> Iterator[Finding]:
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        types = "bfloat16 and float16" if torch.cuda.is_bf16_supported() else "float16, no bfloat16"
        yield Finding(
            f"cuda:{index}", "ok", f"{facts.name}, {facts.total_memory / _GIB:.0f} GiB, {types}: --device cuda:{index}"
        )
    if torch.cuda.is_available():
        return
    if torch.backends.mps.is_available():
        yield Finding("mps", "ok", "float32 and float16: --device mps")
    elif shutil.which("nvidia-smi"):
        fix = "install a build of torch for your CUDA version: https://pytorch.org/get-started/locally/"
        yield Finding("GPU", "warning", "there is an NVIDIA driver, and torch can't use it", fix)
    else:
        fix = "fine for small tasks; large models and tuning want a GPU: see `vlmed run --plan` for the time they take"
        yield Finding("GPU", "warning", "none: models run on the CPU, in float32", fix)


def _cache() -> Finding:
    """Whether there is a place for downloads, prepared images and features."""
    root = cache_root()
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    fix = "set VLMED_CACHE to a folder on a disk with room"
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding("cache", "missing", f"{root} can't be written: {error.strerror}", fix, needed=True)
    what = f"{root}, {free / _GIB:.0f} GiB free"
    if free < _LEAST_DISK:
        return Finding("cache", "missing", what, fix, needed=True)
    return Finding("cache", "ok", what) if free >= _AMPLE_DISK else Finding("cache", "warning", what, fix)


def _hub(timeout: float) -> Iterator[Finding]:
    endpoint = os.environ.get("HF_ENDPOINT") or _HUB
    local = "models in folders (dir:PATH) work without it"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        yield Finding("Hub", "warning", "offline by HF_HUB_OFFLINE: only cached models", f"unset it; {local}")
    elif fault := _unreachable(endpoint, timeout):
        yield Finding("Hub", "warning", f"{endpoint}: {fault}", f"set HF_ENDPOINT to a mirror; {local}")
    else:
        yield Finding("Hub", "ok", f"{endpoint} answers")
    if _has_token():
        yield Finding("Hub token", "ok", "there is one")
    else:
        yield Finding("Hub token", "warning", "none: gated models stay closed", "hf auth login, or set HF_TOKEN")


def _unreachable(url: str, timeout: float) -> str:
    """Why nothing answers; empty where anything does, be it a refusal."""
    if not url.startswith(("http://", "https://")):
        return "this is no http address"
    try:
        with urlopen(Request(url, method="HEAD"), timeout=timeout):
            return ""
    except HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _has_token() -> bool:
    try:
        from huggingface_hub import get_token
    except ImportError:
        return bool(os.environ.get("HF_TOKEN"))
    return bool(get_token())


def _data(suite: Suite, root: Path | None) -> Iterator[Finding]:
    try:
        roots = data_roots(root)
    except UsageError as error:
        problem = error.problems[0]
        yield Finding("data roots", "missing", f"{problem.file}: {problem.what}", problem.hint)
        return
    unset = len(roots) == 1
    fix = "for data that vlmed may not download: export VLMED_DATA=/folder/of/data/sets" if unset else ""
    yield Finding("data roots", "ok", ", ".join(map(str, roots)), fix)
    names = {task.dataset.name: task for task in suite.current_tasks()}
    yield from (_dataset(task, roots) for task in names.values())


def _dataset(task: Task, roots: list[Path]) -> Finding:
    if task.dataset.access == "embedded":
        return Finding(f"data {task.dataset.name}", "ok", "made by vlmed itself")
    return _one_file(task.dataset, roots) if "url" in task.dataset.options else _folder(task, roots)


def _one_file(dataset: Dataset, roots: list[Path]) -> Finding:
    """A data set that is one file of an open archive; `vlmed run` proves its checksum before it reads it."""
    folder, file = dataset.options.get("folder", dataset.name), dataset.options["file"]
    found = [place for root in roots for place in (root / folder / file, root / file) if place.is_file()]
    what = f"{found[0]}" if found else "not here; downloaded on first use"
    return Finding(f"data {dataset.name}", "ok", what)


def _folder(task: Task, roots: list[Path]) -> Finding:
    """A data set of many files: its tables are read, its images are not."""
    dataset, part = task.dataset, f"data {task.dataset.name}"
    how = f"`vlmed data where {task.name}` says how to get it; licence: {dataset.licence}; access: {dataset.access}"
    found = find_dataset(dataset.options.get("folder", dataset.name), roots)
    if not found:
        return Finding(part, "missing", "not in any data root", how)
    try:
        rows = len(open_source(dataset, found).records())
    except VlmedError as error:
        first = error.problems[0]
        more = f", and {len(error.problems) - 1} more" if len(error.problems) > 1 else ""
        return Finding(part, "missing", f"{first.file}: {first.what}{more}", first.hint or how)
    return Finding(part, "ok", f"{found}, {rows:,} rows; `vlmed data verify {task.name}` proves the images")
