"""Memory of a GPU in a snapshot: hashed at the boundary, copied beside the training.

At the boundary the device is asked, behind all that it was given before, for the mark
of each of its storages (``hashing.py``); nobody waits for that. What has a mark that is
known from the last snapshot is neither copied nor written. The rest goes to the host on
a side stream (``lanes.py``), and the mark of what has arrived there is the proof.

Before an optimizer writes, its storages that are not on the host yet are brought there,
and the optimizer waits. A second copy on the device would be quicker by far; but it
would take the memory that the next forward was going to have, and a run that fails for
want of memory because it is being saved is worse than one that waits, and only where a
step is shorter than the copy.

Addresses of all devices and of the host are different (CUDA's unified addressing).
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import xxhash

from gpurescue.errors import Torn
from gpurescue.store.hashing import Hashed, Marking, fastest, hash_on_device
from gpurescue.store.lanes import Lane, Ring
from gpurescue.store.pipe import Pipe

# Bytes of a device that are taken to hash what is on it; less where they are not there.
_BLOCKS = (64 * 2**20, 8 * 2**20, 2**20)
_GATHERED = 64 * 2**20  # bytes of a device at most that small storages are gathered in


class Device:
    """A device whose memory is taken.

    Args:
        lane: From it to the host.
    """

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.ring = Ring(lane)
        self.express = Ring(lane)  # for who cannot wait until the other is free
        self._chunks: list[DeviceChunk] = []
        self._hashed: Hashed | None = None

    def prepare(self, device: Any) -> None:
        """Do what is slow the first time."""
        self.ring.prepare()
        self.express.prepare()
        fastest(device)

    def take(self, chunks: Sequence[DeviceChunk]) -> None:
        """Have the device note what its memory is now.

        Raises:
            RuntimeError: The device has failed.
        """
        self.lane.follow()
        self._gather([chunk for chunk in chunks if chunk.stretches])
        self._chunks = [chunk for chunk in chunks if chunk.source is not None]
        self._hash()
        self.lane.follow()

    def read_marks(self) -> None:
        """Wait for what ``take`` has asked for; in the background."""
        if self._hashed is None:
            return
        import torch

        hashed, self._hashed = self._hashed, None
        flat = hashed.rows.view(-1).view(torch.int8)
        pieces = [piece.clone() for piece in self.ring.pieces(flat)]
        rows = torch.cat(pieces).view(torch.int32).view(hashed.rows.shape)
        for chunk, mark in zip(self._chunks, hashed.marks(rows), strict=True):
            chunk.mark = mark

    def forget(self) -> None:
        """Nobody asks for the marks any more."""
        self._chunks, self._hashed = [], None

    def _gather(self, chunks: Sequence[DeviceChunk]) -> None:
        """Copy what cannot wait: on the device, or to the host if that is full."""
        import torch

        there: set[DeviceChunk] = set()
        nbytes = 0
        for chunk in chunks:
            if nbytes + chunk.nbytes <= _GATHERED:
                there.add(chunk)
                nbytes += chunk.nbytes
        try:
            _gather_there([chunk for chunk in chunks if chunk in there], nbytes)
        except torch.cuda.OutOfMemoryError:
            there = set()
        for chunk in chunks:
            if chunk not in there:
                chunk.gather_here()
            chunk.stretches = []

    def _hash(self) -> None:
        import torch

        sources = [chunk.source for chunk in self._chunks]
        for block in _BLOCKS if sources else ():
            try:
                self._hashed = hash_on_device(sources, block)
                return
            except torch.cuda.OutOfMemoryError:
                continue
        for chunk in self._chunks:  # training stands still for as long as a copy takes
            found = Marking(chunk.nbytes)
            for piece in self.express.pieces(chunk.source):
                found.update(piece.numpy())
            chunk.mark = found.mark()


def _gather_there(chunks: Sequence[DeviceChunk], nbytes: int) -> None:
    import torch

    if not chunks:
        return
    first = chunks[0].stretches[0][1]
    buffer = first.new_zeros(nbytes)  # equal gaps
    parts = buffer.split([chunk.nbytes for chunk in chunks])
    to, sources = [], []
    for chunk, part in zip(chunks, parts, strict=True):
        for offset, source in chunk.stretches:
            to.append(part[offset : offset + source.numel()])
            sources.append(source)
    torch._foreach_copy_(to, sources)
    for chunk, part in zip(chunks, parts, strict=True):
        chunk.source = part


class DeviceChunk:
    """Bytes of a device that are stored as one; see ``snapshot`` for those of the host.

    Args:
        device: Where they are.
        number: Of the stretch of memory that this is; None for gathered ones.

    Attributes:
        nbytes: How many they are.
        source: Where they are read; None if they are on the host.
        stretches: What is to be gathered in it: where, and from where.
        mark: Of what they were at the boundary.
        digest: The same, as the store names it; empty until they were once copied.
        is_done: True if they were copied.
        is_proved: True if they were copied as they were at the boundary.
    """

    __slots__ = (
        "_aside",
        "_device",
        "_memory",
        "digest",
        "is_done",
        "is_proved",
        "lock",
        "mark",
        "nbytes",
        "number",
        "source",
        "stretches",
    )

    def __init__(self, device: Device, number: int | None) -> None:
        self.nbytes = 0
        self.number = number
        self.source: Any = None
        self.stretches: list[tuple[int, Any]] = []
        self.mark = self.digest = ""
        self.is_done = self.is_proved = False
        self.lock = threading.Lock()
        self._device = device
        self._aside = 0  # address of a copy
        self._memory: Any = None  # which that is in, if it is ours

    @property
    def stand_in(self) -> str:
        """What stands for a digest that is not known yet."""
        return f"device-{self.mark}"

    def gather_here(self) -> None:
        """Gather to the host."""
        self._memory = bytearray(self.nbytes)
        self._aside = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for offset, source in self.stretches:
            self._bring(source, self._aside + offset)
        found = Marking(self.nbytes)
        found.update(self._memory)
        self.mark = found.mark()

    def copy(self, pipe: Pipe, offset: int) -> None:
        """Copy to a place in a pack, digest the copy, and take its mark.

        Raises:
            BrokenPipeError: There is no room for it.
            Torn: The program has given the memory back.
            RuntimeError: The device has failed.
        """
        with self.lock:
            digest, marking, at = xxhash.xxh3_128(), Marking(self.nbytes), offset
            for address, nbytes in self._pieces():
                pipe.take_in(at, address, nbytes, digest)
                marking.update((ctypes.c_char * nbytes).from_address(address))
                at += nbytes
            if at < offset + self.nbytes:
                raise Torn([] if self.number is None else [self.number])
            self.is_done = True
            found = digest.hexdigest()
            self.is_proved = marking.mark() == self.mark and self.digest in {"", found}
            self.digest = found

    def set_aside(self, to: int) -> bool:
        """Copy before somebody writes; False if it has been copied."""
        with self.lock:
            if self.is_done or self._aside or self.source is None:
                return False
            if not self._bring(self.source, to):
                return False
            self._aside = to
            return True

    def forget(self) -> None:
        """Nobody copies any more: let memory go."""
        with self.lock:
            self.source = self._memory = None
            self.stretches = []

    def _pieces(self) -> Iterator[tuple[int, int]]:
        if self._aside:
            yield self._aside, self.nbytes
            return
        for piece in self._device.ring.pieces(self.source):
            yield piece.data_ptr(), piece.numel()

    def _bring(self, source: Any, to: int) -> bool:
        """Copy to an address of the host; False if the memory was given back."""
        end = to + source.numel()
        for piece in self._device.express.pieces(source):
            ctypes.memmove(to, piece.data_ptr(), piece.numel())
            to += piece.numel()
        return bool(to == end)


class Devices:
    """The devices that have been come by.

    Args:
        lane: Makes the lane of one.
    """

    def __init__(self, lane: Callable[[Any], Lane]) -> None:
        self._lane = lane
        self._known: dict[Any, Device] = {}

    def __getitem__(self, device: Any) -> Device:
        if device not in self._known:
            self._known[device] = Device(self._lane(device))
        return self._known[device]

    def are_prepared(self, devices: set[Any]) -> bool:
        """True if nothing is left that is slow the first time."""
        return devices <= self._known.keys()

    def prepare(self, devices: set[Any]) -> None:
        """Do what is slow the first time.

        Raises:
            RuntimeError: A device has failed.
        """
        for device in devices - self._known.keys():
            made = Device(self._lane(device))
            made.prepare(device)
            self._known[device] = made


def view(storage: Any) -> Any:
    """The bytes of an untyped storage, as a tensor: ``int8``, one-dimensional."""
    import torch

    made = torch.empty(0, dtype=torch.int8, device=storage.device)
    return made.set_(storage, 0, (storage.nbytes(),), (1,))


def is_capturing() -> bool:
    """True while a CUDA graph is being captured: nothing else may be asked for then."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    return bool(torch.cuda.is_current_stream_capturing())
