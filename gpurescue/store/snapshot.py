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
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import xxhash

from gpurescue.errors import Torn
from gpurescue.store.layout import SMALL
from gpurescue.store.packs import digest_of
from gpurescue.store.pipe import Pipe
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

    def take(self, memory: Memory) -> Snapshot:
        """Note what memory is now; it is copied later.

        Called where training stands still, and no earlier snapshot is being copied.

        Args:
            memory: What to take.
        """
        found = Snapshot(memory)
        found.sort_out(self.restless)
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
        end = offset + self.nbytes
        with self.lock:
            found = xxhash.xxh3_128()
            at = offset
            while at < end:  # blocks of the pack: none goes round the end of a ring
                stop = min(at - at % _BLOCK + _BLOCK, end)
                pipe.room(stop)
                to, source = pipe.address(at), self.address + at - offset
                if to != source:  # as it is for what an optimizer had copied
                    ctypes.memmove(to, source, stop - at)
                found.update(_view(to, stop - at))
                pipe.fill(stop)
                at = stop
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
        self._texts: list[bytes] = []
        self._places: dict[int, int] = {}  # of chunks that are copied: in the pack
        self._pipe: Pipe | None = None
        self._aside: list[Any] = []  # memory
        self._are_placed = threading.Event()
        self._is_over = threading.Event()
        self._by_address: dict[int, int] = {}  # numbers of chunks

    @property
    def keys(self) -> list[tuple[str, int]]:
        """Digest and number of bytes of each chunk."""
        return [(chunk.digest, chunk.nbytes) for chunk in self.chunks]

    def add_text(self, text: bytes) -> int:
        """Add bytes that nobody writes; the number of their chunk."""
        address = ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p).value or 0
        chunk = _Chunk(address, len(text), None)
        chunk.digest = digest_of(text)
        self._texts.append(text)
        self.chunks.append(chunk)
        return len(self.chunks) - 1

    def sort_out(self, restless: set[tuple[int, int]]) -> None:
        """Decide what is a chunk of its own, and what is gathered."""
        memory, parts = self.memory, self.parts
        group: list[int] = []
        filled = 0
        for number, (address, nbytes) in enumerate(
            zip(memory.addresses, memory.sizes, strict=True)
        ):
            if nbytes >= SMALL:
                self._add(number, is_gathered=(address, nbytes) in restless)
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
        self._by_address[address] = len(self.chunks)
        self.chunks.append(_Chunk(address, nbytes, number))

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

    def place(self, places: Iterable[tuple[int, int]], pipe: Pipe) -> None:
        """Say where copies go.

        Args:
            places: The numbers of the chunks that are copied (nobody needs the
                others), and where in the pack each of them begins.
            pipe: What they are written through.
        """
        self._pipe = pipe
        for number, offset in sorted(places, key=lambda place: place[1]):
            self._places[number] = offset
        self._are_placed.set()

    def copy(self) -> None:
        """Copy what was placed, while training goes on.

        Raises:
            Torn: Some of it had been written to before it was copied.
        """
        assert self._pipe is not None
        error: BaseException | None = None
        try:
            self._copy(self._pipe)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._pipe.finish(error)
            self.forget()

    def _copy(self, pipe: Pipe) -> None:
        chunks = [(self.chunks[n], offset) for n, offset in self._places.items()]
        for chunk, offset in chunks:
            chunk.copy(pipe, offset)
        torn = [chunk.number for chunk, _ in chunks if not chunk.is_proved]
        if torn:
            raise Torn([number for number in torn if number is not None])

    def forget(self) -> None:
        """Nothing is copied any more: let optimizers write, and memory go."""
        _unwatch(self._before_step)
        self._are_placed.set()
        self._is_over.set()
        self.memory.owners.clear()
        self._texts.clear()
        self._aside.clear()

    def wait(self, timeout: float) -> None:
        """Wait until nothing is copied any more."""
        self._is_over.wait(timeout)

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
        mine = {n for n in found if n is not None and not self.chunks[n].is_done}
        if not mine:
            return
        self._are_placed.wait()  # some milliseconds: a look into the catalogue
        # What the other thread is busy with comes last: then it is done.
        for number in sorted(mine, key=lambda n: self.chunks[n].lock.locked()):
            if number in self._places:
                self._save(self.chunks[number], self._places[number])

    def _save(self, chunk: _Chunk, offset: int) -> None:
        assert self._pipe is not None
        if self._pipe.is_whole:
            self.num_saved += chunk.set_aside(self._pipe.address(offset))
        elif sum(map(len, self._aside)) + chunk.nbytes <= self._pipe.capacity:
            memory = bytearray(chunk.nbytes)
            self._aside.append(memory)
            to = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            self.num_saved += chunk.set_aside(to)
        else:
            self._pipe.passed(offset + chunk.nbytes)  # training waits for the disk


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
