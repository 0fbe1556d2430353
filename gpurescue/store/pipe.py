"""A pack on its way to the disk: one thread fills it in, another writes it.

What is filled in is written at once, and not when all of it is there: a checkpoint is
durable as soon as the slower of the two is done. Memory for the whole pack lets the
thread that fills run ahead. Less of it is a ring: filling waits for the disk.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

from gpurescue.store.packs import PIECE
from gpurescue.store.staging import Staging

_BLOCK = 2**20  # copied and digested while it is in the cache


class Pipe:
    """The bytes of a pack, from their first to their last.

    Args:
        staging: Memory for them; if it is less than they are, of at least ``PIECE``.
        nbytes: How many they are.

    Attributes:
        is_whole: True if all of them are in memory in the end.
        capacity: Bytes that may wait to be written, if not.
    """

    def __init__(self, staging: Staging, nbytes: int) -> None:
        self._staging = staging
        self._nbytes = nbytes
        self.is_whole = staging.has(nbytes)
        self.capacity = len(staging.data) // PIECE * PIECE
        self._filled = 0
        self._written = 0
        self._error: BaseException | None = None
        self._is_over = False
        self._is_stopped = False
        self._changed = threading.Condition()

    # -- who fills it in, from front to back

    def address(self, offset: int) -> int:
        """Where a byte of the pack is in memory."""
        place = offset if self.is_whole else offset % self.capacity
        return self._staging.address + place

    def room(self, end: int) -> None:
        """Wait until there is room for all bytes in front of ``end``.

        Raises:
            BrokenPipeError: Nobody writes any more, and there is no room.
        """
        if self.is_whole or end <= self._written + self.capacity:
            return
        self._wait(lambda: end <= self._written + self.capacity or self._is_stopped)
        if end > self._written + self.capacity:
            raise BrokenPipeError("nobody writes what was to be filled in")

    def take_in(self, offset: int, source: int, nbytes: int, digest: Any) -> None:
        """Copy from an address to a place, and go on with the digest of the copy.

        What is there already, because the two are the same memory, is digested only.

        Raises:
            BrokenPipeError: There is no room for it.
        """
        end, shift = offset + nbytes, source - offset
        while offset < end:  # blocks of the pack: none goes round the end of a ring
            stop = min(offset - offset % _BLOCK + _BLOCK, end)
            self.room(stop)
            to = self.address(offset)
            if to != offset + shift:
                ctypes.memmove(to, offset + shift, stop - offset)
            digest.update((ctypes.c_char * (stop - offset)).from_address(to))
            self.fill(stop)
            offset = stop

    def fill(self, end: int) -> None:
        """All bytes in front of ``end`` are there."""
        with self._changed:
            self._filled = end
            self._changed.notify_all()

    def finish(self, error: BaseException | None) -> None:
        """All is there; or there is an error, and nothing of it counts."""
        with self._changed:
            self._filled, self._error, self._is_over = self._nbytes, error, True
            self._changed.notify_all()

    # -- others

    def passed(self, end: int) -> None:
        """Wait until all bytes in front of ``end`` were filled in, or never will be."""
        self._wait(lambda: self._filled >= end)

    def pieces(self) -> Iterator[memoryview]:
        """What to write, in order; each is read until the next is asked for.

        Raises:
            BaseException: What ``finish`` was given: behind the last piece, at latest.
        """
        try:
            for start in range(0, self._nbytes, PIECE):
                end = min(start + PIECE, self._nbytes)
                self.passed(end)
                if self._error is not None:
                    break
                place = self.address(start) - self._staging.address
                yield self._staging.data[place : place + end - start]
                self._write(end)
            self._wait(lambda: self._is_over)
            if self._error is not None:
                raise self._error
        finally:
            self.stop()

    def stop(self) -> None:
        """Nobody writes any more; what waits for the disk does so in vain."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def _write(self, end: int) -> None:
        with self._changed:
            self._written = end
            self._changed.notify_all()

    def _wait(self, is_so: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(is_so)
