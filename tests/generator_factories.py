"""Tiny seeded generators in transformers' layout, each as its family is published: model, processor and chat template.

Every factory fills an empty or absent folder in a second or two and returns it. The weights are random and large, so
that answers depend on image and question; they test plumbing, not skill.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

CLIP_NORM = {"image_mean": [0.481, 0.458, 0.408], "image_std": [0.269, 0.261, 0.276]}
WORDS = ("yes", "no", "left", "lung", "What", "is")

_SIDE = 28
_SQUARE = {"height": _SIDE, "width": _SIDE}
_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = {**_TOWER, "image_size": _SIDE, "patch_size": 14}
_TEXT = {**_TOWER, "num_key_value_heads": 1, "max_position_embeddings": 512}

# The same turns as the published templates, written anew; only what one user's turn and its answer need.
_VICUNA = (
    "{% for message in messages %}{{ message.role.upper() + (':' if message.role == 'assistant' else ': ') }}"
    "{% for part in message.content %}{% if part.type == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for part in message.content %}{% if part.type == 'text' %}"
    "{{ (' ' if message.role == 'assistant' else '') + part.text + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{% for part in message.content %}"
    "{% if part.type == 'image' %}{{ 'IMAGE' }}{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}"
    "{% for part in message.content %}{% if part.type == 'image' %}{{ '<start_of_image>' }}"
    "{% else %}{{ part.text | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def tiny_llava(folder: Path, *, seed: int = 0, template: bool = True, width: int = 32, layers: int = 2) -> Path:
    """Laid out like llava-hf/llava-1.5-7b-hf: CLIP, Llama (of a given width and depth), fixed image size."""
    from transformers import (
        CLIPImageProcessor,
        LlamaTokenizer,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    vocabulary, merges = _pieces(["<unk>", "<s>", "</s>"], _sentencepiece_letters(), "▁")
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
    tokenizer.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<image>"]})
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": _SIDE}, crop_size=_SQUARE, **CLIP_NORM),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_VICUNA if template else None,
    )
    text = {**_TEXT, "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    config = LlavaConfig(
        vision_config={**_VISION, "model_type": "clip_vision_model"},
        text_config={**text, **_ends(tokenizer), "model_type": "llama", "vocab_size": len(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    return _save(folder, LlavaForConditionalGeneration, config, processor, seed)


def tiny_qwen(folder: Path, *, seed: int = 0) -> Path:
    """Laid out like Qwen/Qwen2.5-VL-7B-Instruct: as many image tokens as the image is large, three-part positions."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    image = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
    tokenizer = _qwen_tokenizer(image)
    sizes = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 64}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=sizes, **CLIP_NORM),
        tokenizer,
        Qwen2VLVideoProcessor(size=sizes, **CLIP_NORM),
        chat_template=_CHATML.replace("IMAGE", "".join(image[:3])),
    )
    start, pad, end, video = tokenizer.convert_tokens_to_ids(list(image))
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    vision = {"hidden_size": 32, "intermediate_size": 48, "depth": 2, "num_heads": 2, "out_hidden_size": 32}
    config = Qwen2_5_VLConfig(
        vision_config={**vision, "fullatt_block_indexes": [1], "window_size": 56},
        text_config={**_TEXT, **_ends(tokenizer), "vocab_size": len(tokenizer), "rope_parameters": rope},
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=pad,
        video_token_id=video,
    )
    # What the published generation_config.json says: sampling and a penalty, which a benchmark must not follow.
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.5}
    return _save(folder, Qwen2_5_VLForConditionalGeneration, config, processor, seed, sampling)


