"""A statement that failed half-way, and what is left of it to run.

What has a value takes it from a hidden variable. What has been decided stays decided:
the branch of a condition, the part of ``and`` and ``or`` that is reached, the case
of a ``match``, the targets that have been stored.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

from gpurescue.source import hidden, operands
from gpurescue.source import remainder as remainders
from gpurescue.source import tree as trees
from gpurescue.source.operands import EMPTY, Operand
from gpurescue.source.parts import COMPREHENSIONS, EFFECTS, in_order

SKIPPED = f"{trees.HIDDEN}skipped__"

_BLOCKS = ast.stmt | ast.ExceptHandler

Span = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A statement that failed, as the user wrote it.

    Attributes:
        node: The statement.
        at: The part of it that failed; None if that is not known.
        done: The operands that have their values.
        values: The value of each slot.
    """

    node: ast.stmt
    at: ast.expr | ast.stmt | None
    done: tuple[Operand, ...]
    values: dict[int, Any]


def failure(
    node: ast.stmt, span: Span, values: dict[int, Any], kept: Sequence[Operand]
) -> Failure:
    """Find out how far a statement has got.

    Args:
        node: A user's statement.
        span: (first line, first column, last line, end column) of the operation that
            failed.
        values: What each slot holds; ``EMPTY`` if nothing.
        kept: The operands of the statement.
    """
    at = _node_at(node, span)
    if at is None:
        return Failure(node=node, at=None, done=(), values=values)
    known = {id(operand.node): operand for operand in kept}
    done: list[Operand] = []
    for expression in before(node, at):
        operand = known.get(id(expression))
        if operand is not None and values[operand.slot] is not EMPTY:
            done.append(operand)
    own = known.get(id(at))
    if own is not None and own.is_head and values[own.slot] is not EMPTY:
        done.append(own)  # it has its value: the use of it failed
    return Failure(node=node, at=at, done=tuple(_without_nested(done)), values=values)


def before(node: ast.stmt, at: ast.AST) -> Iterator[ast.expr]:
    """Every subexpression of ``node`` that comes before ``at``, in order."""
    for expression in in_order(node):
        if expression is at:
            return
        yield expression


def _without_nested(found: list[Operand]) -> list[Operand]:
    nested = {
        id(inner)
        for operand in found
        for inner in ast.walk(operand.node)
        if inner is not operand.node
    }
    return [operand for operand in found if id(operand.node) not in nested]


def failing_part(node: ast.stmt, span: Span) -> ast.expr | None:
    """The call or comprehension of ``node`` that failed, if it was one."""
    at = _node_at(node, span)
    return at if isinstance(at, EFFECTS | COMPREHENSIONS) else None


def has_begun_by_itself(part: ast.expr) -> bool:
    """True of a comprehension that calls something: some of it has run already."""
    return isinstance(part, COMPREHENSIONS) and any(
        isinstance(inner, EFFECTS) for inner in ast.walk(part)
    )


def _node_at(node: ast.stmt, span: Span) -> ast.expr | ast.stmt | None:
    """The part of a statement that an instruction's position belongs to.

    A call is known by its end, which no other call shares: the interpreter reports
    the start of a method call over several lines at the method's name.
    """
    if span[1] < 0:
        return None
    nodes = [n for n in ast.walk(node) if isinstance(n, ast.expr | ast.stmt)]
    exact = [n for n in nodes if trees.span(n) == span]
    ends = [n for n in nodes if trees.span(n)[2:] == span[2:]]
    calls = [n for n in ends if isinstance(n, ast.Call)]
    effects = [n for n in exact if isinstance(n, EFFECTS)]
    found = (effects or exact or (calls if len(calls) == 1 else [None]))[0]
    return found and _out_of_comprehension(node, found)


