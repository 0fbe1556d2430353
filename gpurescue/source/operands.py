"""Operands of a statement that are ready when a later part of it fails.

In ``loss = criterion(model(x), y)`` the model has run, and has drawn its random
numbers, when ``criterion`` fails. Running the statement again from its beginning
would run the model twice. So the value of each call that a later part of its
statement waits for is kept in a hidden local, by an assignment expression, and let
go of behind the statement::

    loss = criterion((t0 := model(x)), y); t0 = None

Locals are numbered as the interpreter's stack would be, so at any time they hold
just the values that the stack holds: no tensor lives longer than it did.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gpurescue.source import hidden
from gpurescue.source import tree as trees

SLOT = f"{trees.HIDDEN}t"

_EFFECTS = ast.Call | ast.Await | ast.Yield | ast.YieldFrom
_DISPLAYS = ast.ListComp | ast.SetComp | ast.DictComp
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
Simple = ast.Expr | ast.Return | ast.Assign | ast.AugAssign | ast.AnnAssign | ast.If


EMPTY = ...
"""What a slot holds that has no value: no call of a user's gives an ellipsis."""


def slot_name(slot: int) -> str:
    """Hidden local of one operand."""
    return f"{SLOT}{slot}__"


def value_name(index: int) -> str:
    """Hidden variable in which a continuation gets a value that is ready."""
    return f"{trees.HIDDEN}v{index}__"


@dataclass(frozen=True, slots=True)
class Operand:
    """A call whose value is kept, and the slot that keeps it."""

    node: ast.expr
    slot: int


@dataclass(slots=True)
class _Walk:
    """Gives slots in evaluation order, as a stack would."""

    found: list[Operand] = field(default_factory=list)

    def visit(self, node: ast.expr, depth: int, *, keep: bool = True) -> int:
        """Number of slots in use once ``node`` has been evaluated."""
        inner = depth
        for child in _children(node):
            waited_for = not (isinstance(node, ast.Await) and child is node.value)
            inner = self.visit(child, inner, keep=waited_for)
        is_kept = _has_effects(node) or hasattr(node, "gr_value")
        if keep and is_kept:
            self.found.append(Operand(node, depth))
            return depth + 1
        return depth if is_kept else inner


def _has_effects(node: ast.expr) -> bool:
    """Tell whether running ``node`` twice may differ from running it once."""
    if isinstance(node, _DISPLAYS):
        return any(isinstance(inner, _EFFECTS) for inner in ast.walk(node))
    return isinstance(node, _EFFECTS)


def _children(node: ast.expr) -> Iterator[ast.expr]:
    """Subexpressions that run in this frame, in the order they run."""
    match node:
        case ast.Call():
            yield from (node.func, *node.args, *(k.value for k in node.keywords))
        case ast.IfExp():
            yield from (node.test, node.body, node.orelse)
        case ast.Dict():
            for key, value in zip(node.keys, node.values, strict=True):
                yield from (value,) if key is None else (key, value)
        case ast.Lambda() | ast.GeneratorExp():
            return
        case ast.ListComp() | ast.SetComp() | ast.DictComp():
            return
        case ast.NamedExpr():
            yield node.value
        case _:
            yield from (
                c for c in ast.iter_child_nodes(node) if isinstance(c, ast.expr)
            )


def operands(node: ast.stmt) -> list[Operand]:
    """The calls of a statement whose values are kept, in the order they run."""
    walk, depth = _Walk(), 0
    for expression, is_root in _expressions(node):
        depth = walk.visit(expression, depth, keep=not is_root)
    return walk.found


def _expressions(node: ast.stmt) -> Iterator[tuple[ast.expr, bool]]:
    """(expression, nothing can fail behind it) in the order they run."""
    match node:
        case ast.Expr() | ast.Return():
            if node.value is not None:
                yield node.value, True
        case ast.Assign():
            plain = all(isinstance(target, ast.Name) for target in node.targets)
            yield node.value, plain
            yield from ((target, True) for target in node.targets)
        case ast.AugAssign():
            yield node.target, True
            yield node.value, False
        case ast.AnnAssign():
            if node.value is not None:
                yield node.value, isinstance(node.target, ast.Name)
                yield node.target, True
        case ast.If():
            yield node.test, True


