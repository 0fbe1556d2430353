"""Stands in for a device: memory of the CPU that is only read by way of a lane.

What is sent really is on its way for a while, in another thread, in order, as it is on
a side stream; who does not wait for it, or uses a block too early, finds other bytes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from gpurescue.store.memory import Memory


class Arrival:
    def __init__(self, future: Future[None]) -> None:
        self._future = future

    def synchronize(self) -> None:
        self._future.result()


class Lane:
    """Copies in another thread, and takes its time."""

    def __init__(self, device: Any = None, delay: float = 0.0002) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._chance = random.Random(0)
        self._delay = delay
        self.num_sent = self.num_done = 0
        self.fails: Callable[[Any], None] = lambda source: None

    def settle(self) -> None:
        self._pool.submit(lambda: None).result()

    def follow(self) -> None:
        pass

    def memory(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.int8)

    def send(self, source: torch.Tensor, to: torch.Tensor) -> Arrival:
        self.num_sent += 1
        return Arrival(self._pool.submit(self._copy, source, to))

    def _copy(self, source: torch.Tensor, to: torch.Tensor) -> None:
        self.fails(source)
        to.fill_(self.num_sent % 100)  # rubbish, until it is there
        time.sleep(self._chance.uniform(0, self._delay))
        to.copy_(source)
        self.num_done += 1


def pretend(monkeypatch) -> None:
    """Have storages taken for those of a device."""
    add = Memory.add_storage

    def added(memory: Memory, storage: Any) -> None:
        add(memory, storage)
        memory.places[-1] = torch.device("cpu")

    monkeypatch.setattr(Memory, "add_storage", added)
