"""Snapshots of memory that are copied while training goes on, and proved.

At a boundary only digests are taken. What has changed since an earlier checkpoint is
then copied in the background; before an optimizer writes what was not copied yet, that
is copied first. This speculates that nobody else writes large memory between two steps.
The digest of every copy, against the one taken at the boundary, is the proof: what
differs was written in between, and is never published (soft copy-on-write with
validated speculation, as in PhoenixOS, arXiv 2405.12079).

Small stretches of memory, such as the statistics of BatchNorm, are gathered at the
boundary, and so is what has been found written once: there the speculation fails.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import xxhash

from gpurescue.errors import Torn
from gpurescue.store.layout import SMALL
from gpurescue.store.packs import digest_of
from gpurescue.store.staging import Staging

_log = logging.getLogger(__name__)
_HOOK = "gpurescue-snapshot"
_GATHERED = 2**20  # bytes of small stretches that make one chunk
_BLOCK = 2**20  # copied and digested while it is in the cache


@dataclass(slots=True)
class Memory:
    """Stretches of the process's memory, by number.

    Attributes:
        owners: What keeps each alive.
        addresses: Where each begins.
        sizes: In bytes.
    """

    owners: list[Any] = field(default_factory=list)
    addresses: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add_storage(self, storage: Any) -> None:
        """Add an untyped storage of torch that is on the CPU."""
        self.owners.append(storage)
        self.addresses.append(storage.data_ptr())
        self.sizes.append(storage.nbytes())

    def add_buffer(self, buffer: Any) -> None:
        """Add a contiguous buffer, such as an array."""
        import numpy as np

        found = np.frombuffer(buffer, np.uint8) if memoryview(buffer).nbytes else None
        self.owners.append((buffer, found))
        self.addresses.append(0 if found is None else found.ctypes.data)
        self.sizes.append(0 if found is None else found.nbytes)


@dataclass(frozen=True, slots=True)
class Part:
    """Where a stretch of memory is.

    Attributes:
        chunk: Number of the chunk.
        offset: Where in it.
    """

    chunk: int
    offset: int


class Snapshotter:
    """Takes snapshots, one at a time.

    Args:
        num_threads: That take digests at a boundary, with the one that is stopped.

    Attributes:
        restless: Addresses and sizes of large memory that somebody else writes.
    """

    def __init__(self, num_threads: int = 2) -> None:
        self.restless: set[tuple[int, int]] = set()
        self._num_helpers = max(0, num_threads - 1)
        self._pool = ThreadPoolExecutor(
            max(1, self._num_helpers), thread_name_prefix="gpurescue-digest"
        )
        self._gathered = Staging()

    def take(self, memory: Memory, *, stops: bool = False) -> Snapshot:
        """Note what memory is now; it is copied later.

        Called where training stands still, and no earlier snapshot is being copied.

        Args:
            memory: What to take.
            stops: True to copy all of it at once: training stands still for longer.
        """
        found = Snapshot(memory)
        found.sort_out(None if stops else self.restless)
        self._gathered.reserve(found.num_gathered)
        found.gather(self._gathered)
        self._digest(found)
        found.watch()
        return found

    def is_prepared(self, num_gathered: int) -> bool:
        """True if there is room for what is going to be gathered."""
        return self._gathered.has(num_gathered)

    def prepare(self, num_gathered: int) -> None:
        """Have room for what is going to be gathered: fresh memory is slow."""
        self._gathered.reserve(num_gathered)

    def found_torn(self, snapshot: Snapshot, torn: Torn) -> None:
        """Gather at the boundary, from now on, what had been written to."""
        memory = snapshot.memory
        for number in torn.numbers:
            self.restless.add((memory.addresses[number], memory.sizes[number]))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _digest(self, snapshot: Snapshot) -> None:
        # The largest first: one that comes last would be waited for by all.
        waiting = deque(sorted(snapshot.chunks, key=lambda chunk: chunk.nbytes))

        def work() -> None:
            while waiting:
                try:
                    chunk = waiting.pop()
                except IndexError:
                    return
                chunk.digest = digest_of(_view(chunk.address, chunk.nbytes))

        helpers = [self._pool.submit(work) for _ in range(self._num_helpers)]
        work()
        for helper in helpers:
            helper.result()


class _Chunk:
    """Bytes that are digested and stored as one.

    Attributes:
        address: Where they are read: where they belong, or where they were gathered.
        nbytes: How many.
        number: Of the stretch of memory that this is; None for gathered ones.
        digest: Of what they were at the boundary.
    """

    __slots__ = ("address", "digest", "is_proved", "lock", "nbytes", "number", "to")

    def __init__(self, address: int, nbytes: int, number: int | None) -> None:
        self.address = address
        self.nbytes = nbytes
        self.number = number
        self.digest = ""
        self.to: int | None = None  # where the copy is, once there is one
        self.is_proved = False
        self.lock = threading.Lock()

    def copy(self, to: int) -> None:
        """Copy, and digest the copy; what an optimizer had copied is digested only."""
        with self.lock:
            found = xxhash.xxh3_128()
            for start in range(0, self.nbytes, _BLOCK):
                count = min(_BLOCK, self.nbytes - start)
                if self.to is None:
                    ctypes.memmove(to + start, self.address + start, count)
                found.update(_view(to + start, count))
            self.to = to
            self.is_proved = found.hexdigest() == self.digest

    def copy_first(self, to: int) -> None:
        """Copy before somebody writes."""
        with self.lock:
            if self.to is None:
                ctypes.memmove(to, self.address, self.nbytes)
                self.to = to


class Snapshot:
    """Memory as it was at a boundary.

    Args:
        memory: What is taken.

    Attributes:
        chunks: Its bytes.
        parts: Where in them each stretch of memory is.
        num_gathered: Bytes that are copied at the boundary.
        num_saved: Chunks that were copied because an optimizer was about to write.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.chunks: list[_Chunk] = []
        self.parts: list[Part] = []
        self.num_gathered = 0
        self.num_saved = 0
        self._groups: list[list[int]] = []
        self._places: dict[int, int] = {}  # of chunks: address of the copy
        self._fresh: list[_Chunk] = []
        self._are_placed = threading.Event()
        self._by_address: dict[int, _Chunk] = {}

    @property
    def keys(self) -> list[tuple[str, int]]:
        """Digest and number of bytes of each chunk."""
        return [(chunk.digest, chunk.nbytes) for chunk in self.chunks]

    def sort_out(self, restless: set[tuple[int, int]] | None) -> None:
        """Decide what is a chunk of its own, and what is gathered (all, if None)."""
        memory, parts = self.memory, self.parts
        group: list[int] = []
        filled = 0
        for number, (address, nbytes) in enumerate(
            zip(memory.addresses, memory.sizes, strict=True)
        ):
            if nbytes >= SMALL:
                is_gathered = restless is None or (address, nbytes) in restless
                self._add(number, is_gathered=is_gathered)
                continue
            if filled + nbytes > _GATHERED or not group:
                group, filled = [], 0
                self._groups.append(group)
                self.chunks.append(_Chunk(0, 0, None))
                chunk = len(self.chunks) - 1
                group.append(chunk)
            group.append(number)
            parts.append(Part(chunk, filled))
            filled = _aligned(filled + nbytes)
            self.chunks[chunk].nbytes = filled
        self.num_gathered = sum(c.nbytes for c in self.chunks if not c.address)

    def _add(self, number: int, *, is_gathered: bool) -> None:
        address, nbytes = self.memory.addresses[number], self.memory.sizes[number]
        self.parts.append(Part(len(self.chunks), 0))
        if is_gathered:
            self._groups.append([len(self.chunks), number])
            self.chunks.append(_Chunk(0, nbytes, None))
            return
        chunk = _Chunk(address, nbytes, number)
        self.chunks.append(chunk)
        self._by_address[address] = chunk

    def gather(self, staging: Staging) -> None:
        """Copy what cannot wait."""
        addresses, sizes, parts = self.memory.addresses, self.memory.sizes, self.parts
        at = staging.address
        for chunk, *numbers in self._groups:
            self.chunks[chunk].address = at
            if sum(sizes[number] for number in numbers) < self.chunks[chunk].nbytes:
                ctypes.memset(at, 0, self.chunks[chunk].nbytes)  # equal gaps
            for number in numbers:
                to = at + parts[number].offset
                ctypes.memmove(to, addresses[number], sizes[number])
            at += self.chunks[chunk].nbytes

    # -- the copy, in another thread

    def place(self, fresh: Sequence[int], offsets: Sequence[int], to: int) -> None:
        """Say where copies go.

        Args:
            fresh: Which chunks are copied; nobody needs the others.
            offsets: Where each goes.
            to: The address that offsets count from.
        """
        self._fresh = [self.chunks[number] for number in fresh]
        for chunk, offset in zip(self._fresh, offsets, strict=True):
            self._places[id(chunk)] = to + offset
        self._are_placed.set()

    def copy(self) -> None:
        """Copy what was placed, while training goes on.

        Raises:
            Torn: Some of it had been written to before it was copied.
        """
        try:
            for chunk in self._fresh:
                chunk.copy(self._places[id(chunk)])
        finally:
            self.forget()
        torn = [c.number for c in self._fresh if not c.is_proved]
        if torn:
            raise Torn([number for number in torn if number is not None])

    def forget(self) -> None:
        """Nothing is copied any more: let optimizers write, and memory go."""
        _unwatch(self._before_step)
        self._are_placed.set()
        self.memory.owners.clear()

    # -- before somebody writes

    def watch(self) -> None:
        """Be told before an optimizer writes."""
        optim = sys.modules.get("torch.optim.optimizer")
        if optim is not None and self._by_address:
            # Not registered: a handle would take a number, and hooks that the program
            # makes later would have other numbers than without us.
            optim._global_optimizer_pre_hooks[_HOOK] = self._before_step

    def _before_step(self, optimizer: Any, args: object, kwargs: object) -> None:
        try:
            self.save(storages_of(optimizer))
        except Exception:  # noqa: BLE001 - the digest then says so
            _log.warning("A tensor was not copied in time.", exc_info=True)

    def save(self, storages: Iterable[Any]) -> None:
        """Copy what is about to be written, unless that was done."""
        found = [self._by_address.get(storage.data_ptr()) for storage in storages]
        mine = {id(c): c for c in found if c is not None and not c.is_proved}
        if not mine:
            return
        self._are_placed.wait()  # some milliseconds: a look into the catalogue
        # What the other thread is busy with comes last: then it is done.
        for chunk in sorted(mine.values(), key=lambda c: c.lock.locked()):
            to = self._places.get(id(chunk))
            if to is not None and chunk.to is None:
                chunk.copy_first(to)
                self.num_saved += 1


def _unwatch(hook: Callable[..., None]) -> None:
    optim = sys.modules.get("torch.optim.optimizer")
    if optim is not None and optim._global_optimizer_pre_hooks.get(_HOOK) == hook:
        optim._global_optimizer_pre_hooks.pop(_HOOK, None)


def storages_of(optimizer: Any) -> list[Any]:
    """The untyped storages that a step of an optimizer may write."""
    torch = sys.modules["torch"]
    found: list[Any] = []
    waiting: list[Any] = [group["params"] for group in optimizer.param_groups]
    waiting += optimizer.state.values()
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            found.append(value.untyped_storage())
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
    return found


def _view(address: int, nbytes: int) -> Any:
    return (ctypes.c_char * nbytes).from_address(address)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64
