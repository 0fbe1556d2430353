"""One run in the records: begun, written to while it trains, ended."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import xxhash

from gpurescue.hindsight import values
from gpurescue.hindsight.records import RUNNING, Records
from gpurescue.recovery.places import EPOCH, STEP, Place

Row = tuple[str, Any, Place, float]  # name, value, where, seconds since the run began
Patch = tuple[float, str, str, str]  # seconds, name, source before, source after
_PUT = "INSERT INTO _logs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
SHORT = 12  # digits of the id of a version: people look at it
BEAT = 5.0  # seconds from one word of a run that logs nothing to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a run is made of.

    Attributes:
        id: Of the run; its checkpoints have it, too.
        began: Seconds since 1970.
        sources: Texts of its cells and modules, by name.
        environment: Facts about the process and the machine, by name.
        notebook: The notebook's name.
        parent: The run that it goes on with; None for none.
        checkpoint: The checkpoint that it goes on from; None for none.
        num_before: How many values the parent had logged at that checkpoint.
    """

    id: str
    began: float
    sources: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    notebook: str = ""
    parent: str | None = None
    checkpoint: str | None = None
    num_before: int = 0


class Journal:
    """One run in the records; a writer of its own.

    Args:
        records: Where it is.
        origin: What the run is made of.

    Raises:
        Locked: Another process says that it is this run.
        NotWritten: The records cannot be written.
    """

    def __init__(self, records: Records, origin: Origin) -> None:
        self._records = records
        self._num_rows = 0
        self._names: dict[str, int] = {}
        self._arguments: dict[str, str] = {}
        self._told = time.monotonic()
        self._life = contextlib.ExitStack()
        self._life.enter_context(records.alive(origin.id))
        with records.writing() as found:
            self.number = _begin(found, origin)

    def write(
        self,
        rows: Sequence[Row],
        arguments: Mapping[str, str],
        patches: Sequence[Patch],
    ) -> None:
        """Add what has come; all of it, or nothing.

        Args:
            rows: Values that were logged.
            arguments: All arguments that were asked for by now, as JSON by name.
            patches: Functions that were redefined.

        Raises:
            NotWritten: The records cannot be written.
        """
        is_quiet = not rows and not patches and arguments == self._arguments
        now = time.monotonic()
        if is_quiet and now - self._told < BEAT:
            return
        with self._records.writing() as found:
            self._add(found, rows)
            _put_arguments(found, self.number, arguments)
            for at, name, before, after in patches:
                texts = _put_texts(found, (before, after))
                given = (self.number, at, self._num_rows + len(rows), name, *texts)
                found.execute("INSERT INTO _patches VALUES (?, ?, ?, ?, ?, ?)", given)
            found.execute(
                "UPDATE _runs SET beat = ?, num_rows = ? WHERE number = ?",
                (time.time(), self._num_rows + len(rows), self.number),
            )
        self._num_rows += len(rows)
        self._arguments, self._told = dict(arguments), now

    def end(self, state: str) -> None:
        """Say how the run has ended.

        Raises:
            NotWritten: The records cannot be written.
        """
        with self._records.writing() as found:
            found.execute(
                "UPDATE _runs SET ended = ?, beat = ?, state = ? WHERE number = ?",
                (time.time(), time.time(), state, self.number),
            )
        self._life.close()

    def _add(self, found: sqlite3.Connection, rows: Sequence[Row]) -> None:
        for name in {row[0] for row in rows} - self._names.keys():
            self._names[name] = _number_of(found, name)
        made = []
        for at, (name, value, place, when) in enumerate(rows, self._num_rows + 1):
            kind, stored = values.stored(value)
            epoch, step, loops = columns(place)
            number = self._names[name]
            made.append(
                (self.number, at, number, epoch, step, loops, when, kind, stored)
            )
        found.executemany(_PUT, made)


