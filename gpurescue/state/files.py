"""Open files in a graph of objects: as they stand, and opened again where they stood.

What is behind the position of a file that a run was writing to has been written after
the checkpoint, and is written again: it is cut off. Nothing of that happens before all
files were found to be what they were. A file that only other cells have used is opened
at its end, and left as it is.
"""

from __future__ import annotations

import codecs
import functools
import gc
import io
import os
import re
import stat
import sys
import tempfile
from collections.abc import Collection
from itertools import groupby
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.state import reopening

Reduced = tuple[Any, ...]

_BUFFERS = (io.BufferedWriter, io.BufferedReader, io.BufferedRandom)
KINDS = (io.TextIOWrapper, *_BUFFERS, io.FileIO)
_LIKE_FILES = (io.FileIO.__mro__[-2], tempfile._TemporaryFileWrapper)
_STANDARD = ("stdout", "stderr", "stdin", "__stdout__", "__stderr__", "__stdin__")
_OF_KERNEL = "ipykernel.iostream"
# Their encoders have no state but whether something was written: a position says it.
_STATELESS = re.compile(r"ascii|utf-(8|16|32)|iso8859|cp\d|latin|koi8|mac|charmap")


class Files:
    """The open files that a capture has come by.

    Attributes:
        is_of_run: True while what is captured belongs to the run.
        others: To be captured behind all that does.
    """

    def __init__(self) -> None:
        self.is_of_run = True
        self.others = _Others()
        self._found: dict[int, _File] = {}
        self._standing: tuple[reopening.Standing, ...] = ()

    def reduced(self, value: Any) -> Reduced | None:
        """How a file or a standard stream is pickled; None for anything else.

        Raises:
            CannotResume: It cannot be opened again as it is; says why.
        """
        if not isinstance(value, _LIKE_FILES):
            return self._of_ours(value)
        if isinstance(value, tempfile._TemporaryFileWrapper):
            raise CannotResume("it is a temporary file")
        name = _standard_name(value)
        if name:
            return reopening.standard, (name,)
        if type(value) not in KINDS:
            return None
        try:
            file: Any = value
            return _closed(file) if file.closed else self._reduced(file)
        except (OSError, ValueError) as error:
            raise CannotResume(_reason(error)) from error

    def _of_ours(self, value: Any) -> Reduced | None:
        if value is self.others:
            self.is_of_run = False
            return tuple, ()
        return (tuple, (self.standing(),)) if value is self else None

    def _reduced(self, value: Any) -> Reduced:
        if type(value) is io.TextIOWrapper:
            _check_text(value)
        file = self._add(value)
        own = dict(vars(value))
        if value is file.raw:
            given = file.path, value.name, value.mode, self.is_of_run
            return reopening.raw, given, own
        if isinstance(value, _BUFFERS):
            size = value.__sizeof__() - type(value).__basicsize__
            return reopening.buffer, (type(value), value.raw, size), own
        return reopening.text, (value.buffer, _text_facts(value)), own

    def _add(self, value: Any) -> _File:
        raw = _raw_of(value)
        file = self._found.get(id(raw))
        if file is None:
            file = _File(raw, raw, path_of(raw), self.is_of_run)
        file.take(value)
        self._found[id(raw)] = file
        return file

    def refused(self) -> dict[int, tuple[Any, str]]:
        """Those that were found not to be gone on with at last, and why, by ``id``."""
        return {
            id(x.top): (x.top, f"{type(x.top).__name__}: {x.why_not}")
            for x in self._standing
            if x.why_not
        }

    def standing(self) -> tuple[reopening.Standing, ...]:
        """Where they stand; to be asked when all of them are known."""
        files = sorted(self._found.values(), key=_File.identity)
        found: list[reopening.Standing] = []
        for _, group in groupby(files, _File.identity):
            handles = list(group)
            why = _trouble(handles)
            found += [file.standing(why) for file in handles]
        self._standing = tuple(found)
        return self._standing


class _Others:
    """What is captured behind it does not belong to the run."""


OUTSIDE = (*_LIKE_FILES, Files, _Others)


class _File:
    """An open file; the object that its user has is the top of up to three."""

    def __init__(self, raw: Any, top: Any, path: str, is_of_run: bool) -> None:
        self.raw = raw
        self.path = path
        self._top = top
        self._is_of_run = is_of_run
        self.had_pending = False

    def take(self, value: Any) -> None:
        """Write out what an object over this file has in memory."""
        if KINDS.index(type(value)) < KINDS.index(type(self._top)):
            self._top = value
        before = self.raw.tell()
        value.tell()  # before flush: that would allow it where it is wrong
        if self.raw.writable():
            value.flush()
            self.had_pending |= self.raw.tell() != before

    def identity(self) -> tuple[int, int]:
        """By which it is the same file as another one."""
        found = os.fstat(self.raw.fileno())
        return found.st_dev, found.st_ino

    def standing(self, why: str) -> reopening.Standing:
        """Where it stands, now that all objects over it are known."""
        under = self._top.buffer if type(self._top) is io.TextIOWrapper else self._top
        size, place, proof = os.fstat(self.raw.fileno()).st_size, under.tell(), b""
        try:
            proof = reopening.proof(self.path, place, size)
        except OSError as error:
            why = why or f"could not be read: {error.strerror}"
        return reopening.Standing(
            raw=self.raw,
            top=self._top,
            path=self.path,
            position=self._top.tell(),
            place=place,
            size=size,
            proof=proof,
            is_of_run=self._is_of_run,
            why_not=why,
        )


