"""Files opened again where they stood, if they are what they were."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.state.lost import Lost

_NEAR = 65_536  # bytes at a position, by which a file is known again
_NEW = os.O_CREAT | os.O_TRUNC | os.O_EXCL
_SHUT = "is opened where its run goes on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An open file, and where it stands.

    Attributes:
        raw: The ``FileIO``; something else if it was not opened again.
        top: What its user has: the text, or the buffer, or itself.
        path: Absolute.
        position: What ``tell`` of ``top`` says.
        place: The byte that this is at.
        size: Of the file, in bytes.
        proof: Of what is in it; see ``proof``.
        is_of_run: False if only other cells than the run's have used it.
        why_not: Why it cannot be gone on with; empty if it can.
    """

    raw: Any
    top: Any
    path: str
    position: int
    place: int
    size: int
    proof: bytes
    is_of_run: bool
    why_not: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it was opened again."""
        return isinstance(self.raw, io.FileIO)

    def identity(self) -> tuple[int, int]:
        """By which it is the same file as another one."""
        found = os.fstat(self.raw.fileno())
        return found.st_dev, found.st_ino


def proof(path: str, place: int, size: int) -> bytes:
    """A digest of what is in a file at a place and at what was its end.

    Raises:
        OSError: It cannot be read.
    """
    found = hashlib.blake2b(digest_size=16)
    around = (max(0, place - _NEAR), min(size, place + _NEAR))
    end = (max(0, around[1], size - _NEAR), size)
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        for first, last in (around, end):
            if first < last:
                found.update(os.pread(file, last - first, first))
    finally:
        os.close(file)
    return found.digest()


# -- made by the pickle


class _Here(threading.local):
    opened: list[Any] | None = None


_here = _Here()


@contextlib.contextmanager
def opening(*, goes_on: bool) -> Iterator[None]:
    """In the block files are opened again, and closed if it fails.

    Args:
        goes_on: False to open none: no program goes on that would use them.
    """
    opened: list[Any] = []
    _here.opened = opened if goes_on else None
    try:
        yield
    except BaseException:
        for file in reversed(opened):  # a buffer closes what is under it
            file.close()
        raise
    finally:
        _here.opened = None


def standard(name: str) -> Any:
    """The stream of this process; called by the pickle."""
    return getattr(sys, name)


def raw(path: str, name: Any, mode: str, is_of_run: bool) -> Any:
    """An open file that nothing was done to; called by the pickle.

    Raises:
        CannotResume: It cannot be opened.
    """
    if _here.opened is None:
        return Lost(f"file {path!r}", _SHUT)

    def as_it_is(_: object, flags: int) -> int:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would wait
            raise OSError("it is no plain file")
        return os.open(path, flags & ~_NEW)

    try:
        # Not by its number: that is another file here.
        found = io.FileIO(path if isinstance(name, int) else name, mode, True, as_it_is)
    except OSError as error:
        why = error.strerror or str(error)
        if is_of_run:
            raise CannotResume(f"{path} cannot be opened again: {why}.") from error
        return Lost(f"file {path!r}", f"cannot be opened: {why}")
    return _kept(found)


def buffer(kind: Any, under: Any, size: int) -> Any:
    """A buffer over a file; called by the pickle."""
    return under if isinstance(under, Lost) else _kept(kind(under, size))


def text(under: Any, facts: dict[str, Any]) -> Any:
    """A text over a buffer; called by the pickle."""
    if isinstance(under, Lost):
        return under
    return _kept(io.TextIOWrapper(under, **facts))


def _kept(file: Any) -> Any:
    assert _here.opened is not None
    _here.opened.append(file)
    return file


def closed(kind: Any, name: str, mode: str, text: tuple[str, str] | None) -> Any:
    """A file that was closed; called by the pickle."""
    file: Any = io.FileIO(name, mode, True, lambda *_: os.open(os.devnull, os.O_RDWR))
    if kind is not io.FileIO:
        buffers = (io.BufferedRandom, io.BufferedReader, io.BufferedWriter)
        is_random = file.readable() and file.writable()
        fits = is_random, file.readable(), True
        file = next(x for x, does in zip(buffers, fits, strict=True) if does)(file)
    if text is not None:
        file = io.TextIOWrapper(file, *text)
    file.close()
    return file


# -- when all objects are there


def check(found: Sequence[Standing]) -> None:
    """Find out whether files are what they were; nothing is changed.

    Raises:
        CannotResume: One of them is not; names it.
    """
    for handles in _by_file(found):
        ends = [file.size for file in handles if file.raw.writable()]
        end, now = max(ends, default=-1), os.fstat(handles[0].raw.fileno()).st_size
        for file in handles:
            _check(file, now, end)


def _check(file: Standing, now: int, end: int) -> None:
    """Check one handle of a file that has ``now`` bytes, and will be cut at ``end``."""
    if file.why_not:
        raise CannotResume(f"{file.path} {file.why_not}.")
    if now < max(file.size, end):
        raise CannotResume(
            f"{file.path} has {now} bytes, and had {max(file.size, end)} when the run "
            "was at this checkpoint. Put it back as it was, or take another checkpoint."
        )
    if end < 0 and now != file.size:
        raise CannotResume(
            f"{file.path}, which the run was reading, has {now} bytes, and had "
            f"{file.size}. Put it back as it was."
        )
    if proof(file.path, file.place, file.size) != file.proof:
        raise CannotResume(
            f"{file.path} is not what it was when the run was at this checkpoint: its "
            "text was changed, or it was written anew. Put it back as it was, or take "
            "another checkpoint."
        )


def go_on(found: Sequence[Standing]) -> None:
    """Have files stand where they stood, and cut off what is written again.

    Raises:
        CannotResume: One of them is not what it was; nothing was changed, and all are
            closed.
    """
    try:
        check(found)
    except BaseException:
        close(found)
        raise
    for handles in _by_file(found):
        writers = [file for file in handles if file.raw.writable()]
        if writers:
            end = max(file.size for file in writers)
            os.ftruncate(writers[0].raw.fileno(), end)
    for file in found:
        if file.is_open and file.is_of_run:
            file.top.seek(file.position)
        elif file.is_open:
            _leave(file)


def close(found: Sequence[Standing]) -> None:
    """Close files that nobody goes on with; nothing is changed."""
    for file in found:
        if file.is_open:
            file.top.close()


def _leave(file: Standing) -> None:
    """Have a file that is not the run's stand where others have left it."""
    was_at_end = file.place == file.size
    file.top.seek(0, os.SEEK_END) if was_at_end else file.top.seek(file.position)


def _by_file(found: Sequence[Standing]) -> Iterator[list[Standing]]:
    """The handles of each file of the run."""
    own = [file for file in found if file.is_open and file.is_of_run]
    for _, group in groupby(sorted(own, key=Standing.identity), Standing.identity):
        yield list(group)
