"""The catalogue: what the manifests say, where it can be asked for quickly.

SQLite, and nothing that is not in the manifests too: a catalogue that is lost, old,
damaged or not as we make them is made again from those; where no file can be written,
in memory. SQLite does not see it when bytes of a row change, so each row has a seal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import logging
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from gpurescue.errors import Locked, NotWritten
from gpurescue.store.database import connected, is_busy
from gpurescue.store.files import FILE_MODE, UNFINISHED
from gpurescue.store.format import Chunk, Identity, Manifest, Natural, Signed, Time

_log = logging.getLogger(__name__)

NAME = "catalog.sqlite"
VERSION = 3
WHERE, METRICS = "where", "metrics"  # notes that say it
Place = Annotated[str, Meta(pattern="^[ -~]{0,100}$")]
Metrics = Annotated[
    dict[Annotated[str, Meta(pattern="^[ -~]{1,100}$")], float], Meta(max_length=100)
]
_TABLES = (
    "CREATE TABLE checkpoints (id TEXT PRIMARY KEY, run TEXT NOT NULL, "
    "number INTEGER NOT NULL, parent TEXT, created REAL NOT NULL, "
    "nbytes INTEGER NOT NULL, added INTEGER NOT NULL, num_tensors INTEGER NOT NULL, "
    "place TEXT NOT NULL, metrics TEXT NOT NULL, seal BLOB NOT NULL)",
    "CREATE INDEX by_run ON checkpoints (run, number)",
    "CREATE TABLE chunks (digest TEXT NOT NULL, nbytes INTEGER NOT NULL, "
    "pack TEXT NOT NULL, offset INTEGER NOT NULL, seal BLOB NOT NULL, "
    "PRIMARY KEY (digest, nbytes)) WITHOUT ROWID",
)
_PUT = "INSERT OR IGNORE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_CHUNK = "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?)"
_FIND_CHUNK = "SELECT * FROM chunks WHERE digest = ? AND nbytes = ?"
_MOST = 2**62  # what SQLite can count, and a hostile manifest may say more
_BROKEN = (sqlite3.Error, UnicodeDecodeError)  # names of columns are text, too
_SUPER = bytes.fromhex("d9d505f920a163d7")  # the end of a journal that names another

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Row:
    """One checkpoint.

    Attributes:
        id: Its name.
        run: The run that it is of.
        number: Counts the checkpoints of the run.
        parent: What its run has gone on from.
        created: Seconds since 1970.
        nbytes: Of all of its chunks.
        added: Of those that no earlier checkpoint had.
        num_tensors: How many tensors it has.
        place: Where in its loops the run stood, such as ``epoch 2, step 17``.
        metrics: Values by which checkpoints may be the best ones.
    """

    id: Identity
    run: Identity
    number: Natural
    parent: Identity | None
    created: Time
    nbytes: Natural
    added: Natural
    num_tensors: Natural
    place: Place = ""
    metrics: Metrics = field(default_factory=dict)


class Catalog:
    """The catalogue of one store.

    Args:
        path: Of the store.
        key: Seals where chunks are: whoever forges that has bytes taken for what they
            are not. None to believe all who can write to the store.
        manifests: Gives those of all checkpoints that can be read, to make it of.
    """

    def __init__(
        self, path: Path, key: bytes | None, manifests: Callable[[], Iterable[Signed]]
    ) -> None:
        self._path = path / NAME
        self._key = key
        self._manifests = manifests
        self._lock = threading.Lock()
        self._memory: sqlite3.Connection | None = None
        if not self._is_readable():
            self._make()

    def _is_readable(self) -> bool:
        """False for a catalogue with anything in it that we do not make: a trigger."""
        if self._path.is_symlink() or not self._path.is_file() or self._is_trapped():
            return False
        text = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
        try:
            with self._connected() as found:
                (version,) = found.execute("PRAGMA user_version").fetchone()
                tables = {sql for (sql,) in found.execute(text)}
                return version == VERSION and tables == set(_TABLES)
        except _BROKEN as error:
            return is_busy(error)

    def _is_trapped(self) -> bool:
        """True if SQLite would do more than to roll back: remove a file it is told."""
        journal = self._path.with_name(f"{NAME}-journal")
        if journal.is_symlink() or not journal.is_file():
            return os.path.lexists(journal)
        try:
            with journal.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - len(_SUPER)))
                return file.read() == _SUPER
        except FileNotFoundError:  # another process has finished
            return False

    def _make(self) -> None:
        """Make it again, in one piece; in memory if it cannot be written."""
        made = self._path.with_name(f"{UNFINISHED}{secrets.token_hex(8)}")
        try:
            os.close(os.open(made, os.O_CREAT | os.O_EXCL, FILE_MODE))
            with connected(made) as found:
                self._fill(found)
            for suffix in ("-journal", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self._path}{suffix}")
            os.replace(made, self._path)
        except (OSError, *_BROKEN):
            _log.warning("There is no catalogue but in memory.", exc_info=True)
            with contextlib.suppress(OSError):
                made.unlink()
            self._go_without()

    def _go_without(self) -> None:
        found = sqlite3.connect(":memory:", check_same_thread=False)
        with found:
            self._fill(found)
        self._memory = found

    def _fill(self, found: sqlite3.Connection) -> None:
        for text in _TABLES:
            found.execute(text)
        found.execute(f"PRAGMA user_version = {VERSION}")
        for manifest, is_signed in sorted(self._manifests(), key=_age):
            self._add(found, manifest, is_signed)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each thread and each use: all are short."""
        if self._memory is None:
            with connected(self._path) as found:
                yield found
        else:
            with self._lock, self._memory:
                yield self._memory

    def _use(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Have something done, if need be with a catalogue that was made again.

        Raises:
            Locked: Another process is using it, for long.
            NotWritten: Not even in memory.
        """
        for mend in (self._make, self._go_without, None):
            try:
                with self._connected() as found:
                    return work(found)
            except (*_BROKEN, _Rotten) as error:
                if is_busy(error):
                    raise Locked(
                        f"{self._path} is in use by another process."
                    ) from error
                if mend is None:
                    raise NotWritten(f"{self._path} is of no use: {error}.") from error
                mend()
        raise AssertionError("It has returned or raised.")

    def add(self, manifests: Iterable[Signed]) -> None:
        """Add checkpoints.

        Raises:
            Locked: Another process is using it, for long.
        """
        given = sorted(manifests, key=_age)

        def work(found: sqlite3.Connection) -> None:
            for manifest, is_signed in given:
                self._add(found, manifest, is_signed)

        self._use(work)

    def remove(self, ids: Iterable[str], packs: Iterable[str]) -> None:
        """Remove checkpoints, and the chunks that were in removed packs."""
        gone, empty = [(one,) for one in ids], [(one,) for one in packs]

        def work(found: sqlite3.Connection) -> None:
            found.executemany("DELETE FROM checkpoints WHERE id = ?", gone)
            found.executemany("DELETE FROM chunks WHERE pack = ?", empty)

        self._use(work)

    def move(self, pack: str, chunks: Iterable[Chunk]) -> None:
        """Forget a pack: what is needed of it is in others."""
        moved = [self._sealed(chunk) for chunk in chunks]

        def work(found: sqlite3.Connection) -> None:
            found.execute("DELETE FROM chunks WHERE pack = ?", (pack,))
            found.executemany(_PUT_CHUNK, moved)

        self._use(work)

    def ids(self) -> set[str]:
        """Of the checkpoints that it knows."""
        text = "SELECT id FROM checkpoints"
        return self._use(lambda found: {id for (id,) in found.execute(text)})

    def rows(self, run: str | None = None) -> list[Row]:
        """All checkpoints, or those of a run, oldest first."""
        return self._use(lambda found: _rows(found, run))

    def places(self, keys: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Chunk]:
        """Where chunks are, by digest and size; those that are new are left out.

        So are those of which it is not known by oneself where they are.
        """
        wanted = list(keys)
        return self._use(lambda found: self._places(found, wanted))

    def _places(
        self, found: sqlite3.Connection, keys: Iterable[tuple[str, int]]
    ) -> dict[tuple[str, int], Chunk]:
        there = {}
        for key in keys:
            for row in found.execute(_FIND_CHUNK, key):
                with contextlib.suppress(msgspec.ValidationError):
                    chunk = msgspec.convert(row[:-1], Chunk)
                    if hmac.compare_digest(self._sealed(chunk)[-1], _bytes(row[-1])):
                        there[key] = chunk
        return there

    def _sealed(self, chunk: Chunk) -> tuple[Any, ...]:
        values = (chunk.digest, chunk.nbytes, chunk.pack, chunk.offset)
        return (*values, _seal(values, self._key))

    def _add(
        self, found: sqlite3.Connection, manifest: Manifest, is_signed: bool
    ) -> None:
        distinct = {(c.digest, c.nbytes): c for c in manifest.chunks}
        there = self._places(found, distinct)
        fresh = [chunk for key, chunk in distinct.items() if key not in there]
        if is_signed or self._key is None:
            found.executemany(_PUT_CHUNK, map(self._sealed, fresh))
        *plain, metrics = dataclasses.astuple(row_of(manifest, _nbytes(fresh)))
        values = (*plain, msgspec.json.encode(metrics).decode())
        found.execute(_PUT, (*values, _seal(values)))


def row_of(manifest: Manifest, added: int = 0) -> Row:
    """What is said of a checkpoint.

    Args:
        manifest: What it consists of.
        added: Bytes that no earlier one had.
    """
    distinct = {(chunk.digest, chunk.nbytes): chunk for chunk in manifest.chunks}
    return Row(
        id=manifest.id,
        run=manifest.run,
        number=manifest.number,
        parent=manifest.parent,
        created=manifest.created,
        nbytes=_nbytes(distinct.values()),
        added=added,
        num_tensors=len(manifest.tensors),
        place=_place(manifest.notes.get(WHERE)),
        metrics=_metrics(manifest.notes.get(METRICS)),
    )


class _Rotten(Exception):
    """A row is not as it was written."""


def _rows(found: sqlite3.Connection, run: str | None) -> list[Row]:
    """Rows, all of which are as they were written.

    Raises:
        _Rotten: One is not.
    """
    rows = []
    for *values, seal in found.execute("SELECT * FROM checkpoints"):
        if _bytes(seal) != _seal(values):
            raise _Rotten("a row of it is not as it was written")
        try:
            given = dict(zip(_FIELDS, values, strict=True))
            given["metrics"] = msgspec.json.decode(given["metrics"])
            rows.append(msgspec.convert(given, Row))
        except (msgspec.DecodeError, TypeError) as error:  # sealed by somebody else
            raise _Rotten(str(error)) from error
    rows.sort(key=lambda row: (row.created, row.number))
    return [row for row in rows if run in {None, row.run}]


_FIELDS = [field.name for field in dataclasses.fields(Row)]


def _seal(values: Sequence[Any], key: bytes | None = None) -> bytes:
    return hmac.digest(key or b"", msgspec.json.encode(values), "sha256")


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b""


def _age(one: Signed) -> tuple[float, int]:
    return one[0].created, one[0].number


def _nbytes(chunks: Iterable[Chunk]) -> int:
    return min(sum(chunk.nbytes for chunk in chunks), _MOST)


def _place(note: object) -> str:
    """A note may say anything; what is shown is short and printable."""
    try:
        return msgspec.convert(note, Place)
    except msgspec.ValidationError:
        return ""


def _metrics(note: object) -> Metrics:
    try:
        return msgspec.convert(note, Metrics)
    except msgspec.ValidationError:
        return {}
