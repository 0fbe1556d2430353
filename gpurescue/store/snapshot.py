"""Snapshots of memory that are copied while training goes on, and proved.

At a boundary only digests are taken. What has changed since an earlier checkpoint is
then copied in the background; before an optimizer writes what was not copied yet, that
is copied first. This speculates that nobody else writes large memory between two steps.
The digest of every copy, against the one taken at the boundary, is the proof: what
differs was written in between, and is never published (soft copy-on-write with
validated speculation, as in PhoenixOS, arXiv 2405.12079).

Small stretches of memory, such as the statistics of BatchNorm, are gathered at the
boundary, and so is what has been found written once: there the speculation fails.

Of memory of a GPU the GPU takes a mark at the boundary, and not a digest; see
``devices.py``.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gpurescue.errors import NotWritten, Torn
from gpurescue.store import steps
from gpurescue.store.devices import Device, DeviceChunk, Devices, view
from gpurescue.store.lanes import CudaLane, Lane
from gpurescue.store.layout import SMALL
from gpurescue.store.memory import HostChunk, Memory, Part
from gpurescue.store.packs import digest_of
from gpurescue.store.pipe import Pipe
from gpurescue.store.staging import Staging

_log = logging.getLogger(__name__)
_GATHERED = 2**20  # bytes of small stretches that make one chunk


class Snapshotter:
    """Takes snapshots, one at a time.

    Args:
        num_threads: That take digests at a boundary, with the one that is stopped.
        lane: From a device to the host.

    Attributes:
        restless: Addresses and sizes of large memory that somebody else writes.
    """

    def __init__(
        self, num_threads: int = 2, lane: Callable[[Any], Lane] = CudaLane
    ) -> None:
        self.restless: set[tuple[int, int]] = set()
        self._devices = Devices(lane)
        self._known: dict[tuple[str, int], str] = {}
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

        Raises:
            NotWritten: A device has failed; if that is the program's doing, the program
                will be told of it by the next thing that it asks for.
        """
        found = Snapshot(memory, self._known)
        try:
            found.settle(self._devices)
            found.sort_out(self.restless, self._devices)
            found.take_devices()
        except RuntimeError as error:
            found.forget()
            why = str(error).partition("\n")[0]
            raise NotWritten(
                f"The memory of a device could not be read: {why}; this run goes on "
                "without checkpoints."
            ) from error
        self._gathered.reserve(found.num_gathered)
        found.gather(self._gathered)
        self._digest(found)
        found.watch()
        return found

    def is_prepared(self, num_gathered: int, devices: set[Any]) -> bool:
        """True if there is room for what is going to be gathered."""
        return self._gathered.has(num_gathered) and self._devices.are_prepared(devices)

    def prepare(self, num_gathered: int, devices: set[Any]) -> None:
        """Have room for what is going to be gathered: fresh memory is slow.

        Raises:
            RuntimeError: A device has failed.
        """
        self._gathered.reserve(num_gathered)
        self._devices.prepare(devices)

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
        chunks = [chunk for chunk in snapshot.chunks if isinstance(chunk, HostChunk)]
        waiting = deque(sorted(chunks, key=lambda chunk: chunk.nbytes))

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


