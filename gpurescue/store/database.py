"""SQLite files of a store, which somebody else may have written."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

_WAIT = 30.0  # seconds for another process


@contextlib.contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for one short use, in a transaction.

    Args:
        path: Of a file that is there: it is not made.
    """
    # One that was removed meanwhile is not to be made anew, with nothing in it.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=_WAIT)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.text_factory = lambda data: data.decode(errors="replace")
        with connection:
            yield connection
    finally:
        connection.close()


def is_busy(error: Exception) -> bool:
    """True if another process is in the way, and not something in the file."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says why
    return code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