def _begin(found: sqlite3.Connection, origin: Origin) -> int:
    version = _put_version(found, origin.sources)
    environment = _put_environment(found, origin.environment)
    cursor = found.execute(
        "INSERT INTO _runs (id, began, beat, state, version, environment, notebook, "
        "host, process, parent, checkpoint, num_before, num_rows) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
        (
            origin.id,
            origin.began,
            time.time(),
            RUNNING,
            version,
            environment,
            origin.notebook,
            socket.gethostname(),
            os.getpid(),
            origin.parent,
            origin.checkpoint,
            origin.num_before,
        ),
    )
    number = cursor.lastrowid
    assert number is not None
    found.execute(
        "INSERT INTO _arguments SELECT ?, a.name, a.value FROM _arguments a "
        "JOIN _runs r ON r.number = a.run WHERE r.id = ?",
        (number, origin.parent),
    )
    return number


def _put_version(found: sqlite3.Connection, sources: Mapping[str, str]) -> str:
    """The id of a version: of the names and texts that it is made of."""
    names = sorted(sources)
    texts = dict(
        zip(names, _put_texts(found, [sources[name] for name in names]), strict=True)
    )
    id = _digest(msgspec.json.encode(texts))[:SHORT]
    found.executemany(
        "INSERT OR IGNORE INTO _versions VALUES (?, ?, ?)",
        [(id, name, text) for name, text in texts.items()],
    )
    return id


def _put_texts(found: sqlite3.Connection, texts: Sequence[str]) -> list[str]:
    """The ids of texts, each of which is there once."""
    ids = [_digest(text.encode(errors="surrogatepass")) for text in texts]
    found.executemany(
        "INSERT OR IGNORE INTO _texts VALUES (?, ?)", zip(ids, texts, strict=True)
    )
    return ids


def _put_environment(found: sqlite3.Connection, facts: Mapping[str, str]) -> str:
    id = _digest(msgspec.json.encode(dict(sorted(facts.items()))))[:SHORT]
    found.executemany(
        "INSERT OR IGNORE INTO _environments VALUES (?, ?, ?)",
        [(id, name, value) for name, value in facts.items()],
    )
    return id


def _put_arguments(
    found: sqlite3.Connection, run: int, arguments: Mapping[str, str]
) -> None:
    found.executemany(
        "INSERT OR REPLACE INTO _arguments VALUES (?, ?, ?)",
        [(run, name, value) for name, value in arguments.items()],
    )


def _number_of(found: sqlite3.Connection, name: str) -> int:
    found.execute("INSERT OR IGNORE INTO _names (name) VALUES (?)", (name,))
    text = "SELECT number FROM _names WHERE name = ?"
    (number,) = found.execute(text, (name,)).fetchone()
    return int(number)


def _digest(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


@functools.lru_cache(maxsize=256)
def columns(place: Place) -> tuple[Any, Any, str | None]:
    """The epoch, the step, and all loops as JSON if these two do not say it all.

    See ``roles`` for which loops these are.
    """
    if not place:
        return None, None, None
    epoch_at, step_at = roles(place)
    epoch = None if epoch_at is None else place[epoch_at][1]
    step = None if step_at is None else place[step_at][1]
    said = [(EPOCH, epoch)] if epoch_at is not None else []
    said += [(STEP, step)] if step_at is not None else []
    loops = None if list(place) == said else msgspec.json.encode(place).decode()
    return epoch, step, loops


def roles(place: Place) -> tuple[int | None, int | None]:
    """Which of the loops is that of epochs, and which that of steps.

    The first with such a name, or the outermost one of several; the innermost other.
    """
    is_epoch = [EPOCH in name.lower() for name, _ in place]
    if not any(is_epoch) and len(place) > 1:
        is_epoch[0] = True
    epoch = is_epoch.index(True) if any(is_epoch) else None
    inner = [at for at in range(len(place)) if at != epoch]
    return epoch, inner[-1] if inner else None
