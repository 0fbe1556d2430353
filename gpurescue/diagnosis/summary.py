"""One line about any value, made without running the user's code."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CoroutineType,
    EllipsisType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
    NoneType,
)
from typing import Any

from gpurescue.diagnosis import arrays, models, reflection
from gpurescue.diagnosis.reflection import is_a, is_exactly, type_name
from gpurescue.diagnosis.result import Budget, Kind, Summary, cut

MAX_TEXT = 200
MAX_NESTED = 60
MAX_ITEMS = 4
MAX_DEPTH = 2
MAX_BITS = 512

_ATOMS = (NoneType, bool, complex, EllipsisType, date, timedelta, Decimal)
_PATHS = (PosixPath, PurePosixPath, WindowsPath, PureWindowsPath)
_STREAMS = (
    (GeneratorType, "generator"),
    (CoroutineType, "coroutine"),
    (AsyncGeneratorType, "async generator"),
)


@dataclass(frozen=True, slots=True)
class _Look:
    """How far to look into a value."""

    budget: Budget = field(default_factory=Budget)
    depth: int = 0

    @property
    def limit(self) -> int:
        return MAX_NESTED if self.depth else MAX_TEXT

    def nested(self, value: object) -> str:
        """What to say about a part of the value."""
        return str(_summarise(value, _Look(self.budget, self.depth + 1)))


def summarise(value: object, *, budget: Budget | None = None) -> Summary:
    """Describe a value in one line.

    Args:
        value: Anything; no method of a user's class is called.
        budget: What may still be spent on statistics; shared between calls.
    """
    return _summarise(value, _Look(budget or Budget()))


def _summarise(value: Any, look: _Look) -> Summary:
    try:
        for read in _READERS:
            if (found := read(value, look)) is not None:
                return Summary(
                    kind=found.kind,
                    text=cut(found.text, look.limit),
                    warning=found.warning,
                )
    except Exception:  # noqa: BLE001 - a value may be broken in any way
        return Summary(kind=Kind.UNREADABLE, text=f"<unreadable {type_name(value)}>")
    return Summary(kind=Kind.OBJECT, text=f"{type_name(value)} object")


def is_definition(value: object) -> bool:
    """Tell whether a name stands for a module, function or class and not for data."""
    kinds = (ModuleType, FunctionType, BuiltinFunctionType, MethodType, type)
    return any(is_a(value, kind) for kind in kinds)


# -- plain values ----------------------------------------------------------------


def _atom(value: Any, look: _Look) -> Summary | None:
    if is_exactly(value, *_ATOMS):
        return Summary(kind=Kind.ATOM, text=repr(value))
    if is_exactly(value, *_PATHS):
        return Summary(kind=Kind.ATOM, text=f"Path {cut(str(value), look.limit)!r}")
    return None


def _integer(value: Any, look: _Look) -> Summary | None:
    if not is_a(value, int) or is_a(value, enum.Enum):
        return None
    bits = int.bit_length(value)
    is_long = bits > MAX_BITS  # the repr of a huge int takes quadratic time
    text = f"int of {bits:,} bits" if is_long else int.__repr__(value)
    return Summary(kind=Kind.ATOM, text=_prefixed(value, int, text))


def _float(value: Any, look: _Look) -> Summary | None:
    if not is_a(value, float) or is_a(value, enum.Enum):
        return None
    text = float.__format__(value, ".6g") if look.depth else float.__repr__(value)
    return Summary(kind=Kind.ATOM, text=_prefixed(value, float, text))


def _prefixed(value: Any, base: type, text: str) -> str:
    return text if type(value) is base else f"{type_name(value)} {text}"


def _text(value: Any, look: _Look) -> Summary | None:
    base: Any = next((t for t in (str, bytes, bytearray) if is_a(value, t)), None)
    if base is None or is_a(value, enum.Enum):
        return None
    length, room = base.__len__(value), look.limit - 30
    text = repr(base.__getitem__(value, slice(0, room)))
    if length > room:
        unit = "characters" if base is str else "bytes"
        text = f"{text[:room]}... ({length:,} {unit})"
    return Summary(kind=Kind.TEXT, text=_prefixed(value, base, text))


def _range(value: Any, look: _Look) -> Summary | None:
    return Summary(kind=Kind.ATOM, text=repr(value)) if type(value) is range else None


def _member(value: Any, look: _Look) -> Summary | None:
    if not is_a(value, enum.Enum):
        return None
    name = _bare(reflection.instance_dict(value).get("_name_"))
    return Summary(kind=Kind.ATOM, text=f"{type_name(value)}.{name}")


# -- definitions -----------------------------------------------------------------


def _definition(value: Any, look: _Look) -> Summary | None:
    if is_a(value, type):
        name = reflection.class_name(value)
        return Summary(kind=Kind.DEFINITION, text=f"class {name}")
    if is_a(value, ModuleType):
        slot = reflection.namespace(ModuleType)["__dict__"]
        name = slot.__get__(value).get("__name__")
        return Summary(kind=Kind.DEFINITION, text=f"module {_bare(name)}")
    return _function(value)


def _function(value: Any) -> Summary | None:
    if is_exactly(value, MethodType):
        inner = value.__func__
        named = _bare(inner.__qualname__) if type(inner) is FunctionType else "object"
        return Summary(kind=Kind.DEFINITION, text=f"method {named}")
    if is_exactly(value, FunctionType, BuiltinFunctionType):
        name = _bare(value.__qualname__)
        return Summary(kind=Kind.DEFINITION, text=f"function {name}")
    return None


def _bare(name: Any) -> str:
    if not is_a(name, str):
        return "?"
    return str.__getitem__(name, slice(0, reflection.MAX_NAME))


def _stream(value: Any, look: _Look) -> Summary | None:
    for cls, word in _STREAMS:
        if type(value) is cls:
            name = _bare(value.__qualname__)
            return Summary(kind=Kind.OBJECT, text=f"{word} {name}")
    return None


# -- containers and objects ------------------------------------------------------

_SEQUENCES: tuple[tuple[Any, str, str], ...] = (
    (list, "[", "]"),
    (tuple, "(", ")"),
    (deque, "[", "]"),
    (set, "{", "}"),
    (frozenset, "{", "}"),
)


def _sequence(value: Any, look: _Look) -> Summary | None:
    for base, opening, closing in _SEQUENCES:
        if not is_a(value, base):
            continue
        count = base.__len__(value)
        items = (look.nested(item) for item in _first(base.__iter__(value), look))
        ending = ",)" if type(value) is tuple and count == 1 else closing
        text = _listed(items, count, opening, ending)
        is_bare = is_exactly(value, list, tuple) or (count and type(value) is set)
        text = text if is_bare else f"{type_name(value)} {text}"
        return Summary(kind=Kind.CONTAINER, text=text)
    return None


def _mapping(value: Any, look: _Look) -> Summary | None:
    if not is_a(value, dict):
        return None
    base: Any = dict
    pairs = _first(base.items(value), look)
    items = (f"{look.nested(key)}: {look.nested(item)}" for key, item in pairs)
    text = _listed(items, base.__len__(value), "{", "}")
    return Summary(kind=Kind.CONTAINER, text=_prefixed(value, dict, text))


def _first(items: Iterable[Any], look: _Look) -> Iterator[Any]:
    return islice(iter(items), MAX_ITEMS if look.depth < MAX_DEPTH else 0)


def _listed(items: Iterable[str], count: int, opening: str, closing: str) -> str:
    shown = list(items)
    if len(shown) == count:
        return opening + ", ".join(shown) + closing
    inside = ", ".join([*shown, "..."])
    unit = "item" if count == 1 else "items"
    return f"{opening}{inside}{closing} ({count:,} {unit})"


def _object(value: Any, look: _Look) -> Summary | None:
    """A user's object: its type, and the attributes that it holds itself."""
    found = reflection.instance_dict(value) if look.depth == 0 else {}
    public = [(k, v) for k, v in found.items() if type(k) is str and k[:1] != "_"]
    parts = [f"{_bare(k)}={look.nested(v)}" for k, v in public[:MAX_ITEMS]]
    if len(public) > len(parts):
        parts.append(f"and {len(public) - len(parts):,} more")
    held = ": " + ", ".join(parts) if parts else ""
    return Summary(kind=Kind.OBJECT, text=f"{type_name(value)} object{held}")


def _array(value: Any, look: _Look) -> Summary | None:
    return arrays.read(value, None if look.depth else look.budget)


def _model(value: Any, look: _Look) -> Summary | None:
    return models.read(value)


_READERS: tuple[Callable[[Any, _Look], Summary | None], ...] = (
    _atom,
    _text,
    _array,
    _integer,
    _float,
    _range,
    _member,
    _definition,
    _stream,
    _model,
    _sequence,
    _mapping,
    _object,
)
