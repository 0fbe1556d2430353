"""The records as tables of pandas, and as answers to SQL."""

from __future__ import annotations

import heapq
import operator
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from gpurescue.errors import UsageError
from gpurescue.hindsight import journal, values
from gpurescue.hindsight.records import RUNNING, Records

if TYPE_CHECKING:
    import pandas as pd

KILLED = "killed"
_FIRST = ("began", "state", "seconds", "num_logs", "version", "parent", "environment")
_SILENT = 12 * journal.BEAT  # seconds: then a run of another machine counts as killed
_READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_KEYS = ("run", "version", "epoch", "step")


def runs(records: Records) -> pd.DataFrame:
    """All runs, oldest first, with their arguments as columns.

    Returns:
        A row for each, by its id. ``state`` is how it has ended, ``running``, or
        ``killed``; ``seconds`` how long it took; ``num_logs`` how many values it has
        logged itself; ``parent`` the run that it goes on with.
    """
    import pandas as pd

    with records.reading() as found:
        table = pd.read_sql_query("SELECT * FROM runs ORDER BY began", found)
        rows = found.execute("SELECT run, name, value FROM arguments").fetchall()
    table["state"] = [_state(records, row) for row in table.to_dict("records")]
    ended = table["ended"].fillna(table["beat"])
    table["seconds"] = ended - table["began"]
    table["began"] = pd.to_datetime(table["began"], unit="s", utc=True)
    table["began"] = table["began"].dt.floor("s")
    table = table.set_index("run")[list(_FIRST)]
    arguments: dict[str, dict[str, Any]] = {}
    for run, name, value in rows:
        arguments.setdefault(name, {})[run] = msgspec.json.decode(value)
    for name, given in arguments.items():
        column = name if name not in table.columns else f"{name} (argument)"
        table[column] = table.index.map(given.get)
    return table


def _state(records: Records, row: dict[Any, Any]) -> str:
    """How a run has ended, or that it was killed."""
    state = str(row["state"])
    if state != RUNNING:
        return state
    is_here = row["host"] == socket.gethostname()
    is_alive = records.is_alive(str(row["run"])) if is_here else None
    if is_alive is None:
        is_alive = time.time() - row["beat"] < _SILENT
    return state if is_alive else KILLED


def logs(
    records: Records, names: Sequence[str] = (), runs: Iterable[str] | None = None
) -> pd.DataFrame:
    """What runs have logged: a row for each place in loops, a column for each name.

    A run that goes on with another one has what that had logged until then, too.

    Args:
        records: Where it is.
        names: Of the values; all, if none are given.
        runs: Ids of runs, or how they begin; all, if None.

    Returns:
        Rows by ``run``, ``version``, ``epoch``, ``step`` and other loops by their own
        names; a name that was logged several times at one place has several rows.

    Raises:
        UsageError: There is no run of such an id, or nothing of such a name.
    """
    import pandas as pd

    with records.reading() as found:
        chosen = _chosen(found, runs)
        numbers = _numbers(found, names)
        rows = [
            (run, version, *row)
            for run, version, pieces in chosen
            for number, most in pieces
            for row in _rows(found, number, most, numbers)
        ]
    columns = ["run", "version", "name", "epoch", "step", "loops", "kind", "value"]
    table = pd.DataFrame(rows, columns=columns)
    return _pivoted(table, names or [name for _, name in sorted(numbers.items())])


Pieces = list[tuple[int, int]]  # of a run and those before it: number, rows of it


def _chosen(
    found: sqlite3.Connection, runs: Iterable[str] | None
) -> list[tuple[str, str, Pieces]]:
    text = (
        "SELECT id, number, version, parent, num_before, num_rows FROM _runs "
        "ORDER BY began"
    )
    known = {row[0]: row for row in found.execute(text)}
    ids = list(known) if runs is None else [whole(found, run) for run in runs]
    return [(id, known[id][2], _pieces(id, known)) for id in ids]


