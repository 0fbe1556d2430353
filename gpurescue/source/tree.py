"""The user's syntax tree in the one shape that all other passes work on.

``normalise`` splits what Python lets a user write in one statement but does in
several steps (``with a, b``; ``try/except/finally``; ``del a, b``), so that every
live state has a statement of its own. ``annotate`` then numbers loops, guarded
statements and blocks per function, the same way each time, so that a position found in
a running frame means the same in a tree that is parsed again later.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = Function | ast.Module
Loop = ast.For | ast.AsyncFor | ast.While
Held = ast.With | ast.AsyncWith | ast.Try | ast.TryStar

HIDDEN = "__gr_"

Node = TypeVar("Node", bound=ast.AST)


def is_hidden(name: str) -> bool:
    """Tell whether ``name`` is one of ours and not the user's."""
    return name.startswith(HIDDEN) and name.endswith("__")


def iterator_name(loop: Loop) -> str:
    """Name of the hidden local that keeps this loop's iterator alive."""
    return f"{HIDDEN}it{number(loop)}__"


def resume_name(held: Held) -> str:
    """Name of the hidden local that a guard inside ``held`` answers in."""
    return f"{HIDDEN}k{number(held)}__"


def leave_name(held: Held) -> str:
    """Name of the hidden local that says that ``held`` is to be left."""
    return f"{HIDDEN}l{number(held)}__"


def number(node: ast.AST) -> int:
    """The number that ``annotate`` gave a loop or a guarded statement."""
    value = getattr(node, "gr_number", None)
    if not isinstance(value, int):
        raise LookupError(f"{type(node).__name__} was never annotated.")
    return value


@dataclass(slots=True, kw_only=True)
class Block:
    """A list of statements with a guard of its own."""

    index: int
    body: list[ast.stmt]
    owner: Scope | Held
    field: str
    handler: int = -1

    @property
    def is_protected_exit(self) -> bool:
        """True in a ``finally``: an exit may be pending behind this block."""
        return self.field == "finalbody"


@dataclass(slots=True)
class Layout:
    """What ``annotate`` found in one function (or in a cell's body)."""

    scope: Scope
    blocks: list[Block] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)

    def block_of(self, body: list[ast.stmt]) -> Block | None:
        """The guarded block whose statement list is ``body`` itself."""
        return next((b for b in self.blocks if b.body is body), None)


def child_blocks(node: ast.stmt) -> Iterator[tuple[str, int, list[ast.stmt]]]:
    """Yield (field, handler or case number, statements) of a compound statement.

    Functions and classes are scopes of their own and yield nothing.
    """
    if isinstance(node, Function | ast.ClassDef):
        return
    if isinstance(node, ast.Match):
        for i, case in enumerate(node.cases):
            yield "cases", i, case.body
        return
    for name in ("body", "orelse", "finalbody"):
        if block := getattr(node, name, None):
            yield name, -1, block
    for i, handler in enumerate(getattr(node, "handlers", ())):
        yield "handlers", i, handler.body


def child_block(node: ast.stmt, name: str, index: int) -> list[ast.stmt]:
    """The statement list that ``child_blocks`` calls (``name``, ``index``)."""
    for found, i, block in child_blocks(node):
        if (found, i) == (name, index):
            return block
    raise LookupError(f"{type(node).__name__} has no block {name!r}.")


