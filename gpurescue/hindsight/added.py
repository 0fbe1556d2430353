"""Statements that were added to a program since a version of it was recorded."""

from __future__ import annotations

import ast
import copy
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpurescue.source import tree as trees

SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_LIKE = 0.5  # of their words, from which on a statement is an edited one


@dataclass(frozen=True, slots=True)
class Group:
    """Statements that were added to one block, next to each other.

    Attributes:
        nodes: The statements.
        block: Those of the block, without any that were added.
        at: Where in it they stand: before the statement of this number.
        around: The statements around the block, outermost first.
    """

    nodes: tuple[ast.stmt, ...]
    block: tuple[ast.stmt, ...]
    at: int
    around: tuple[ast.stmt, ...]


def added(old: str, new: str) -> tuple[list[Group], list[ast.stmt]]:
    """What was added, and statements that were edited, which is something else.

    Args:
        old: The source as it was recorded.
        new: The source as it is now.

    Raises:
        SyntaxError: One of them cannot be compiled.
    """
    found: list[Group] = []
    edited: list[ast.stmt] = []
    _compare(ast.parse(old).body, ast.parse(new).body, (), (found, edited))
    return found, edited


_Out = tuple[list[Group], list[ast.stmt]]


def _compare(
    old: Sequence[ast.stmt],
    new: Sequence[ast.stmt],
    around: tuple[ast.stmt, ...],
    out: _Out,
) -> None:
    partners = _partners(old, new)
    is_new = [at not in partners for at in range(len(new))]
    block = tuple(node for at, node in enumerate(new) if not is_new[at])
    nodes: list[ast.stmt] = []
    num = 0
    for at, node in enumerate(new):
        if is_new[at]:
            nodes.append(node)
            continue
        _flush(nodes, block, num, around, out)
        num += 1
        before = old[partners[at]]
        if ast.dump(before) != ast.dump(node):
            _look_into(before, node, around, out)
    _flush(nodes, block, num, around, out)


def _flush(
    nodes: list[ast.stmt],
    block: tuple[ast.stmt, ...],
    at: int,
    around: tuple[ast.stmt, ...],
    out: _Out,
) -> None:
    if nodes:
        out[0].append(Group(tuple(nodes), block, at, around))
        nodes.clear()


def _look_into(
    old: ast.stmt, new: ast.stmt, around: tuple[ast.stmt, ...], out: _Out
) -> None:
    """A statement with blocks, in which something is not the same; or one edited."""
    there = {(name, at): block for name, at, block in blocks(old)}
    if header(old) != header(new) or not there:
        out[1].append(new)
    for name, at, block in blocks(new):
        before = there.get((name, at))
        if before is not None:
            _compare(before, block, (*around, new), out)
        else:
            out[0].append(Group(tuple(block), (), 0, (*around, new)))


def _partners(old: Sequence[ast.stmt], new: Sequence[ast.stmt]) -> dict[int, int]:
    """By the number of a new statement: the old one that it is, perhaps edited."""
    olds, news = [ast.dump(node) for node in old], [ast.dump(node) for node in new]
    matcher = difflib.SequenceMatcher(None, olds, news, autojunk=False)
    found: dict[int, int] = {}
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            found |= dict(zip(range(c, d), range(a, b), strict=True))
        elif tag == "replace":
            found |= _edited(old[a:b], new[c:d], a, c)
    return found


def _edited(
    old: Sequence[ast.stmt], new: Sequence[ast.stmt], first_old: int, first_new: int
) -> dict[int, int]:
    """Of a gap: which new statement is which old one in another form, in order."""
    found: dict[int, int] = {}
    start = 0
    for i, node in enumerate(old):
        scores = {j: likeness(node, new[j]) for j in range(start, len(new))}
        best = max(scores, key=scores.__getitem__, default=None)
        if best is not None and scores[best] >= _LIKE:
            found[first_new + best] = first_old + i
            start = best + 1
    return found


def blocks(node: ast.stmt) -> Iterator[tuple[str, int, list[ast.stmt]]]:
    """The blocks of a statement, also of a function or a class, with their places."""
    if isinstance(node, SCOPES):
        yield "body", -1, node.body
    yield from trees.child_blocks(node)


def likeness(old: ast.stmt, new: ast.stmt) -> float:
    """How much two statements are alike, from 0 to 1; of their headers, if blocks."""
    if type(old) is not type(new):
        return 0.0
    if header(old) == header(new):
        return 1.0
    return difflib.SequenceMatcher(
        None, words(header(old)), words(header(new)), autojunk=False
    ).ratio()


def words(text: str) -> list[str]:
    """The names, numbers and signs of a text."""
    return re.findall(r"\w+|[^\w\s]", text)


def header(node: ast.stmt) -> str:
    """What a statement says, without the blocks in it."""
    if next(blocks(node), None) is None:
        return ast.unparse(node)
    bare = copy.copy(node)
    for name, value in ast.iter_fields(node):
        setattr(bare, name, _bare(value))
    return ast.unparse(ast.fix_missing_locations(bare))


def _bare(value: object) -> object:
    """The same, but for statements: one that says nothing stands for a block."""
    if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
        return [ast.Pass()]
    if isinstance(value, list) and value and isinstance(value[0], ast.ExceptHandler):
        return [ast.ExceptHandler(x.type, x.name, [ast.Pass()]) for x in value]
    if isinstance(value, list) and value and isinstance(value[0], ast.match_case):
        return [ast.match_case(x.pattern, x.guard, [ast.Pass()]) for x in value]
    return value
