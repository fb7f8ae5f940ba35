"""Batches come in order, beside a model on a device of its own and never beside one on the processor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from vlmed.evaluate.loading import Load, ahead, between, loaded
from vlmed.evaluate.threads import single_threads

Way = Callable[[Load, Sequence[int]], Iterator[torch.Tensor]]
WAYS = pytest.mark.parametrize("way", [between, ahead])


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Watched:
    """Loads numbers as tensors and knows which it has begun, and how many it loads at once."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.at_once = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, item: int) -> torch.Tensor:
        with self._lock:
            self.begun.append(item)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(0.02 * (item % 2 + 1))
        with self._lock:
            self.at_once -= 1
        return torch.tensor(item)


def seen_from_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@WAYS
@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.usefixtures("two_threads")
def test_every_batch_comes_once_and_in_order(way: Way, count: int) -> None:
    items = range(10, 10 + count)
    assert [int(batch) for batch in way(Watched(), items)] == [*items]


@pytest.mark.usefixtures("two_threads")
def test_nothing_loads_while_the_processor_is_in_use() -> None:
    load, known = Watched(), 0
    for batch in between(load, range(5)):
        assert load.at_once == 0
        known = len(load.begun)
        time.sleep(0.05)
        assert len(load.begun) == known, f"loaded beside batch {int(batch)}"
    assert load.most == 2
    assert known == 5


@pytest.mark.usefixtures("two_threads")
def test_a_device_of_its_own_finds_the_next_batches_loaded() -> None:
    load = Watched()
    batches = ahead(load, range(20))
    next(batches)
    time.sleep(0.3)
    assert 1 < len(load.begun) < 20
    assert load.at_once == 0
    batches.close()  # type: ignore[attr-defined]


def test_the_device_decides() -> None:
    processor, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, device="meta")
    assert loaded(Watched(), [1], processor).gi_code is between.__code__  # type: ignore[attr-defined]
    assert loaded(Watched(), [1], torch.nn.Flatten()).gi_code is between.__code__  # type: ignore[attr-defined]
    assert loaded(Watched(), [1], other).gi_code is ahead.__code__  # type: ignore[attr-defined]


@WAYS
@pytest.mark.usefixtures("two_threads")
def test_what_a_load_raises_comes_with_its_batch(way: Way) -> None:
    def load(item: int) -> torch.Tensor:
        if item == 2:
            raise ValueError("oh")
        return torch.tensor(item)

    came = []
    with pytest.raises(ValueError, match="oh"):
        came.extend(int(batch) for batch in way(load, range(6)))
    assert seen_from_a_new_thread() == 2


@WAYS
@pytest.mark.usefixtures("two_threads")
def test_loaders_compute_alone_and_nobody_else_does(way: Way) -> None:
    batches = way(lambda _: torch.tensor(torch.get_num_threads()), range(4))
    for batch in batches:
        assert int(batch) == 1
        assert torch.get_num_threads() == 2
    assert seen_from_a_new_thread() == 2


@pytest.mark.usefixtures("two_threads")
def test_threads_are_given_back_after_an_error() -> None:
    with pytest.raises(KeyError), single_threads(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
        raise KeyError
    assert (torch.get_num_threads(), seen_from_a_new_thread()) == (2, 2)
