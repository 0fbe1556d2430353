"""What is left of a block of statements, from one of them on, as a syntax tree.

The failing statement and what follows it in its block; around it, each enclosing
``for`` becomes::

    for _ in (0,):            # the rest of the current iteration
        <remainder of the body>
    else:
        for x in it:          # the same live iterator
            <body>
        else: ...

so that ``continue`` and ``break`` mean what they meant; ``while``, ``if``, ``match``
alike.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gpurescue.errors import CannotResume
from gpurescue.source import hidden
from gpurescue.source import tree as trees
from gpurescue.source.tree import Function, Held, Loop

BOX = "__gr_box__"
OUTCOME = "__gr_out__"
ONCE = "__gr_once__"


class Step(NamedTuple):
    """One level of a path: the statement, and the block of it that comes next."""

    at: int
    field: str = ""
    handler: int = -1


Path = tuple[Step, ...]


def statement(body: Sequence[ast.stmt], path: Path) -> ast.stmt:
    """The statement that ``path`` leads to from ``body``."""
    return walk(body, path)[-1]


def walk(body: Sequence[ast.stmt], path: Path) -> list[ast.stmt]:
    """Every statement along ``path``, outermost first."""
    found: list[ast.stmt] = []
    for step in path:
        found.append(body[step.at])
        if step.field:
            body = trees.child_block(found[-1], step.field, step.handler)
    return found


Entering = Callable[[Held, Step, list[ast.stmt]], list[ast.stmt]]


def _not_again(node: Held, step: Step, rest: list[ast.stmt]) -> list[ast.stmt]:
    raise CannotResume(
        f"Line {node.lineno} holds a `{kind(node)}` block that cannot be entered "
        "again; go on from an outer frame with %resume --frame N."
    )


def remainder(
    body: Sequence[ast.stmt],
    path: Path,
    head: Sequence[ast.stmt],
    enter: Entering = _not_again,
) -> list[ast.stmt]:
    """What runs from ``path`` on, with ``head`` in the place of that statement.

    Args:
        body: Statements of a function.
        path: Where it stands.
        head: What is left of the statement there.
        enter: Gives the statements that go on inside a block with a live state, given
            that, the step into it and what is left of it.

    Raises:
        CannotResume: A block on the way is one that cannot be entered again.
    """
    step, deeper = path[0], path[1:]
    if deeper:
        first = _inside(body[step.at], step, deeper, head, enter)
    else:
        first = list(head)
    return first + [trees.copied(node) for node in body[step.at + 1 :]]


def _inside(
    node: ast.stmt, step: Step, path: Path, head: Sequence[ast.stmt], enter: Entering
) -> list[ast.stmt]:
    block = trees.child_block(node, step.field, step.handler)
    rest = remainder(block, path, head, enter)
    if isinstance(node, Loop) and step.field == "body":
        return [once(node, rest)]
    if isinstance(node, Held) and step.field != "orelse":
        return enter(node, step, rest)
    return rest


def kind(node: ast.stmt) -> str:
    """The word a user knows a statement by."""
    names = {
        ast.AsyncFor: "async for",
        ast.AsyncWith: "async with",
        ast.TryStar: "try",
        ast.FunctionDef: "def",
        ast.AsyncFunctionDef: "async def",
        ast.ClassDef: "class",
    }
    return names.get(type(node), type(node).__name__.lower())


def once(loop: Loop, rest: list[ast.stmt]) -> ast.stmt:
    """The rest of a round of ``loop``, and then its other rounds."""
    (once,) = hidden.statements(f"for {ONCE} in (0,): pass")
    assert isinstance(once, ast.For)
    once.body = rest or once.body
    once.orelse = [reenter(loop)]
    once.gr_number = trees.number(loop)  # type: ignore[attr-defined]
    once.gr_once = True  # type: ignore[attr-defined]
    return once


def reenter(loop: Loop) -> Loop:
    """The loop again, over the iterator it already has."""
    again = trees.copied(loop)
    if not isinstance(again, ast.While) and not isinstance(loop, ast.While):
        name = ast.Name(id=trees.iterator_name(loop), ctx=ast.Load())
        again.iter = ast.copy_location(name, loop.iter)
        again.gr_reentered = True  # type: ignore[union-attr]
    return again


def _with_exits(
    body: Sequence[ast.stmt], *, is_module: bool, in_loop: bool = False
) -> list[ast.stmt]:
    """Turn every way out of a block into a report of how it was left.

    Inside a loop of the block only ``return`` leaves it.
    """
    found: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.Return):
            found.append(ast.copy_location(_end("return", node.value), node))
            continue
        if isinstance(node, ast.Break | ast.Continue) and not in_loop:
            found += _exit(kind(node), node, is_module=is_module)
            continue
        for name, _, child in trees.child_blocks(node):
            inside = in_loop or (isinstance(node, Loop) and name == "body")
            child[:] = _with_exits(child, is_module=is_module, in_loop=inside)
        found.append(node)
    return found


def _exit(outcome: str, node: ast.stmt, *, is_module: bool) -> list[ast.stmt]:
    if is_module:
        noted = hidden.statements(f"{OUTCOME} = {outcome!r}")
        return [*noted, ast.copy_location(ast.Break(), node)]
    return [ast.copy_location(_end(outcome, None), node)]


def reporting(body: list[ast.stmt], *, is_module: bool) -> list[ast.stmt]:
    """``body`` of an inner block, saying at each way out how it was left.

    In a function by ``__gr_box__.end(outcome, value)``; in a cell's body,
    where nothing can return, by setting ``__gr_out__`` behind a loop of one round.
    """
    found = _with_exits(body, is_module=is_module)
    if not is_module:
        return [*found, _end("next", None)]
    (once,) = hidden.statements("while True: break")
    assert isinstance(once, ast.While)
    once.body[:0] = found
    return [once]


def leaves_early(body: Sequence[ast.stmt]) -> bool:
    """Tell whether ``return``, ``break`` or ``continue`` can leave ``body``."""
    copied = [trees.copied(node) for node in body]
    changed = _with_exits(copied, is_module=False)
    return any(hasattr(node, "gr_exit") for top in changed for node in ast.walk(top))


def _end(outcome: str, value: ast.expr | None) -> ast.Return:
    (found,) = hidden.statements(f"return {BOX}.end({outcome!r}, None)")
    assert isinstance(found, ast.Return)
    assert isinstance(found.value, ast.Call)
    if value is not None:
        found.value.args[1] = value
    found.gr_exit = True  # type: ignore[attr-defined]
    return found


class _NoDeclarations(ast.NodeTransformer):
    """Takes ``global`` and ``nonlocal`` out: the continuation declares them first.

    And annotations of plain names, which mean nothing in a function and are not
    allowed for names that are declared.
    """

    def visit_Global(self, node: ast.Global) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if not node.simple:
            return node
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        plain = ast.Assign(targets=[node.target], value=node.value, type_comment=None)
        return ast.copy_location(plain, node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.stmt:
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.stmt:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        return node


def without_declarations(body: list[ast.stmt]) -> list[ast.stmt]:
    """``body`` without its ``global`` and ``nonlocal`` statements."""
    remover = _NoDeclarations()
    return [remover.visit(node) for node in body]


def declared_globals(scope: Function) -> set[str]:
    """Names that a function declares ``global`` anywhere in its body."""
    return {
        name
        for node in trees.statements(scope.body)
        if isinstance(node, ast.Global)
        for name in node.names
    }
