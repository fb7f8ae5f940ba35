import json
from importlib import resources

import pytest
import referencing
import yaml
from jsonschema import Draft202012Validator

from vlmed.errors import UsageError
from vlmed.leakage.contamination import load_graph, verdict
from vlmed.models.cards import CARDS, Card, card, find_card, load_cards

TREE = yaml.safe_load(CARDS.read_text("utf-8"))
SCHEMAS = resources.files("vlmed") / "schemas"


def schema(name):
    return json.loads((SCHEMAS / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def validator():
    shared = referencing.Resource.from_contents(schema("corpora.schema.json"))
    registry = referencing.Registry().with_resource(shared.id(), shared)
    return Draft202012Validator(schema("cards.schema.json"), registry=registry)


def test_the_cards_follow_their_schema(validator):
    assert [error.message for error in validator.iter_errors(TREE)] == []


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": "7B"},
        {"parameters": 0},
        {"kind": "oracle"},
        {"domain": "veterinary"},
        {"modalities": ["telepathy"]},
        {"modalities": []},
        {"refs": ["Vinid/PLIP"]},
        {"refs": ["vinid/plip@main"]},
        {"paper": {"text": "A paper"}},
        {"secret": True},
        {"licence": ""},
    ],
)
def test_the_schema_refuses(validator, change):
    assert not validator.is_valid({"plip": {**TREE["plip"], **change}})


def test_no_card_stands_twice():
    class Unique(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), keys
            return super().construct_mapping(node, deep)

    assert yaml.load(CARDS.read_text("utf-8"), Unique).keys() == load_cards().keys()


@pytest.mark.parametrize("name", load_cards())
def test_corpora_bases_and_modalities_are_known(name):
    graph, found = load_graph(), card(name)
    assert set(found.corpora) <= graph.corpora.keys()
    assert set(found.base) <= load_cards().keys()
    assert found.parameters == float(f"{found.parameters:.3g}"), "rounded to three digits"
    parents = {modality for parent in found.inherited() for modality in card(parent).modalities}
    assert parents <= set(found.modalities), "what a base saw, the model saw"
    assert found.refs or found.weights


@pytest.mark.parametrize("name", load_cards())
def test_a_medical_system_saw_more_than_natural_images(name):
    if card(name).domain == "medical":
        assert set(card(name).modalities) - {"natural"}


# Reference as people write it -> card.
REFERENCES = {
    "openai/clip-vit-base-patch32": "clip_vit_b32_openai",
    "hf:openai/clip-vit-base-patch32@3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268": "clip_vit_b32_openai",
    "openai/clip-vit-base-patch16": "clip_vit_b16_openai",
    "openai/clip-vit-large-patch14": "clip_vit_l14_openai",
    "openai/clip-vit-large-patch14-336": "clip_vit_l14_336_openai",
    "open_clip:ViT-B-32/openai": "clip_vit_b32_openai",
    "open_clip:ViT-B-32-quickgelu/openai": "clip_vit_b32_openai",
    "open_clip:ViT-B-32/laion2b_s34b_b79k": "clip_vit_b32_laion2b",
    "open_clip:laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "clip_vit_b32_laion2b",
    "laion/CLIP-ViT-L-14-laion2B-s32B-b82K": "clip_vit_l14_laion2b",
    "open_clip:ViT-B-16/laion400m_e32": "clip_vit_b16_laion400m",
    "open_clip:ViT-L-14/openai": "clip_vit_l14_openai",
    "open_clip:ViT-L-14-336/openai": "clip_vit_l14_336_openai",
    "google/siglip-base-patch16-224": "siglip_base",
    "open_clip:ViT-B-16-SigLIP/webli": "siglip_base",
    "open_clip:ViT-B-16-SigLIP-384/webli": "siglip_base",
    "google/siglip2-base-patch16-224": "siglip2_base",
    "open_clip:ViT-B-16-SigLIP2-256/webli": "siglip2_base",
    "open_clip:ViT-SO400M-14-SigLIP/webli": "siglip_so400m",
    "open_clip:ViT-SO400M-16-SigLIP2-384/webli": "siglip2_so400m",
    "Salesforce/blip2-itm-vit-g": "blip2_itm_vit_g",
    "Salesforce/blip2-opt-2.7b": "blip2_opt_2_7b",
    "open_clip:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224": "biomedclip",
    "vinid/plip": "plip",
    "hf:datasets/axiong/pmc_oa": "pmc_clip",
    "datasets/axiong/pmc_oa_beta@main": "pmc_clip",
    "flaviagiammarino/pubmed-clip-vit-base-patch32": "pubmedclip",
    "google/medsiglip-448": "medsiglip",
    "google/medgemma-4b-it": "medgemma_4b",
    "google/medgemma-4b-pt": "medgemma_4b",
    "google/medgemma-1.5-4b-it": "medgemma_1_5_4b",
    "llava-hf/llava-1.5-7b-hf": "llava_1_5_7b",
    "microsoft/llava-med-v1.5-mistral-7b": "llava_med_1_5",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl_7b",
    "OpenGVLab/InternVL3-8B": "internvl3_8b",
    "lingshu-medical-mllm/Lingshu-7B": "lingshu_7b",
    "microsoft/rad-dino": "rad_dino",
    "microsoft/resnet-50": "resnet_50",
}


@pytest.mark.parametrize(("ref", "name"), REFERENCES.items())
def test_known_references_find_their_card(ref, name):
    assert find_card(ref).name == name


# What the benchmark promises to run, by name.
SYSTEMS = [
    "clip_vit_b32_openai",
    "clip_vit_b16_openai",
    "clip_vit_l14_openai",
    "clip_vit_b32_laion2b",
    "clip_vit_b16_laion2b",
    "clip_vit_l14_laion2b",
    "clip_vit_b32_laion400m",
    "clip_vit_b16_laion400m",
    "clip_vit_l14_laion400m",
    "siglip_base",
    "siglip2_base",
    "blip2_itm_vit_g",
    "blip2_opt_2_7b",
    "medclip_vit",
    "medclip_resnet50",
    "biomedclip",
    "plip",
    "pubmedclip",
    "pmc_clip",
    "cxr_clip_m",
    "cxr_clip_mc",
    "cxr_clip_mcc",
    "medsiglip",
    "llava_1_5_7b",
    "llava_1_5_13b",
    "llava_med_1_5",
    "medgemma_4b",
    "medgemma_1_5_4b",
    "qwen2_5_vl_3b",
    "qwen2_5_vl_7b",
    "internvl2_5_8b",
    "internvl3_8b",
]


def test_every_promised_system_has_a_card():
    assert set(SYSTEMS) <= load_cards().keys()


@pytest.mark.parametrize(
    "ref",
    [
        "axiong/pmc_oa",
        "someone/plip",
        "vinid/plip-finetuned",
        "my-org/clip-vit-base-patch32",
        "google/medgemma-4b-xt",
        "open_clip:ViT-B-32/datacomp_xl_s13b_b90k",
        "dir:./vinid/plip",
        "endpoint:http://localhost:8000/v1#llava",
        "control:random",
        "control:blank/vinid/plip",
    ],
)
def test_strangers_have_no_card(ref):
    assert find_card(ref) is None


@pytest.mark.parametrize("ref", ["", "ftp:model", "a b", "hf:../plip"])
def test_what_is_no_reference_is_refused(ref):
    with pytest.raises(UsageError):
        find_card(ref)


def test_a_reference_matches_one_card_only(monkeypatch):
    for ref, name in REFERENCES.items():
        others = {other: found for other, found in load_cards().items() if other != name}
        monkeypatch.setattr("vlmed.models.cards.load_cards", lambda others=others: others)
        assert find_card(ref) is None, ref
        monkeypatch.undo()


def test_an_unknown_card_gets_the_nearest_name():
    with pytest.raises(UsageError, match="'biomedclip'"):
        card("biomed_clip")


def test_inheritance_goes_up_to_the_first_ancestor():
    assert card("medgemma_4b").inherited() == {
        "medsiglip": card("medsiglip").corpora,
        "siglip_so400m": ("webli",),
        "gemma_3_4b": ("gemma_images",),
    }
    assert card("clip_vit_b32_openai").inherited() == {}


# The in-domain map for classification of Zhong et al. (arXiv 2506.17337).
IN_DOMAIN = {
    "medclip_vit": {"chexpert"},
    "pubmedclip": {"chexpert"},
    "biomedclip": {"chexpert", "ham10000", "camelyon17"},
    "plip": {"camelyon17"},
    "medsiglip": {"chexpert", "camelyon17", "papila", "ham10000"},
    "clip_vit_b32_openai": set(),
}


@pytest.mark.parametrize("name", IN_DOMAIN)
def test_domains_are_those_of_the_paper(name):
    corpora = load_graph().corpora
    sets = ("chexpert", "ham10000", "camelyon17", "papila", "gf3300", "fairvlmed")
    assert {one for one in sets if card(name).overlap(corpora[one].modalities) == "in"} == IN_DOMAIN[name]


def test_some_of_several_modalities_is_partly():
    slake = load_graph().corpora["slake"].modalities
    assert card("medclip_vit").overlap(slake) == "partly"
    assert card("pubmedclip").overlap(slake) == "in"
    assert card("plip").overlap(slake) == "out"


# Verdicts on famous models, as their papers and cards have it.
VERDICTS = [
    ("pubmedclip", "roco_radiology", "exposed", ("roco", "roco_radiology")),
    ("biomedclip", "roco_radiology", "exposed", ("pmc_15m", "pubmed_central", "roco", "roco_radiology")),
    ("biomedclip", "breastmnist", "clean", ()),
    ("medclip_vit", "chexpert", "exposed", ("chexpert",)),
    ("medclip_vit", "pneumoniamnist", "clean", ()),
    ("cxr_clip_m", "chexpert", "clean", ()),
    ("cxr_clip_mcc", "slake", "exposed", ("chestxray14", "slake")),
    ("medgemma_4b", "vqa_rad", "exposed", ("vqa_rad",)),
    ("medsiglip", "camelyon17", "exposed", ("camelyon", "camelyon17_slides", "camelyon17")),
    ("medgemma_1_5_4b", "ham10000", "exposed", ("isic_part", "isic_archive", "ham10000")),
    ("lingshu_7b", "fairvlmed", "exposed", ("fairvlmed",)),
    ("plip", "camelyon17", "unknown", ("openpath",)),
    ("rad_dino", "papila", "unknown", ("dinov2_base", "lvd_142m")),
    ("clip_vit_b32_openai", "breastmnist", "unknown", ("wit_400m",)),
]


@pytest.mark.parametrize(("name", "dataset", "status", "path"), VERDICTS)
def test_verdicts_on_famous_models(name, dataset, status, path):
    known: Card = card(name)
    found = verdict(dataset, None, known.corpora, known.inherited())
    assert (found.status, found.path) == (status, path)
