"""Plain cells that define something again while a run is alive.

Every top-level ``def`` and ``class`` of such a cell is put between two hidden
statements: one notes what the name means now, the other carries the new definition
into the old one, so that later statements of the same cell already see it patched.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import sys
from types import FunctionType
from typing import Any

from gpurescue.errors import RescueError
from gpurescue.magics.session import Session
from gpurescue.recovery.hotswap import Redefinitions
from gpurescue.source import hidden
from gpurescue.source import tree as trees

_log = logging.getLogger(__name__)
_HERE = f"__import__('sys').modules[{__name__!r}]"  # needs no name of ours
_MOST = 100
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

_session: Session | None = None
_before: dict[str, Any] = {}


def watch(session: Session | None) -> None:
    """Carry redefinitions into the runs of ``session``; of none, if None."""
    global _session
    _session = session
    _before.clear()


def before(name: str) -> None:
    """``name`` is about to be defined."""
    if _session is not None:
        _before[name] = _session.namespace.get(name)


def after(name: str, new: Any) -> Any:
    """``name`` has been defined as ``new``; the result is what it should mean."""
    old = _before.pop(name, None)
    job = _session.alive if _session is not None else None
    if job is None or old is None:
        return new
    try:
        return _carried(job.run.redefinitions, name, old, new)
    except RescueError as error:
        sys.stderr.write(f"gpurescue: {error}\n")
    except Exception:  # noqa: BLE001 - the user's new function works all the same
        _log.exception("The redefinition of %s could not be carried over.", name)
        sys.stderr.write(
            f"gpurescue: the new {name} could not be carried into the run; what got "
            "hold of the old one keeps it.\n"
        )
    return new


def _carried(redefinitions: Redefinitions, name: str, old: Any, new: Any) -> Any:
    if isinstance(old, type) and isinstance(new, type):
        return redefinitions.redefined(old, new) if _is_same(old, new) else new
    first, second = defined(old, name), defined(new, name)
    if first is None or second is None or not _is_same(first, second):
        return new
    made = redefinitions.redefined(first, second)
    return made if first is old and second is new else new


def _is_same(old: type | FunctionType, new: type | FunctionType) -> bool:
    """Tell whether ``new`` is a new version of ``old``, and not only of its name.

    A name may have meant something imported, or a function with another name.
    """
    return (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)


def defined(value: Any, name: str) -> FunctionType | None:
    """The function that ``def name`` made, under all its decorators."""
    waiting, seen = [value], set[int]()
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen or len(seen) > _MOST:
            continue
        seen.add(id(found))
        # Its code knows: functools.wraps gives wrappers the name of the function.
        if isinstance(found, FunctionType) and found.__code__.co_qualname == name:
            return found
        waiting += _inside(found)
    return None


def _inside(value: Any) -> list[Any]:
    """Where decorators keep what they decorate."""
    found = [
        inner
        for attribute in ("__wrapped__", "__func__", "func")
        if callable(inner := getattr(value, attribute, None))
    ]
    kept = getattr(value, "__dict__", None)
    if isinstance(kept, dict) and not isinstance(value, type):
        found += [inner for inner in kept.values() if isinstance(inner, FunctionType)]
    for cell in getattr(value, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # the cell is still empty
            if callable(cell.cell_contents):
                found.append(cell.cell_contents)
    return found


def mark(tree: ast.Module) -> None:
    """Put the hidden statements around the definitions of ``tree``."""
    _mark_block(tree.body)


def _mark_block(body: list[ast.stmt]) -> None:
    marked: list[ast.stmt] = []
    for node in body:
        if isinstance(node, _Definition):
            name = node.name
            marked += hidden.statements(f"{_HERE}.before({name!r})")
            marked.append(node)
            marked += hidden.statements(f"{name} = {_HERE}.after({name!r}, {name})")
            continue
        for _, _, child in trees.child_blocks(node):
            _mark_block(child)
        marked.append(node)
    body[:] = marked
