"""Whether a model may have seen a task's images in training: a walk through the graph of corpora in `corpora.yaml`."""

from __future__ import annotations

import difflib
import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from vlmed.errors import InputError, Problem
from vlmed.suite.load import schema_problems
from vlmed.yaml_files import read_yaml

Status = Literal["clean", "exposed", "unknown"]
Kind = Literal["contains", "overlaps", "derived_from", "same_source"]
Strength = Literal["certain", "likely"]

GRAPH = Path(__file__).parent / "corpora.yaml"
# Where a verdict may decide about a place, this does: smaller is better. Exposed and unknown are equal, so that nobody
# gains by keeping silent, and nobody who declares loses against one who does not.
STANDING: Mapping[Status, int] = {"clean": 0, "exposed": 1, "unknown": 1}


@dataclass(frozen=True)
class Verdict:
    """What is known about a model and a data set.

    Attributes:
        status: `exposed` if the model saw a corpus from which the graph leads to the data set; `unknown` if something
            that it saw is not known or can't be listed; else `clean`.
        path: For `exposed`, the base model if the corpus was its, then the corpora up to the data set; else the base
            and corpus that left it open, as far as there are any.
        reason: One sentence for a reader.
    """

    status: Status
    path: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Corpus:
    """A node: a corpus or data set. `unlisted` says why nobody can tell what is not in it; empty if one can."""

    name: str
    title: str
    homepage: str
    modalities: tuple[str, ...]
    unlisted: str = ""


@dataclass(frozen=True, order=True)
class Edge:
    """A sentence, `a kind b`, with the key of the public source that states it."""

    a: str
    kind: Kind
    b: str
    strength: Strength
    source: str

    def __str__(self) -> str:
        return f"{self.a} {_VERBS[self.kind]} {self.b}"


_VERBS: Mapping[Kind, str] = {
    "contains": "contains",
    "overlaps": "overlaps",
    "derived_from": "is derived from",
    "same_source": "shares its source with",
}


@dataclass(frozen=True)
class Route:
    """How one corpus leads to another.

    Attributes:
        nodes: All corpora on the way, both ends included.
        edges: One fewer than nodes.
        certain: Whether they share images by what the sources state; else it is likely.
    """

    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]
    certain: bool


@dataclass(frozen=True)
class Graph:
    """Corpora, edges, and source key -> (text, URL)."""

    corpora: Mapping[str, Corpus]
    edges: tuple[Edge, ...]
    sources: Mapping[str, tuple[str, str]]

    @cached_property
    def _steps(self) -> Mapping[str, Sequence[tuple[Move, str, Edge]]]:
        steps: dict[str, list[tuple[Move, str, Edge]]] = defaultdict(list)
        for edge in self.edges:
            forth, back = _MOVES[edge.kind]
            steps[edge.a].append((forth, edge.b, edge))
            steps[edge.b].append((back, edge.a, edge))
        return steps

    def route(self, seen: str, dataset: str) -> Route | None:
        """How having seen all of `seen` exposes `dataset`: the surest way, then the shortest; None if there is none.

        Names that the graph lacks lead nowhere but to themselves.
        """
        queue: list[tuple[bool, int, tuple[str, ...], _State, tuple[Edge, ...]]] = [(False, 1, (seen,), _START, ())]
        done: set[tuple[str, _State]] = set()
        while queue:
            likely, length, nodes, state, edges = heapq.heappop(queue)
            if nodes[-1] == dataset:
                return Route(nodes, edges, certain=not likely)
            if (nodes[-1], state) in done:
                continue
            done.add((nodes[-1], state))
            for move, corpus, edge in self._steps.get(nodes[-1], ()):
                then = _after(state, move)
                if then and corpus not in nodes:
                    unsure = likely or edge.strength == "likely" or then.shared == "perhaps"
                    heapq.heappush(queue, (unsure, length + 1, (*nodes, corpus), then, (*edges, edge)))
        return None


# One step from corpus to corpus: to a part of it, to a whole that has it, to what it was drawn from, to what was drawn
# from it, or sideways to what overlaps it.
Move = Literal["part", "whole", "from", "into", "side"]
_MOVES: Mapping[Kind, tuple[Move, Move]] = {
    "contains": ("part", "whole"),
    "derived_from": ("from", "into"),
    "overlaps": ("side", "side"),
    "same_source": ("side", "side"),
}
# Sharing images does not pass from pair to pair: ChestX-ray14 and MSD both gave images to SLAKE and share none. So the
# moves of a way follow this order: parts of what was seen, up to sources, once sideways, down again, up to wholes.
_ORDER: Sequence[Mapping[Move, int]] = (
    {"part": 0, "whole": 1, "from": 1, "side": 2, "into": 3},
    {"part": 3, "whole": 1, "from": 1, "side": 2, "into": 3},
    {"part": 3, "whole": 4, "into": 3},
    {"part": 3, "whole": 4, "into": 3},
    {"whole": 4},
)
# What is seen relates to the corpus reached: has all of it, is a part of it, shares images, or perhaps does.
Shared = Literal["all", "part", "some", "perhaps"]
_THEN: Mapping[tuple[Shared, Shared], Shared] = {
    ("all", "all"): "all",
    ("all", "part"): "some",
    ("all", "some"): "some",
    ("part", "part"): "part",
    ("some", "part"): "some",
}
_SHARES: Mapping[Move, Shared] = {"part": "all", "whole": "part", "from": "some", "into": "some", "side": "some"}


