"""The runs that a store has checkpoints of: which have ended, and which were killed.

A run has a small file of its own. Whoever writes its checkpoints says in it every few
seconds how far the run has come, and at last how it has ended. A run that says nothing
of an end, and that nobody holds the lock of, was killed. Of many runs only the last
ones are known.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec
import xxhash
from msgspec import Meta, Struct

from gpurescue.errors import NotWritten, Refused, StoreError
from gpurescue.store.files import Folder, write_all
from gpurescue.store.format import Identity, Time
from gpurescue.store.locks import is_held

_log = logging.getLogger(__name__)

BEAT = 5.0  # seconds from one word to the next
SILENT = 60.0  # seconds: of a run on another machine, which then counts as killed
RUNNING = "running"
MOST = 200  # runs that are known; looking for the last one reads all of them
_LIMIT = 64 * 1024
_SUFFIX = ".json"
_Text = Annotated[str, Meta(pattern="^[ -~]{0,200}$")]


class Record(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a run says of itself.

    Attributes:
        run: Its id.
        began: When, in seconds since 1970.
        host: The machine that it is on.
        process: The number of its process there.
        state: ``running``, or how it has ended.
        parent: The checkpoint that it has gone on from; None for none.
        where: How far it has come, in words.
    """

    run: Identity
    began: Time
    host: _Text
    process: Annotated[int, Meta(ge=0, le=2**31)]
    state: _Text = RUNNING
    parent: Identity | None = None
    where: _Text = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A run as it is found.

    Attributes:
        record: What it says.
        beat: When it was alive last, in seconds since 1970.
        is_alive: True if it goes on.
    """

    record: Record
    beat: float
    is_alive: bool

    @property
    def was_killed(self) -> bool:
        """True if it has neither ended nor goes on."""
        return self.record.state == RUNNING and not self.is_alive


class Runs:
    """The runs of a store.

    Args:
        root: Folder of the store.
        locks: Folder of its locks.
        create: True to make the folder of runs where it is not there.
    """

    def __init__(self, root: Folder, locks: Folder, *, create: bool) -> None:
        self._locks = locks
        self._folder: Folder | None = None
        with contextlib.suppress(NotWritten if create else Refused):
            self._folder = Folder("runs", root, create=create)

    def begin(self, run: str, parent: str | None = None) -> Record:
        """Note that a run begins; harmless if it cannot be written."""
        made = Record(
            run=run,
            began=time.time(),
            host=_plain(socket.gethostname()),
            process=os.getpid(),
            parent=parent,
        )
        self._forget()
        self._write(made)
        return made

    def beat(self, record: Record, where: str = "") -> None:
        """Note that a run goes on, and how far it has come."""
        found = msgspec.structs.replace(record, where=_plain(where))
        self._write(found, lasts=False)

    def end(self, record: Record, state: str) -> None:
        """Note how a run has ended."""
        self._write(msgspec.structs.replace(record, state=_plain(state)))

    def _forget(self) -> None:
        """Make room for one more run."""
        folder = self._folder
        names = self._names()
        if folder is None or len(names) < MOST:
            return
        ages = {name: folder.about(name).st_mtime for name in names}
        with contextlib.suppress(NotWritten):
            for name in sorted(names, key=ages.__getitem__)[: 1 - MOST]:
                folder.remove(name)

    def _write(self, record: Record, *, lasts: bool = True) -> None:
        data = encoded(record)
        if self._folder is not None:
            with contextlib.suppress(NotWritten):
                self._folder.publish(
                    f"{record.run}{_SUFFIX}",
                    lambda file: write_all(file, data),
                    replaces=True,
                    lasts=lasts,
                )

    def last(self) -> Seen | None:
        """The run that has begun last; None if there is none."""
        found = [seen for name in self._names() if (seen := self._seen(name))]
        return max(found, key=lambda seen: seen.record.began, default=None)

    def of(self, run: str) -> Seen | None:
        """A run; None if nothing is known of it."""
        return None if self._folder is None else self._seen(f"{run}{_SUFFIX}")

    def ended(self, run: str, checkpoint: str) -> float:
        """When a run was alive last, or one that has gone on from its checkpoint.

        Args:
            run: Its id.
            checkpoint: The id of that.

        Returns:
            Seconds since 1970; 0 if nothing is known of it.
        """
        found = [seen for name in self._names() if (seen := self._seen(name))]
        ids = {run, checkpoint}
        beats = [s.beat for s in found if ids & {s.record.run, s.record.parent}]
        return max(beats, default=0.0)

    def _names(self) -> list[str]:
        names = [] if self._folder is None else self._folder.names()
        return [name for name in names if name.endswith(_SUFFIX)]

    def _seen(self, name: str) -> Seen | None:
        """A run; None for a file that does not say one."""
        assert self._folder is not None
        try:
            data = self._folder.read(name, _LIMIT)
            record = decoded(data)
            beat = self._folder.about(name).st_mtime
        except (StoreError, OSError, ValueError):
            return None
        if name != f"{record.run}{_SUFFIX}":
            return None
        return Seen(record, beat, self._is_alive(record, beat))

    def _is_alive(self, record: Record, beat: float) -> bool:
        if record.host != _plain(socket.gethostname()):
            return time.time() - beat < SILENT
        is_alive = is_held(self._locks, f"run-{record.run}")
        return time.time() - beat < SILENT if is_alive is None else is_alive


class Pulse:
    """Says of a run every few seconds that it goes on, in a thread of its own.

    Whoever writes its checkpoints may be at one of them for minutes.

    Args:
        runs: The runs of the store.
        run: Its id; it begins now.
        parent: The checkpoint that it has gone on from; None for none.
        where: Says how far it has come.
    """

    def __init__(
        self, runs: Runs, run: str, parent: str | None, where: Callable[[], str]
    ) -> None:
        self._runs = runs
        self._where = where
        self._record = runs.begin(run, parent)
        self._is_over = threading.Event()
        self._thread = threading.Thread(
            target=self._work, name=f"gpurescue-pulse-{run}", daemon=True
        )
        self._thread.start()

    def end(self, state: str) -> None:
        """Say how it has ended."""
        self._is_over.set()
        self._thread.join()
        self._runs.end(self._record, state)

    def _work(self) -> None:
        while not self._is_over.wait(BEAT):
            try:
                self._runs.beat(self._record, self._where())
            except Exception:  # noqa: BLE001 - the next one may be written
                _log.warning("A run did not say that it goes on.", exc_info=True)


def encoded(record: Record) -> bytes:
    """The file of a run: what it says, and the digest of that."""
    said = msgspec.json.encode(record)
    return said + b"\n" + xxhash.xxh3_128_hexdigest(said).encode() + b"\n"


def decoded(data: bytes) -> Record:
    """What the file of a run says.

    Raises:
        ValueError: It is not what was written, or no run.
    """
    said, _, digest = data.removesuffix(b"\n").rpartition(b"\n")
    if digest != xxhash.xxh3_128_hexdigest(said).encode():
        raise ValueError("The digest is that of something else.")
    return msgspec.json.decode(said, type=Record)


def _plain(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:200]
