import itertools
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmed.errors import InputError, MissingError
from vlmed.leakage.contamination import GRAPH, STANDING, Verdict, load_graph, verdict
from vlmed.suite.load import load_suite

SHIPPED = load_graph()
TASKS = sorted(load_suite().datasets)
CORPORA = sorted(SHIPPED.corpora)


@pytest.fixture
def make_graph(tmp_path):
    """Write and load a graph from edges such as `"a contains b"` or `"a overlaps b ~"` (likely)."""
    count = itertools.count()

    def make(*sentences, unlisted=(), nodes=()):
        words = [sentence.split() for sentence in sentences]
        names = {*nodes, *unlisted, *(name for a, _, b, *_ in words for name in (a, b))}
        entry = {"title": "t", "homepage": "", "modalities": ["xray"]}
        tree = {
            "sources": {"paper": {"text": "A paper", "url": "https://example.org"}},
            "nodes": {name: {**entry, **({"unlisted": "a crawl"} if name in unlisted else {})} for name in names},
            "edges": [[[a, kind, b], "likely" if rest else "certain", "paper"] for a, kind, b, *rest in words],
        }
        path = tmp_path / f"{next(count)}.yaml"
        path.write_text(yaml.safe_dump(tree), "utf-8")
        return load_graph(path)

    return make


