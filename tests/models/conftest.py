from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import factories
from hub_server import HubServer, local_hub

MAKERS = {
    "open_clip": factories.tiny_open_clip,
    "open_clip_hf_tokenizer": lambda folder: factories.tiny_open_clip(folder, hf_tokenizer=True),
    "clip": factories.tiny_clip,
    "siglip": factories.tiny_siglip,
    "vit": factories.tiny_vit,
    "vit_classifier": lambda folder: factories.tiny_vit(folder, classifier=True),
    "resnet": factories.tiny_resnet,
    "timm": factories.tiny_timm,
}


class Checkpoints:
    """The tiny checkpoints by name, each made when it is first asked for. Read-only: copy before you change one."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __getitem__(self, name: str) -> Path:
        folder = self.home / name
        return folder if folder.exists() else MAKERS[name](folder)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """A local Hub with an empty cache."""
    with local_hub(tmp_path / "hub-cache") as server:
        yield server


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """An RGB and a grey image, neither square nor of the models' size."""
    generator = torch.Generator().manual_seed(5)
    colour = torch.randint(0, 256, (40, 50, 3), generator=generator, dtype=torch.uint8).numpy()
    grey = torch.randint(0, 256, (64, 33), generator=generator, dtype=torch.uint8).numpy()
    return [Image.fromarray(colour), Image.fromarray(grey)]