def _out_of_comprehension(
    node: ast.stmt, found: ast.expr | ast.stmt
) -> ast.expr | ast.stmt:
    """The comprehension around ``found``: its insides are no place to go on from.

    From 3.12 on they run in the frame of the statement itself (PEP 709).
    """
    for outer in ast.walk(node):
        if isinstance(outer, COMPREHENSIONS) and any(
            inner is found for inner in ast.walk(outer)
        ):
            return outer
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What is left of a statement.

    Attributes:
        nodes: The statements to run in its place.
        given: The hidden variables that they take values from.
        unused: Operands that have a value for which there is no use any more.
    """

    nodes: tuple[ast.stmt, ...]
    given: dict[str, Any]
    unused: tuple[Operand, ...]


def rest(
    new: ast.stmt,
    failed: Failure,
    usable: Sequence[Operand],
    unstable: Set[str],
    instead: ast.expr | None = None,
) -> Rest:
    """What is left to run of a statement.

    Of an edited one an operand has a value if the same expression, word for word, has
    one in the old statement.

    Args:
        new: The statement to run, perhaps edited.
        failed: The statement that failed.
        usable: Those of the operands whose values still hold.
        unstable: Of ``new``, as for ``operands``.
        instead: Runs in the place of the part that failed; of what was not edited.
    """
    copied = trees.copied(new)
    operands.fix_slots(copied, unstable)
    old, own = list(_header(failed.node)), list(_header(copied))
    if [_said(node) for node in old] == [_said(node) for node in own]:
        twins = dict(zip(map(id, old), own, strict=True))
        pairs = [(operand, twins[id(operand.node)]) for operand in usable]
        if len(usable) == len(failed.done) and failed.at is not None:
            _Decided(copied, twins[id(failed.at)]).apply()
    else:
        pairs = _twins(copied, usable)
    left = {id(inner) for inner in _header(copied)}
    given: dict[str, Any] = {}
    names: dict[int, str] = {}
    for operand, twin in pairs:
        value = failed.values[operand.slot]
        if id(twin) in left and not _is_begun(value, operand.node, failed.at):
            names[id(twin)] = operands.value_name(len(given))
            given[operands.value_name(len(given))] = value
    put: dict[int, ast.expr] = {
        key: ast.Name(id=name, ctx=ast.Load()) for key, name in names.items()
    }
    if instead is not None and failed.at is not None:
        put[id(twins[id(failed.at)])] = instead
    if put:
        copied = _Reader(put).visit(copied)
    found = {id(operand.node) for operand, _ in pairs}
    over = sorted({*given, *_hidden_in(instead)})
    return Rest(
        nodes=tuple(_placed(copied, new, over)),
        given=given,
        unused=tuple(o for o in usable if id(o.node) not in found),
    )


def _hidden_in(node: ast.AST | None) -> set[str]:
    found = (n.id for n in ast.walk(node or ast.Pass()) if isinstance(n, ast.Name))
    return {name for name in found if trees.is_hidden(name)}


def _header(node: ast.AST) -> Iterator[ast.AST]:
    """``node`` and all in it but the statements of its blocks."""
    yield node
    for _, value in ast.iter_fields(node):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST) and not isinstance(item, _BLOCKS):
                yield from _header(item)


def _said(node: ast.AST) -> list[object]:
    """What a node says by itself."""
    found: list[object] = [type(node)]
    for _, value in ast.iter_fields(node):
        if isinstance(value, list):
            found.append(sum(not isinstance(item, _BLOCKS) for item in value))
        elif not isinstance(value, ast.AST):
            found.append(value)
    return found


def _twins(new: ast.stmt, usable: Sequence[Operand]) -> list[tuple[Operand, ast.AST]]:
    waiting = list(in_order(new))
    found: list[tuple[Operand, ast.AST]] = []
    for operand in usable:
        text = ast.dump(operand.node)
        twin = next((other for other in waiting if ast.dump(other) == text), None)
        if twin is not None:
            found.append((operand, twin))
            waiting = waiting[waiting.index(twin) + 1 :]
    return found


def _is_begun(value: Any, node: ast.expr, at: ast.AST | None) -> bool:
    """True of an iterator that the failing call may have taken items from."""
    if not hasattr(type(value), "__next__") or not isinstance(at, ast.expr):
        return False
    if inspect.isgenerator(value) and inspect.getgeneratorstate(value) == "GEN_CREATED":
        return False
    return any(inner is node for inner in ast.walk(at))


def _placed(node: ast.stmt, new: ast.stmt, names: Sequence[str]) -> list[ast.stmt]:
    """``node``, and what lets go of the values behind it.

    The test of a ``while`` that is half done is so in the first round only.
    """
    if not isinstance(node, ast.While) or ast.dump(node) == ast.dump(new):
        return operands.letting_go(node, names)
    assert isinstance(new, ast.While)
    (first,) = hidden.statements("if _: pass")
    assert isinstance(first, ast.If)
    first.test = node.test
    first.body = [remainders.once(new, [trees.copied(n) for n in new.body])]
    first.orelse = [trees.copied(n) for n in new.orelse]
    first.gr_is_fixed = True  # type: ignore[attr-defined]
    return operands.letting_go(first, names)


class _Decided:
    """Takes out of a statement what was decided on the way to a part of it."""

    def __init__(self, node: ast.stmt, at: ast.AST) -> None:
        self.node = node
        self.at = at

    def apply(self) -> None:
        match self.node:
            case ast.Assert(msg=ast.expr() as message) if self._is_in(message):
                self.node.test = ast.copy_location(ast.Constant(False), self.node.test)
            case ast.Match():
                at = self._index(self.node.cases)
                self.node.cases = self.node.cases[at or 0 :]
            case ast.Assign():
                targets = self.node.targets
                at = self._index(targets)
                if at is not None:  # the value was stored in those before
                    self.node.targets = targets[at:]
                    self._skip_stored(targets[at])
        self._visit(self.node)

    def _is_in(self, node: ast.AST) -> bool:
        return any(inner is self.at for inner in _header(node))

    def _skip_stored(self, target: ast.expr) -> None:
        """Of ``a, b[i] = ...`` that failed at ``b[i]``, ``a`` has been stored."""
        if not isinstance(target, ast.Tuple | ast.List) or target is self.at:
            return
        for i, inner in enumerate(target.elts):
            if self._is_in(inner):
                self._skip_stored(inner)
                return
            name: ast.expr = ast.Name(id=SKIPPED, ctx=ast.Store())
            if isinstance(inner, ast.Starred):
                name = ast.Starred(value=name, ctx=ast.Store())
            target.elts[i] = ast.copy_location(name, inner)

    def _visit(self, node: ast.AST) -> None:
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.expr) and self._is_in(value):
                setattr(node, name, self._left_of(value))
                self._visit(getattr(node, name))
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    if isinstance(item, _BLOCKS) or not isinstance(item, ast.AST):
                        continue
                    if self._is_in(item):
                        if isinstance(item, ast.expr):
                            value[i] = item = self._left_of(item)
                        self._visit(item)

    def _left_of(self, node: ast.expr) -> ast.expr:
        """``node``, or what remains of it."""
        match node:
            case ast.IfExp() if self._is_in(node.body):
                return self._left_of(node.body)
            case ast.IfExp() if self._is_in(node.orelse):
                return self._left_of(node.orelse)
            case ast.BoolOp():
                at = self._index(node.values)
                node.values = node.values[at or 0 :]
                return self._left_of(node.values[0]) if len(node.values) == 1 else node
            case ast.Compare():
                at = self._index(node.comparators)
                if at:
                    node.left = node.comparators[at - 1]
                    node.ops, node.comparators = node.ops[at:], node.comparators[at:]
        return node

    def _index(self, nodes: Iterable[ast.AST]) -> int | None:
        return next((i for i, node in enumerate(nodes) if self._is_in(node)), None)


class _Reader(ast.NodeTransformer):
    """Puts expressions in the places of others."""

    def __init__(self, put: dict[int, ast.expr]) -> None:
        self.put = put

    def visit(self, node: ast.AST) -> Any:
        found = self.put.get(id(node))
        if found is None:
            return super().visit(node)
        for inner in ast.walk(found):
            if isinstance(inner, ast.expr):
                ast.copy_location(inner, node)
        slot = getattr(node, "gr_slot", None)
        if slot is not None:
            found.gr_slot = slot  # type: ignore[attr-defined]
        return found
