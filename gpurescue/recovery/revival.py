"""Continuations of frames that are gone, made from their points.

Each frame becomes a function that takes up its variables and goes on where it stood;
the call that it waited for is replaced by a call of the next inner one, so that its
result comes to where it was waited for. The outermost is the rest of the cell's body.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.recovery.handlers.inside import Gives
from gpurescue.recovery.hands import Rounds
from gpurescue.recovery.points import CALL, GIVEN, INSTANCE, Point
from gpurescue.source import cells, hidden, operands, remainder, residual, splice
from gpurescue.source import tree as trees
from gpurescue.source.cells import Definition
from gpurescue.source.remainder import Step
from gpurescue.source.splice import Variables
from gpurescue.source.tree import Held

MANAGER = "__gr_m{}__"

Rejoin = Callable[[Rounds], Any]


class Given:
    """The variables of a frame, for the function that goes on with them."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def put(self, values: dict[str, Any]) -> None:
        """Have these values, by the names that it was made with."""
        self._values = {name: values[name] for name in self._values}

    def variables(self) -> dict[str, Any]:
        """The user's, as long as they were not taken."""
        return {k: v for k, v in self._values.items() if not trees.is_hidden(k)}

    def take(self) -> tuple[Any, ...]:
        """Hand over the values, so that nothing else keeps them alive."""
        values, self._values = tuple(self._values.values()), {}
        return values


class Rejoined:
    """Leaves a ``with`` block that was entered in another process.

    Args:
        leave: The exit of the manager. It is what the interpreter keeps on its stack:
            whoever asks what becomes of an exception sees the manager's own.
    """

    def __init__(self, leave: Any) -> None:
        self._leave = leave

    def __enter__(self) -> None:
        return None

    @property
    def __exit__(self) -> Any:
        return self._leave


@dataclass(frozen=True, slots=True)
class Revived:
    """What runs in the place of a cell's body.

    Attributes:
        code: To be executed in the cell's namespace.
        values: Hidden variables that must be in there.
    """

    code: CodeType
    values: dict[str, Any]


def revived(points: Sequence[Point], rejoin: Rejoin) -> Revived:
    """Make the continuations of frames; nothing runs, and nothing is changed.

    Args:
        points: Where they stood, outermost first: the cell's body is the first.
        rejoin: Gives the iterator of a loop, outermost loop first.

    Raises:
        CannotResume: It cannot be gone on from there; says why.
    """
    loops = [{n: rejoin(r) for n, r in point.rounds.items()} for point in points]
    call: _Call | None = None
    for point, iterators in reversed(list(zip(points, loops, strict=True))[1:]):
        call = _function(point, iterators, call)
    return _body(points[0], loops[0], call)


def check(points: Sequence[Point]) -> None:
    """Find out whether continuations of these frames can be made.

    Raises:
        CannotResume: They cannot; says why.
    """
    revived(points, lambda rounds: None)


@dataclass(frozen=True, slots=True)
class _Call:
    """The function that goes on in the place of a call, and its variables."""

    function: FunctionType
    given: Given
    point: Point

    @property
    def is_instance(self) -> bool:
        return self.point.gives == Gives.INSTANCE.name

    def expression(self) -> ast.expr:
        """What runs in the place of the call."""
        text = f"{CALL}({GIVEN})"
        return hidden.expression(
            f"({text}, {INSTANCE})[1]" if self.is_instance else text
        )

    def values(self) -> dict[str, Any]:
        """The hidden variables that this takes."""
        found: dict[str, Any] = {CALL: self.function, GIVEN: self.given}
        return found | ({INSTANCE: self.point.instance} if self.is_instance else {})


def _function(point: Point, iterators: dict[int, Any], call: _Call | None) -> _Call:
    definition = definition_of(point)
    head, hidden_values = _head(point, definition, call)
    code, values = assemble(point, head, named(iterators) | hidden_values)
    return _Call(function(point, code), Given(values), point)


def function(point: Point, code: CodeType) -> FunctionType:
    """What goes on in the variables of a frame; takes a ``Given``."""
    closure = tuple(_cell(point, name) for name in code.co_freevars)
    return FunctionType(code, point.home.__globals__, code.co_name, None, closure)


def assemble(
    point: Point, head: Sequence[ast.stmt], hidden_values: dict[str, Any]
) -> tuple[CodeType, dict[str, Any]]:
    """Compile what is left of a function; with the values that it takes, in order.

    Args:
        point: Where it stands.
        head: What runs in the place of the statement there.
        hidden_values: What that takes, and the iterators of loops.

    Raises:
        CannotResume: It cannot be gone on from there.
    """
    definition = definition_of(point)
    body, managers = _rest(point, definition, head)
    values = point.values | hidden_values | managers
    plain = definition.unit.plain_code(definition)
    if plain is None:
        raise CannotResume(f"The source of {point.name} cannot be compiled.")
    local, free = (*plain.co_varnames, *plain.co_cellvars), tuple(point.cells)
    try:
        code = splice.compile_function(
            remainder.without_declarations(body),
            definition,
            Variables(
                bound=tuple(values),
                unbound=tuple(n for n in local if n not in values and n not in free),
                cells=free,
            ),
            block=0,
            like=plain.replace(co_flags=plain.co_flags | point.flags),
        )
    except SyntaxError as error:
        raise _uncompiled(point, error) from error
    return code, values


