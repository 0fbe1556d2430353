"""The way from a device's memory to the host's, in pieces, beside what the device does.

Pieces go by way of a few blocks of pinned memory: only to such memory does a device
copy on its own. While one block is read by the host, the others are being filled. The
whole of the memory that a state goes to could be pinned instead; but what is pinned is
taken away from everybody else, and how much there may be of it nobody says before.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from gpurescue.store.packs import PIECE

_log = logging.getLogger(__name__)
_NUM_SLOTS = 4


class Arrival(Protocol):
    """Something that is on its way."""

    def synchronize(self) -> None:
        """Wait until it is there; raises what went wrong on the way."""


class Lane(Protocol):
    """Copies from one device, one behind the other, in an order of its own."""

    def settle(self) -> None:
        """Wait until the device has done all that it was ever given."""

    def follow(self) -> None:
        """Send what comes only when what this thread has given the device is done."""

    def memory(self, nbytes: int) -> Any:
        """Memory of the host that things can be sent to: ``int8``, one-dimensional."""

    def send(self, source: Any, to: Any) -> Arrival:
        """Begin to copy a tensor of the device."""


class CudaLane:
    """A side stream of a CUDA device.

    Args:
        device: A ``torch.device`` with an index.
    """

    def __init__(self, device: Any) -> None:
        import torch

        self._cuda: Any = torch.cuda
        self._device = device
        self._stream = self._cuda.Stream(device)

    def settle(self) -> None:
        """As ``Lane`` has it: state may be written on any stream."""
        self._cuda.synchronize(self._device)

    def follow(self) -> None:
        """As ``Lane`` has it."""
        self._stream.wait_stream(self._cuda.current_stream(self._device))

    def memory(self, nbytes: int) -> Any:
        """As ``Lane`` has it; pinned, if there is such memory left."""
        import torch

        # A thread begins on device 0, and would make itself at home there.
        with self._cuda.device(self._device):
            try:
                return torch.empty(
                    nbytes, dtype=torch.int8, device="cpu", pin_memory=True
                )
            except RuntimeError:
                _log.warning("No memory could be pinned: copies are slow.")
                return torch.empty(nbytes, dtype=torch.int8, device="cpu")

    def send(self, source: Any, to: Any) -> Arrival:
        """As ``Lane`` has it."""
        with self._cuda.stream(self._stream):
            to.copy_(source, non_blocking=True)
            arrived: Arrival = self._cuda.Event(blocking=True)  # waits asleep
            arrived.record(self._stream)  # type: ignore[attr-defined]
        return arrived


@dataclass(frozen=True, slots=True)
class _Flight:
    """A piece on its way to a block."""

    slot: Any
    nbytes: int
    arrival: Arrival


class Ring:
    """A few blocks of memory that a lane fills in turn; for one thread at a time.

    Args:
        lane: What fills them.
        nbytes: Of one block.
        num_slots: How many blocks.
    """

    def __init__(
        self, lane: Lane, nbytes: int = PIECE, num_slots: int = _NUM_SLOTS
    ) -> None:
        self._lane = lane
        self._nbytes = nbytes
        self._num_slots = num_slots
        self._slots: list[Any] = []
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Have the blocks: the first use would have to wait for them."""
        with self._lock:
            self._have_slots()

    def pieces(self, source: Any) -> Iterator[Any]:
        """The bytes of a tensor of the device, in order, on the host.

        Ends early if the program has given the memory back (``storage.resize_(0)``).

        Args:
            source: ``int8``, one-dimensional, contiguous.

        Yields:
            Tensors of the host, each there until the next is asked for.

        Raises:
            RuntimeError: The device has failed.
        """
        with self._lock:
            free, flying = deque(self._have_slots()), deque[_Flight]()
            waiting = deque(range(0, source.numel(), self._nbytes))
            try:
                while waiting or flying:
                    while waiting and free:
                        if source.untyped_storage().nbytes() < source.numel():
                            return
                        start = waiting.popleft()
                        piece = source[start : start + self._nbytes]
                        flying.append(self._send(piece, free.popleft()))
                    first = flying[0]
                    first.arrival.synchronize()
                    yield first.slot[: first.nbytes]
                    free.append(flying.popleft().slot)
            finally:
                for one in flying:  # nobody may use the blocks before
                    with contextlib.suppress(RuntimeError):
                        one.arrival.synchronize()

    def _send(self, piece: Any, slot: Any) -> _Flight:
        nbytes = piece.numel()
        return _Flight(slot, nbytes, self._lane.send(piece, slot[:nbytes]))

    def _have_slots(self) -> list[Any]:
        while len(self._slots) < self._num_slots:
            self._slots.append(self._lane.memory(self._nbytes))
        return self._slots