class _Normaliser(ast.NodeTransformer):
    def visit_With(self, node: ast.With) -> ast.AST:
        return self._split_items(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        return self._split_items(node)

    def _split_items(self, node: ast.With | ast.AsyncWith) -> ast.AST:
        self.generic_visit(node)
        if len(node.items) > 1:
            rest = type(node)(items=node.items[1:], body=node.body, type_comment=None)
            ast.copy_location(rest, node)
            _set_span(rest, node.items[1].context_expr, node)
            node.body = [self._split_items(rest)]  # type: ignore[list-item]
            node.items = node.items[:1]
        return node

    def visit_Try(self, node: ast.Try) -> ast.AST:
        return self._split_finally(node)

    def visit_TryStar(self, node: ast.TryStar) -> ast.AST:
        return self._split_finally(node)

    def visit_Delete(self, node: ast.Delete) -> list[ast.stmt]:
        """Each target by itself: what is deleted cannot be deleted again."""
        found: list[ast.stmt] = []
        for target in node.targets:
            one = ast.copy_location(ast.Delete(targets=[target]), node)
            if len(node.targets) > 1:
                _set_span(one, node if not found else target, target)
            found.append(one)
        return found

    def _split_finally(self, node: ast.Try | ast.TryStar) -> ast.AST:
        self.generic_visit(node)
        if not (node.finalbody and node.handlers):
            return node
        inner = type(node)(
            body=node.body, handlers=node.handlers, orelse=node.orelse, finalbody=[]
        )
        ast.copy_location(inner, node)
        last = (node.orelse or node.handlers)[-1]
        _set_span(inner, node.body[0], last)
        outer = ast.Try(body=[inner], handlers=[], orelse=[], finalbody=node.finalbody)
        return ast.copy_location(outer, node)


def _set_span(node: ast.stmt, first: ast.AST, last: ast.AST) -> None:
    node.gr_span = (*span(first)[:2], *span(last)[2:])  # type: ignore[attr-defined]


def span(node: ast.AST) -> tuple[int, int, int, int]:
    """(first line, first column, last line, end column) in the user's source."""
    own = getattr(node, "gr_span", None)
    if own is not None:
        return own  # type: ignore[no-any-return]
    decorators = getattr(node, "decorator_list", None)
    first = decorators[0] if decorators else node  # they run as part of the `def`
    return (
        first.lineno,  # type: ignore[union-attr]
        first.col_offset,  # type: ignore[union-attr]
        node.end_lineno,  # type: ignore[attr-defined]
        node.end_col_offset,  # type: ignore[attr-defined]
    )


def normalise(tree: ast.Module) -> ast.Module:
    """Split ``with a, b``, ``try/except/finally`` and ``del a, b``; changes ``tree``.

    The result means the same and keeps every line and column.
    """
    result = _Normaliser().visit(tree)
    assert isinstance(result, ast.Module)
    return result


def scopes(tree: ast.Module) -> Iterator[Scope]:
    """The module and every function in it, outermost first."""
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def annotate(scope: Scope) -> Layout:
    """Number the loops and guarded statements of one function, in source order.

    Class bodies and nested functions are left out: they are no part of the frame.
    """
    counts = {"loops": 0, "held": 0, "blocks": 1}
    for node in statements(scope.body):
        if isinstance(node, Loop):
            node.gr_number = counts["loops"]  # type: ignore[union-attr]
            counts["loops"] += 1
        elif isinstance(node, Held):
            node.gr_number = counts["held"]  # type: ignore[union-attr]
            counts["held"] += 1
            node.gr_blocks = {}  # type: ignore[union-attr]
            for name, handler, _ in child_blocks(node):
                if has_guard(name, node):
                    node.gr_blocks[name, handler] = counts["blocks"]  # type: ignore[union-attr]
                    counts["blocks"] += 1
    return collect(scope)


def collect(scope: Scope, *, top: int = 0) -> Layout:
    """The layout of a scope whose statements carry their numbers already.

    Args:
        scope: A function, or the remainder of one.
        top: The block that the statements of ``scope`` themselves belong to.
    """
    layout = Layout(scope)
    layout.blocks.append(Block(index=top, body=scope.body, owner=scope, field="body"))
    for node in statements(scope.body):
        if isinstance(node, Loop) and hasattr(node, "gr_number"):
            layout.loops.append(node)
        elif isinstance(node, Held) and hasattr(node, "gr_number"):
            layout.held.append(node)
            layout.blocks += _blocks_of(node)
    return layout


def _blocks_of(node: Held) -> Iterator[Block]:
    indices: dict[tuple[str, int], int] = node.gr_blocks  # type: ignore[union-attr]
    for name, handler, body in child_blocks(node):
        if (index := indices.get((name, handler))) is not None:
            yield Block(index=index, body=body, owner=node, field=name, handler=handler)


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Every statement of one frame, outer before inner, in source order."""
    for node in body:
        yield node
        for _, _, child in child_blocks(node):
            yield from statements(child)


def has_guard(name: str, node: Held) -> bool:
    """Tell whether that block of ``node`` gets a guard.

    Not ``else`` (nothing is held there) and not ``except*`` clauses (what they
    raise is gathered by the statement itself).
    """
    if name == "handlers":
        return isinstance(node, ast.Try)
    return name != "orelse"


def copied(node: Node) -> Node:
    """A deep copy of a tree, its numbers included; far quicker than ``copy``."""
    if not node._fields:
        # ``Load()`` and its like are the same object in every tree of the process,
        # and others hang things on them (executing: ``parent``).
        return node
    made = ast.AST.__new__(type(node))
    own = made.__dict__
    for name, value in node.__dict__.items():
        if type(value) is list:
            value = [copied(x) if isinstance(x, ast.AST) else x for x in value]
        elif isinstance(value, ast.AST):
            value = copied(value)
        own[name] = value
    return made


def first_line(node: Function) -> int:
    """``co_firstlineno`` of the code that ``node`` compiles to."""
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])
