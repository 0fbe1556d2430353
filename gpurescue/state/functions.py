"""Functions and classes in a graph of objects, in the program's own namespace.

``cloudpickle`` writes functions of a notebook, too. But it gives functions that share
a variable a cell each, and functions of one namespace a copy of those names of it that
they use. Here a cell is written once, and functions find the namespace itself again.
Classes are cloudpickle's; one that is there already stays as it is.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import Any

from cloudpickle import cloudpickle

Reduced = tuple[Any, ...]

_COPIED = (
    "__name__", "__qualname__", "__module__", "__doc__", "__defaults__",
    "__kwdefaults__", "__annotations__", "__type_params__",
)  # fmt: skip
_TRACKED = -2  # of what both are given: by which a process knows the class again
_MAKERS = (cloudpickle._make_skeleton_class, cloudpickle._make_skeleton_enum)


@dataclass(frozen=True, slots=True)
class Namespace:
    """Stands for the variables of a module, or of the program's if it has no name."""

    module: str = ""


def reduced(
    function: FunctionType, namespace: Mapping[str, Any] | None
) -> Reduced | None:
    """How a function is pickled that nobody can find by its name; None if by that.

    Args:
        function: Any function.
        namespace: The program's variables.
    """
    if cloudpickle._should_pickle_by_reference(function):
        return None
    where = _namespace_of(function, namespace)
    if where is None:
        return None
    names = cloudpickle._extract_code_globals(function.__code__)
    own = function.__globals__
    used = {} if where.module else {name: own[name] for name in names if name in own}
    facts = {name: getattr(function, name, None) for name in _COPIED}
    state = (facts, dict(function.__dict__), used)
    closure = function.__closure__
    return made, (function.__code__, where, closure), state, None, None, fill


def _namespace_of(
    function: FunctionType, namespace: Mapping[str, Any] | None
) -> Namespace | None:
    if function.__globals__ is namespace:
        return Namespace()
    name = function.__globals__.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is not None and vars(module) is function.__globals__:
        return Namespace(str(name))
    return None


def of_cell(cell: CellType) -> Reduced:
    """How a cell is pickled: once, however many functions have it."""
    try:
        state = (cell.cell_contents,)
    except ValueError:
        return CellType, ()
    return CellType, (), state, None, None, fill_cell


def fill_cell(cell: CellType, state: tuple[Any]) -> None:
    """Called by the pickle."""
    (cell.cell_contents,) = state


def made(
    code: CodeType, where: Namespace, closure: tuple[CellType, ...] | None
) -> FunctionType:
    """A function with nothing in it but its code; called by the pickle."""
    return FunctionType(code, _globals(where), code.co_name, None, closure)


def fill(
    function: FunctionType, state: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
) -> None:
    """Called by the pickle."""
    facts, attributes, used = state
    for name, value in facts.items():
        if name != "__type_params__" or value is not None:
            setattr(function, name, value)
    function.__dict__.update(attributes)
    for name, value in used.items():
        if name not in function.__globals__:
            function.__globals__[name] = value
            _here.added.append(name)


def _globals(where: Namespace) -> dict[str, Any]:
    if not where.module:
        return _here.names
    __import__(where.module)
    return vars(sys.modules[where.module])


# -- classes


def of_class(found: Reduced) -> Reduced:
    """How a class is pickled, given how cloudpickle does it."""
    if found[0] not in _MAKERS:
        return found
    return made_class, found[:2], found[2], None, None, fill_class


def made_class(maker: Any, given: tuple[Any, ...]) -> type:
    """A class with nothing in it, or the one of this process; called by the pickle."""
    is_known = given[_TRACKED] in cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID
    found: type = maker(*given)
    if is_known:
        _here.known.add(found)
    return found


def fill_class(kind: type, state: Any) -> None:
    """Called by the pickle."""
    if kind not in _here.known:
        cloudpickle._class_setstate(kind, state)


# -- where


class _Here(threading.local):
    names: dict[str, Any]
    added: list[str]
    known: set[type]


_here = _Here()


@contextlib.contextmanager
def loading_into(names: dict[str, Any]) -> Iterator[None]:
    """In the block functions are made with these variables as their globals.

    What they use and is not there is put there, unless the block fails.
    """
    _here.names, _here.added, _here.known = names, [], set()
    try:
        yield
    except BaseException:
        for name in _here.added:
            names.pop(name, None)
        raise
    finally:
        del _here.names, _here.added, _here.known
