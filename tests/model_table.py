"""The table of docs/models.md, and the tests that back each of its cells.

python tests/model_table.py      # writes the table into docs/models.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from families import TRACKS

DOCUMENT = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- table: python tests/model_table.py -->", "<!-- end of table -->"

PHANTOMS = "evaluate/test_model_matrix.py::test_from_the_hub_by_commit_on_phantoms"
_HF = "models/test_dual_encoders.py::test_transformers_gives_its_own_numbers"
_OPEN_CLIP = "models/test_dual_encoders.py::test_open_clip_gives_its_own_numbers"
_GREEDY = "models/test_generators.py::test_answers_are_those_of_a_plain_greedy_loop"
_SIDES = "models/test_peft_kinds.py::test_one_side_of_a_model_or_all_of_it"
_MERGED = "models/test_model_adapters.py::test_merged_equals_unmerged"
_ENCODER, _GENERATOR = (
    f"models/test_lora_families.py::{name}" for name in ("test_an_encoder_with_a_lora", "test_a_generator_with_a_lora")
)
_STORED = "test_parity_with_stored_outputs_of_the_original"
_ADAPTED = "test_a_lora_of_the_image_tower_loads_as_an_adapter"


@dataclass(frozen=True)
class Evidence:
    """A test that backs a cell.

    Attributes:
        function: `file::function` under tests/.
        parameter: One of its parameters; empty where it has none.
    """

    function: str
    parameter: str = ""


@dataclass(frozen=True)
class Row:
    """One system.

    Attributes:
        title: The system, with its references.
        cards: Names of its cards.
        family: Its tiny checkpoint, by its name in `families.py`.
        parity: What the table says of parity; empty for nothing.
        parity_test: Asserts it with this checkpoint.
        lora_test: Holds a LoRA merged against unmerged.
    """

    title: str
    cards: str
    family: str
    parity: str = ""
    parity_test: Evidence | None = None
    lora_test: Evidence | None = None

    def tests(self) -> list[Evidence]:
        """All that the row rests on."""
        return [each for each in (Evidence(PHANTOMS, self.family), self.parity_test, self.lora_test) if each]


def _dual(title: str, cards: str, family: str, lora: str = "", parity: str = _HF) -> Row:
    return Row(
        title, cards, family, "≤ 1e-5, its library", Evidence(parity, family), Evidence(lora, family) if lora else None
    )


def _generator(title: str, cards: str, family: str) -> Row:
    return Row(
        title, cards, family, "equal answers, its library", Evidence(_GREEDY, family), Evidence(_GENERATOR, family)
    )


def _own(title: str, cards: str, family: str, parity: str, parity_test: Evidence, lora_test: Evidence | None) -> Row:
    return Row(title, cards, family, f"≤ 1e-5, {parity}", parity_test, lora_test)


def _medclip(title: str, card: str, vision: str) -> Row:
    file = "models/test_medclip.py::test"
    stored = Evidence(f"{file}_the_stored_numbers_of_the_original", vision)
    lora = Evidence(f"{file}_a_lora_changes_the_images_and_not_the_texts", vision)
    return _own(title, card, f"medclip_{vision}", "stored outputs of the original (measured 4.8e-7)", stored, lora)


def _pmc_clip(title: str, family: str, layout: str, lora: bool) -> Row:
    file = "models/test_pmc_clip.py"
    adapted = Evidence(f"{file}::{_ADAPTED}") if lora else None
    parity = "stored outputs of the original (measured 3.9e-7)"
    return _own(title, "pmc_clip", family, parity, Evidence(f"{file}::{_STORED}", layout), adapted)


def _cxr_clip(title: str, tower: str) -> Row:
    file, cards = "models/test_cxr_clip.py", "cxr_clip_m cxr_clip_mc cxr_clip_mcc"
    tests = Evidence(f"{file}::{_STORED}", tower), Evidence(f"{file}::{_ADAPTED}", tower)
    return _own(title, cards, f"cxr_clip_{tower}", "stored outputs of the original (measured 3.4e-7)", *tests)


def _llava(title: str, cards: str, family: str, kind: str) -> Row:
    computed = Evidence("models/test_llava.py::test_logits_equal_the_authors_computation", kind)
    return _own(
        title, cards, family, "the authors' computation (measured 9.3e-7)", computed, Evidence(_GENERATOR, family)
    )


_OPENAI = "clip_vit_b32_openai clip_vit_b16_openai clip_vit_l14_openai clip_vit_l14_336_openai"
_LAION = (
    "clip_vit_b32_laion2b clip_vit_b16_laion2b clip_vit_l14_laion2b "
    "clip_vit_b32_laion400m clip_vit_b16_laion400m clip_vit_l14_laion400m"
)

ROWS = (
    _dual("CLIP, `openai/clip-vit-*`", _OPENAI, "clip", _MERGED),
    _dual(
        "CLIP, `open_clip:ViT-*/openai`, `laion/CLIP-ViT-*`", f"{_OPENAI} {_LAION}", "open_clip", _MERGED, _OPEN_CLIP
    ),
    _dual("CLIP with ResNet, open_clip's layout", "", "modified_resnet", _SIDES, _OPEN_CLIP),
    _dual("SigLIP, `google/siglip-*`", "siglip_base siglip_so400m", "siglip_sentencepiece", _ENCODER),
    _dual("SigLIP 2 of fixed resolution, `google/siglip2-*`", "siglip2_base siglip2_so400m", "siglip_gemma", _SIDES),
    _dual("SigLIP, open_clip's layout, `timm/ViT-*-SigLIP*`", "siglip_base", "open_clip_siglip", _ENCODER, _OPEN_CLIP),
    _dual("BLIP-2 for retrieval, `Salesforce/blip2-itm-vit-g`", "blip2_itm_vit_g", "blip2_retrieval", _SIDES),
    _generator("BLIP-2 with OPT, `Salesforce/blip2-opt-2.7b`", "blip2_opt_2_7b", "blip2"),
    _generator("BLIP-2 with T5, `Salesforce/blip2-flan-t5-xl`", "", "blip2_t5"),
    _generator("InstructBLIP, `Salesforce/instructblip-vicuna-7b`", "", "instructblip"),
    _medclip("MedCLIP, ResNet-50", "medclip_resnet50", "resnet"),
    _medclip("MedCLIP, Swin-T", "medclip_vit", "swin"),
    _dual("BiomedCLIP", "biomedclip", "biomedclip", _SIDES, _OPEN_CLIP),
    _dual("PLIP, PubMedCLIP", "plip pubmedclip", "clip", _MERGED),
    _pmc_clip("PMC-CLIP, `checkpoint.pt`", "pmc_clip", "checkpoint", lora=True),
    _pmc_clip("PMC-CLIP, three files", "pmc_clip_encoders", "encoders", lora=False),
    _cxr_clip("CXR-CLIP, ResNet-50", "resnet"),
    _cxr_clip("CXR-CLIP, Swin-T", "swin"),
    _dual("MedSigLIP", "medsiglip", "siglip_sentencepiece", _ENCODER),
    _llava("LLaVA 1.5, the authors' layout", "llava_1_5_7b llava_1_5_13b", "llava_original", "llava"),
    _generator("LLaVA 1.5, transformers' layout", "llava_1_5_7b llava_1_5_13b", "llava"),
    _llava("LLaVA-Med 1.5, the authors' layout", "llava_med_1_5", "llava_med_original", "llava_mistral"),
    _generator("MedGemma, Gemma 3", "medgemma_4b medgemma_1_5_4b gemma_3_4b", "gemma"),
    _generator("PaliGemma", "", "paligemma"),
    _generator("Qwen2.5-VL, Lingshu", "qwen2_5_vl_3b qwen2_5_vl_7b lingshu_7b", "qwen"),
    _generator("InternVL, `OpenGVLab/InternVL3-*-hf`", "internvl3_8b", "internvl"),
    _dual("AIMv2", "", "aimv2"),
    _dual("ALIGN", "", "align"),
    _dual("AltCLIP", "", "altclip"),
    _dual("BLIP", "", "blip"),
    _dual("BLIP for retrieval, `Salesforce/blip-itm-base-coco`", "", "blip_retrieval"),
    _dual("Chinese-CLIP", "", "chinese_clip"),
    _dual("CLIPSeg", "", "clipseg"),
    _dual("CoCa, open_clip's layout", "", "coca", parity=_OPEN_CLIP),
    _dual("open_clip with a tokenizer of its own", "", "open_clip_hf_tokenizer", parity=_OPEN_CLIP),
    _dual("FLAVA", "", "flava"),
    _dual("GroupViT", "", "groupvit"),
    _dual("MetaCLIP 2", "", "metaclip_2"),
    _dual("OWL-ViT", "", "owlvit"),
    _dual("OWLv2", "", "owlv2"),
    _dual("TIPSv2", "", "tipsv2"),
    _dual("`VisionTextDualEncoderModel`", "", "vision-text-dual-encoder"),
    Row("ViT, transformers", "vit_b16_imagenet21k", "vit", lora_test=Evidence(_ENCODER, "vit")),
    Row("ResNet, transformers", "resnet_50", "resnet", lora_test=Evidence(_ENCODER, "resnet")),
    Row("timm's image models", "dinov2_base", "timm", lora_test=Evidence(_ENCODER, "timm")),
)


def table() -> str:
    """The table in Markdown."""
    head = ["system", "loads published layout", "parity", "zero-shot", "probe", "LoRA", "generates", "tiny checkpoint"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *map(_cells, ROWS)])


def _cells(row: Row) -> list[str]:
    can = set(TRACKS[row.family])
    marks = (
        bool({"zero_shot", "zero_shot_choice"} & can),
        "linear_probe" in can,
        row.lora_test is not None,
        {"zero_shot_choice", "zero_shot_vqa"} <= can,
    )
    return [row.title, "yes", row.parity or "–", *("yes" if mark else "–" for mark in marks), f"`{row.family}`"]


def document(text: str) -> str:
    """The document with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text("utf-8")), "utf-8")
