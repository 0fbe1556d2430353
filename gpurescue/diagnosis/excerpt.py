"""The user's source around the place where a frame stands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpurescue.diagnosis.result import cut
from gpurescue.recovery.suspension import HeldFrame
from gpurescue.source import tree as trees

LINES_AROUND = 4
MAX_STATEMENT = 12
MAX_LINE = 400

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# Python counts lines by these; str.splitlines also breaks at form feeds and others.
_NEWLINE = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLine:
    """One line of an excerpt.

    Attributes:
        number: Its number in the cell or file, from 1.
        text: The line without its end.
        is_failing: True for the line that raised.
        is_in_statement: True for every line of the statement that raised.
    """

    number: int
    text: str
    is_failing: bool = False
    is_in_statement: bool = False


def excerpt(held: HeldFrame) -> tuple[SourceLine, ...]:
    """The failing statement of a frame with some lines around it."""
    source = held.definition.unit.source
    lines = _NEWLINE.split(source) if "\r" in source else source.split("\n")
    first, last = _statement_lines(held)
    lowest, highest = _scope_lines(held, len(lines))
    start = max(lowest, held.line - MAX_STATEMENT, first - LINES_AROUND)
    stop = min(highest, held.line + MAX_STATEMENT, last + LINES_AROUND)
    numbered = [(n, lines[n - 1]) for n in range(start, stop + 1)]
    return tuple(
        SourceLine(
            number=number,
            text=cut(text, MAX_LINE),
            is_failing=number == held.line,
            is_in_statement=first <= number <= last,
        )
        for number, text in _without_blank_ends(numbered)
    )


def _without_blank_ends(lines: list[tuple[int, str]]) -> Sequence[tuple[int, str]]:
    filled = [i for i, (_, text) in enumerate(lines) if text.strip()]
    return lines[filled[0] : filled[-1] + 1] if filled else ()


def _scope_lines(held: HeldFrame, count: int) -> tuple[int, int]:
    scope = held.definition.scope
    if isinstance(scope, ast.Module):
        return 1, count
    return held.definition.line, min(scope.end_lineno or count, count)


def _statement_lines(held: HeldFrame) -> tuple[int, int]:
    """First and last line of the statement, or of a compound statement's header."""
    node = held.statement
    first, _, last, _ = trees.span(node)
    inner = [trees.span(child)[0] for child in _body(node)]
    if inner:
        last = max(first, min(inner) - 1)
    return (first, last) if first <= held.line <= last else (held.line, held.line)


def _body(node: ast.stmt) -> list[ast.stmt]:
    if isinstance(node, _SCOPES):
        return node.body
    return [child for _, _, block in trees.child_blocks(node) for child in block]


def names_in_statement(held: HeldFrame) -> tuple[str, ...]:
    """Variables of the failing statement: those that it reads come first."""
    node = held.statement
    skipped = {id(child) for child in _body(node)}
    found = [n for n in _walk(node, skipped) if isinstance(n, ast.Name)]
    found.sort(key=lambda name: not isinstance(name.ctx, ast.Load))
    return tuple(dict.fromkeys(name.id for name in found))


def _walk(node: ast.AST, skipped: set[int]) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if id(child) not in skipped:
            yield from _walk(child, skipped)
