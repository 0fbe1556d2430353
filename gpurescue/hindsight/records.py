"""The database of all runs: versions, configurations, what was logged, outcomes.

SQLite in the folder of the store. It is the only place where this is, so it is never
made again: a file that is not as we make it is refused, and left as it is.

Tables have names that begin with an underscore. People ask the views, which say the
same with the names of things in the place of their numbers.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from gpurescue.errors import Damaged, NotWritten, Refused
from gpurescue.store import database
from gpurescue.store.files import FILE_MODE, UNFINISHED, Folder
from gpurescue.store.locks import ALONE, is_held, locked

NAME = "records.sqlite"
VERSION = 1
RUNNING = "running"
SCALAR, FLAG, TEXT, ARRAY, TENSOR, FIGURE, JSON = range(7)  # kinds of logged values
KINDS = ("scalar", "flag", "text", "array", "tensor", "figure", "json")

_TABLES = (
    "CREATE TABLE _runs (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, "
    "began REAL NOT NULL, beat REAL NOT NULL, ended REAL, state TEXT NOT NULL, "
    "version TEXT, environment TEXT, notebook TEXT NOT NULL, host TEXT NOT NULL, "
    "process INTEGER NOT NULL, parent TEXT, checkpoint TEXT, "
    "num_before INTEGER NOT NULL, num_rows INTEGER NOT NULL)",
    "CREATE TABLE _arguments (run INTEGER NOT NULL, name TEXT NOT NULL, "
    "value TEXT NOT NULL, PRIMARY KEY (run, name)) WITHOUT ROWID",
    "CREATE TABLE _versions (id TEXT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL, "
    "PRIMARY KEY (id, name)) WITHOUT ROWID",
    "CREATE TABLE _texts (id TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE _environments (id TEXT NOT NULL, name TEXT NOT NULL, "
    "value TEXT NOT NULL, PRIMARY KEY (id, name)) WITHOUT ROWID",
    "CREATE TABLE _patches (run INTEGER NOT NULL, at REAL NOT NULL, "
    "num_rows INTEGER NOT NULL, name TEXT NOT NULL, before TEXT NOT NULL, "
    "after TEXT NOT NULL)",
    "CREATE TABLE _names (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE _logs (run INTEGER NOT NULL, number INTEGER NOT NULL, "
    "name INTEGER NOT NULL, epoch, step, loops TEXT, at REAL NOT NULL, "
    "kind INTEGER NOT NULL, value, PRIMARY KEY (name, run, number)) WITHOUT ROWID",
    "CREATE INDEX _by_version ON _runs (version)",
    "CREATE VIEW runs AS SELECT id AS run, began, ended, beat, state, version, "
    "environment, notebook, host, process, parent, checkpoint, num_rows AS num_logs "
    "FROM _runs",
    "CREATE VIEW arguments AS SELECT r.id AS run, a.name, a.value "
    "FROM _arguments a JOIN _runs r ON r.number = a.run",
    "CREATE VIEW sources AS SELECT v.id AS version, v.name, t.text "
    "FROM _versions v JOIN _texts t ON t.id = v.text",
    "CREATE VIEW environments AS SELECT id AS environment, name, value "
    "FROM _environments",
    "CREATE VIEW patches AS SELECT r.id AS run, r.began + p.at AS time, p.name, "
    "b.text AS before, a.text AS after FROM _patches p "
    "JOIN _runs r ON r.number = p.run JOIN _texts b ON b.id = p.before "
    "JOIN _texts a ON a.id = p.after",
    "CREATE VIEW logs AS SELECT r.id AS run, r.version, n.name, l.epoch, l.step, "
    "l.loops, r.began + l.at AS time, l.kind, l.value, l.number FROM _logs l "
    "LEFT JOIN _runs r ON r.number = l.run LEFT JOIN _names n ON n.number = l.name",
)


class Records:
    """The records of one store.

    Args:
        folder: Of the store.
        create: True to make them where there are none.

    Raises:
        Refused: There are none, or what is there is not as we make it.
        NotWritten: They cannot be made.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.path = folder / NAME
        self._locks: Folder | None = None
        with contextlib.suppress(NotWritten if create else Refused):
            self._locks = Folder("locks", Folder(folder), create=create)
        if create and not os.path.lexists(self.path):
            self._make()
        self._check()

    def _make(self) -> None:
        """Make them in one piece; those of another process that does the same stay."""
        made = self.path.with_name(f"{UNFINISHED}{secrets.token_hex(8)}")
        try:
            made.touch(FILE_MODE, exist_ok=False)
            made.write_bytes(_empty())
            with contextlib.suppress(FileExistsError):
                os.link(made, self.path)
        except OSError as error:
            why = error.strerror
            raise NotWritten(f"{self.path} cannot be made: {why}.") from error
        finally:
            made.unlink(missing_ok=True)

    def _check(self) -> None:
        """Refuse anything that we do not make: a trigger would run at our writing."""
        if self.path.is_symlink() or not self.path.is_file():
            raise Refused(f"There are no records of runs: no {self.path}.")
        try:
            with self.reading() as found:
                (version,) = found.execute("PRAGMA user_version").fetchone()
                rows = found.execute(
                    "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
                )
                is_ours = {sql for (sql,) in rows} == set(_TABLES)
        except (Damaged, UnicodeDecodeError) as error:
            raise Refused(str(error)) from error
        if version != VERSION or not is_ours:
            raise Refused(
                f"{self.path} is not as gpurescue makes it (its version is {version}, "
                f"and {VERSION} is known); move it away, and new records are begun."
            )

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; all of it is there afterwards, or nothing.

        Raises:
            NotWritten: The disk is full, or another process writes for long.
        """
        try:
            with database.connected(self.path) as found:
                found.execute("PRAGMA journal_mode = WAL")  # readers need not wait
                found.execute("PRAGMA synchronous = NORMAL")
                found.execute("BEGIN IMMEDIATE")
                yield found
        except sqlite3.Error as error:
            raise NotWritten(f"{self.path} was not written: {error}.") from error

    @contextlib.contextmanager
    def alive(self, run: str) -> Iterator[None]:
        """Be the process that a run is in, for others to see."""
        if self._locks is None:
            yield
            return
        with locked(self._locks, f"record-{run}", ALONE, f"Run {run}"):
            yield

    def is_alive(self, run: str) -> bool | None:
        """Whether a run is in a process of this machine; None if that is not known."""
        if self._locks is None or not run.isalnum():
            return None
        return is_held(self._locks, f"record-{run}")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that cannot change anything.

        Raises:
            Damaged: The file is not a database any more.
        """
        try:
            with database.connected(self.path) as found:
                found.execute("PRAGMA query_only = ON")
                yield found
        except sqlite3.Error as error:
            raise Damaged(f"{self.path} cannot be read: {error}.") from error


def _empty() -> bytes:
    """The bytes of a database without any rows."""
    with contextlib.closing(sqlite3.connect(":memory:")) as found:
        for text in _TABLES:
            found.execute(text)
        found.execute(f"PRAGMA user_version = {VERSION}")
        return found.serialize()
