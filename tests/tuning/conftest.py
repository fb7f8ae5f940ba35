from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tuning_cases import MAKERS, Case, load_case


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    home = tmp_path_factory.mktemp("checkpoints")

    def folder(name: str) -> Path:
        return home / name if (home / name).exists() else MAKERS[name](home / name)

    return folder


@pytest.fixture(scope="session")
def loaded() -> dict[str, Case]:
    return {}


@pytest.fixture
def case(folders, loaded) -> Callable[..., Case]:
    """A tiny model by name, shared by tests that leave it as it was, which is what `undo` promises, or fresh."""

    def make(name: str, *, fresh: bool = False) -> Case:
        if fresh or name not in loaded:
            made = load_case(folders(name), 6 if name == "timm" else 21)
            return made if fresh else loaded.setdefault(name, made)
        return loaded[name]

    return make


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Models so small lose most of their time to a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
