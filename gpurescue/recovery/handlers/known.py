"""Calls without effects whose result can be worked out."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import (
    BuiltinFunctionType,
    MethodDescriptorType,
)
from typing import TYPE_CHECKING, Any, Final

from gpurescue.recovery.handlers.abstract import (
    NONE,
    UNKNOWN,
    Known,
    Listed,
    Made,
    Value,
)
from gpurescue.recovery.handlers.objects import (
    SCALARS,
    attribute,
    boolean,
    class_of,
    is_any,
    is_class,
    is_exception,
    is_exception_class,
    is_instance,
    is_missing,
    is_subclass,
    lookup,
    text,
    truth,
)
from gpurescue.recovery.handlers.paths import Path

if TYPE_CHECKING:
    pass

_LONGEST: Final = 64


def result(path: Path, function: Any, arguments: list[Value]) -> Value | None:
    """The result of a call that has no effects; None for any other."""
    if is_exception_class(function):
        return new_exception(function, arguments)
    pure = PURE.get(id(function))
    if pure is not None:
        return pure(path, arguments)
    if type(function) is MethodDescriptorType:
        return _method(function, arguments)
    return None


def knows(method: MethodDescriptorType) -> bool:
    """Whether something is known of a method of a C type."""
    is_one = method.__name__ == "__exit__" or method.__objclass__ is str
    return is_one or id(method) in PURE


def _method(function: Any, arguments: list[Value]) -> Value | None:
    """Methods of C types that are known to be harmless."""
    if function.__name__ == "__exit__":  # no exit that is written in C suppresses
        return NONE
    if function.__objclass__ is str and function.__name__ in _TEXT_METHODS:
        found = [a.value for a in arguments if isinstance(a, Known)]
        plain = len(found) == len(arguments) and type(found[0]) is str
        if plain and all(_is_text(value) for value in found):
            return Known(function(*found))
        return UNKNOWN
    return None


def _is_text(value: Any) -> bool:
    if type(value) is tuple:
        return all(type(part) is str for part in value)
    return is_any(type(value), SCALARS)


def looks_at_arguments(cls: type) -> bool:
    """Whether making an exception gives another class, as its arguments are."""
    return cls is OSError


def new_exception(cls: type, arguments: list[Value]) -> Value:
    """``cls(...)``, unless the class or its metaclass makes something else."""
    plain = lookup(type(cls), "__call__")[1] is type.__dict__["__call__"]
    new = lookup(cls, "__new__")[1]
    if not plain or type(new) is not BuiltinFunctionType:
        return UNKNOWN
    if cls is BaseExceptionGroup:  # may turn out an ExceptionGroup
        return UNKNOWN
    if looks_at_arguments(cls) and len(arguments) > 1:  # the class for its errno
        number = arguments[0]
        if not isinstance(number, Known) or type(number.value) is not int:
            return UNKNOWN
        return Made(type(OSError(number.value, "")))
    return Made(cls)


# --- functions without effects ---


def _isinstance(path: Path, arguments: list[Value]) -> Value:
    if len(arguments) != 2:
        return UNKNOWN
    return boolean(is_instance(*arguments))


def _issubclass(path: Path, arguments: list[Value]) -> Value:
    if len(arguments) == 2 and isinstance(arguments[0], Known):
        if is_class(arguments[0].value):
            return boolean(is_subclass(arguments[0].value, arguments[1]))
    return UNKNOWN


def _type(path: Path, arguments: list[Value]) -> Value:
    cls = class_of(arguments[0]) if len(arguments) == 1 else None
    return UNKNOWN if cls is None else Known(cls)


def _str(path: Path, arguments: list[Value]) -> Value:
    if len(arguments) == 1 and isinstance(arguments[0], Known):
        found = text(arguments[0].value)
        return UNKNOWN if found is None else Known(found)
    return UNKNOWN


def _bool(path: Path, arguments: list[Value]) -> Value:
    if len(arguments) != 1 or path.dirty:
        return UNKNOWN
    return boolean(truth(arguments[0]))


def _len(path: Path, arguments: list[Value]) -> Value:
    items = unpacked(arguments[0]) if len(arguments) == 1 else None
    if items is not None:
        return Known(len(items))
    if len(arguments) == 1 and isinstance(arguments[0], Known):
        value = arguments[0].value
        changing = is_any(type(value), (list, dict, set))
        if type(value) is str or (changing and not path.dirty):
            return Known(len(value))
    return UNKNOWN


def _named(arguments: list[Value]) -> str | None:
    if len(arguments) > 1 and isinstance(arguments[1], Known):
        name = arguments[1].value
        return name if type(name) is str else None
    return None


def _hasattr(path: Path, arguments: list[Value]) -> Value:
    name = _named(arguments)
    if name is None:
        return UNKNOWN
    if is_missing(arguments[0], name):
        return boolean(None if path.dirty else False)
    return boolean(None if attribute(arguments[0], name) is UNKNOWN else True)


def _getattr(path: Path, arguments: list[Value]) -> Value:
    name = _named(arguments)
    if name is None:
        return UNKNOWN
    if len(arguments) == 3 and is_missing(arguments[0], name) and not path.dirty:
        return arguments[2]
    found = attribute(arguments[0], name)
    return found if is_exception(arguments[0]) else path.settled(found)


def _exc_info(path: Path, arguments: list[Value]) -> Value:
    cls = class_of(path.current)
    kind = UNKNOWN if cls is None else Known(cls)
    return Listed((kind, path.current, UNKNOWN))


def _current(path: Path, arguments: list[Value]) -> Value:
    return path.current


def _itself(path: Path, arguments: list[Value]) -> Value:
    return arguments[0]


def _nothing(path: Path, arguments: list[Value]) -> Value:
    return NONE


def _matching(function: Callable[..., Any]) -> Callable[[Path, list[Value]], Value]:
    def search(path: Path, arguments: list[Value]) -> Value:
        found = [a.value for a in arguments if isinstance(a, Known)]
        if len(found) != len(arguments) or any(type(v) is not str for v in found):
            return UNKNOWN
        try:
            return Known(function(*found))
        except re.error:  # the program would raise it, too
            return UNKNOWN

    return search


PURE: Final[dict[int, Callable[[Path, list[Value]], Value]]] = {
    id(isinstance): _isinstance,
    id(issubclass): _issubclass,
    id(type): _type,
    id(str): _str,
    id(bool): _bool,
    id(len): _len,
    id(hasattr): _hasattr,
    id(getattr): _getattr,
    id(sys.exc_info): _exc_info,
    id(BaseException.__dict__["with_traceback"]): _itself,
    id(BaseException.__dict__["add_note"]): _nothing,
    id(print): _nothing,
    id(re.search): _matching(re.search),
    id(re.match): _matching(re.match),
    id(re.fullmatch): _matching(re.fullmatch),
}
if hasattr(sys, "exception"):
    PURE[id(sys.exception)] = _current
# Given anything, they end alike.
BLIND: Final = frozenset({id(print), id(BaseException.__dict__["add_note"])})
_KEPT: Final = (re.search, re.match, re.fullmatch, sys.exit)  # so that ids stay theirs
ENDING: Final = frozenset({id(sys.exit)})
_TEXT_METHODS: Final = frozenset({
    "lower", "upper", "casefold", "strip", "lstrip", "rstrip", "startswith",
    "endswith", "find", "rfind", "count", "replace", "removeprefix", "removesuffix",
})  # fmt: skip


# --- containers ---


def packed(items: tuple[Value, ...]) -> Value:
    """A tuple of ``items``."""
    real = [item.value for item in items if isinstance(item, Known)]
    return Known(tuple(real)) if len(real) == len(items) else Listed(items)


def unpacked(value: Value) -> tuple[Value, ...] | None:
    """The items of a tuple or list that nobody else can change."""
    if isinstance(value, Listed):
        return value.items
    if isinstance(value, Known) and type(value.value) is tuple:
        if len(value.value) <= _LONGEST:
            return tuple(Known(item) for item in value.value)
    return None


def item(path: Path, where: Value, key: Value) -> Value:
    """``where[key]`` for exact builtin containers."""
    if not isinstance(key, Known):
        return UNKNOWN
    items = unpacked(where)
    if items is not None:
        index = key.value
        if type(index) is int and -len(items) <= index < len(items):
            return items[index]
        return UNKNOWN
    if isinstance(where, Known) and not path.dirty:
        return _item_of(where.value, key.value)
    return UNKNOWN


def _item_of(where: Any, key: Any) -> Value:
    if type(where) is list and type(key) is int and -len(where) <= key < len(where):
        return Known(where[key])
    if type(where) is dict and is_any(type(key), (str, int)) and len(where) < _LONGEST:
        if all(is_any(type(other), SCALARS) for other in where) and key in where:
            return Known(where[key])
    return UNKNOWN


def only_class(callee: Value) -> Value:
    """``callee`` if it is an exception class: any arguments make an instance."""
    if isinstance(callee, Known) and is_exception_class(callee.value):
        return callee
    return UNKNOWN