class _Unique(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice near line {node.start_mark.line}"
        return super().construct_mapping(node, deep)


# The shipped graph


def test_no_key_of_the_graph_stands_twice():
    assert yaml.load(GRAPH.read_text("utf-8"), _Unique)


def test_every_data_set_of_the_suite_is_a_node():
    assert set(TASKS) <= SHIPPED.corpora.keys()


def test_every_source_is_used():
    assert SHIPPED.sources.keys() == {edge.source for edge in SHIPPED.edges}


def test_what_holds_an_unlisted_corpus_is_unlisted_itself():
    lists = {edge.a for edge in SHIPPED.edges if edge.kind == "contains" and SHIPPED.corpora[edge.b].unlisted}
    assert {name for name in lists if not SHIPPED.corpora[name].unlisted} == set()


def test_a_part_has_no_modality_that_its_whole_lacks():
    wrong = {
        (edge.a, edge.b)
        for edge in SHIPPED.edges
        if edge.kind == "contains"
        and not set(SHIPPED.corpora[edge.b].modalities) <= set(SHIPPED.corpora[edge.a].modalities)
    }
    assert wrong == set()


@pytest.mark.parametrize("dataset", TASKS)
def test_having_seen_the_data_set_itself_is_certain(dataset):
    assert verdict(dataset, [dataset], None, {}) == Verdict(
        "exposed", (dataset,), f"certain: the model was trained on {dataset}"
    )


# Shared origins that are known from the publishers: what was seen, the task's data set, and whether it is certain.
KNOWN = [
    ("ham10000", "dermamnist", True),
    ("dermamnist", "ham10000", True),
    ("isic_archive", "ham10000", True),
    ("isic_2019", "ham10000", True),
    ("kermany_cxr", "pneumoniamnist", True),
    ("pneumoniamnist_224", "pneumoniamnist", True),
    ("busi", "breastmnist_224", True),
    ("lits", "organcmnist", True),
    ("msd", "organamnist", True),
    ("organsmnist", "organcmnist", True),
    ("pubmed_central", "roco_mixed", True),
    ("pmc_oa", "roco_radiology", False),
    ("pmc_15m", "roco_nonradiology", False),
    ("pmc_vqa", "roco_radiology", False),
    ("llava_med_instruct", "roco_mixed", False),
    ("rocov2", "roco_radiology", True),
    ("chestxray14", "slake", True),
    ("chaos", "slake", True),
    ("chestmnist", "slake", False),
    ("slake", "organamnist", False),
    ("medpix", "vqa_rad", True),
    ("vqa_med_2019", "vqa_rad", False),
    ("peir", "pathvqa", True),
    ("camelyon", "camelyon17", True),
    ("patch_camelyon", "camelyon17", False),
    ("chexpert_plus", "chexpert", True),
    ("fairvlmed", "fairvlmed_vqa", True),
    ("fairvision", "gf3300", False),
]
# Neighbours in the graph that share no image.
APART = [
    ("chestxray14", "organamnist"),  # both gave images to SLAKE
    ("organamnist", "chexpert"),
    ("pneumoniamnist", "breastmnist"),  # both in MedMNIST
    ("bcn20000", "ham10000"),  # both in ISIC 2019
    ("roco_radiology", "roco_nonradiology"),
    ("mimic_cxr", "chexpert"),
    ("kermany_oct", "pneumoniamnist"),
    ("vqa_rad", "slake"),
    ("imagenet_21k", "ham10000"),
]


@pytest.mark.parametrize(("seen", "dataset", "certain"), KNOWN)
def test_known_origins_expose(seen, dataset, certain):
    route = SHIPPED.route(seen, dataset)
    assert route is not None
    assert (route.nodes[0], route.nodes[-1], route.certain) == (seen, dataset, certain)
    assert len(route.edges) == len(route.nodes) - 1


@pytest.mark.parametrize(("seen", "dataset"), APART)
def test_neighbours_without_a_common_image_are_clean(seen, dataset):
    assert verdict(dataset, [seen], None, {}).status == "clean"


@pytest.mark.parametrize("seen", sorted(name for name in CORPORA if SHIPPED.corpora[name].unlisted))
def test_the_web_is_never_clean(seen):
    assert {verdict(dataset, [seen], None, {}).status for dataset in TASKS} <= {"unknown", "exposed"}


def test_the_other_corpora_are_clean_for_the_phantom():
    listed = [name for name in CORPORA if not SHIPPED.corpora[name].unlisted and not name.startswith("phantom")]
    assert verdict("phantom", listed, None, {}).status == "clean"


def test_the_docs_show_the_graph_as_it_is():
    """Replace the table of docs/contamination.md by the expected one if this fails."""
    rows = ["| what is known | how sure | source |", "|---|---|---|"]
    for edge in SHIPPED.edges:
        text, url = SHIPPED.sources[edge.source]
        rows.append(f"| {edge} | {edge.strength} | [{text}]({url}) |")
    rows += ["", "| corpus that nobody can list | why |", "|---|---|"]
    rows += [f"| {name} | {corpus.unlisted} |" for name, corpus in SHIPPED.corpora.items() if corpus.unlisted]
    docs = (Path(__file__).parents[2] / "docs" / "contamination.md").read_text("utf-8")
    assert docs.partition("<!-- graph -->\n")[2].partition("\n<!-- /graph -->")[0] == "\n".join(rows)


# How a walk goes


@pytest.mark.parametrize(
    ("edges", "certain"),
    [
        (["a contains b"], True),
        (["b contains a"], True),
        (["a derived_from b"], True),
        (["b derived_from a"], True),
        (["a overlaps b"], True),
        (["a same_source b"], True),
        (["a overlaps b ~"], False),
        (["a contains m", "m contains b"], True),
        (["a contains m", "b derived_from m"], True),
        (["a contains m", "b contains m"], True),
        (["a contains m", "m overlaps b"], True),
        (["b contains m", "m overlaps a"], True),
        (["b contains m", "m derived_from a"], True),
        (["a derived_from m", "b derived_from m"], False),
        (["a derived_from m", "m contains b"], False),
        (["a overlaps m", "b derived_from m"], False),
        (["a derived_from m", "m overlaps b"], False),
        (["m derived_from a", "b derived_from m"], False),
    ],
)
def test_ways_that_lead(make_graph, edges, certain):
    graph = make_graph(*edges)
    assert graph.route("a", "b").certain is certain
    assert graph.route("b", "a") is not None, "sharing images works both ways"


@pytest.mark.parametrize(
    "edges",
    [
        ["m contains a", "m contains b"],
        ["m derived_from a", "m derived_from b"],
        ["a overlaps m", "m overlaps b"],
        ["a same_source m", "m overlaps b"],
        ["m derived_from a", "m overlaps b"],
        ["a overlaps m", "m derived_from b"],
        ["a contains x", "y contains b"],
    ],
)
def test_ways_that_do_not_lead(make_graph, edges):
    graph = make_graph(*edges)
    assert graph.route("a", "b") is None
    assert graph.route("b", "a") is None


def test_the_surest_way_comes_before_the_shortest(make_graph):
    graph = make_graph("a overlaps b ~", "a contains m", "m contains b")
    assert graph.route("a", "b").nodes == ("a", "m", "b")


def test_a_circle_ends(make_graph):
    graph = make_graph("a derived_from b", "b derived_from c", "c derived_from a", nodes=["d"])
    assert graph.route("a", "d") is None


@settings(max_examples=200)
@given(st.sampled_from(CORPORA), st.sampled_from(CORPORA))
def test_sharing_images_works_both_ways(a, b):
    there, back = SHIPPED.route(a, b), SHIPPED.route(b, a)
    assert (there is None) == (back is None)


# Verdicts


def test_the_path_and_the_reason_name_every_step(make_graph):
    graph = make_graph("pmc contains roco", "crops derived_from pmc")
    found = verdict("roco", None, ["crops"], {}, graph)
    assert found.path == ("crops", "pmc", "roco")
    assert found.reason == "likely: the model was trained on crops; crops is derived from pmc; pmc contains roco"


def test_a_base_is_inherited_and_named(make_graph):
    graph = make_graph("pmc contains roco", nodes=["own"])
    found = verdict("roco", ["own"], None, {"parent": ["own"], "grandparent": ["pmc"]}, graph)
    assert (found.status, found.path) == ("exposed", ("grandparent", "pmc", "roco"))
    assert "its base grandparent was trained on pmc" in found.reason


def test_a_certain_way_of_a_base_comes_before_a_likely_one_of_its_own(make_graph):
    graph = make_graph("x overlaps task ~", "y contains task")
    assert verdict("task", ["x"], None, {"base": ["y"]}, graph).path == ("base", "y", "task")


@pytest.mark.parametrize(
    ("declared", "card", "inherited", "path"),
    [
        (None, None, {}, ()),
        (None, None, {"base": ["listed"]}, ()),
        ([], None, {"base": None}, ("base",)),
        ([], None, {}, ()),
        (["web"], None, {}, ("web",)),
        (None, ["listed", "web"], {}, ("web",)),
        (["in_house"], None, {}, ("in_house",)),
        ([], None, {"base": ["web"]}, ("base", "web")),
    ],
)
def test_what_is_not_known_is_unknown(make_graph, declared, card, inherited, path):
    graph = make_graph(unlisted=["web"], nodes=["listed", "task"])
    found = verdict("task", declared, card, inherited, graph)
    assert (found.status, found.path) == ("unknown", path)
    assert found.reason


def test_a_misspelt_corpus_gets_the_nearest_name():
    assert "is it chexpert?" in verdict("papila", ["chexprt"], None, {}).reason


def test_a_data_set_that_the_graph_lacks_is_unknown_unless_it_was_seen():
    assert verdict("new_set", ["imagenet_1k"], None, {}).status == "unknown"
    assert verdict("new_set", ["new_set"], None, {}).status == "exposed"


def test_an_exposure_outweighs_what_is_unknown():
    found = verdict("roco_radiology", ["webli", "in_house", "roco"], None, {"base": None})
    assert found.path == ("roco", "roco_radiology")


def test_a_declaration_does_not_take_away_from_the_card():
    assert verdict("chexpert", ["imagenet_1k"], ["chexpert"], {}).status == "exposed"


def test_known_corpora_that_reach_nothing_are_clean():
    found = verdict("breastmnist", [], ["pmc_15m"], {"vit": ["imagenet_21k"]})
    assert (found.status, found.path) == ("clean", ())
    assert found.reason == "no way leads from imagenet_21k, pmc_15m to breastmnist"
    assert verdict("breastmnist", [], None, {"random_weights": []}).reason == "it was trained on no images"


INHERITED = st.dictionaries(st.sampled_from(["b1", "b2"]), st.none() | st.lists(st.sampled_from(CORPORA), max_size=3))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(TASKS),
    st.lists(st.sampled_from([*CORPORA, "in_house", "secret"]), max_size=4),
    INHERITED,
)
def test_an_honest_declaration_never_ranks_below_silence(dataset, declared, inherited):
    silence = verdict(dataset, None, None, inherited)
    honesty = verdict(dataset, declared, None, inherited)
    assert silence.status != "clean", "nobody is cleared by saying nothing"
    assert STANDING[honesty.status] <= STANDING[silence.status]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TASKS), st.lists(st.sampled_from(CORPORA), max_size=4), st.sampled_from(CORPORA), INHERITED)
def test_knowing_more_never_makes_a_model_cleaner(dataset, corpora, more, inherited):
    before, after = (verdict(dataset, None, known, inherited) for known in (corpora, [*corpora, more]))
    order = ["clean", "unknown", "exposed"]
    assert order.index(after.status) >= order.index(before.status)


def test_unknown_is_no_better_than_exposed():
    assert STANDING["clean"] < STANDING["exposed"] <= STANDING["unknown"]


# Bad graphs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not YAML"),
        ("sources: {}", "'nodes' is a required property"),
        (b"\xff\xfe\x00", "not YAML"),
    ],
)
def test_a_damaged_graph_is_refused(tmp_path, text, said):
    path = tmp_path / "corpora.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=said):
        load_graph(path)


def test_a_missing_graph_is_named(tmp_path):
    with pytest.raises(MissingError, match="no such graph"):
        load_graph(tmp_path / "none.yaml")


def test_every_broken_edge_is_listed(tmp_path):
    tree = yaml.safe_load(GRAPH.read_text("utf-8"))
    count = len(tree["edges"])
    first = tree["edges"][0][0]
    tree["edges"] += [
        [["chexpert", "contains", "nothing"], "certain", "medmnist"],
        [["chexpert", "overlaps", "papila"], "certain", "hearsay"],
        [["chexpert", "overlaps", "chexpert"], "likely", "medmnist"],
        [[first[2], "overlaps", first[0]], "likely", "medmnist"],
    ]
    path = tmp_path / "corpora.yaml"
    path.write_text(yaml.safe_dump(tree), "utf-8")
    with pytest.raises(InputError) as caught:
        load_graph(path)
    assert [(problem.path, problem.got) for problem in caught.value.problems] == [
        (f"$.edges[{count}]", "nothing"),
        (f"$.edges[{count + 1}]", "hearsay"),
        (f"$.edges[{count + 2}]", "chexpert, chexpert"),
        (f"$.edges[{count + 3}]", f"{first[2]}, {first[0]}"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["edges"].append([["chexpert", "eats", "papila"], "certain", "medmnist"]),
        lambda tree: tree["edges"].append([["chexpert", "contains", "papila"], "sure", "medmnist"]),
        lambda tree: tree["edges"].append([["chexpert", "contains", "papila"], "certain"]),
        lambda tree: tree["nodes"]["chexpert"].update(modalities=[]),
        lambda tree: tree["nodes"]["chexpert"].update(modalities=["telepathy"]),
        lambda tree: tree["nodes"]["chexpert"].update(colour="red"),
        lambda tree: tree["nodes"].update({"Che Xpert": tree["nodes"]["chexpert"]}),
        lambda tree: tree["sources"]["medmnist"].pop("url"),
    ],
)
def test_the_schema_refuses(tmp_path, change):
    tree = yaml.safe_load(GRAPH.read_text("utf-8"))
    change(tree)
    path = tmp_path / "corpora.yaml"
    path.write_text(yaml.safe_dump(tree), "utf-8")
    with pytest.raises(InputError) as caught:
        load_graph(path)
    assert caught.value.problems[0].path.startswith("$.")