def whole(found: sqlite3.Connection, name: str) -> str:
    """The id of a run, of which only the beginning may be given.

    Raises:
        UsageError: There is none, or there are several.
    """
    text = "SELECT id FROM _runs WHERE substr(id, 1, length(?1)) = ?1"
    fitting = [str(id) for (id,) in found.execute(text, (name,))]
    if len(fitting) != 1 or not name:
        told = f"are {len(fitting)} runs" if fitting else "is no run"
        raise UsageError(f"There {told} whose id begins with {name!r}.")
    return fitting[0]


def _pieces(id: str, known: dict[str, Any]) -> Pieces:
    """The run, and before it those that it goes on with, each with its own rows."""
    made: Pieces = []
    most = None
    seen: set[str] = set()
    while id in known and id not in seen:
        seen.add(id)
        _, number, _, parent, num_before, num_rows = known[id]
        made.append((number, num_rows if most is None else min(most, num_rows)))
        id, most = parent, num_before
    return made[::-1]


def _numbers(found: sqlite3.Connection, names: Sequence[str]) -> dict[int, str]:
    known = {name: number for number, name in found.execute("SELECT * FROM _names")}
    missing = [name for name in names if name not in known]
    if missing:
        some = ", ".join(sorted(known)[:20]) or "nothing at all"
        raise UsageError(f"Nothing called {missing[0]!r} was logged; there is {some}.")
    return {known[name]: name for name in names or known}


def _rows(
    found: sqlite3.Connection, run: int, most: int, names: dict[int, str]
) -> Iterator[tuple[Any, ...]]:
    """What a run has logged under these names, in the order in which it did."""
    text = (
        "SELECT number, epoch, step, loops, kind, value FROM _logs "
        "WHERE name = ? AND run = ? AND number <= ? ORDER BY number"
    )

    def column(number: int, name: str) -> Iterator[tuple[Any, ...]]:
        for at, *rest in found.execute(text, (number, run, most)):
            yield at, name, *rest

    columns = [column(number, name) for number, name in names.items()]
    for _, *row in heapq.merge(*columns, key=operator.itemgetter(0)):
        yield tuple(row)


def _pivoted(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A column for each name, a row for each place."""
    import pandas as pd

    loops = table.pop("loops")
    texts = {text: _others(text) for text in loops.dropna().unique()}
    others = [n for n in dict.fromkeys(chain(*texts.values())) if n not in _KEYS]
    for other in others:
        known = {text: given.get(other) for text, given in texts.items()}
        table[other] = loops.map(known.get)
    for key in ("epoch", "step", *others):
        table[key] = table[key].convert_dtypes()
    keys = [*_KEYS, *others]
    kinds, found = table.pop("kind"), table.pop("value")
    table["value"] = [values.read(k, v) for k, v in zip(kinds, found, strict=True)]
    table["again"] = table.groupby([*keys, "name"], dropna=False).cumcount()
    at = table.drop(columns=["name", "value"]).drop_duplicates()
    for name in names:
        column = table[table["name"] == name].drop(columns="name")
        column = column.rename(columns={"value": name}).infer_objects()
        at = at.merge(column, on=[*keys, "again"], how="left")
    made = at.drop(columns="again").set_index(keys)
    return pd.DataFrame(made)


def _others(text: str) -> dict[str, Any]:
    """Loops besides those that count as epoch and step."""
    place = msgspec.json.decode(text)
    said = journal.roles(place)
    return {name: value for at, (name, value) in enumerate(place) if at not in said}


def sql(records: Records, query: str) -> pd.DataFrame:
    """The answer to a query over the views of the records.

    ``runs``, ``arguments``, ``sources``, ``environments``, ``patches``, ``logs``.

    Raises:
        UsageError: SQLite does not take the query.
    """
    import pandas as pd

    try:
        with records.reading() as found:
            found.set_authorizer(_may)
            return pd.read_sql_query(query, found)
    except (pd.errors.DatabaseError, sqlite3.Error) as error:
        raise UsageError(f"SQLite does not answer: {error}") from error


def _may(action: int, *_: object) -> int:
    """Allow to read, and nothing else: no other file, no setting."""
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY
