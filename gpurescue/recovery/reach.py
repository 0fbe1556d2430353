"""Which code a value can lead to: whether an edit may change what made it.

A statement that failed half-way keeps the values that its first half has made
(``source/operands.py``). They are of use only if the functions that made them are
still the same. Nobody has written down which functions those were, so this asks which
the named objects can lead to: methods of their classes, globals and cells that the
functions use, attributes and items. When in doubt the answer is yes.
"""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from gpurescue.recovery import frames
from gpurescue.source import cells, transform, versions

Key = tuple[str, int]

_LIMIT = 20_000
_MORE = object()
_LEAVES = (str, bytes, int, float, complex, bool, type(None), ModuleType, CodeType)


def reaches(roots: Iterable[Any], edited: set[Key]) -> bool:
    """Tell whether ``roots`` can lead to a function that was edited.

    Args:
        roots: The objects that an expression names.
        edited: Keys of the definitions that have taken the place of others.
    """
    return bool(edited) and any(
        value is _MORE
        or (isinstance(value, FunctionType) and _is_edited(value, edited))
        for value in _reachable(roots)
    )


def leads_to(roots: Iterable[Any], target: Any) -> bool:
    """Tell whether code that starts from ``roots`` can get hold of ``target``."""
    return any(value is _MORE or value is target for value in _reachable(roots))


def stores(roots: Iterable[Any], name: str, operations: tuple[str, ...]) -> bool:
    """Tell whether code of the user's behind ``roots`` may store ``name``.

    Args:
        roots: The objects that an expression names.
        name: A variable or an attribute.
        operations: The instructions that would store it.
    """
    return any(
        value is _MORE
        or (
            isinstance(value, FunctionType)
            and is_users(value)
            and _stores(value.__code__, name, operations)
        )
        for value in _reachable(roots)
    )


@functools.lru_cache(maxsize=1024)
def _stores(code: CodeType, name: str, operations: tuple[str, ...]) -> bool:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    own = any(
        operation.opname in operations and operation.argval == name
        for operation in dis.get_instructions(code)
    )
    return own or any(_stores(c, name, operations) for c in inner)


def is_users(function: FunctionType) -> bool:
    """Tell whether a function is code of the user's, by its guards."""
    return transform.GUARDS in function.__code__.co_consts


def _reachable(roots: Iterable[Any]) -> Iterator[Any]:
    """What ``roots`` lead to; ``_MORE`` when it gets too much to look at."""
    waiting, seen = list(roots), dict[int, Any]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, _LEAVES):
            continue
        seen[id(value)] = value  # alive, or its number may come again
        if len(seen) > _LIMIT:
            yield _MORE
            return
        yield value
        waiting += _from(value)


def _is_edited(function: FunctionType, edited: set[Key]) -> bool:
    code = function.__code__
    name = versions.source_name(code)
    if not any(source == name for source, _ in edited):
        return False
    return any(key in edited for key in _keys(code))


def _keys(code: CodeType) -> Iterator[Key]:
    """Keys of the definitions of ``code`` and of all functions inside it."""
    definition = cells.definition(code)
    if definition is not None:
        yield definition.key
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _keys(constant)


def _from(value: Any) -> list[Any]:
    """What ``value`` leads to, without running any code of the user's."""
    match value:
        case FunctionType():
            return _from_function(value)
        case MethodType():
            return [value.__func__, value.__self__]
        case functools.partial():
            return [value.func, *value.args, *value.keywords.values()]
        case BuiltinFunctionType():
            return [value.__self__]
        case staticmethod() | classmethod():
            return [value.__func__]
        case property():
            return [value.fget, value.fset, value.fdel]
        case type():
            return _from_class(value)
        case list() | tuple() | set() | frozenset():
            return list(value)
        case dict():
            return list(value.values())
    return [type(value), *_attributes(value)]


def _from_function(function: FunctionType) -> list[Any]:
    names = _names(function.__code__)
    found = [function.__globals__[n] for n in names if n in function.__globals__]
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # still empty
            continue
    return [*found, function.__defaults__, function.__kwdefaults__, vars(function)]


def _names(code: CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found


def _from_class(value: type) -> list[Any]:
    # A library's class leads to no function of the user's by itself.
    own = [b for b in type.__dict__["__mro__"].__get__(value) if _is_users(b)]
    return [
        attribute
        for base in own
        for attribute in type.__dict__["__dict__"].__get__(base).values()
    ]


def _is_users(value: type) -> bool:
    attributes = type.__dict__["__dict__"].__get__(value).values()
    return any(
        isinstance(f, FunctionType) and _is_users_function(f)
        for attribute in attributes
        for f in (attribute, *_from_wrapper(attribute))
    )


def _is_users_function(function: FunctionType) -> bool:
    return "__gr_iter__" in function.__globals__ or frames.has_guards(function.__code__)


def _from_wrapper(attribute: Any) -> list[Any]:
    if isinstance(attribute, staticmethod | classmethod | property):
        return _from(attribute)
    return []


def _attributes(value: Any) -> list[Any]:
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return []
    return list(found.values()) if isinstance(found, dict) else []
