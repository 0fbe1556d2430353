"""Where the C code of a callable, or of a value's type, comes from.

What the standard library's C code does with an exception is known, and listed. Of the
C code of an extension nothing is: a special method may be its way to find out what it
was given, and anything that is raised there may be dropped.
"""

from __future__ import annotations

from types import BuiltinFunctionType, ModuleType, WrapperDescriptorType
from typing import Any, Final

from gpurescue.recovery.handlers.calls import is_from_c
from gpurescue.recovery.handlers.objects import (
    inherits,
    is_any,
    is_c_type,
    is_class,
    lookup,
    mro,
    own_names,
)

_MODULE_OF = type.__dict__["__module__"].__get__
_NAME_OF = type.__dict__["__name__"].__get__
_SOMEWHERE: Final = "?"  # Cython's functions have no module of their own

# Modules whose C code is known to hand on what ``callables`` does not list.
PLAIN_MODULES: Final = frozenset({
    "builtins", "_operator", "operator", "itertools", "functools", "_functools",
    "_collections", "collections", "math", "_io", "io", "_json", "_heapq", "_bisect",
    "_contextvars", "_abc", "_thread", "_random", "types", "_imp", "_queue",
    "_weakref", "weakref", "_asyncio", "_pickle", "_sre", "re",
})  # fmt: skip

_MOST_ITEMS: Final = 64
_MOST_LEVELS: Final = 2
_LISTS: Final = (list, tuple, set, frozenset)


def is_plain_type(cls: type) -> bool:
    """Whether the C code of a type is the standard library's, or it has none."""
    return all(
        text_of(_MODULE_OF(base)) in PLAIN_MODULES
        for base in mro(cls)
        if is_c_type(base)
    )


def is_plain_function(function: Any) -> bool:
    """Whether a C callable is the standard library's."""
    return origin_of(function)[1] in PLAIN_MODULES


def is_plain_value(value: Any, levels: int = _MOST_LEVELS) -> bool:
    """Whether no C code of an extension can be reached through ``value``.

    ``[array] == [x]`` has the array compare itself with ``x``. An iterator does not
    show what it holds, and a large container is not searched.
    """
    cls = type(value)
    if not is_plain_type(cls):
        return False
    if is_any(cls, _LISTS):
        items = value
    elif cls is dict:
        items = (*value.keys(), *value.values()) if len(value) <= _MOST_ITEMS else value
    else:
        return not lookup(cls, "__next__")[0]
    if len(items) > 2 * _MOST_ITEMS or (items and not levels):
        return False
    return all(is_plain_value(item, levels - 1) for item in tuple(items))


def origin_of(function: Any) -> tuple[str, str]:
    """Name and module of a C callable."""
    kind = type(function)
    if kind is BuiltinFunctionType:
        owner = function.__self__
        if owner is None or inherits(type(owner), ModuleType):
            return function.__name__, text_of(function.__module__)
        cls = owner if is_class(owner) else type(owner)
        return function.__name__, _module_of_method(cls, function.__name__)
    if is_from_c(function):
        return function.__name__, text_of(_MODULE_OF(function.__objclass__))
    _, call = lookup(kind, "__call__")
    if type(call) is WrapperDescriptorType:
        return text_of(_NAME_OF(kind)), text_of(_MODULE_OF(call.__objclass__))
    return _SOMEWHERE, _SOMEWHERE


def origin_of_class(cls: type) -> tuple[str, str]:
    """Name and module of the C class that ``cls`` is made from."""
    origin = next(base for base in mro(cls) if is_c_type(base))
    return text_of(_NAME_OF(origin)), text_of(_MODULE_OF(origin))


def name_of_class(cls: type) -> str:
    """``cls.__name__``, whatever a metaclass says."""
    return text_of(_NAME_OF(cls))


def text_of(value: Any) -> str:
    """A name, or that there is none."""
    return value if type(value) is str and value else _SOMEWHERE


def _module_of_method(cls: type, name: str) -> str:
    for base in mro(cls):
        if name in own_names(base):
            return text_of(_MODULE_OF(base))
    return _SOMEWHERE