def _trouble(handles: Collection[_File]) -> str:
    """Why several handles on one file cannot be gone on with; empty if they can.

    Each writes what it has in memory when that is full. That the order of what is in
    the file stays the same takes that nothing is in memory.
    """
    is_written = len(handles) > 1 and any(file.had_pending for file in handles)
    return "is open twice, and written with a buffer" if is_written else ""


def check(value: Any) -> None:
    """Find out whether a file could be opened again as it is.

    Nothing of it is written out: that is for who captures all that writes to it.

    Raises:
        CannotResume: It could not; says why.
    """
    try:
        if value.closed:
            return
        if type(value) is io.TextIOWrapper:
            _check_text(value)
        path_of(_raw_of(value))
        if value.readable():
            value.tell()
    except (OSError, ValueError) as error:
        raise CannotResume(_reason(error)) from error


def _standard_name(value: Any) -> str:
    for name in _STANDARD:
        if getattr(sys, name, None) is value:
            return name
    if type(value).__module__ == _OF_KERNEL and getattr(value, "name", "") in _STANDARD:
        return str(value.name)  # sys has another one at the moment
    return ""


def _raw_of(value: Any) -> Any:
    under = value.buffer if type(value) is io.TextIOWrapper else value
    raw = under.raw if isinstance(under, _BUFFERS) else under
    if type(raw) is not io.FileIO:
        raise CannotResume("it is no file, but something that is used as one")
    return raw


def path_of(raw: Any) -> str:
    """Where an open file is found again.

    Raises:
        CannotResume: It has no such place; says why.
        OSError: The system does not know it.
    """
    own = os.fstat(raw.fileno())
    if not stat.S_ISREG(own.st_mode) or not raw.closefd:
        raise CannotResume("it is no plain file on the disk")
    name = raw.name
    given = [] if isinstance(name, int) else [os.path.abspath(os.fsdecode(name))]
    for path in (*given, _known_to_the_system(raw)):
        if path.startswith(("/proc/", "/sys/")):
            raise CannotResume("it belongs to the process, or to the machine")
        if os.path.exists(path) and os.path.samestat(os.stat(path), own):
            return path
    raise CannotResume("it was removed, or another one is in its place")


def _known_to_the_system(raw: Any) -> str:
    """For a file that has moved, or a program that is in another folder now."""
    try:
        return os.readlink(f"/proc/self/fd/{raw.fileno()}")
    except OSError:
        return ""


def _closed(value: Any) -> Reduced:
    """A file that was closed: it has its name and mode, and does nothing."""
    is_text = type(value) is io.TextIOWrapper
    text = (value.encoding, value.errors) if is_text else None
    raw = _raw_of(value)
    return reopening.closed, (type(value), str(raw.name), raw.mode, text), vars(value)


def _check_text(value: Any) -> None:
    if not _STATELESS.match(codecs.lookup(value.encoding).name):
        raise CannotResume(f"how far text in {value.encoding} is written is not known")
    if not _is_newline_known():
        raise CannotResume("how its lines end is not known on this version of Python")


def _text_facts(value: Any) -> dict[str, Any]:
    return {
        "encoding": value.encoding,
        "errors": value.errors,
        "newline": _newline(value),
        "line_buffering": value.line_buffering,
        "write_through": value.write_through,
    }


def _newline(value: Any) -> str | None:
    """The argument ``newline`` that a text file was opened with.

    No attribute says it. It is among what the garbage collector is told of: behind the
    encoding, and before text that was read or is to be written: there is none now.
    """
    if value.readable():
        value.seek(value.tell())  # what was read ahead is dropped
    return _found_newline(value)


def _found_newline(value: Any) -> str | None:
    between = [x for x in gc.get_referents(value) if type(x) is str][1:-1]
    return between[0] if between else None


@functools.cache
def _is_newline_known() -> bool:
    def found(newline: str | None) -> str | None:
        with io.TextIOWrapper(io.BytesIO(), "utf-8", newline=newline) as file:
            file.write("text")
            file.flush()
            return _found_newline(file)

    return all(found(x) == x for x in (None, "", "\n", "\r", "\r\n"))


def _reason(error: OSError | ValueError) -> str:
    if "telling position disabled" in str(error):
        return "it is being gone over line by line; use readline(), or list() of it"
    return str(error)