@dataclass(frozen=True, order=True)
class _State:
    phase: int
    shared: Shared
    last: Move


_START = _State(0, "all", "part")


def _after(state: _State, move: Move) -> _State | None:
    # Two named parts of one collection are different images; two draws from one source may not be.
    if state.last == "whole" and move == "part":
        return None
    phase = _ORDER[state.phase].get(move)
    if phase is None:
        return None
    return _State(phase, _THEN.get((state.shared, _SHARES[move]), "perhaps"), move)


@cache
def load_graph(path: Path = GRAPH) -> Graph:
    """The graph of `corpora.yaml`.

    Raises:
        MissingError: There is no such file.
        InputError: It is no YAML, breaks the schema, or an edge names what is not there; lists every place.
    """
    tree = read_yaml(path, "graph of corpora")
    problems = schema_problems(tree, "corpora.schema.json", path.name) or list(_edge_problems(tree, path.name))
    if problems:
        raise InputError(problems)
    return Graph(
        corpora={name: Corpus(name, **_with_tuple(entry)) for name, entry in tree["nodes"].items()},
        edges=tuple(Edge(a, kind, b, strength, source) for (a, kind, b), strength, source in tree["edges"]),
        sources={key: (entry["text"], entry["url"]) for key, entry in tree["sources"].items()},
    )


def _with_tuple(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "modalities": tuple(entry["modalities"])}


def _edge_problems(tree: Mapping[str, Any], file: str) -> Iterator[Problem]:
    pairs: set[frozenset[str]] = set()
    for n, ((a, _, b), _, source) in enumerate(tree["edges"]):
        place = f"$.edges[{n}]"
        for name in {a, b} - tree["nodes"].keys():
            yield Problem("an edge names an unknown corpus", file, place, "a key of nodes", name)
        if source not in tree["sources"]:
            yield Problem("an edge names an unknown source", file, place, "a key of sources", source)
        if a == b or frozenset((a, b)) in pairs:
            yield Problem("an edge stands twice or leads to itself", file, place, "one edge a pair", f"{a}, {b}")
        pairs.add(frozenset((a, b)))


def verdict(
    dataset: str,
    declared: Iterable[str] | None,
    card: Iterable[str] | None,
    inherited: Mapping[str, Iterable[str] | None],
    graph: Graph | None = None,
) -> Verdict:
    """What a model's training says about a data set.

    Args:
        dataset: Name of the task's data set, a node of the graph.
        declared: Corpora that submitters of this model or adapter declare; empty if it saw no image beyond its bases,
            None if nobody declared. A declaration adds to the card and never takes away from it. An empty one says
            nothing where neither a card nor a base is known.
        card: Corpora of the model's own training by its card; None if it has no card, as any new adapter.
        inherited: Base model -> the corpora of its own training; None where nothing is known of them.
        graph: Another graph than the one vlmed ships.
    """
    graph = graph or load_graph()
    own = None if declared is None and card is None else sorted({*(declared or ()), *(card or ())})
    if own == [] and card is None and not inherited:
        return Verdict("unknown", (), "it declares no images beyond those of its bases, and none of these is known")
    known = [("", own), *((base, None if c is None else sorted(set(c))) for base, c in inherited.items())]
    findings = [finding for base, corpora in known for finding in _findings(dataset, base, corpora, graph)]
    exposed = [route for route in findings if isinstance(route, _Exposure)]
    if exposed:
        return min(exposed, key=lambda found: (not found.route.certain, len(found.route.nodes))).verdict()
    unknown = [finding for finding in findings if isinstance(finding, Verdict)]
    return unknown[0] if unknown else Verdict("clean", (), _clean_reason(dataset, known))


@dataclass(frozen=True)
class _Exposure:
    base: str
    route: Route

    def verdict(self) -> Verdict:
        subject = f"its base {self.base}" if self.base else "the model"
        steps = "; ".join([f"{subject} was trained on {self.route.nodes[0]}", *map(str, self.route.edges)])
        path = (self.base, *self.route.nodes) if self.base else self.route.nodes
        return Verdict("exposed", path, f"{'certain' if self.route.certain else 'likely'}: {steps}")


def _findings(dataset: str, base: str, corpora: Sequence[str] | None, graph: Graph) -> Iterator[_Exposure | Verdict]:
    """Whatever keeps a verdict from being clean."""
    of = f"its base {base}" if base else "the model"
    at = (base,) if base else ()
    if corpora is None:
        yield Verdict("unknown", at, f"nothing is known of what {of} was trained on")
        return
    for name in corpora:
        if route := graph.route(name, dataset):
            yield _Exposure(base, route)
        elif name not in graph.corpora:
            yield Verdict(
                "unknown", (*at, name), f"{of} was trained on {name}, which the graph lacks{_near(name, graph)}"
            )
        elif why := graph.corpora[name].unlisted:
            yield Verdict("unknown", (*at, name), f"{of} was trained on {name}: {why}")
    if dataset not in graph.corpora:
        yield Verdict("unknown", (), f"the graph lacks the data set {dataset}")


def _near(name: str, graph: Graph) -> str:
    near = difflib.get_close_matches(name, graph.corpora, n=1)
    return f" (is it {near[0]}?)" if near else ""


def _clean_reason(dataset: str, known: Iterable[tuple[str, Sequence[str] | None]]) -> str:
    corpora = sorted({name for _, names in known for name in names or ()})
    if not corpora:
        return "it was trained on no images"
    return f"no way leads from {', '.join(corpora)} to {dataset}"
