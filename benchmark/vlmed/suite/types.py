"""The words of the benchmark as types. Everything here is frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal, TypeVar

from vlmed.errors import unknown
from vlmed.hashing import digest

Kind = Literal["classification", "retrieval", "vqa"]
SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
PENDING = "pending"


@dataclass(frozen=True)
class Dataset:
    """A source of images.

    Attributes:
        source: The loader that reads its published layout.
        options: That loader's settings (files, checksums, URLs).
        identity: What a group is: patient, lesion, slide, case, article or image.
        subgroups: Published fields by which results are also reported.
        medical: False for the phantom, which never stands beside medical tasks.
    """

    name: str
    title: str
    source: str
    modality: str
    body_part: str
    licence: str
    access: Literal["open", "registration", "agreement", "embedded"]
    homepage: str
    layout: str
    identity: str
    options: Mapping[str, Any]
    subgroups: tuple[str, ...]
    medical: bool


@dataclass(frozen=True)
class ClassSpec:
    """One class: its name and the published label values that mean it."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class SplitRule:
    """How samples are split.

    `official` takes the publisher's split, and where `val` is set takes that share of train's groups for val.
    `hash` puts a group into test, val or train by where SHA-256(salt, group) falls. `manifest` takes a list.
    """

    rule: Literal["official", "hash", "manifest"]
    salt: str = ""
    test: float = 0.0
    val: float = 0.0


@dataclass(frozen=True)
class Task:
    """A frozen definition on a data set.

    Attributes:
        field: The published field that holds the target (label, answer or caption).
        classes: In index order; for binary tasks index 1 is the positive class. Empty unless a classification.
        exclude: Published values of `field` whose samples are left out.
        where: Published field -> values that a sample must have to belong to the task.
        prompts: Prompt set -> class name -> prompts; prompt i of every class makes up template i.
        manifest: SHA-256 of the manifest file, or `pending`.
    """

    name: str
    version: int
    title: str
    kind: Kind
    dataset: Dataset
    field: str
    classes: tuple[ClassSpec, ...]
    exclude: tuple[str, ...]
    where: Mapping[str, tuple[str, ...]]
    split: SplitRule
    prompts: Mapping[str, Mapping[str, tuple[str, ...]]]
    metrics: tuple[str, ...]
    main_metric: str
    tracks: tuple[str, ...]
    ranked: bool
    manifest: str
    notes: str
    definition: Mapping[str, Any]

    @property
    def id(self) -> str:
        """`name@version`, the key of the ledger and of leaderboard columns."""
        return f"{self.name}@{self.version}"

    @property
    def pending(self) -> bool:
        """Whether nobody with access has frozen the manifest yet."""
        return self.manifest == PENDING

    @cached_property
    def labels(self) -> Mapping[str, int]:
        """Published label value -> index of its class."""
        return {value: index for index, spec in enumerate(self.classes) for value in spec.values}

    @cached_property
    def definition_digest(self) -> str:
        """SHA-256 of the canonical JSON of the task and its data set, without the manifest."""
        return digest(self.definition)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that defines the task: definition, prompts, names of metrics, samples and their leaks.

        Not of the code that scores, whose version stands in a result, nor of frozen questions, which the ledger holds.
        """
        return digest({"definition": self.definition_digest, "manifest": self.manifest})


@dataclass(frozen=True)
class Track:
    """How a model meets a task: a method and its full recipe."""

    name: str
    version: int
    title: str
    method: str
    recipe: Mapping[str, Any]

    @property
    def id(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of method and recipe."""
        return digest({"method": self.method, "recipe": self.recipe})


@dataclass(frozen=True)
class Suite:
    """Everything `tasks.yaml` defines. Tasks and tracks are keyed by `name@version`."""

    version: str
    datasets: Mapping[str, Dataset]
    tasks: Mapping[str, Task]
    tracks: Mapping[str, Track]

    def current_tasks(self) -> list[Task]:
        """The newest version of every task, in the file's order."""
        return list(_newest(self.tasks).values())

    def task(self, name: str) -> Task:
        """A task by `name` (newest version) or `name@version`.

        Raises:
            UsageError: There is none; the message has the nearest names.
        """
        return _find("task", name, self.tasks, "list them with `vlmed tasks`")

    def tasks_matching(self, patterns: Sequence[str]) -> list[Task]:
        """The tasks that names, `name@version` or shell patterns such as `organ*` name, each once, in that order.

        Raises:
            UsageError: One of them names none.
        """
        return _matching(patterns, self.tasks, self.task)

    def tracks_matching(self, patterns: Sequence[str]) -> list[Track]:
        """The tracks, likewise.

        Raises:
            UsageError: One of the patterns names none.
        """
        return _matching(patterns, self.tracks, self.track)

    def track(self, name: str) -> Track:
        """A track by `name` (newest version) or `name@version`.

        Raises:
            UsageError: There is none; the message has the nearest names.
        """
        return _find("track", name, self.tracks, "list them with `vlmed tasks --tracks`")


Versioned = TypeVar("Versioned", Task, Track)


def _newest(items: Mapping[str, Versioned]) -> dict[str, Versioned]:
    newest: dict[str, Versioned] = {}
    for item in items.values():
        if item.name not in newest or newest[item.name].version < item.version:
            newest[item.name] = item
    return newest


def _matching(
    patterns: Sequence[str], items: Mapping[str, Versioned], find: Callable[[str], Versioned]
) -> list[Versioned]:
    found: dict[str, Versioned] = {}
    for pattern in patterns:
        alike = [item for name, item in _newest(items).items() if fnmatchcase(name, pattern)]
        # A pattern that matches nothing is told like a misspelt name.
        found |= {item.id: item for item in alike or [find(pattern)]}
    return list(found.values())


def _find(kind: str, name: str, items: Mapping[str, Versioned], hint: str) -> Versioned:
    newest = _newest(items)
    found = items.get(name) or newest.get(name)
    if found is None:
        raise unknown(kind, name, items if "@" in name else newest, hint)
    return found
