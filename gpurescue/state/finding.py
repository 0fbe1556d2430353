"""Modules, optimizers and the like that a program's variables lead to."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

_MOST = 5_000
_DEPTH = 4
_LEAVES = (str, bytes, int, float, complex, bool, type(None), type, ModuleType)


@dataclass(slots=True)
class Found:
    """Training state by its kind, each object once; no module inside another."""

    modules: list[Any] = field(default_factory=list)
    optimizers: list[Any] = field(default_factory=list)
    schedulers: list[Any] = field(default_factory=list)
    scalers: list[Any] = field(default_factory=list)
    generators: list[Any] = field(default_factory=list)

    def everything(self) -> Iterator[Any]:
        """All of it."""
        yield from self.modules
        yield from self.optimizers
        yield from self.schedulers
        yield from self.scalers
        yield from self.generators


def find(roots: Iterable[object]) -> Found:
    """Look through containers and the attributes of objects, a few levels deep."""
    found = Found()
    torch = sys.modules.get("torch")
    if torch is None:
        return found
    kinds = (
        (torch.nn.Module, found.modules),
        (torch.optim.Optimizer, found.optimizers),
        (torch.optim.lr_scheduler.LRScheduler, found.schedulers),
        (torch.amp.GradScaler, found.scalers),
        (torch.Generator, found.generators),
        *_numpy_kinds(found),
    )
    for value in _reachable(roots, torch.nn.Module):
        for kind, where in kinds:
            if isinstance(value, kind):
                where.append(value)
    return found


def _numpy_kinds(found: Found) -> Iterator[tuple[type, list[Any]]]:
    if (module := sys.modules.get("numpy.random")) is not None:
        yield module.Generator, found.generators
        yield module.RandomState, found.generators


def _reachable(roots: Iterable[object], module: type) -> Iterator[object]:
    waiting = [(value, 0) for value in roots]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST:
        value, depth = waiting.pop()
        if id(value) in seen or isinstance(value, _LEAVES):
            continue
        seen.add(id(value))
        yield value
        if depth < _DEPTH and not isinstance(value, module):
            waiting += [(inner, depth + 1) for inner in _inside(value)]


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())[:_MOST]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)[:_MOST]
    try:  # not vars(value): a lazy object would wake up
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return []
    return list(attributes.values()) if isinstance(attributes, dict) else []
