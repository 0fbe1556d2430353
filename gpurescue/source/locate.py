"""From a position in running code to the user's statement."""

from __future__ import annotations

import ast
import dis
import enum
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType

from gpurescue.source import tree as trees
from gpurescue.source.remainder import Path, Step

_NEXT = {"FOR_ITER", "SEND", "GET_ANEXT", "END_ASYNC_FOR"}


class Site(enum.Enum):
    """Which part of a statement was running."""

    STATEMENT = "the statement itself"
    NEXT = "the iterator of the loop"
    TARGET = "the assignment to the loop's or the block's target"
    EXIT = "the end of the `with` block"
    CLAUSE = "an `except` clause's type"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in running code.

    ``span`` is (first line, first column, last line, end column); columns are -1
    where the interpreter was started without them.
    """

    offset: int
    span: tuple[int, int, int, int]

    @property
    def is_ours(self) -> bool:
        """True for what a guard has added: it takes no room in the source."""
        return self.span[1] >= 0 and self.span[:2] == self.span[2:]


def position(code: CodeType, lasti: int) -> Position | None:
    """The source position of the instruction at byte offset ``lasti``."""
    positions = _positions(code)
    if not 0 <= lasti // 2 < len(positions):
        return None
    first, last, start, end = positions[lasti // 2]
    if first is None:
        return None
    columns = (-1, -1) if start is None or end is None else (start, end)
    return Position(offset=lasti, span=(first, columns[0], last or first, columns[1]))


@functools.lru_cache(maxsize=64)
def _positions(
    code: CodeType,
) -> tuple[tuple[int | None, int | None, int | None, int | None], ...]:
    return tuple(code.co_positions())


def is_compilers(code: CodeType, at: Position) -> bool:
    """True of a place that has a line and no columns, as no part of a statement has.

    The compiler leaves such where a pending ``return`` goes on behind a ``finally``:
    the line is that of our check there.
    """
    return at.span[1] < 0 and has_columns(code)


@functools.lru_cache(maxsize=64)
def has_columns(code: CodeType) -> bool:
    """False if the interpreter was started without columns."""
    return any(start is not None for _, _, start, _ in _positions(code))


def find(body: Sequence[ast.stmt], at: Position) -> Path | None:
    """The path to the innermost statement around ``at``; None if there is none."""
    for i, node in enumerate(body):
        if not _contains(trees.span(node), at.span):
            continue
        for name, handler, block in trees.child_blocks(node):
            if (inner := find(block, at)) is not None:
                return (Step(i, name, handler), *inner)
        return (Step(i),)
    return None


def find_line(body: Sequence[ast.stmt], line: int) -> Path | None:
    """The path to the outermost statement that begins on ``line``."""
    for i, node in enumerate(body):
        first, _, last, _ = trees.span(node)
        if first == line:
            return (Step(i),)
        if first < line <= last:
            for name, handler, block in trees.child_blocks(node):
                if (inner := find_line(block, line)) is not None:
                    return (Step(i, name, handler), *inner)
    return None


def _contains(outer: tuple[int, int, int, int], at: tuple[int, int, int, int]) -> bool:
    if at[1] < 0:
        return outer[0] <= at[0] and at[2] <= outer[2]
    return outer[:2] <= at[:2] and at[2:] <= outer[2:]


def site(code: CodeType, node: ast.stmt, at: Position) -> Site:
    """Which part of ``node`` the position is in."""
    if isinstance(node, ast.For | ast.AsyncFor):
        return _loop_site(code, node, at)
    if isinstance(node, ast.With | ast.AsyncWith):
        if _leaves_with(code, at.offset):
            return Site.EXIT
        target = node.items[0].optional_vars
        if target is not None and _contains(trees.span(target), at.span):
            return Site.TARGET
    if isinstance(node, ast.Try | ast.TryStar):
        return Site.CLAUSE
    return Site.STATEMENT


def is_next(code: CodeType, offset: int) -> bool:
    """True if the instruction asks the iterator of a loop for its next item."""
    return _operations(code).at(offset).opname in _NEXT


def first_offset(code: CodeType, node: ast.stmt) -> int | None:
    """Offset of the first instruction of a statement; None if it has none."""
    return next((offset for offset in _offsets(code, node)), None)


def is_same_step(code: CodeType, offset: int, other: int) -> bool:
    """True if two instructions were made from the same part of a statement.

    A ``finally`` is compiled several times; what waits on the stack is not the same.
    """
    one, two = position(code, offset), position(code, other)
    if one is None or two is None or one.span != two.span:
        return False
    known = _operations(code)
    return known.at(offset).opname == known.at(other).opname


def is_inside_run(code: CodeType, node: ast.stmt, offset: int) -> bool:
    """True if the instruction before ``offset`` belongs to the same statement."""
    before = _operations(code).before(offset, 1)
    if not before:
        return False
    at = position(code, before[0].offset)
    return at is not None and _contains(_own_span(node), at.span)


def _offsets(code: CodeType, node: ast.stmt) -> list[int]:
    own = _own_span(node)
    return [
        op.offset
        for op in _operations(code).found
        if (at := position(code, op.offset)) is not None
        and not at.is_ours
        and _contains(own, at.span)
    ]


def _own_span(node: ast.stmt) -> tuple[int, int, int, int]:
    """A compound statement's header; all of any other statement."""
    start, end = trees.span(node)[:2], trees.span(node)[2:]
    for _, _, block in trees.child_blocks(node):
        end = min(end, trees.span(block[0])[:2])
    return (*start, *end)


def _loop_site(code: CodeType, node: ast.For | ast.AsyncFor, at: Position) -> Site:
    if _contains(trees.span(node.target), at.span):
        return Site.TARGET
    if is_next(code, at.offset):
        return Site.NEXT
    return Site.STATEMENT


def _leaves_with(code: CodeType, offset: int) -> bool:
    """True in the call ``__exit__(None, None, None)``, or the one on an exception.

    The compiler emits the normal exit as three ``None`` and a call with two
    arguments; no other call looks like that, since a call of the user's with three
    ``None`` has three arguments.
    """
    operations = _operations(code)
    here = operations.at(offset)
    if here.opname == "WITH_EXCEPT_START":
        return True
    before = operations.before(offset, 4)
    names = [i for i in before if i.opname != "PRECALL"][-3:]
    is_none = all(i.opname == "LOAD_CONST" and i.argval is None for i in names)
    return here.opname in {"CALL", "PRECALL"} and here.arg == 2 and is_none


@dataclass(frozen=True, slots=True)
class _Operations:
    found: tuple[dis.Instruction, ...]

    def _index(self, offset: int) -> int:
        # A caller's position may point into the cache behind its instruction.
        return max(i for i, op in enumerate(self.found) if op.offset <= offset)

    def at(self, offset: int) -> dis.Instruction:
        return self.found[self._index(offset)]

    def before(self, offset: int, count: int) -> tuple[dis.Instruction, ...]:
        index = self._index(offset)
        return self.found[max(0, index - count) : index]


@functools.lru_cache(maxsize=64)
def _operations(code: CodeType) -> _Operations:
    return _Operations(tuple(dis.get_instructions(code)))