def tiny_internvl(folder: Path, *, seed: int = 0) -> Path:
    """Laid out like OpenGVLab/InternVL3-1B-hf: images cut into tiles, Qwen2 as language model."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    marks = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = _qwen_tokenizer(tuple(marks.values()), marks)
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=_SQUARE, min_patches=1, max_patches=4, **CLIP_NORM),
        tokenizer,
        InternVLVideoProcessor(size=_SQUARE, **CLIP_NORM),
        image_seq_length=1,
        chat_template=_CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    config = InternVLConfig(
        vision_config=_VISION,
        text_config={**_TEXT, **_ends(tokenizer), "model_type": "qwen2", "vocab_size": len(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=1,
    )
    return _save(folder, InternVLForConditionalGeneration, config, processor, seed)


def tiny_gemma(folder: Path, *, seed: int = 0) -> Path:
    """Laid out like google/medgemma-4b-it: SigLIP, Gemma 3, image tokens that attend to one another."""
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
    )

    marks = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = _gemma_tokenizer(("<start_of_turn>", "<end_of_turn>", *marks.values()), marks)
    processor = Gemma3Processor(Gemma3ImageProcessor(size=_SQUARE), tokenizer, image_seq_length=4, chat_template=_GEMMA)
    text = {**_TEXT, **_ends(tokenizer), "head_dim": 16, "sliding_window": 16, "vocab_size": len(tokenizer)}
    config = Gemma3Config(
        vision_config={**_VISION, "model_type": "siglip_vision_model"},
        text_config={**text, "layer_types": ["sliding_attention", "full_attention"]},
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    stops = {"eos_token_id": [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]}
    return _save(folder, Gemma3ForConditionalGeneration, config, processor, seed, stops)


def tiny_paligemma(folder: Path, *, seed: int = 0) -> Path:
    """Laid out like google/paligemma2-3b-mix-224: no chat template, a prefix that attends both ways."""
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
    )

    tokenizer = _gemma_tokenizer(("<image>",), {"image_token": "<image>"})
    image_processor = SiglipImageProcessor(size=_SQUARE)
    image_processor.image_seq_length = 4
    processor = PaliGemmaProcessor(image_processor, tokenizer)
    config = PaliGemmaConfig(
        vision_config={**_VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
        text_config={**_TEXT, **_ends(tokenizer), "model_type": "gemma", "head_dim": 16, "vocab_size": len(tokenizer)},
        image_token_index=tokenizer.image_token_id,
        projection_dim=32,
    )
    return _save(folder, PaliGemmaForConditionalGeneration, config, processor, seed)


def tiny_blip2(folder: Path, *, seed: int = 0, t5: bool = False) -> Path:
    """Laid out like Salesforce/blip2-opt-2.7b: Q-Former, OPT with learned positions, no chat template.

    Or like Salesforce/blip2-flan-t5-xl, whose language model is an encoder with a decoder.
    """
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

    tokenizer = _opt_tokenizer()
    processor = Blip2Processor(BlipImageProcessor(size=_SQUARE), tokenizer, num_query_tokens=3)
    parts = _q_former(tokenizer, words=50)
    if t5:
        sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
        ends = {"decoder_start_token_id": tokenizer.pad_token_id, **_ends(tokenizer)}
        parts["text_config"] = {"model_type": "t5", "vocab_size": len(tokenizer), **sizes, **ends}
    return _save(folder, Blip2ForConditionalGeneration, Blip2Config(**parts), processor, seed)


def tiny_instructblip(folder: Path, *, seed: int = 0) -> Path:
    """Laid out like Salesforce/instructblip-vicuna-7b, whose Q-Former reads the prompt too, with OPT as in BLIP-2."""
    from transformers import (
        BertTokenizer,
        BlipImageProcessor,
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
    )

    tokenizer = _opt_tokenizer()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str.lower, WORDS), "?"]
    q_tokenizer = BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})
    processor = InstructBlipProcessor(BlipImageProcessor(size=_SQUARE), tokenizer, q_tokenizer, num_query_tokens=3)
    config = InstructBlipConfig(**_q_former(tokenizer, words=len(pieces)))
    return _save(folder, InstructBlipForConditionalGeneration, config, processor, seed)


def _q_former(tokenizer: Any, words: int) -> dict[str, Any]:
    opt = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2}
    opt |= {"num_attention_heads": 2, "max_position_embeddings": 512, "vocab_size": len(tokenizer)}
    return {
        "vision_config": _VISION,
        "qformer_config": {**_TOWER, "encoder_hidden_size": 32, "vocab_size": words},
        "text_config": {**opt, **_ends(tokenizer), "model_type": "opt"},
        "num_query_tokens": 3,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
    }


MAKERS = {
    "llava": tiny_llava,
    "qwen": tiny_qwen,
    "internvl": tiny_internvl,
    "gemma": tiny_gemma,
    "paligemma": tiny_paligemma,
    "blip2": tiny_blip2,
    "blip2_t5": lambda folder: tiny_blip2(folder, t5=True, seed=1),
    "instructblip": tiny_instructblip,
}


def _save(
    folder: Path, model_class: Any, config: Any, processor: Any, seed: int, generation: dict[str, Any] | None = None
) -> Path:
    torch.manual_seed(seed)
    model = model_class(config)
    for name, parameter in model.named_parameters():
        # Published initialisations are so small that every tiny model would repeat one token whatever it is shown.
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.05 if "embed" in name or "shared" in name else 0.25)
    model.tie_weights()
    for name, value in (generation or {}).items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _ends(tokenizer: Any) -> dict[str, int | None]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(tokenizer, name) for name in names}


def _pieces(special: Sequence[str], letters: Sequence[str], space: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A BPE vocabulary in which the `WORDS` are one token each, with and without the space before them."""
    merges = []
    for word in WORDS:
        merges += [(word[:end], word[end]) for end in range(1, len(word))] + [(space, word)]
    merges = list(dict.fromkeys(merges))
    pieces = dict.fromkeys([*special, *letters, *("".join(pair) for pair in merges)])
    return {piece: index for index, piece in enumerate(pieces)}, merges


def _byte_letters() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def _sentencepiece_letters() -> list[str]:
    letters = ["▁", *string.ascii_letters, *string.digits, *string.punctuation]
    return [*(f"<0x{byte:02X}>" for byte in range(256)), *letters]


def _qwen_tokenizer(special: tuple[str, ...], marks: dict[str, str] | None = None) -> Any:
    from transformers import Qwen2Tokenizer

    vocabulary, merges = _pieces(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special], _byte_letters(), "Ġ")
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, eos_token="<|im_end|>", extra_special_tokens=marks or {}
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *special]})
    return tokenizer


def _gemma_tokenizer(special: tuple[str, ...], marks: dict[str, str]) -> Any:
    from transformers import GemmaTokenizer

    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *special, "\n"]
    vocabulary, merges = _pieces(names, _sentencepiece_letters(), "▁")
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True, extra_special_tokens=marks)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


def _opt_tokenizer() -> Any:
    from transformers import GPT2Tokenizer

    vocabulary, merges = _pieces(["<s>", "<pad>", "</s>", "<unk>"], _byte_letters(), "Ġ")
    special = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = GPT2Tokenizer(vocab=vocabulary, merges=merges, add_bos_token=True, **special)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer
