from collections.abc import Callable

import open_clip
import pytest
import timm
import torch
import transformers
from torch import nn

from vlmed.errors import CheckError, UsageError
from vlmed.models.encoders import TowerEncoder
from vlmed.models.image_only import backbone_tower
from vlmed.tuning.anatomy import blocks, group_of, image_parameters, lora_targets, text_parameters, whole

TEXT = {"context_length": 8, "vocab_size": 99, "width": 16, "heads": 2, "layers": 1}


def around(tower: nn.Module, size: int = 32) -> TowerEncoder:
    return TowerEncoder(tower.eval(), lambda _: torch.rand(3, size, size), "test:", "cpu")


def modified_resnet() -> TowerEncoder:
    vision = {"image_size": 32, "layers": (1, 1, 2, 1), "width": 8, "head_width": 8}
    return around(open_clip.model.CLIP(16, vision, TEXT).visual)


def open_clip_around_timm() -> TowerEncoder:
    vision = {"timm_model_name": "test_vit", "timm_proj": "linear", "timm_pool": "", "image_size": 160}
    return around(open_clip.model.CLIP(16, vision, TEXT).visual, 160)


def swin() -> TowerEncoder:
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=4
    )
    return around(backbone_tower(transformers.SwinModel(config)))


def bottleneck_resnet() -> TowerEncoder:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="bottleneck")
    return around(backbone_tower(transformers.ResNetModel(config)))


def timm_model(name: str) -> Callable[[], TowerEncoder]:
    return lambda: around(timm.create_model(name, num_classes=0))


def expect(encoder: TowerEncoder, names: list[str], partial: set[str], targets: dict[str, int]) -> None:
    """Blocks by name, groups that partial trains, and LoRA's targets counted by the last part of their names."""
    assert list(blocks(encoder.image_tower)) == names
    assert {group_of(name, blocks(whole(encoder))) for name in image_parameters(encoder, True)} == partial
    found = [name.rpartition(".")[2] for name in lora_targets(encoder)]
    assert {name: found.count(name) for name in found} == targets


def test_transformers_clip(case) -> None:
    layers = [f"vision_model.encoder.layers.{number}" for number in (0, 1)]
    targets = dict.fromkeys(("k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2"), 2)
    expect(case("clip").encoder, layers, {layers[1], "vision_model.post_layernorm", "visual_projection"}, targets)


def test_siglip_s_pooling_head_comes_after_its_blocks(case) -> None:
    layers = [f"vision_model.encoder.layers.{number}" for number in (0, 1)]
    head = {f"vision_model.head{part}" for part in ("", ".attention", ".attention.out_proj", ".layernorm", ".mlp.fc1")}
    head |= {"vision_model.head.mlp.fc2", "vision_model.post_layernorm"}
    targets = dict.fromkeys(("k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2"), 2)
    expect(case("siglip").encoder, layers, head | {layers[1]}, targets)


def test_transformers_vit(case) -> None:
    targets = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"), 2)
    expect(case("vit").encoder, ["layers.0", "layers.1"], {"layers.1", "layernorm", "pooler.dense"}, targets)


def test_open_clip_vit_s_fused_attention_is_one_target(case) -> None:
    encoder = case("open_clip").encoder
    names = [f"transformer.resblocks.{number}" for number in (0, 1)]
    assert list(blocks(encoder.image_tower)) == names
    trained = set(image_parameters(encoder, True))
    last = {name for name, _ in encoder.model.named_parameters() if name.startswith(f"visual.{names[1]}.")}
    assert trained == last | {"visual.ln_post.weight", "visual.ln_post.bias", "visual.proj"}
    assert lora_targets(encoder) == [
        f"{name}.{layer}" for name in names for layer in ("attn", "mlp.c_fc", "mlp.c_proj")
    ]


def test_open_clip_modified_resnet() -> None:
    names = ["layer1.0", "layer2.0", "layer3.0", "layer3.1", "layer4.0"]
    pool = {"attnpool", *(f"attnpool.{name}_proj" for name in "kqvc")}
    # In every bottleneck three convolutions, in a stage's first one more on the shortcut.
    targets = {"conv1": 5, "conv2": 5, "conv3": 5, "0": 4}
    expect(modified_resnet(), names, {"layer4.0", *pool}, targets)


def test_open_clip_around_timm() -> None:
    names = [f"trunk.blocks.{number}" for number in range(6)]
    expect(open_clip_around_timm(), names, {names[5], "trunk.norm", "head.proj"},
           dict.fromkeys(("qkv", "proj", "fc1", "fc2"), 6))  # fmt: skip


def test_swin() -> None:
    names = ["encoder.layers.0.blocks.0", "encoder.layers.1.blocks.0", "encoder.layers.1.blocks.1"]
    encoder = swin()
    expect(
        encoder, names, {names[2], "layernorm"}, dict.fromkeys([n.rpartition(".")[2] for n in lora_targets(encoder)], 3)
    )
    linear = {name for name, layer in encoder.image_tower.named_modules() if isinstance(layer, nn.Linear)}
    # Merging patches between stages is no block.
    assert set(lora_targets(encoder)) == {name for name in linear if "downsample" not in name}


def test_transformers_resnet() -> None:
    names = ["encoder.stages.0.layers.0", "encoder.stages.1.layers.0", "encoder.stages.1.layers.1"]
    expect(bottleneck_resnet(), names, {names[2]}, {"convolution": 3 * 3 + 1})


@pytest.mark.parametrize(
    ("name", "last", "tail"),
    [("test_resnet", "layer4.0", set()), ("test_vit", "blocks.5", {"norm"}),
     ("test_convnext", "stages.3.blocks.1", {"head.norm"}), ("test_efficientnet", "blocks.4.0", {"conv_head", "bn2"})],
)  # fmt: skip
def test_timm(name: str, last: str, tail: set[str]) -> None:
    encoder = timm_model(name)()
    trained = {group_of(each, blocks(encoder.image_tower)) for each in image_parameters(encoder, True)}
    assert trained == {last, *tail}
    assert lora_targets(encoder)


@pytest.mark.parametrize("name", ["clip", "open_clip", "siglip"])
def test_full_trains_both_towers_and_nothing_that_embeddings_ignore(name: str, case) -> None:
    encoder = case(name).encoder
    image, text = image_parameters(encoder, False), text_parameters(encoder)
    everything = {each for each, _ in encoder.model.named_parameters()}
    assert image.keys() | text.keys() == everything - {"logit_scale", "logit_bias"}
    assert not image.keys() & text.keys()


def test_looking_changes_nothing(case) -> None:
    here = case("clip", fresh=True)
    before = here.tensors()
    here.encoder.image_tower.requires_grad_(False)
    image_parameters(here.encoder, True)
    lora_targets(here.encoder)
    assert not any(parameter.requires_grad for parameter in here.encoder.image_tower.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in here.tensors().items())
    assert not any(module._forward_pre_hooks for module in here.encoder.image_tower.modules())


def test_an_encoder_under_no_grad_is_refused(case) -> None:
    """The papers' own code encoded images so, and its LoRA never trained."""
    here = case("vit", fresh=True)
    tower = here.encoder.image_tower
    tower.forward = torch.no_grad()(tower.forward)
    with pytest.raises(CheckError, match="no gradient comes through the encoding of images"):
        here.tune("lora")


def test_a_tower_without_blocks() -> None:
    tower = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))
    with pytest.raises(UsageError, match="no repeated blocks"):
        image_parameters(around(tower), True)
    with pytest.raises(UsageError, match="no layer that a LoRA"):
        lora_targets(around(tower))
