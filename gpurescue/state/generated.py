"""What Python itself has put into a class, and puts there again in another version.

Methods of dataclasses and named tuples are generated: they have no source. Where their
code was made by another version of Python, they are generated once more.
"""

from __future__ import annotations

import collections
import dataclasses
import inspect
import sys
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from gpurescue.state.lost import Lost

# From CPython 3.13 on:
_FACTS = ("__firstlineno__", "__static_attributes__", "__replace__")
_HAS_FACTS = sys.version_info >= (3, 13)
_Parameters: Any = dataclasses._DataclassParams  # type: ignore[attr-defined]
_PARAMETERS = ("init", "repr", "eq", "order", "unsafe_hash", "frozen")
_ONES = {
    name: vars(dataclasses)[name]
    for name in ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY")
}
_KINDS = set(map(type, _ONES.values()))
_missing = object()


def reduced(value: Any) -> tuple[Any, ...] | str | None:
    """How parts of a dataclass are pickled; None for anything else."""
    if type(value) in _KINDS:  # that they are one object is all that there is to them
        return next((name for name, one in _ONES.items() if one is value), None)
    if type(value) is not _Parameters:
        return None
    return parameters, ({name: getattr(value, name) for name in value.__slots__},)


def parameters(known: Mapping[str, bool]) -> Any:
    """The same, as this version of Python has them; called by the pickle."""
    names = inspect.signature(_Parameters).parameters
    return _Parameters(*(known.get(name, name == "match_args") for name in names))


def without_facts(own: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into a class, without what this version of Python does not say."""
    return {n: x for n, x in own.items() if _HAS_FACTS or n not in _FACTS}


def make_again(kind: type) -> list[Lost]:
    """Generate the methods of a class whose code could not be made.

    Returns:
        What stood there before.
    """
    names = [name for name, value in vars(kind).items() if _lost_of(value)]
    before = {name: _lost_of(vars(kind)[name]) for name in names}
    if (
        names
        and dataclasses.is_dataclass(kind)
        and "__dataclass_params__" in vars(kind)
    ):
        _of_dataclass(kind, names)
    if issubclass(kind, tuple) and "__new__" in names:
        _of_tuple(kind)
    now = vars(kind)
    return [x for n, x in before.items() if x and not _lost_of(now.get(n))]


def _lost_of(value: Any) -> Lost | None:
    """Of a method that another one wraps, too, as one that prints a dataclass."""
    value = getattr(value, "__func__", value)
    if isinstance(value, FunctionType):
        value = getattr(value, "__wrapped__", value)
    return value if isinstance(value, Lost) else None


def _of_dataclass(kind: type, names: list[str]) -> None:
    before = dict(vars(kind))
    for name in names:
        type.__delattr__(kind, name)
    fields = before["__dataclass_fields__"]
    own = [n for n in vars(kind).get("__annotations__", {}) if n in fields]
    for name in own:
        type.__setattr__(kind, name, fields[name])
    asked = {n: getattr(before["__dataclass_params__"], n) for n in _PARAMETERS}
    dataclasses.dataclass(kind, match_args="__match_args__" in before, **asked)
    for name in own:
        value = before.get(name, _missing)
        if value is not _missing:
            type.__setattr__(kind, name, value)
        elif name in vars(kind):
            type.__delattr__(kind, name)
    for name in names:
        if name not in vars(kind):  # it was none of those that are generated
            type.__setattr__(kind, name, before[name])


def _of_tuple(kind: Any) -> None:
    plain: Any = collections.namedtuple("plain", kind._fields)  # type: ignore[misc]
    new = plain.__new__
    new.__defaults__ = tuple(kind._field_defaults.values())
    new.__qualname__ = f"{kind.__qualname__}.__new__"
    kind.__new__ = new