def _cell(point: Point, name: str) -> CellType:
    try:
        return point.cells[name]
    except KeyError:
        raise CannotResume(f"{point.name} has no cell for {name!r}.") from None


def _body(point: Point, iterators: dict[int, Any], call: _Call | None) -> Revived:
    definition = definition_of(point)
    head, values = _head(point, definition, call)
    body, managers = _rest(point, definition, head)
    plain = compile("", definition.unit.path, "exec", point.flags, dont_inherit=True)
    try:
        code = splice.compile_module(body, definition, block=0, like=plain)
    except SyntaxError as error:
        raise _uncompiled(point, error) from error
    return Revived(code, named(iterators) | values | managers)


def _uncompiled(point: Point, error: SyntaxError) -> CannotResume:
    return CannotResume(
        f"What is left of {point.name} cannot be compiled by itself ({error.msg})."
    )


def definition_of(point: Point) -> Definition:
    """The definition that a point is in.

    Raises:
        CannotResume: Its source is not there.
    """
    unit = cells.unit(point.source)
    found = None if unit is None else unit.definitions.get(point.line)
    if found is None or found.qualname != point.name:
        raise CannotResume(
            f"The source of {point.name} is not there, or is not for this version of "
            f"Python: {point.source}."
        )
    return found


def named(iterators: dict[int, Any]) -> dict[str, Any]:
    """Iterators of loops by the names of the hidden variables that keep them."""
    return {f"{trees.HIDDEN}it{n}__": iterator for n, iterator in iterators.items()}


def _rest(
    point: Point, definition: Definition, head: Sequence[ast.stmt]
) -> tuple[list[ast.stmt], dict[str, Any]]:
    """What is left to run of a function, and the managers that this takes."""

    def enter(node: Held, step: Step, rest: list[ast.stmt]) -> list[ast.stmt]:
        if step.field != "body" or isinstance(node, ast.AsyncWith):
            word = "finally" if step.field == "finalbody" else "except"
            raise CannotResume(
                f"Line {node.lineno} of {point.name} is in the `{word}` block of a "
                "`try`, which cannot be entered again."
            )
        again = trees.copied(node)
        again.body = rest
        if isinstance(again, ast.With):
            name = MANAGER.format(trees.number(node))
            (item,) = again.items
            found = ast.Name(id=name, ctx=ast.Load())
            item.context_expr = ast.copy_location(found, item.context_expr)
            item.optional_vars = None
        return [again]

    body = remainder.remainder(definition.scope.body, point.path, head, enter)
    names = [MANAGER.format(trees.number(n)) for n in _withs(definition, point)]
    return body, dict(zip(names, map(Rejoined, point.exits), strict=True))


def _withs(definition: Definition, point: Point) -> Iterator[ast.With]:
    nodes = remainder.walk(definition.scope.body, point.path)
    for node, step in zip(nodes, point.path, strict=True):
        if isinstance(node, ast.With) and step.field == "body":
            yield node


def _head(
    point: Point, definition: Definition, call: _Call | None
) -> tuple[tuple[ast.stmt, ...], dict[str, Any]]:
    """What runs in the place of the statement that the frame stands in."""
    node = remainder.statement(definition.scope.body, point.path)
    if call is None:
        if point.is_before:
            return (trees.copied(node),), {}
        if not isinstance(node, ast.For):
            raise CannotResume(f"Line {node.lineno} of {point.name} is no loop.")
        return (remainder.reenter(node),), {}
    nodes, values = rest_of(point, ast.Call, call.expression())
    return nodes, values | call.values()


def rest_of(
    point: Point, waits_for: type[ast.expr], instead: ast.expr
) -> tuple[tuple[ast.stmt, ...], dict[str, Any]]:
    """What is left of a statement that waits for a part of it.

    Args:
        point: Where the frame stands.
        waits_for: The kind of that part.
        instead: What gives its value.
    """
    definition = definition_of(point)
    node = remainder.statement(definition.scope.body, point.path)
    unstable = definition.unit.rebound
    kept = operands.operands(node, unstable)
    known = {o.slot: point.slots.get(o.slot, operands.EMPTY) for o in kept}
    failed = residual.failure(node, point.span, known, kept)
    if not isinstance(failed.at, waits_for):
        raise CannotResume(f"Line {node.lineno} of {point.name} makes no call.")
    left = residual.rest(node, failed, failed.done, unstable, instead)
    return left.nodes, left.given
