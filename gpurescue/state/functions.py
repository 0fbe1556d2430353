"""Functions and classes in a graph of objects, in the program's own namespace.

``cloudpickle`` writes functions of a notebook, too. But it gives functions that share
a variable a cell each, and functions of one namespace a copy of those names of it that
they use. Here a cell is written once, and functions find the namespace itself again.
Classes are cloudpickle's; one that is there already stays as it is. Byte code is bytes
that only the version of Python reads that has written them; see ``codes``.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import Any

from cloudpickle import cloudpickle

from gpurescue.state import codes, generated
from gpurescue.state.lost import Lost

Reduced = tuple[Any, ...]
Apart = Callable[[dict[str, Any]], dict[str, Any]]

_COPIED = (
    "__name__", "__qualname__", "__module__", "__doc__", "__defaults__",
    "__kwdefaults__", "__annotations__", "__type_params__",
)  # fmt: skip
_OF_MODULES = ("__package__", "__name__", "__path__", "__file__")
_HAS_PARAMETERS = hasattr(FunctionType, "__type_params__")  # from CPython 3.12 on
NOWHERE = (lambda: None).__code__
_TRACKED = -2  # of what both are given: by which a process knows the class again
_MAKERS = (cloudpickle._make_skeleton_class, cloudpickle._make_skeleton_enum)


@dataclass(frozen=True, slots=True)
class Namespace:
    """Stands for the variables of a module, or of the program's if it has no name."""

    module: str = ""


def reduced(
    function: FunctionType, namespace: Mapping[str, Any] | None, apart: Apart
) -> Reduced | None:
    """How a function is pickled that nobody can find by its name; None if by that.

    Args:
        function: Any function.
        namespace: The program's variables.
        apart: Gives the namespace of functions whose globals are no module's.
    """
    if cloudpickle._should_pickle_by_reference(function):
        return None
    own, code = function.__globals__, function.__code__
    where = _namespace_of(function, namespace) or apart(own)
    if code is NOWHERE:
        return home_in, (where,)
    names = cloudpickle._extract_code_globals(code)
    is_modules = isinstance(where, Namespace) and where.module
    used = {} if is_modules else {name: own[name] for name in names if name in own}
    facts = {name: getattr(function, name, None) for name in _COPIED}
    state = (facts, dict(function.__dict__), used)
    given = (code, where, function.__closure__, code.co_freevars)
    return made, given, state, None, None, fill


def namespace_apart(names: dict[str, Any]) -> dict[str, Any]:
    """What stands for globals that are no module's; functions bring what they use."""
    return {name: names[name] for name in _OF_MODULES if name in names}


def home(names: dict[str, Any]) -> FunctionType:
    """A function that does nothing, and has these globals."""
    return FunctionType(NOWHERE, names)


def home_in(where: Namespace | dict[str, Any]) -> FunctionType:
    """The same; called by the pickle."""
    return home(_globals(where))


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
    code: CodeType | Lost,
    where: Namespace | dict[str, Any],
    closure: tuple[CellType, ...] | None,
    free: tuple[str, ...] = (),
) -> FunctionType | Lost:
    """A function with nothing in it but its code; called by the pickle."""
    if isinstance(code, Lost):
        return Lost("function", code.why)
    if closure is not None:  # code of another version has its own order
        cells = dict(zip(free, closure, strict=True))
        closure = tuple(cells[name] for name in code.co_freevars)
    return FunctionType(code, _globals(where), code.co_name, None, closure)


def fill(
    function: FunctionType | Lost,
    state: tuple[dict[str, Any], dict[str, Any], dict[str, Any]],
) -> None:
    """Called by the pickle."""
    if isinstance(function, Lost):
        return
    facts, attributes, used = state
    for name, value in facts.items():
        if name != "__type_params__" or (value is not None and _HAS_PARAMETERS):
            setattr(function, name, value)
    function.__dict__.update(attributes)
    own = function.__globals__
    missing = {name: value for name, value in used.items() if name not in own}
    own.update(missing)
    if own is _here.names:
        _here.added += missing


def _globals(where: Namespace | dict[str, Any]) -> dict[str, Any]:
    if isinstance(where, dict):
        where.setdefault("__builtins__", builtins)
        return where
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
        own, slots = state
        cloudpickle._class_setstate(kind, (generated.without_facts(own), slots))
        for lost in generated.make_again(kind):
            codes.forget(lost)


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
