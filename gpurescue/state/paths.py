"""By which path the objects of a program are reached."""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections.abc import Iterator, Mapping
from types import FunctionType

from gpurescue.state import iterators

_DEEPEST = 8  # steps of a path that is looked for
_MOST = 100  # iterators


def paths(roots: Mapping[str, object], wanted: Mapping[int, str]) -> dict[str, str]:
    """By which path objects are reached: of a loop that asks it, or the shortest.

    Args:
        roots: Variables by name.
        wanted: What is said of each object, by its id.

    Returns:
        What is said of each, by its path.
    """
    found = {path: wanted[key] for path, key in _asked(roots) if key in wanted}
    left = set(wanted) - {key for _, key in _asked(roots)}
    waiting = [(name, value) for name, value in roots.items()]
    seen: set[int] = set()
    for _ in range(_DEEPEST):
        following: list[tuple[str, object]] = []
        for path, value in waiting:
            if id(value) in left:
                left.discard(id(value))
                found[path] = wanted[id(value)]
            elif id(value) not in seen:
                seen.add(id(value))
                following += [(f"{path}{step}", x) for step, x in _inside(value)]
        waiting = following
        if not left:
            break
    found |= {f"?.{key:x}": wanted[key] for key in left}
    return found


def _asked(roots: Mapping[str, object]) -> list[tuple[str, int]]:
    """The ids of iterators that loops ask, and of those that these ask."""
    loops = [(name, x) for name, x in roots.items() if isinstance(x, iterators.Loop)]
    waiting = [(f"{name}.<iterator>", loop.iterator) for name, loop in loops]
    found: list[tuple[str, int]] = []
    while waiting and len(found) < _MOST:
        path, value = waiting.pop(0)
        found.append((path, id(value)))
        waiting += [
            (f"{path}.<iterator>", x)
            for x in iterators.inside(value)
            if hasattr(type(x), "__next__")
        ]
    return found


def _inside(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r:.40}]", x) for key, x in list(value.items()))
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", x) for index, x in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from (("{}", x) for x in value)
    elif asked := iterators.inside(value):
        yield from ((".<iterator>", x) for x in asked if type(x) is not tuple)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if hasattr(value, f.name)]
        yield from ((f".{name}", getattr(value, name)) for name in names)
    else:
        try:  # not vars(value): a lazy object would wake up
            own = object.__getattribute__(value, "__dict__")
        except AttributeError:
            own = {}
        if isinstance(own, dict) and not isinstance(value, types.ModuleType):
            yield from ((f".{name}", x) for name, x in list(own.items()))
        if isinstance(value, FunctionType):
            yield from _of_function(value)


def _of_function(function: FunctionType) -> Iterator[tuple[str, object]]:
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):
            yield f".<closure>.{name}", cell.cell_contents
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f".<global>.{name}", function.__globals__[name]
