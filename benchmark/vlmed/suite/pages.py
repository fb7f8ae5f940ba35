"""The suite as Markdown: a page per task and an index, from the definitions and the frozen manifests alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vlmed.hashing import target_digest
from vlmed.metrics.table import METRICS
from vlmed.suite.frozen_rows import Row
from vlmed.suite.manifest import FOLDER, Manifest, manifest_path, read_manifest
from vlmed.suite.types import SPLITS, Kind, Suite, Task, Track

_MADE = "<!-- Made by `vlmed tasks pages` from tasks.yaml and the frozen manifests: change those, not this page. -->"
_KINDS: Mapping[Kind, str] = {"classification": "Classification", "retrieval": "Retrieval", "vqa": "Questions"}
_ASKED: Mapping[Kind, str] = {
    "classification": "An image goes in; a probability for each class comes out.",
    "retrieval": "For each test image, its caption is to be found among the captions of all test samples.",
    "vqa": "An image and a question go in; the answer comes out, in words.",
}
_ACCESS = {
    "open": "open",
    "registration": "after registration with the publisher",
    "agreement": "after signing the publisher's agreement",
    "embedded": "made by vlmed itself; nothing to get",
}
_MEETINGS = {
    "pixels": "the same pixels",
    "group": "the same group",
    "near": "a near-duplicate image",
    "text": "the same text",
}
# As the notes in tasks.yaml cite them.
_PAPERS = {
    "H26": "Huang, Zanca, Eskofier, Salin: *General or Medical CLIP, Which one Shall We Choose?* (under review, 2026)",
    "Z25": "Zhong, Jin, Li, Dou: *Can Common VLMs Rival Medical VLMs? Evaluation and Strategic Insights* "
    "([arXiv 2506.17337](https://arxiv.org/abs/2506.17337))",
}


def suite_pages(suite: Suite, manifests: Path = FOLDER) -> dict[str, str]:
    """File name -> Markdown: `<task>.md` for the newest version of every task, and the index `README.md`.

    Raises:
        MissingError, InputError: A manifest is gone or not the frozen one.
    """
    tasks = [(task, None if task.pending else read_manifest(task, manifests)) for task in suite.current_tasks()]
    pages = {f"{task.name}.md": _page(suite, task, manifest) for task, manifest in tasks}
    return pages | {"README.md": _index(suite, tasks)}


def _index(suite: Suite, tasks: Iterable[tuple[Task, Manifest | None]]) -> str:
    tables = {
        title: [_index_row(task, manifest) for task, manifest in tasks if task.kind == kind]
        for kind, title in _KINDS.items()
    }
    header = ("task", "what is asked", "data set", "access", "test", "clean", "main metric", "tracks")
    sections = [part for title, rows in tables.items() if rows for part in (f"## {title}", _table(header, rows))]
    return _joined(
        [
            _MADE,
            f"# The tasks of suite {suite.version}",
            "*test* counts the test samples, *clean* those of them that meet no sample of train or val. *pending*: "
            "nobody with access to the data has frozen the manifest yet. A task without a track can't be run yet. "
            "†: frozen without the images, so pixels were never compared. How leaks are found: "
            "[leakage](../leakage.md).",
            *sections,
            "## Papers",
            "\n".join(f"- **{name}**: {text}" for name, text in _PAPERS.items()),
        ]
    )


def _index_row(task: Task, manifest: Manifest | None) -> list[str]:
    counts = ["pending", "pending"]
    if manifest:
        test = manifest.split("test")
        unseen = "" if _has_images(manifest) else " †"
        counts = [_number(len(test)), _number(len(_clean(test))) + unseen]
    title = task.title if task.ranked else f"{task.title} (not ranked)"
    main = METRICS[task.main_metric].title
    tracks = _codes(task.tracks) or "–"
    name = f"[`{task.id}`]({task.name}.md)"
    return [name, _plain(title), _plain(task.dataset.title), task.dataset.access, *counts, main, tracks]


def _page(suite: Suite, task: Task, manifest: Manifest | None) -> str:
    tracks = [suite.track(name) for name in task.tracks]
    ranked = "" if task.ranked else " · not ranked"
    return _joined(
        [
            _MADE,
            f"# {_plain(task.title)}",
            f"`{task.id}` · {task.kind} · digest `{task.digest[:12]}`{ranked}",
            *_notes(task),
            *_asked(task),
            *_data(task),
            *_split(task, manifest),
            *_prompts(task, tracks),
            *_metrics(task),
            *_tracks(tracks),
            *_commands(task),
        ]
    )


def _notes(task: Task) -> Iterator[str]:
    yield _plain(task.notes)
    cited = [name for name in _PAPERS if name in task.notes]
    if cited:
        yield f"{' and '.join(cited)}: see [the papers](README.md#papers)."


def _asked(task: Task) -> Iterator[str]:
    yield "## What is asked"
    yield f"{_ASKED[task.kind]} The target is the published field `{task.field}`."
    for field, values in task.where.items():
        yield f"Only samples whose `{field}` is {_codes(values, ' or ')} belong to the task."
    if task.exclude:
        yield f"Samples whose `{task.field}` is {_codes(task.exclude, ' or ')} are left out."
    if task.classes:
        rows = [(str(index), _plain(spec.name), _codes(spec.values)) for index, spec in enumerate(task.classes)]
        yield _table(("index", "class", f"published values of `{task.field}`"), rows)
        if len(task.classes) == 2:
            yield f"The positive class is *{_plain(task.classes[1].name)}*."


def _data(task: Task) -> Iterator[str]:
    dataset = task.dataset
    facts = {
        "data set": _plain(dataset.title),
        "modality": _plain(dataset.modality),
        "body part": _plain(dataset.body_part),
        "licence": _plain(dataset.licence),
        "access": _ACCESS[dataset.access],
        "homepage": f"<{dataset.homepage}>" if dataset.homepage else "",
        "group": f"{dataset.identity}, the coarsest identity that is published",
        "subgroups": _codes(dataset.subgroups),
    }
    yield "## Data"
    yield _table(("", ""), [(name, text) for name, text in facts.items() if text])
    yield "### Where to get it and how to lay it out"
    yield f"```text\n{dataset.layout.strip()}\n```"
    if dataset.access != "embedded":
        folder = dataset.options.get("folder", dataset.name)
        yield (
            f"`DATA` is a folder that you name with `--data-root` or in `VLMED_DATA`; `<root>` is `DATA/{folder}`. "
            f"`vlmed data where {task.name}` says where vlmed looks and what it finds."
        )


def _split(task: Task, manifest: Manifest | None) -> Iterator[str]:
    yield "## Split"
    yield _rule(task)
    if task.dataset.identity == "image":
        yield (
            "No coarser identity is published, so each image counts as its own group. Where several images show one "
            "patient, intervals are too narrow, and a patient of test may also be in train."
        )
    if manifest is None:
        yield (
            "The manifest is **pending**: nobody with access to the data has frozen it yet, so there are no counts "
            "here. Until then results are accepted with a warning and compared on all test samples."
        )
        return
    parts: dict[str, Sequence[Row]] = {name: manifest.split(name) for name in SPLITS}
    parts["clean test"] = _clean(parts["test"])
    yield _table(("", *parts), _counts(task, parts))
    yield f"Manifest: `{manifest_path(task).name}`, SHA-256 `{task.manifest[:12]}`…"
    yield "### Leaks"
    yield from _leaks(parts["test"], len(parts["clean test"]))
    if not _has_images(manifest):
        yield "It was frozen from ids, groups and texts without the images, so pixels were never compared."
    seen = [*parts["train"], *parts["val"]]
    if lacking := sum(not row.target for row in seen) if task.kind == "retrieval" else 0:
        yield (
            f"The texts of {_number(lacking)} of the {_number(len(seen))} samples of train and val were not at hand: "
            "test was not compared with them, so that equal texts may be left among the clean samples."
        )


def _rule(task: Task) -> str:
    rule, group = task.split, task.dataset.identity
    by_hash = f"by the hash of the {group} with the salt `{rule.salt}`"
    if rule.rule == "hash":
        shares = f"{_percent(rule.test)} test, {_percent(rule.val)} val, the rest train"
        return f"Our own, {by_hash}: {shares}. No {group} is parted."
    if rule.rule == "manifest":
        return "As the manifest lists it."
    return f"The publisher's; {_percent(rule.val)} of its train is val, {by_hash}." if rule.val else "The publisher's."


def _counts(task: Task, parts: Mapping[str, Sequence[Row]]) -> Iterator[list[str]]:
    yield ["samples", *(_number(len(rows)) for rows in parts.values())]
    for column in ("image", "group"):
        distinct = [len({value for row in rows if (value := getattr(row, column))}) for rows in parts.values()]
        if any(distinct):
            yield [f"distinct {column}s", *map(_number, distinct)]
    for spec in task.classes:
        target = target_digest(task.name, spec.name)
        yield [_plain(spec.name), *(_number(sum(row.target == target for row in rows)) for rows in parts.values())]


def _leaks(test: Sequence[Row], clean: int) -> Iterator[str]:
    if clean == len(test):
        yield "No test sample meets a sample of train or val, as far as was compared."
        return
    kinds = Counter(kind for row in test for kind in row.leaks.split(";") if kind)
    order = list(_MEETINGS)
    yield (
        f"{_number(len(test) - clean)} of {_number(len(test))} test samples meet a sample of train or val; "
        f"{_number(clean)} are clean. A sample may meet several in several ways."
    )
    rows = [
        (f"`{kind}`", _MEETINGS.get(kind, ""), _number(kinds[kind]))
        for kind in sorted(kinds, key=lambda kind: (order.index(kind) if kind in order else len(order), kind))
    ]
    yield _table(("kind", "shared with train or val", "test samples"), rows)


def _prompts(task: Task, tracks: Sequence[Track]) -> Iterator[str]:
    if task.prompts:
        yield "## Prompts"
        yield "Prompt *i* of every class makes up template *i*."
    for name, by_class in task.prompts.items():
        users = [track.name for track in tracks if track.recipe.get("prompts") == name]
        yield f"### `{name}`"
        if users:
            yield f"Used by {_codes(users)}."
        for spec in task.classes:
            yield f"*{_plain(spec.name)}*"
            yield "\n".join(f"{number}. {_plain(text)}" for number, text in enumerate(by_class[spec.name], start=1))


def _metrics(task: Task) -> Iterator[str]:
    yield "## Metrics"
    rows = []
    for name in task.metrics:
        metric = METRICS[name]
        better = "higher" if metric.higher_is_better else "lower"
        rows.append((f"`{name}`", metric.title, better, "**main**" if name == task.main_metric else ""))
    yield _table(("metric", "", "better", ""), rows)


def _tracks(tracks: Sequence[Track]) -> Iterator[str]:
    yield "## Tracks"
    if tracks:
        yield _table(("track", ""), [(f"`{track.id}`", _plain(track.title)) for track in tracks])
    else:
        yield "None yet, so `vlmed run` can't evaluate it; its data can be prepared, verified and searched for leaks."


def _commands(task: Task) -> Iterator[str]:
    lines = [
        f"vlmed tasks show {task.name}",
        f"vlmed data verify {task.name}      # is my copy the frozen one? nothing leaves the machine",
        f"vlmed leakage {task.name}          # what test shares with train and val",
    ]
    if task.tracks:
        model = "hf:openai/clip-vit-base-patch32"
        lines.append(f"vlmed run --model {model} --tasks {task.name} --tracks {','.join(task.tracks)}")
    yield "## Run and verify"
    yield "```sh\n" + "\n".join(lines) + "\n```"


def _has_images(manifest: Manifest) -> bool:
    return any(row.image for row in manifest.rows)


def _clean(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not row.leaks]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _codes(values: Iterable[str], between: str = ", ") -> str:
    return between.join(f"`{value}`" if value else "*blank*" for value in values)


def _plain(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    return re.sub(r"([\\`*<|\[\]])", r"\\\1", " ".join(text.split()))


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _number(count: int) -> str:
    return f"{count:,}"


def _joined(blocks: Iterable[str]) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"
