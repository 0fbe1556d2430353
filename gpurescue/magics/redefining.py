"""Plain cells that define something again while a run is alive.

Every top-level ``def`` and ``class`` of such a cell is put between two hidden
statements: one notes what the name means now, the other carries the new definition
into the old one, so that later statements of the same cell already see it patched.
"""

from __future__ import annotations

import ast
import logging
import sys
from typing import Any

from gpurescue.errors import RescueError
from gpurescue.magics.session import Session
from gpurescue.recovery.carrying import carried
from gpurescue.source import hidden
from gpurescue.source import tree as trees

_log = logging.getLogger(__name__)
_HERE = f"__import__('sys').modules[{__name__!r}]"  # needs no name of ours
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
        return carried(job.run.redefinitions, name, old, new)
    except RescueError as error:
        sys.stderr.write(f"gpurescue: {error}\n")
    except Exception:  # noqa: BLE001 - the user's new function works all the same
        _log.exception("The redefinition of %s could not be carried over.", name)
        sys.stderr.write(
            f"gpurescue: the new {name} could not be carried into the run; what got "
            "hold of the old one keeps it.\n"
        )
    return new


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
