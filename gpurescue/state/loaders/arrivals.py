"""How far workers have come that start in the place of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_HERE, _ELSEWHERE, _LOST = -1, -2, -3


class Arrivals:
    """Of each worker; in shared memory."""

    def __init__(self, context: Any, num_workers: int) -> None:
        self._memory = context.RawArray("i", num_workers)

    def is_at(self, worker: int, num_passed: int) -> None:
        """On its way."""
        self._memory[worker] = num_passed

    def has_come(self, worker: int, *, is_here: bool) -> None:
        """At the end of the way; elsewhere if the items on it were other ones."""
        self._memory[worker] = _HERE if is_here else _ELSEWHERE

    @contextmanager
    def expected(self, worker: int) -> Iterator[None]:
        """Nobody waits for a worker that fails on the way."""
        try:
            yield
        except BaseException:
            self._memory[worker] = _LOST
            raise

    def is_here(self, worker: int) -> bool:
        """True if it got where it should."""
        return bool(self._memory[worker] == _HERE)

    def on_the_way(self) -> dict[int, int]:
        """Batches passed, of each worker that has not arrived yet."""
        return {worker: num for worker, num in enumerate(self._memory) if num >= 0}

    def elsewhere(self) -> list[int]:
        """Those that got other items than the worker before them."""
        return [worker for worker, num in enumerate(self._memory) if num == _ELSEWHERE]
