"""Iterators in a graph of objects: where they stand, or why that cannot be said.

Most of those that are built in pickle by themselves. The iterator of a DataLoader is
written down as its position; it is made one again, by ``go_on``, when all objects are
there. Of a generator nothing is known but that it is one.
"""

from __future__ import annotations

import gc
import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.state import bars, rows
from gpurescue.state.loaders import position, rejoin
from gpurescue.state.loaders.position import Position

Reduced = tuple[Any, ...]
Stand = Callable[[Any, Position], None]

_RUNNING = {
    GeneratorType: "a generator cannot be copied; make it an iterator of a class",
    CoroutineType: "a coroutine cannot be copied",
    AsyncGeneratorType: "a generator cannot be copied",
}
_OF_DEQUES: tuple[Any, ...] = (type(iter(deque())), type(reversed(deque())))
_ITERTOOLS = {x for x in vars(itertools).values() if isinstance(x, type)}


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop that a frame is in.

    Attributes:
        iterator: What it asks for items.
        items: The one that it was given and has not begun with, if there is one.
        zeroed: Those whose ``zero_grad`` it calls before anything else.
    """

    iterator: Any
    items: tuple[Any, ...] = ()
    zeroed: tuple[Any, ...] = ()


def reduced(value: Any, stand: Stand) -> Reduced | None:
    """How an iterator is pickled; None for what pickles by itself, if at all.

    Args:
        value: Any object.
        stand: Called when it is read: with a bare iterator, and where it stands.

    Raises:
        CannotResume: Where it stands cannot be said; says why.
    """
    found = bars.reduced(value) or rows.reduced(value)
    if found is not None:
        return found
    if type(value) in _OF_DEQUES:
        return _of_deque, (_OF_DEQUES.index(type(value)), *value.__reduce__()[1])
    why = _RUNNING.get(type(value))
    if why is not None:
        raise CannotResume(why)
    return _of_loader(value, stand) if position.is_loaders(value) else None


def _of_deque(kind: int, items: Any, index: int) -> Iterator[Any]:
    """Their types have no name in common: CPython 3.12 moved them."""
    made: Iterator[Any] = _OF_DEQUES[kind](items, index)
    return made


def _of_loader(value: Any, stand: Stand) -> Reduced:
    if position.is_done(value):
        return iter, ((),)
    found = position.of(value)
    has_workers = found.staff is not None
    return rejoin.bare, (has_workers,), found, None, None, stand


def silently(reduce: Callable[[], Any], value: Any) -> Any:
    """What ``reduce`` says of a value: itertools warns that 3.14 will say nothing."""
    if type(value) not in _ITERTOOLS:
        return reduce()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return reduce()


def inside(value: object) -> list[object]:
    """What a built-in iterator asks, or is made from; for finding a path."""
    if isinstance(value, Loop):
        return [value.iterator, *value.items, *value.zeroed]
    if found := rows.inside(value):
        return found
    if type(value).__module__ not in {"builtins", "itertools"}:
        return []
    if not isinstance(value, Iterator):
        return []
    found = gc.get_referents(value)
    inner = [x for joined in found if type(joined) is tuple for x in joined]  # of a map
    return [*found, *inner]
