"""Where code was made from, said so that another version of Python can make it again.

Byte code is of one version. Where it came from is not: a source, the qualified name of
a function, its first line, and, for lambdas that share a line, where their text is.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import linecache
import re
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.source import cells, splice, versions
from gpurescue.source.cells import Unit

# Before CPython 3.12 a comprehension was a function (PEP 709).
_INLINED = re.compile(r"<(?:list|set|dict)comp>\.(?:<locals>\.)?")

Text = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where code was made from.

    Attributes:
        source: The name of its source; empty for that of a library.
        module: The module whose globals its function has.
        name: Its qualified name.
        line: Its first line.
        text: Where the body of a lambda or comprehension begins and ends, as line and
            column; None if that is not known.
        flags: The ``__future__`` flags that it was compiled under.
        arguments: Names of its variables that are arguments.
        free: Names of its free variables, in its order.
    """

    source: str
    module: str
    name: str
    line: int
    text: Text | None
    flags: int
    arguments: tuple[str, ...]
    free: tuple[str, ...]


def origin(code: CodeType, module: str, texts: MutableMapping[str, str]) -> Origin:
    """Where code was made from.

    Args:
        code: Of any function.
        module: The name of the module whose globals it has.
        texts: Sources by name; that of the code is added, unless a library has it.
    """
    name = versions.source_name(code)
    if name not in texts and (text := _text(name)):
        texts[name] = text
    return Origin(
        source=name if name in texts else "",
        module=module,
        name=_name(code),
        line=code.co_firstlineno,
        text=_body(code),
        flags=splice.future_flags(code),
        arguments=_arguments(code),
        free=code.co_freevars,
    )


def _text(name: str) -> str:
    """The text of a source that is in no file: a cell's, or a version of a module's."""
    entry = linecache.cache.get(name)
    is_kept = entry is not None and len(entry) > 1 and entry[1] is None
    return "".join(linecache.getlines(name)) if is_kept else ""


def _name(code: CodeType) -> str:
    return _INLINED.sub("", code.co_qualname)


def _arguments(code: CodeType) -> tuple[str, ...]:
    count = code.co_argcount + code.co_kwonlyargcount
    return code.co_varnames[:count]


def _body(code: CodeType) -> Text | None:
    """Where the text of a lambda's body is; functions with a name have a line each."""
    if not code.co_name.startswith("<"):
        return None
    known = [
        (first, last, start, end)
        for first, last, start, end in code.co_positions()
        if None not in (first, last, start, end) and (start, end) != (0, 0)
    ]
    if not known:
        return None
    begins = min((first, start) for first, _, start, _ in known)
    ends = max((last, end) for _, last, _, end in known)
    return begins, ends  # type: ignore[return-value]


# -- code again


def code_of(origin: Origin) -> CodeType:
    """Compile code again, with this version of Python.

    Raises:
        CannotResume: Its source is not there, or says something else, or cannot be
            compiled, or it is not clear what of it is meant.
    """
    found = [c for c in _candidates(origin) if _fits(c, origin)]
    found = [c for c in found if _body(c) == origin.text] or found
    if len(found) != 1:
        raise CannotResume(
            f"{origin.name} was made by another version of Python, and "
            f"{'several functions' if found else 'no function'} of "
            f"{origin.source or origin.module or 'no known source'} can be meant."
        )
    return found[0]


def _candidates(origin: Origin) -> tuple[CodeType, ...]:
    if not origin.source:
        return _of_library(origin.module).get(origin.name, ())
    unit = cells.unit(origin.source)
    if unit is None:
        return ()
    found = _of_unit(unit.filename, unit.source, origin.flags).get(origin.name, ())
    return tuple(code for code in found if code.co_firstlineno == origin.line)


def _fits(code: CodeType, origin: Origin) -> bool:
    same = _arguments(code) == origin.arguments
    same = same and set(code.co_freevars) == set(origin.free)
    return same and (not origin.source or _is_same_text(_body(code), origin.text))


def _is_same_text(one: Text | None, other: Text | None) -> bool:
    """False only if both are known: 3.12 says of a constant lambda nothing."""
    return one == other or one is None or other is None


@functools.lru_cache(maxsize=256)
def _of_unit(name: str, source: str, flags: int) -> dict[str, tuple[CodeType, ...]]:
    unit = cells.unit(name)
    assert unit is not None
    return _by_name(_compiled(unit, flags))


def _compiled(unit: Unit, flags: int) -> CodeType:
    try:
        if unit.is_file:
            return cells.compile_version(unit)
        allowed = flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        only = allowed | ast.PyCF_ONLY_AST
        tree = compile(unit.source, unit.filename, "exec", only, dont_inherit=True)
        return cells.compile_unit(tree, unit.filename, flags=allowed)
    except SyntaxError as error:
        raise CannotResume(
            f"{unit.filename} cannot be compiled by this version of Python: {error}."
        ) from error


@functools.lru_cache(maxsize=256)
def _of_library(module: str) -> dict[str, tuple[CodeType, ...]]:
    """Of a library as it is here: its function of that name does what it did."""
    spec: Any = getattr(sys.modules.get(module), "__spec__", None)
    try:
        spec = spec or importlib.util.find_spec(module)
        code = spec.loader.get_code(module)
    except (AttributeError, ImportError, ValueError):
        return {}
    return {} if code is None else _by_name(code)


def _by_name(code: CodeType) -> dict[str, tuple[CodeType, ...]]:
    found: dict[str, tuple[CodeType, ...]] = {}
    for inner in _inside(code):
        found[_name(inner)] = (*found.get(_name(inner), ()), inner)
    return found


def _inside(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _inside(constant)
