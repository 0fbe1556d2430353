"""Where in a function of the library a frame stands, and which of two places is first.

A step of an optimizer loops over groups, and over parameters or lists of them. A place
is a position in the source, and for each loop around it the round: the parameters, the
group or the number that the loop stands at.
"""

from __future__ import annotations

import ast
import enum
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

Span = tuple[int, int, int, int]  # end line, end column, first line, first column
Round = Callable[[Any], object]


class Order(enum.Enum):
    """How a place is reached, seen from another."""

    ELSEWHERE = "in another round of a loop, not known to be later"
    BEFORE = "before it"
    HERE = "at it"
    BEHIND = "behind it"


class Unclear(Exception):
    """Two places cannot be compared."""


@dataclass(slots=True)
class Loop:
    """A loop around a place, and the round that it stood in."""

    node: ast.For
    rounds: tuple[object, ...]
    is_seen: bool = False

    def order(self, line: int, values: Mapping[str, Any], known: Round) -> Order:
        """Where another frame of the same function is, as far as the loop tells."""
        if line < self.node.body[0].lineno:
            return Order.BEFORE
        if line > (self.node.end_lineno or line):
            return Order.BEHIND
        if _rounds(self.node, values, known) == self.rounds:
            self.is_seen = True
            return Order.HERE
        return Order.BEHIND if self.is_seen else Order.ELSEWHERE


@dataclass(slots=True)
class Place:
    """Where a dead frame stood.

    Attributes:
        code: The function.
        span: The operation in it.
        offset: Its instruction.
        loops: The loops around it, outermost first.
    """

    code: CodeType
    span: Span
    offset: int
    loops: list[Loop]

    def order(self, frame: FrameType, known: Round) -> Order:
        """Where a live frame of the same function is, seen from here."""
        span = span_of(frame.f_code, frame.f_lasti)
        values = frame.f_locals
        for loop in self.loops:
            found = loop.order(span[2], values, known)
            if found is not Order.HERE:
                return found
        if span == self.span:
            return Order.HERE
        here, there = (*self.span[:2], self.offset), (*span[:2], frame.f_lasti)
        return Order.BEFORE if there < here else Order.BEHIND


def place(
    code: CodeType, offset: int, values: Mapping[str, Any], known: Round
) -> Place:
    """The place of a dead frame.

    Args:
        code: Its function.
        offset: Its last instruction.
        values: Its variables.
        known: Gives what a value says of the round of a loop; None if nothing.

    Raises:
        Unclear: The source does not tell.
    """
    span = span_of(code, offset)
    loops = [
        Loop(node, _rounds(node, values, known))
        for node in ast.walk(function(code))
        if isinstance(node, ast.For)
        and node.body[0].lineno <= span[2] <= (node.end_lineno or 0)
    ]
    return Place(code, span, offset, sorted(loops, key=lambda loop: loop.node.lineno))


def span_of(code: CodeType, offset: int) -> Span:
    """The part of the source that an instruction belongs to.

    Raises:
        Unclear: It is not known.
    """
    line, end_line, column, end_column = _positions(code)[offset // 2]
    if line is None or end_line is None or column is None or end_column is None:
        raise Unclear("where it stood is not known")
    return end_line, end_column, line, column


@functools.cache
def _positions(code: CodeType) -> list[tuple[int | None, ...]]:
    return list(code.co_positions())


@functools.cache
def function(code: CodeType) -> ast.AST:
    """The source of a function, with the positions that it has in its file.

    Raises:
        Unclear: There is none.
    """
    try:
        lines, first = inspect.getsourcelines(code)
        text = "".join(lines)
        tree = ast.parse(textwrap.dedent(text))
    except (OSError, SyntaxError) as error:
        raise Unclear("its source is not known") from error
    indent = len(text) - len(text.lstrip())
    for node in ast.walk(tree):
        if isinstance(node, ast.expr | ast.stmt):
            node.lineno += max(first, 1) - 1
            node.end_lineno = (node.end_lineno or 0) + max(first, 1) - 1
            node.col_offset += indent
            node.end_col_offset = (node.end_col_offset or 0) + indent
    return tree


def call_at(place: Place) -> ast.Call | None:
    """The call that stood there, if it was one."""
    for node in ast.walk(function(place.code)):
        if isinstance(node, ast.Call):
            end = node.end_lineno, node.end_col_offset
            if (*end, node.lineno, node.col_offset) == place.span:
                return node
    return None


def _rounds(
    loop: ast.For, values: Mapping[str, Any], known: Round
) -> tuple[object, ...]:
    names: Sequence[str] = [
        node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)
    ]
    found = tuple(known(values.get(name)) for name in names)
    if all(value is None for value in found):
        raise Unclear("which round of a loop it stood in is not known")
    return found
