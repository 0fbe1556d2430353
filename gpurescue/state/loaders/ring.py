"""Where the random streams of each worker stood, before each of its last batches.

Workers run ahead: when a batch fails they have drawn random numbers for the ones behind
it, which will be fetched again, too. So each notes in shared memory, before a batch,
where its streams stand. Shared memory outlives a worker that is killed.
"""

from __future__ import annotations

import marshal
import struct
from typing import Any

from gpurescue.state.loaders.arrivals import Arrivals

_HEADER = struct.Struct("=3I")  # epoch, number of the batch in it, size; all plus one
_HEADER_SIZE = _HEADER.size

BEGINNING = -1  # in the place of a number: before the epoch begins

Stand = list[tuple[str, bytes]]
"""Names of streams, and where each stands."""


class Ring:
    """The last stands of each worker, by epoch and number of its batch in the epoch.

    Attributes:
        arrivals: How far the workers have come before their first batch.
    """

    def __init__(
        self, context: Any, num_workers: int, num_slots: int, capacity: int
    ) -> None:
        self._num_slots = num_slots
        self._size = _HEADER_SIZE + capacity
        num_all = num_slots + 1  # the last one is for the beginning of the epoch
        self._memory = context.RawArray("B", num_workers * num_all * self._size)
        self.arrivals = Arrivals(context, num_workers)

    def note(self, worker: int, epoch: int, number: int, stand: Stand) -> None:
        """Called in the worker; nothing is there to be read until all of it is."""
        view, at = memoryview(self._memory), self._at(worker, number)
        payload = marshal.dumps(stand)
        if len(payload) > self._size - _HEADER_SIZE:
            payload = b""
        _HEADER.pack_into(view, at, 0, 0, 0)
        start = at + _HEADER_SIZE
        view.cast("B")[start : start + len(payload)] = payload
        _HEADER.pack_into(view, at, epoch + 1, number + 1, len(payload) + 1)

    def read(self, worker: int, epoch: int, number: int) -> Stand | None:
        """Where the streams stood; None if that is not known (any more)."""
        found = self._stamped(worker, number)
        return found[2] if found is not None and found[:2] == (epoch, number) else None

    def of_epoch(self, worker: int, epoch: int) -> dict[int, Stand]:
        """Where the streams stood in an epoch, by number, as far as that is known."""
        known = self._known(worker)
        return {number: stand for at, number, stand in known if at == epoch}

    def last(self, worker: int) -> Stand | None:
        """Where the streams stood before the batch that was begun last."""
        known = self._known(worker)
        return max(known, key=lambda found: found[:2])[2] if known else None

    def is_still(self, worker: int) -> bool:
        """True of a worker whose streams did not move from batch to batch."""
        known = self._known(worker)
        return len(known) > 1 and all(found[2] == known[0][2] for found in known)

    def _known(self, worker: int) -> list[tuple[int, int, Stand]]:
        slots = [self._stamped(worker, number) for number in range(self._num_slots)]
        return [found for found in slots if found is not None and found[2] is not None]

    def _at(self, worker: int, number: int) -> int:
        slot = number % self._num_slots if number >= 0 else self._num_slots
        return (worker * (self._num_slots + 1) + slot) * self._size

    def _stamped(self, worker: int, number: int) -> Any:
        view, at = memoryview(self._memory).cast("B"), self._at(worker, number)
        epoch, count, size = _HEADER.unpack_from(view, at)
        if size < 2:
            return None
        start = at + _HEADER_SIZE
        stand = marshal.loads(view[start : start + size - 1])
        return epoch - 1, count - 1, stand


def capacity_for(stand: Stand) -> int:
    """Room for such stands; a worker may have a library more than its parent."""
    return len(marshal.dumps(stand)) + _SPARE


_SPARE = 4096
