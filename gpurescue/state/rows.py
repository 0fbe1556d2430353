"""Readers and writers of ``csv`` in a graph of objects.

They are written in C and cannot be pickled. Between two rows a writer is nothing but
what it calls, and its dialect; a reader what it asks, its dialect and a count of lines.
"""

from __future__ import annotations

import _csv
import csv
import gc
import io
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.state.lost import Lost

Reduced = tuple[Any, ...]

_KINDS = (type(csv.writer(io.StringIO())), type(csv.reader(())))
# The list is of fields: a reader empties it before each row.
_ITS_OWN = (type, ModuleType, _csv.Dialect, list)
_OF_DIALECT = (
    *("delimiter", "doublequote", "escapechar", "lineterminator"),
    *("quotechar", "quoting", "skipinitialspace", "strict"),
)


class _Target:
    """What a writer asks for its ``write``."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write = write


class _Lines:
    """Lines that a reader has had, and those that it has not.

    Args:
        rest: Gives the others.
        number: How many it has had; they are not known any more, and empty.
    """

    def __init__(self, rest: Any, number: int) -> None:
        self._rest = rest
        self._left = number

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._left:
            self._left -= 1
            return ""
        line: str = next(self._rest)
        return line


def reduced(value: Any) -> Reduced | None:
    """How a reader or a writer is pickled; None for anything else.

    Raises:
        CannotResume: It goes over a file, or what it needs is not found.
    """
    if type(value) not in _KINDS:
        return None
    uses = inside(value)
    if len(uses) != 1:
        raise CannotResume("what it uses is not found on this version of Python")
    dialect = {name: getattr(value.dialect, name) for name in _OF_DIALECT}
    if type(value) is _KINDS[0]:
        return writer, (uses[0], dialect)
    if isinstance(uses[0], io.TextIOWrapper):
        raise CannotResume("it goes over a file line by line; go over list() of it")
    return reader, (uses[0], dialect, value.line_num)


def inside(value: object) -> list[Any]:
    """What a writer calls, or what a reader asks."""
    if type(value) is csv.DictReader:
        return [value.reader]
    if type(value) not in _KINDS:
        return []
    found = gc.get_referents(value)
    return [x for x in found if not isinstance(x, _ITS_OWN)]


def writer(write: Any, dialect: dict[str, Any]) -> Any:
    """Called by the pickle."""
    return csv.writer(_Target(write), **dialect)


def reader(asks: Any, dialect: dict[str, Any], num_lines: int) -> Any:
    """Called by the pickle."""
    if isinstance(asks, Lost):
        return Lost(f"reader of a {asks.kind}", asks.why)
    found = csv.reader(_Lines(asks, num_lines), **dialect)
    for _ in range(num_lines):
        next(found)
    return found
