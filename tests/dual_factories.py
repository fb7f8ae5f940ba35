"""Tiny seeded dual encoders of every family that transformers and open_clip hold, in their published layouts.

`HF` and `OPEN_CLIP` are by name; each maker fills an empty or absent folder and returns it.
"""

from __future__ import annotations

import copy
import io
import shutil
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from factories import (
    CONTEXT,
    EMBEDDING,
    IMAGE_SIZE,
    MEAN,
    SQUARE,
    STD,
    TOWER,
    VISION,
    clip_tokenizer,
    save_transformers,
    tiny_clip,
    tiny_open_clip,
    tiny_siglip,
    write_json,
)

BERT_CONTEXT = 24
QUERIES = 3
# By default BLIP's vision layers begin so close to zero that all images look alike.
_BLIP_VISION = {**VISION, "initializer_range": 0.02}
_PROJECTED = {"projection_dim": EMBEDDING}
_BERT = {**TOWER, "max_position_embeddings": BERT_CONTEXT, "pad_token_id": 0}


def bert_tokenizer(folder: Path) -> Any:
    """A word-piece tokenizer that spells every word."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    pieces += [*letters, *(f"##{letter}" for letter in letters)]
    tokenizer = transformers.BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})
    tokenizer.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return tokenizer


def roberta_tokenizer(folder: Path) -> Any:
    """XLM-RoBERTa's unigram tokenizer over letters; its padding index is 1."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *string.ascii_letters, *string.digits, *string.punctuation]
    vocabulary = [(piece, -float(index)) for index, piece in enumerate([*pieces, "<mask>"])]
    tokenizer = transformers.XLMRobertaTokenizer(vocab=vocabulary)
    tokenizer.save_pretrained(folder)
    return tokenizer


def siglip_tokenizer(folder: Path) -> Any:
    """SigLIP 1's tokenizer, whose vocabulary is a SentencePiece model; it pads with the end of the text."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a chest radiograph shows pneumonia", "the lung is normal", string.printable.strip()]),
        model_writer=trained,
        vocab_size=110,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(trained.getvalue())
    tokenizer = transformers.SiglipTokenizer(vocab_file=str(folder / "spiece.model"), model_max_length=CONTEXT)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _clip_like(folder: Path, kind: str, *, vision: dict[str, Any] | None = None, **options: Any) -> Path:
    """A family whose text side is CLIP's: causal, embedded at the end of the text."""
    tokenizer = clip_tokenizer(folder)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 1}
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, **ends}
    return _dual(folder, kind, text, vision or VISION, **options)


def _dual(folder: Path, kind: str, text: dict[str, Any], vision: dict[str, Any], **options: Any) -> Path:
    """`kind` is how transformers' class names begin."""
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, **options)
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size=SQUARE, image_mean=MEAN, image_std=STD
    )
    return save_transformers(folder, getattr(transformers, f"{kind}Model"), config, processor, seed=0)


def siglip_sentencepiece(folder: Path) -> Path:
    """Like google/siglip-base-patch16-224 and google/medsiglip-448."""
    text = {**TOWER, "vocab_size": len(siglip_tokenizer(folder)), "max_position_embeddings": CONTEXT}
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    return save_transformers(
        folder, transformers.SiglipModel, config, transformers.SiglipImageProcessor(size=SQUARE), seed=0
    )


def align(folder: Path) -> Path:
    """Like kakaobrain/align-base: EfficientNet and BERT."""
    text = {**_BERT, "vocab_size": len(bert_tokenizer(folder))}
    blocks = {
        "kernel_sizes": [3, 3],
        "in_channels": [32, 16],
        "out_channels": [16, 24],
        "depthwise_padding": [],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2],
    }
    vision = {"image_size": IMAGE_SIZE, "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": EMBEDDING}
    vision |= {**blocks, "depth_divisor": 8}
    config = transformers.AlignConfig(text_config=text, vision_config=vision, **_PROJECTED, temperature_init_value=0.25)
    processor = transformers.EfficientNetImageProcessor(size=SQUARE)
    return save_transformers(folder, transformers.AlignModel, config, processor, seed=0)


def altclip(folder: Path) -> Path:
    """Like BAAI/AltCLIP: XLM-RoBERTa, whose positions begin at 2."""
    text = {**_BERT, "vocab_size": len(roberta_tokenizer(folder)), "pad_token_id": 1, "project_dim": 20}
    return _dual(folder, "AltCLIP", text, VISION, **_PROJECTED)


def chinese_clip(folder: Path) -> Path:
    """Like OFA-Sys/chinese-clip-vit-base-patch16: BERT."""
    return _dual(folder, "ChineseCLIP", {**_BERT, "vocab_size": len(bert_tokenizer(folder))}, VISION, **_PROJECTED)


def blip(folder: Path) -> Path:
    """A `BlipModel`, as `AutoModel` saves one."""
    return _dual(folder, "Blip", _blip_text(folder), _BLIP_VISION, **_PROJECTED)


def _blip_text(folder: Path) -> dict[str, Any]:
    return {**_BERT, "vocab_size": len(bert_tokenizer(folder)), "encoder_hidden_size": TOWER["hidden_size"]}


def blip_retrieval(folder: Path) -> Path:
    """Like Salesforce/blip-itm-base-coco."""
    config = transformers.BlipConfig(
        text_config=_blip_text(folder), vision_config=_BLIP_VISION, image_text_hidden_size=EMBEDDING
    )
    processor = transformers.BlipImageProcessor(size=SQUARE)
    return save_transformers(folder, transformers.BlipForImageTextRetrieval, config, processor, seed=0)


def blip2_retrieval(folder: Path) -> Path:
    """Like Salesforce/blip2-itm-vit-g; its `text_config` describes a language model that isn't there."""
    qformer = {**_BERT, "vocab_size": len(bert_tokenizer(folder)), "encoder_hidden_size": TOWER["hidden_size"]}
    config = transformers.Blip2Config(
        vision_config=_BLIP_VISION,
        qformer_config={**qformer, "cross_attention_frequency": 2, "use_qformer_text_input": True},
        num_query_tokens=QUERIES,
        image_text_hidden_size=EMBEDDING,
    )
    processor = transformers.BlipImageProcessor(size=SQUARE)
    return save_transformers(folder, transformers.Blip2ForImageTextRetrieval, config, processor, seed=0)


def flava(folder: Path) -> Path:
    """Like facebook/flava-full."""
    text = {**_BERT, "vocab_size": len(bert_tokenizer(folder))}
    config = transformers.FlavaConfig(
        text_config=text, image_config=VISION, multimodal_config=TOWER, projection_dim=EMBEDDING
    )
    processor = transformers.FlavaImageProcessor(size=SQUARE, crop_size=SQUARE)
    return save_transformers(folder, transformers.FlavaModel, config, processor, seed=0)


def groupvit(folder: Path) -> Path:
    """Like nvidia/groupvit-gcc-yfcc."""
    vision = {**VISION, "depths": [1, 1], "num_group_tokens": [4, 0], "num_output_groups": [4, 2]}
    sizes = {"projection_dim": EMBEDDING, "projection_intermediate_dim": 32}
    return _clip_like(folder, "GroupViT", vision=vision, **sizes)


def vision_text(folder: Path) -> Path:
    """A `VisionTextDualEncoderModel` of ViT and RoBERTa, like clip-italian/clip-italian."""
    text = transformers.XLMRobertaConfig(**{**_BERT, "vocab_size": len(roberta_tokenizer(folder)), "pad_token_id": 1})
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        transformers.ViTConfig(**VISION), text, projection_dim=EMBEDDING
    )
    processor = transformers.ViTImageProcessor(size=SQUARE)
    return save_transformers(folder, transformers.VisionTextDualEncoderModel, config, processor, seed=0)


def tipsv2(folder: Path) -> Path:
    """Like google/tipsv2-b14: texts are averaged under their mask, similarities divided by a temperature."""
    pieces = ["<pad>", "<unk>", "▁", *string.ascii_lowercase, *string.digits, *string.punctuation]
    tokenizer = transformers.Tipsv2Tokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[])
    tokenizer.save_pretrained(folder)
    text = {**TOWER, "vocab_size": len(pieces), "max_position_embeddings": CONTEXT}
    return _dual(folder, "Tipsv2", text, VISION, temperature_init_value=0.5)


HF: dict[str, Callable[[Path], Path]] = {
    "clip": tiny_clip,
    "siglip_gemma": tiny_siglip,
    "siglip_sentencepiece": siglip_sentencepiece,
    "aimv2": lambda folder: _clip_like(folder, "Aimv2", projection_dim=EMBEDDING, max_logit_scale=6.0),
    "align": align,
    "altclip": altclip,
    "blip": blip,
    "blip_retrieval": blip_retrieval,
    "blip2_retrieval": blip2_retrieval,
    "chinese_clip": chinese_clip,
    "clipseg": lambda folder: _clip_like(folder, "CLIPSeg", projection_dim=EMBEDDING),
    "flava": flava,
    "groupvit": groupvit,
    "metaclip_2": lambda folder: _clip_like(folder, "MetaClip2", projection_dim=EMBEDDING),
    "owlvit": lambda folder: _clip_like(folder, "OwlViT", projection_dim=EMBEDDING),
    "owlv2": lambda folder: _clip_like(folder, "Owlv2", projection_dim=EMBEDDING),
    "tipsv2": tipsv2,
    "vision-text-dual-encoder": vision_text,
}


def _open_clip(folder: Path, model_class: str, vision: dict[str, Any], text: dict[str, Any], **more: Any) -> Path:
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"embed_dim": EMBEDDING, "vision_cfg": vision, "text_cfg": text, **more}
    torch.manual_seed(0)
    # open_clip takes apart the configuration that it is given.
    model = getattr(open_clip, model_class)(**copy.deepcopy(config))
    config["custom_text"] = model_class != "CLIP"
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if "text_decoder.text_projection" in weights:  # open_clip leaves it as the memory was
        weights["text_decoder.text_projection"].zero_()
    save_file(weights, folder / "open_clip_model.safetensors")
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    config["text_cfg"] = {key: value for key, value in text.items() if key != "hf_model_pretrained"}
    write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocess})
    return folder


_TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
_VIT = {"image_size": IMAGE_SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
_TIMM = {"image_size": IMAGE_SIZE, "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": ""}
BIOMEDBERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"


def modified_resnet(folder: Path) -> Path:
    """Like open_clip's RN50 with OpenAI's weights."""
    vision = {"image_size": IMAGE_SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16}
    return _open_clip(folder, "CLIP", vision, _TEXT, quick_gelu=True)


def coca(folder: Path) -> Path:
    """Like laion/CoCa-ViT-B-32-laion2B-s13B-b90k."""
    text = {**_TEXT, "context_length": CONTEXT, "embed_cls": True, "output_tokens": True}
    decoder = {
        "context_length": CONTEXT,
        "vocab_size": 64,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "attn_pooler_heads": 2,
    }
    vision = {**_VIT, "output_tokens": True, "attentional_pool": True, "attn_pooler_heads": 2}
    return _open_clip(folder, "CoCa", vision, text, multimodal_cfg=decoder)


def open_clip_siglip(folder: Path) -> Path:
    """Like timm/ViT-B-16-SigLIP: a timm tower, pairwise bias, texts embedded at their last, padded position."""
    tokenizer = siglip_tokenizer(folder)
    text = {**_TEXT, "vocab_size": len(tokenizer), "hf_tokenizer_name": "timm/ViT-B-16-SigLIP", "pool_type": "last"}
    text |= {"no_causal_mask": True, "proj_bias": True, "tokenizer_kwargs": {"clean": "canonicalize"}}
    vision = {**_TIMM, "timm_proj": "linear"}
    return _open_clip(folder, "CustomTextCLIP", vision, text, init_logit_bias=-10.0)


def biomedbert(folder: Path) -> Path:
    """The repository with the text configuration and tokenizer that BiomedCLIP names."""
    text = transformers.BertConfig(**{**_BERT, "vocab_size": len(bert_tokenizer(folder))})
    text.save_pretrained(folder)
    return folder


def biomedclip(folder: Path, *, beside: bool = True) -> Path:
    """Like microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224, which brings its tokenizer.

    Args:
        beside: Leave the text configuration in a folder beside the weights, where vlmed looks before it asks the Hub.
    """
    bert_tokenizer(folder)
    bert = biomedbert(folder / BIOMEDBERT.rpartition("/")[2])
    text = {"hf_model_name": str(bert), "hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
    text |= {"hf_model_pretrained": False, "hf_tokenizer_name": BIOMEDBERT, "context_length": 20}
    _open_clip(folder, "CustomTextCLIP", {**_TIMM, "timm_proj": "linear"}, text)
    path = folder / "open_clip_config.json"
    path.write_text(path.read_text(encoding="utf-8").replace(str(bert), BIOMEDBERT), encoding="utf-8")
    if not beside:
        shutil.rmtree(bert)
    return folder


OPEN_CLIP: dict[str, Callable[[Path], Path]] = {
    "open_clip": tiny_open_clip,
    "open_clip_hf_tokenizer": lambda folder: tiny_open_clip(folder, hf_tokenizer=True),
    "modified_resnet": modified_resnet,
    "coca": coca,
    "open_clip_siglip": open_clip_siglip,
    "biomedclip": biomedclip,
}


def clip_twice(home: Path) -> tuple[Path, Path]:
    """One CLIP with OpenAI's vocabulary, as transformers and as open_clip lay it out: two folders in `home`."""
    import open_clip
    from safetensors.torch import load_file, save_file

    own = open_clip.tokenizer.SimpleTokenizer()
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
    tokenizer = transformers.CLIPTokenizer(
        vocab=own.encoder,
        merges=merges,
        bos_token="<start_of_text>",
        eos_token="<end_of_text>",
        unk_token="<end_of_text>",
        pad_token="<end_of_text>",
        model_max_length=CONTEXT,
    )
    tokenizer.save_pretrained(home / "transformers")
    ends = {"bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1}
    tower = {**TOWER, "intermediate_size": 4 * TOWER["hidden_size"]}
    text = {**tower, "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, **ends}
    _dual(home / "transformers", "CLIP", text, {**VISION, **tower}, **_PROJECTED)

    text = {"context_length": CONTEXT, "vocab_size": len(tokenizer), "width": TOWER["hidden_size"], "heads": 2}
    folder = _open_clip(home / "open_clip", "CLIP", _VIT, {**text, "layers": 2}, quick_gelu=True)
    weights = {_open_clip_name(name): part for name, part in _fused(load_file(home / "transformers/model.safetensors"))}
    expected = load_file(folder / "open_clip_model.safetensors")
    assert weights.keys() == expected.keys()
    for name in ("visual.proj", "text_projection"):
        weights[name] = weights[name].T.contiguous()
    save_file(weights, folder / "open_clip_model.safetensors")
    return home / "transformers", folder


def _fused(weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Query, key and value as one, as `nn.MultiheadAttention` holds them."""
    for name, part in weights.items():
        if ".q_proj." in name:
            parts = [weights[name.replace(".q_proj.", f".{letter}_proj.")] for letter in "qkv"]
            yield name.replace(".q_proj.", ".in_proj_"), torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            yield name, part


def _open_clip_name(name: str) -> str:
    for old, new in (
        ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
        ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
        ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
        ("vision_model.pre_layrnorm", "visual.ln_pre"),
        ("vision_model.post_layernorm", "visual.ln_post"),
        ("vision_model.encoder.layers", "visual.transformer.resblocks"),
        ("visual_projection.weight", "visual.proj"),
        ("text_model.embeddings.token_embedding", "token_embedding"),
        ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        ("text_model.final_layer_norm", "ln_final"),
        ("text_model.encoder.layers", "transformer.resblocks"),
        ("text_projection.weight", "text_projection"),
        ("self_attn", "attn"),
        ("layer_norm", "ln_"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
    ):
        name = name.replace(old, new)
    return name