class Snapshot:
    """Memory as it was at a boundary.

    Args:
        memory: What is taken.
        known: Digests of memory of devices, by mark and size. What was found out by the
            last snapshot that was copied takes their place.

    Attributes:
        chunks: Its bytes.
        parts: Where in them each stretch of memory is.
        digests: Of chunks for which something else stands in ``keys``; filled in when
            they are copied.
        num_gathered: Bytes of the host that are copied at the boundary.
        num_saved: Chunks that were copied because an optimizer was about to write.
        waited: Seconds in which devices came to the end of what the program had given
            them: they would have taken those anyway.
    """

    def __init__(self, memory: Memory, known: dict[tuple[str, int], str]) -> None:
        self.memory = memory
        self.chunks: list[HostChunk | DeviceChunk] = []
        self.parts: list[Part] = []
        self.digests: dict[str, str] = {}
        self.num_gathered = 0
        self.num_saved = 0
        self.waited = 0.0
        self._known = known
        self._far: dict[Device, list[DeviceChunk]] = {}
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
        """Digest and number of bytes of each chunk; see ``digests``."""
        return [
            (
                chunk.digest
                or (chunk.stand_in if isinstance(chunk, DeviceChunk) else ""),
                chunk.nbytes,
            )
            for chunk in self.chunks
        ]

    def add_text(self, text: bytes) -> int:
        """Add bytes that nobody writes; the number of their chunk."""
        address = ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p).value or 0
        chunk = HostChunk(address, len(text), None)
        chunk.digest = digest_of(text)
        self._texts.append(text)
        self.chunks.append(chunk)
        return len(self.chunks) - 1

    def settle(self, devices: Devices) -> None:
        """Wait for the devices: some of the state may be on its way to them.

        Raises:
            RuntimeError: One has failed.
        """
        begun = time.perf_counter()
        for device in self.memory.devices:
            devices[device].lane.settle()
        self.waited = time.perf_counter() - begun

    def sort_out(self, restless: set[tuple[int, int]], devices: Devices) -> None:
        """Decide what is a chunk of its own, and what is gathered."""
        memory, parts = self.memory, self.parts
        groups: dict[Any, tuple[list[int], HostChunk | DeviceChunk]] = {}
        for number, (address, nbytes, place) in enumerate(
            zip(memory.addresses, memory.sizes, memory.places, strict=True)
        ):
            found = groups.get(place) if nbytes < SMALL else None
            if found is None or found[1].nbytes + nbytes > _GATHERED:
                device = None if place is None else devices[place]
                moves = number in memory.moving or (address, nbytes) in restless
                is_gathered = nbytes < SMALL or moves
                found = self._add(number, device, is_gathered=is_gathered)
                if nbytes < SMALL:
                    groups[place] = found
            group, chunk = found
            group.append(number)
            parts.append(Part(group[0], chunk.nbytes))
            end = chunk.nbytes + nbytes
            chunk.nbytes = end if nbytes >= SMALL else _aligned(end)
        here = [chunk for chunk in self.chunks if isinstance(chunk, HostChunk)]
        self.num_gathered = sum(chunk.nbytes for chunk in here if not chunk.address)

    def _add(
        self, number: int, device: Device | None, *, is_gathered: bool
    ) -> tuple[list[int], HostChunk | DeviceChunk]:
        """Begin a chunk: its number, behind which those of its stretches go."""
        group = [len(self.chunks)]
        if is_gathered:
            self._groups.append(group)
        else:
            self._by_address[self.memory.addresses[number]] = group[0]
        own: int | None = number
        address = self.memory.addresses[number]
        if is_gathered:
            own, address = None, 0
        chunk: HostChunk | DeviceChunk
        if device is None:
            chunk = HostChunk(address, 0, own)
        else:
            chunk = DeviceChunk(device, own)
            chunk.source = None if is_gathered else view(self.memory.owners[number])
            self._far.setdefault(device, []).append(chunk)
        self.chunks.append(chunk)
        return group, chunk

    def take_devices(self) -> None:
        """Have devices gather what cannot wait, and hash.

        Raises:
            RuntimeError: One has failed.
        """
        owners, parts = self.memory.owners, self.parts
        for first, *numbers in self._groups:
            chunk = self.chunks[first]
            if isinstance(chunk, DeviceChunk):
                chunk.stretches = [(parts[n].offset, view(owners[n])) for n in numbers]
        for device, chunks in self._far.items():
            device.take(chunks)

    def gather(self, staging: Staging) -> None:
        """Copy what cannot wait."""
        addresses, sizes, parts = self.memory.addresses, self.memory.sizes, self.parts
        at = staging.address
        for first, *numbers in self._groups:
            chunk = self.chunks[first]
            if isinstance(chunk, DeviceChunk):
                continue
            chunk.address = at
            if sum(sizes[number] for number in numbers) < chunk.nbytes:
                ctypes.memset(at, 0, chunk.nbytes)  # equal gaps
            for number in numbers:
                to = at + parts[number].offset
                ctypes.memmove(to, addresses[number], sizes[number])
            at += chunk.nbytes

    # -- the copy, in other threads

    def identify(self) -> None:
        """Find out what of the memory of devices is known already.

        Raises:
            RuntimeError: A device has failed.
        """
        for device, chunks in self._far.items():
            device.read_marks()
            for chunk in chunks:
                chunk.digest = self._known.get((chunk.mark, chunk.nbytes), "")

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
        self._learn()

    def _learn(self) -> None:
        far = [chunk for chunks in self._far.values() for chunk in chunks]
        digests = {c.stand_in: c.digest for c in far if c.digest}
        self.digests.update(digests)
        self._known.clear()
        for chunk in far:
            self._known[chunk.mark, chunk.nbytes] = digests[chunk.stand_in]

    def forget(self) -> None:
        """Nothing is copied any more: let optimizers write, and memory go."""
        steps.unwatch(self._before_step)
        self._are_placed.set()
        self._is_over.set()
        self.memory.owners.clear()
        for device, chunks in self._far.items():
            device.forget()
            for chunk in chunks:
                chunk.forget()
        self._texts.clear()
        self._aside.clear()

    def wait(self, timeout: float) -> None:
        """Wait until nothing is copied any more."""
        self._is_over.wait(timeout)

    # -- before somebody writes

    def watch(self) -> None:
        """Be told before an optimizer writes."""
        if self._by_address:
            steps.watch(self._before_step)

    def _before_step(self, optimizer: Any, args: object, kwargs: object) -> None:
        try:
            self.save(steps.storages_of(optimizer))
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

    def _save(self, chunk: HostChunk | DeviceChunk, offset: int) -> None:
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


def _view(address: int, nbytes: int) -> Any:
    return (ctypes.c_char * nbytes).from_address(address)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64