def keep(body: list[ast.stmt], used: set[str]) -> list[ast.stmt]:
    """Keep the operands of the statements in ``body``, which are changed in place.

    The hidden locals that this takes are added to ``used``.
    """
    found: list[ast.stmt] = []
    for node in body:
        names = _keep_in(node)
        used.update(names)
        found += _letting_go(node, names)
    return found


def _letting_go(node: ast.stmt, names: list[str]) -> list[ast.stmt]:
    """``node``, and as soon as it is done, nothing in the hidden ``names``."""
    if isinstance(node, ast.If):
        node.body[:0] = hidden.clear(names, "...")
        node.orelse[:0] = hidden.clear(names, "...")
        return [node]
    if isinstance(node, ast.Return):
        return [node]
    return [node, *hidden.clear(names, "...")]


def _keep_in(node: ast.stmt) -> list[str]:
    """Keep the operands of one statement; the names of the slots it uses."""
    if not isinstance(node, Simple):
        return []
    kept = {id(operand.node): operand.slot for operand in operands(node)}
    if kept:
        _Keeper(kept).visit_header(node)
    return [slot_name(slot) for slot in sorted(set(kept.values()))]


class _Keeper(ast.NodeTransformer):
    def __init__(self, slots: dict[int, int]) -> None:
        self.slots = slots

    def visit_header(self, node: ast.stmt) -> None:
        if isinstance(node, ast.If):
            node.test = self.visit(node.test)
        else:
            self.generic_visit(node)

    def visit(self, node: ast.AST) -> Any:
        slot = self.slots.get(id(node))
        result = super().visit(node)
        if slot is None or not isinstance(result, ast.expr):
            return result
        target = ast.Name(id=slot_name(slot), ctx=ast.Store())
        kept = ast.NamedExpr(target=ast.copy_location(target, node), value=result)
        return ast.copy_location(kept, node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        return node


def ready(node: ast.stmt, failing: tuple[int, int, int, int]) -> list[Operand]:
    """Operands that have their values when ``node`` fails at a position.

    Args:
        node: A user's statement.
        failing: (first line, first column, last line, end column) of the operation
            that failed. Without columns nothing is known to be ready.
    """
    at = _node_at(node, failing)
    if at is None or isinstance(node, ast.Assert | ast.Raise):
        return []
    kept = {id(operand.node): operand for operand in operands(node)}
    done: list[Operand] = []
    for expression in _in_order(node):
        if expression is at:
            break
        if (operand := kept.get(id(expression))) is not None:
            done.append(operand)
    return _without_nested(done)


def failing_part(node: ast.stmt, failing: tuple[int, int, int, int]) -> ast.expr | None:
    """The call or comprehension of ``node`` that failed, if it was one."""
    at = _node_at(node, failing)
    return at if isinstance(at, _EFFECTS | _DISPLAYS | ast.GeneratorExp) else None


def has_begun_by_itself(part: ast.expr) -> bool:
    """True of a comprehension that calls something: some of it has run already."""
    return isinstance(part, _COMPREHENSIONS) and any(
        isinstance(inner, _EFFECTS) for inner in ast.walk(part)
    )


def _in_order(node: ast.stmt) -> Iterator[ast.expr]:
    """Every expression of a statement, in the order in which they get a value."""

    def walk(expression: ast.expr) -> Iterator[ast.expr]:
        for child in _children(expression):
            yield from walk(child)
        yield expression

    for expression, _ in _expressions(node):
        yield from walk(expression)


def _without_nested(found: list[Operand]) -> list[Operand]:
    nested = {
        id(inner)
        for operand in found
        for inner in ast.walk(operand.node)
        if inner is not operand.node
    }
    return [operand for operand in found if id(operand.node) not in nested]


def _node_at(
    node: ast.stmt, failing: tuple[int, int, int, int]
) -> ast.expr | ast.stmt | None:
    """The part of a statement that an instruction's position belongs to.

    A call is known by its end, which no other call shares: the interpreter reports
    the start of a method call over several lines at the method's name.
    """
    if failing[1] < 0:
        return None
    nodes = [n for n in ast.walk(node) if isinstance(n, ast.expr | ast.stmt)]
    exact = [n for n in nodes if trees.span(n) == failing]
    ends = [n for n in nodes if trees.span(n)[2:] == failing[2:]]
    calls = [n for n in ends if isinstance(n, ast.Call)]
    effects = [n for n in exact if isinstance(n, _EFFECTS)]
    found = (effects or exact or (calls if len(calls) == 1 else [None]))[0]
    return found and _out_of_comprehension(node, found)


def _out_of_comprehension(
    node: ast.stmt, found: ast.expr | ast.stmt
) -> ast.expr | ast.stmt:
    """The comprehension around ``found``: its insides are no place to go on from.

    From 3.12 on they run in the frame of the statement itself (PEP 709).
    """
    for outer in ast.walk(node):
        if isinstance(outer, _COMPREHENSIONS) and any(
            inner is found for inner in ast.walk(outer)
        ):
            return outer
    return found


def reuse(
    new: ast.stmt, values: dict[int, Any], done: list[Operand]
) -> tuple[list[ast.stmt], dict[str, Any], list[Operand]]:
    """A copy of ``new`` that takes the values that are ready from hidden variables.

    A call of ``new`` has a value if the same call, word for word, has one in the old
    statement. Iterators are made again: the failed part may have begun to use them.

    Args:
        new: The statement to run, perhaps edited.
        values: The value of each slot.
        done: The operands of the old statement that are ready.

    Returns:
        The statement (and what lets go of the values behind it), the hidden
        variables by name, and the operands for which ``new`` has no use.
    """
    copied = trees.copied(new)
    waiting = [operand.node for operand in operands(copied)]
    replaced: dict[int, str] = {}
    given: dict[str, Any] = {}
    unused: list[Operand] = []
    for operand in done:
        value = values[operand.slot]
        twin = _twin(waiting, operand.node)
        if twin is None:
            unused.append(operand)
        elif not hasattr(type(value), "__next__"):
            name = value_name(len(given))
            given[name] = value
            replaced[id(twin)] = name
            waiting = waiting[waiting.index(twin) + 1 :]
    if replaced:
        _Reader(replaced).visit(copied)
    return _letting_go(copied, sorted(given)), given, unused


def _twin(waiting: list[ast.expr], node: ast.expr) -> ast.expr | None:
    text = ast.dump(node)
    return next((other for other in waiting if ast.dump(other) == text), None)


def names_in(node: ast.AST) -> set[str]:
    """Every name that ``node`` mentions."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def changed_names(nodes: Iterable[ast.stmt]) -> set[str]:
    """Names that statements assign, or whose objects they may change in place.

    A name is changed by being a target, or a target's owner (``x[0] = 1``), or by a
    method called on it for its effect alone (``x.clamp_(0, 9)``). What functions do
    that are only defined here does not count.
    """
    found: set[str] = set()
    for top in nodes:
        for node in _running(top):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                found |= _owner(node.value.func)
            elif isinstance(getattr(node, "ctx", None), ast.Store | ast.Del):
                found |= _owner(node)
    return found


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """``node`` and what is in it, without the insides of functions and classes."""
    yield node
    if not isinstance(node, trees.Function | ast.ClassDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _running(child)


def _owner(node: ast.AST) -> set[str]:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


class _Reader(ast.NodeTransformer):
    def __init__(self, names: dict[int, str]) -> None:
        self.names = names

    def visit(self, node: ast.AST) -> Any:
        name = self.names.get(id(node))
        if name is None:
            return super().visit(node)
        found = ast.copy_location(ast.Name(id=name, ctx=ast.Load()), node)
        found.gr_value = True  # type: ignore[attr-defined]
        return found
