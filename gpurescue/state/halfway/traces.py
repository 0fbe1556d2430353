"""What a dead frame of the library had done before the line that failed.

Read off the source: which statements it had passed, and whether any of them leaves a
trace. Counters that had moved can be set back; any other trace, or a call that is not
known to leave none, means that the frame must not run again.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, TracebackType
from typing import Any

from gpurescue.state.dead import names_of

_TRACELESS = {
    *("bool", "cast", "float", "getattr", "hasattr", "int", "isinstance", "len"),
    *("max", "min", "range", "sum", "super", "zip", "enumerate"),
    *("get", "items", "keys", "values", "warn", "no_grad"),
    *("_check_scale_growth_tracker", "_enable_get_lr_call"),
    *("_warn_get_lr_called_within_step", "cos", "floor", "log"),
}
_QUIET = ast.Pass | ast.Raise | ast.Return | ast.Continue | ast.Break
_COMPOUND = ast.If | ast.For | ast.While | ast.With


@dataclass(frozen=True, slots=True)
class Moved:
    """A counter that a dead frame had moved: an attribute of ``owner``."""

    owner: Any
    name: str
    by: int

    def undo(self) -> None:
        """Set it back."""
        setattr(self.owner, self.name, getattr(self.owner, self.name) - self.by)


def moved(entry: TracebackType) -> list[Moved] | None:
    """The counters that a frame had moved; None if it had done anything else."""
    try:
        body = _body(entry.tb_frame.f_code)
    except (OSError, SyntaxError, TypeError, ValueError):
        return None
    passed, failing = _passed(body, entry.tb_lineno)
    if failing is None or len(list(_calls(failing))) > 1:
        return None
    found: list[Moved] = []
    names = names_of(entry.tb_frame)
    for node in passed:
        counter = _counter(node)
        if counter is not None:
            found.append(Moved(names["self"], *counter))
        elif _leaves_trace(node):
            return None
    return found


@functools.cache
def _body(code: CodeType) -> list[ast.stmt]:
    """The statements of a function, with the lines that they have in its file."""
    lines, first = inspect.getsourcelines(code)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef):
        raise ValueError("Not a function.")
    ast.increment_lineno(tree, first - 1)
    return function.body


def _passed(block: list[ast.stmt], line: int) -> tuple[list[ast.AST], ast.stmt | None]:
    """What had run before ``line``, and the innermost statement that it is in."""
    for index, node in enumerate(block):
        if not node.lineno <= line <= (node.end_lineno or node.lineno):
            continue
        before: list[ast.AST] = list(block[:index])
        for name in ("body", "orelse", "handlers", "finalbody"):
            inner = getattr(node, name, [])
            passed, failing = _passed(
                [s for s in inner if isinstance(s, ast.stmt)], line
            )
            if failing is not None:
                is_loop = isinstance(node, ast.For | ast.While)
                rounds = inner if is_loop else []
                return [*before, *_headers(node), *rounds, *passed], failing
        return before, node
    return [], None


def _headers(node: ast.stmt) -> Iterator[ast.AST]:
    match node:
        case ast.If() | ast.While():
            yield node.test
        case ast.For():
            yield from (node.target, node.iter)
        case ast.With():
            yield from (item.context_expr for item in node.items)
        case _:
            yield node  # a ``try`` and the like: not known


def _counter(node: ast.AST) -> tuple[str, int] | None:
    """(name, by how much) of ``self.name += 1``."""
    match node:
        case ast.AugAssign(
            target=ast.Attribute(value=ast.Name(id="self"), attr=name),
            op=ast.Add(),
            value=ast.Constant(value=int() as by),
        ):
            return name, by
    return None


def _leaves_trace(node: ast.AST) -> bool:
    if any(_stores(inner) for inner in ast.walk(node)):
        return True
    return next(_calls(node), None) is not None


def _stores(node: ast.AST) -> bool:
    """True of an assignment to more than a variable, and of what is not known."""
    if isinstance(node, ast.Attribute | ast.Subscript):
        return not isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.AugAssign):
        return True  # of a variable too: it may be an object that others have
    plain = ast.Assign | ast.AnnAssign | ast.Expr | _QUIET | _COMPOUND
    return isinstance(node, ast.stmt) and not isinstance(node, plain)


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    """Calls that are not known to leave no trace."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call):
            name = getattr(inner.func, "attr", getattr(inner.func, "id", ""))
            if name not in _TRACELESS:
                yield inner
