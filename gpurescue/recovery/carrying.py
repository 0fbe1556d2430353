"""A name that is defined once more: what it means now takes the place of the old."""

from __future__ import annotations

import contextlib
from types import FunctionType
from typing import Any

from gpurescue.recovery.hotswap import Redefinitions

_MOST = 100


def carried(redefinitions: Redefinitions, name: str, old: Any, new: Any) -> Any:
    """Carry ``new`` into ``old``; the result is what ``name`` should mean.

    Raises:
        PatchRejected: The two do not fit; nothing was changed.
    """
    if isinstance(old, type) and isinstance(new, type):
        return redefinitions.redefined(old, new) if _is_same(old, new) else new
    first, second = defined(old, name), defined(new, name)
    if first is None or second is None or not _is_same(first, second):
        return new
    made = redefinitions.redefined(first, second)
    return made if first is old and second is new else new


def _is_same(old: type | FunctionType, new: type | FunctionType) -> bool:
    """Tell whether ``new`` is a new version of ``old``, and not only of its name.

    A name may have meant something imported, or a function with another name.
    """
    return (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)


def defined(value: Any, name: str) -> FunctionType | None:
    """The function that ``def name`` made, under all its decorators."""
    waiting, seen = [value], set[int]()
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen or len(seen) > _MOST:
            continue
        seen.add(id(found))
        # Its code knows: functools.wraps gives wrappers the name of the function.
        if isinstance(found, FunctionType) and found.__code__.co_qualname == name:
            return found
        waiting += _inside(found)
    return None


def _inside(value: Any) -> list[Any]:
    """Where decorators keep what they decorate."""
    found = [
        inner
        for attribute in ("__wrapped__", "__func__", "func")
        if callable(inner := getattr(value, attribute, None))
    ]
    kept = getattr(value, "__dict__", None)
    if isinstance(kept, dict) and not isinstance(value, type):
        found += [inner for inner in kept.values() if isinstance(inner, FunctionType)]
    for cell in getattr(value, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # the cell is still empty
            if callable(cell.cell_contents):
                found.append(cell.cell_contents)
    return found
