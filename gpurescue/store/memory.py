"""Memory of a program, in numbered stretches, and those of the host as chunks."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass, field
from typing import Any

import xxhash

from gpurescue.errors import NotWritten
from gpurescue.state.capture import Captured
from gpurescue.store.pipe import Pipe

_TYPES = {"cpu", "cuda"}


@dataclass(slots=True)
class Memory:
    """Stretches of the process's memory, by number.

    Attributes:
        owners: What keeps each alive.
        addresses: Where each begins.
        sizes: In bytes.
        places: The device that each is on; None for the host.
        moving: Numbers of those that others than an optimizer are about to write.
    """

    owners: list[Any] = field(default_factory=list)
    addresses: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    places: list[Any] = field(default_factory=list)
    moving: frozenset[int] = frozenset()

    @property
    def devices(self) -> set[Any]:
        """The devices, without the host."""
        return set(self.places) - {None}

    def whereabouts(self) -> dict[str, list[tuple[int, int]]]:
        """Which stretches are on which device, from and up to; the host is left out."""
        found: dict[str, list[tuple[int, int]]] = {}
        for number, place in enumerate(self.places if self.devices else ()):
            if place is not None:
                ranges = found.setdefault(str(place), [])
                follows = bool(ranges) and ranges[-1][1] == number
                first = ranges.pop()[0] if follows else number
                ranges.append((first, number + 1))
        return found

    def add_storage(self, storage: Any) -> None:
        """Add an untyped storage of torch.

        Raises:
            NotWritten: It is where we cannot read it.
        """
        device = storage.device
        if device.type not in _TYPES:
            raise NotWritten(
                f"The state is on the device {device}, and so far only memory of the "
                "CPU and of CUDA devices is taken; this run goes on without "
                "checkpoints."
            )
        self.owners.append(storage)
        self.addresses.append(storage.data_ptr())
        self.sizes.append(storage.nbytes())
        self.places.append(None if device.type == "cpu" else device)

    def add_buffer(self, buffer: Any) -> None:
        """Add a contiguous buffer, such as an array."""
        import numpy as np

        found = np.frombuffer(buffer, np.uint8) if memoryview(buffer).nbytes else None
        self.owners.append((buffer, found))
        self.addresses.append(0 if found is None else found.ctypes.data)
        self.sizes.append(0 if found is None else found.nbytes)
        self.places.append(None)


@dataclass(frozen=True, slots=True)
class Part:
    """Where a stretch of memory is.

    Attributes:
        chunk: Number of the chunk.
        offset: Where in it.
    """

    chunk: int
    offset: int


def memory_of(captured: Captured) -> Memory:
    """What the bytes of a captured program are in.

    Raises:
        NotWritten: Some of it is where we cannot read it.
    """
    memory = Memory(moving=captured.moving)
    for storage in captured.storages:
        memory.add_storage(storage)
    for buffer in captured.buffers:
        memory.add_buffer(buffer)
    return memory


class HostChunk:
    """Bytes of the host that are digested and stored as one.

    Attributes:
        address: Where they are read: where they belong, or where they were gathered.
        nbytes: How many.
        number: Of the stretch of memory that this is; None for gathered ones.
        digest: Of what they were at the boundary.
    """

    __slots__ = (
        "address",
        "digest",
        "is_done",
        "is_proved",
        "lock",
        "nbytes",
        "number",
    )

    def __init__(self, address: int, nbytes: int, number: int | None) -> None:
        self.address = address
        self.nbytes = nbytes
        self.number = number
        self.digest = ""
        self.is_done = self.is_proved = False
        self.lock = threading.Lock()

    def copy(self, pipe: Pipe, offset: int) -> None:
        """Copy to a place in a pack, and digest the copy.

        Raises:
            BrokenPipeError: There is no room for it.
        """
        with self.lock:
            found = xxhash.xxh3_128()
            pipe.take_in(offset, self.address, self.nbytes, found)
            self.is_done = True
            self.is_proved = found.hexdigest() == self.digest

    def set_aside(self, to: int) -> bool:
        """Copy before somebody writes; False if it has been copied."""
        with self.lock:
            if not self.is_done and self.address != to:
                ctypes.memmove(to, self.address, self.nbytes)
                self.address = to
                return True
            return False
