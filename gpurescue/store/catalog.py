"""The catalogue: what the manifests say, where it can be asked for quickly.

SQLite, and nothing that is not in the manifests too: a catalogue that is lost, old,
damaged or not as we make them is made again from those.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from gpurescue.errors import Locked, NotWritten
from gpurescue.store.format import Chunk, Identity, Manifest, Natural, Time

NAME = "catalog.sqlite"
VERSION = 3
WHERE, METRICS = "where", "metrics"  # notes that say it
Place = Annotated[str, Meta(pattern="^[ -~]{0,100}$")]
Metrics = Annotated[
    dict[Annotated[str, Meta(pattern="^[ -~]{1,100}$")], float], Meta(max_length=100)
]
_WAIT = 30.0  # seconds for another process
_TABLES = (
    "CREATE TABLE checkpoints (id TEXT PRIMARY KEY, run TEXT NOT NULL, "
    "number INTEGER NOT NULL, parent TEXT, created REAL NOT NULL, "
    "nbytes INTEGER NOT NULL, added INTEGER NOT NULL, num_tensors INTEGER NOT NULL, "
    "place TEXT NOT NULL, metrics TEXT NOT NULL)",
    "CREATE INDEX by_run ON checkpoints (run, number)",
    "CREATE TABLE chunks (digest TEXT NOT NULL, nbytes INTEGER NOT NULL, "
    "pack TEXT NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (digest, nbytes)) "
    "WITHOUT ROWID",
)


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
    """

    def __init__(self, path: Path) -> None:
        self._path = path / NAME
        if not self._is_readable():
            self._make()

    def _is_readable(self) -> bool:
        """False for a catalogue with anything in it that we do not make: a trigger."""
        if self._path.is_symlink() or not self._path.is_file():
            return False
        text = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
        try:
            with self._connected() as found:
                (version,) = found.execute("PRAGMA user_version").fetchone()
                tables = {sql for (sql,) in found.execute(text)}
                return version == VERSION and tables == set(_TABLES)
        except sqlite3.DatabaseError:
            return False

    def _make(self) -> None:
        for suffix in ("", "-journal", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._path}{suffix}")
        with self._connected() as found:
            for text in _TABLES:
                found.execute(text)
            found.execute(f"PRAGMA user_version = {VERSION}")
        self._path.chmod(0o600)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each thread and each use: all are short."""
        connection = sqlite3.connect(self._path, timeout=_WAIT)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            with connection:
                yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._connected() as found:
                yield found
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise Locked(f"{self._path} is in use by another process.") from error
            raise NotWritten(f"{self._path} could not be written: {error}.") from error

    def add(self, manifests: Iterable[Manifest]) -> None:
        """Add checkpoints, oldest first.

        Raises:
            NotWritten: The disk is full, or broken.
        """
        with self._writing() as found:
            for manifest in manifests:
                _add(found, manifest)

    def remove(self, ids: Iterable[str], packs: Iterable[str]) -> None:
        """Remove checkpoints, and the chunks that were in removed packs."""
        with self._writing() as found:
            found.executemany(
                "DELETE FROM checkpoints WHERE id = ?", [(one,) for one in ids]
            )
            found.executemany(
                "DELETE FROM chunks WHERE pack = ?", [(one,) for one in packs]
            )

    def move(self, pack: str, chunks: Iterable[Chunk]) -> None:
        """Forget a pack: what is needed of it is in others.

        Raises:
            NotWritten: The disk is full, or broken.
        """
        text = "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?)"
        with self._writing() as found:
            found.execute("DELETE FROM chunks WHERE pack = ?", (pack,))
            found.executemany(
                text, [(c.digest, c.nbytes, c.pack, c.offset) for c in chunks]
            )

    def rows(self, run: str | None = None) -> list[Row]:
        """All checkpoints, or those of a run, oldest first.

        Empty, as is the catalogue then, if one of them is not as we write them.
        """
        text = "SELECT * FROM checkpoints WHERE run = ? OR ? ORDER BY created, number"
        with self._connected() as found:
            rows = found.execute(text, (run, run is None)).fetchall()
        names = [field.name for field in fields(Row)]
        try:
            made = [dict(zip(names, row, strict=True)) for row in rows]
            for row in made:
                row["metrics"] = msgspec.json.decode(row["metrics"])
            return msgspec.convert(made, list[Row])
        except (
            msgspec.DecodeError,
            TypeError,
        ):  # by somebody else; tables take any type
            self._make()
            return []

    def places(self, keys: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Chunk]:
        """Where chunks are, by digest and size; those that are new are left out."""
        text = "SELECT digest, nbytes, pack, offset FROM chunks WHERE digest = ?"
        with self._connected() as found:
            rows = [
                row
                for digest, nbytes in keys
                for row in found.execute(f"{text} AND nbytes = ?", (digest, nbytes))
            ]
        return {(row[0], row[1]): Chunk(*row) for row in rows}


def _add(found: sqlite3.Connection, manifest: Manifest) -> None:
    distinct = {(c.digest, c.nbytes): c for c in manifest.chunks}.values()
    added = 0
    for chunk in distinct:
        done = found.execute(
            "INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?)",
            (chunk.digest, chunk.nbytes, chunk.pack, chunk.offset),
        )
        added += chunk.nbytes if done.rowcount else 0
    found.execute(
        "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            manifest.id, manifest.run, manifest.number, manifest.parent,
            manifest.created, sum(chunk.nbytes for chunk in distinct), added,
            len(manifest.tensors), _place(manifest.notes.get(WHERE)),
            _metrics(manifest.notes.get(METRICS)),
        ),
    )  # fmt: skip


def _place(note: object) -> str:
    """A note may say anything; what is shown is short and printable."""
    try:
        return msgspec.convert(note, Place)
    except msgspec.ValidationError:
        return ""


def _metrics(note: object) -> str:
    try:
        found = msgspec.convert(note, Metrics)
    except msgspec.ValidationError:
        found = {}
    return msgspec.json.encode(found).decode()
