"""The current source of what failed, or of what the user names, ready to edit.

What is in a cell is offered as a new cell. What is in a file is edited there.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from gpurescue.errors import UsageError
from gpurescue.magics.session import Job
from gpurescue.recovery.carrying import defined
from gpurescue.recovery.suspension import Suspension
from gpurescue.source import cells
from gpurescue.source.cells import Definition, Unit

RESUME = "%%resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is to be edited.

    Attributes:
        text: The source.
        file: The name of the file that it is in; empty for a cell.
        line: Where it begins there.
    """

    text: str
    file: str = ""
    line: int = 0


def of_failing(job: Job, held: Suspension) -> Source:
    """The source of the function that failed."""
    latest = job.run.redefinitions.latest(held.innermost.definition)
    return _source(job, latest)


def of_named(
    job: Job | None, name: str, names: Mapping[str, Any], files: Sequence[str]
) -> Source:
    """The source of the function or class that ``name`` means.

    Args:
        job: The run, if there is one.
        name: What the user calls it, such as ``helper`` or ``Net.forward``.
        names: The user's namespace.
        files: The file names of all cells, oldest first.

    Raises:
        UsageError: It means nothing, or something whose source is not in a cell.
    """
    value = _value(name, names)
    found: Definition | str | None = _definition(value, name.rpartition(".")[2])
    if found is None and isinstance(value, type):
        found = _in_cells(value, files)
    if found is None:
        raise UsageError(
            f"The source of {name!r} is neither in a cell of this notebook nor in a "
            "file beside it; %fix shows functions and classes that are."
        )
    if isinstance(found, str):
        return Source(text=found)
    path = found.unit.path
    if not found.unit.is_file and path not in files and os.path.isfile(path):
        raise UsageError(
            f"{name!r} is in {path}, which gpurescue does not guard; only files in or "
            "below the notebook's folder are."
        )
    return _source(job, found)


def _value(name: str, names: Mapping[str, Any]) -> Any:
    first, *rest = name.split(".")
    try:
        value = names[first] if first in names else getattr(builtins, first)
        for part in rest:
            value = getattr(value, part)
    except (KeyError, AttributeError):
        raise UsageError(
            f"There is no {name!r}; give the name of a function or class, or none "
            "for the one that failed."
        ) from None
    return value


def _definition(value: Any, name: str) -> Definition | None:
    is_class = isinstance(value, type)
    for part in vars(value).values() if is_class else (value,):
        function = _function(part, name)
        found = cells.definition(function.__code__) if function else None
        if found is not None and (not is_class or found.class_name == name):
            return found
    return None


def _function(value: Any, name: str) -> FunctionType | None:
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    value = getattr(value, "__func__", value)
    if isinstance(value, FunctionType):
        return defined(value, name) or _unwrapped(value)
    return _unwrapped(value) if callable(value) else None


def _unwrapped(value: Any) -> FunctionType | None:
    found = inspect.unwrap(value)
    return found if isinstance(found, FunctionType) else None


def _in_cells(kind: type, files: Sequence[str]) -> str | None:
    """A class without functions: the newest cell that defines it."""
    for unit in filter(None, map(cells.unit, reversed(files))):
        for node in unit.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == kind.__qualname__:
                return text_of(unit, node)
    return None


def _source(job: Job | None, found: Definition) -> Source:
    text = job.script.text if job is not None else None
    if text is not None and found.unit.filename == text.filename:
        return Source(text=f"{RESUME}\n{text.written}".rstrip("\n"))
    if found.unit.is_file:
        return Source(text=whole(found), file=found.unit.filename, line=found.line)
    return Source(text=whole(found))


def whole(definition: Definition) -> str:
    """The top-level ``def`` or ``class`` that a definition is, or is in."""
    unit = definition.unit
    if definition.line == 0:
        return unit.source.strip("\n")
    for node in unit.tree.body:
        if _first_line(node) <= definition.line <= (node.end_lineno or 0):
            return text_of(unit, _innermost_top(node, definition.line))
    return textwrap.dedent(definition.source)


def _innermost_top(node: ast.stmt, line: int) -> ast.stmt:
    """Under a top-level ``if`` or ``with``: the ``def`` or ``class`` in it."""
    while not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        inner = [
            child
            for child in ast.walk(node)
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and _first_line(child) <= line <= (child.end_lineno or 0)
        ]
        if not inner:
            return node
        node = inner[0]
    return node


def text_of(unit: Unit, node: ast.stmt) -> str:
    """The user's text of a statement, decorators included, at no indentation."""
    lines = unit.source.splitlines()[_first_line(node) - 1 : node.end_lineno]
    return textwrap.dedent("\n".join(lines))


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorators)])
