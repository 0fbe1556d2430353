"""Locks in a graph of objects: those that nobody holds.

What is made of locks (conditions, events, semaphores, queues) pickles by itself then.
"""

from __future__ import annotations

import threading
from typing import Any

from gpurescue.errors import CannotResume

Reduced = tuple[Any, ...]

_LOCK, _RLOCK = type(threading.Lock()), type(threading.RLock())


OUTSIDE = (_LOCK, _RLOCK, threading.local)


def reduced(value: Any) -> Reduced | None:
    """How a lock is pickled; None for anything else.

    Raises:
        CannotResume: It belongs to a thread that will not be there; says how.
    """
    if type(value) is _LOCK:
        is_held = value.locked()
    elif type(value) is _RLOCK:
        is_held = _is_held(value)
    elif isinstance(value, threading.local):
        raise CannotResume("each thread has values of its own in it")
    else:
        return None
    if is_held:
        raise CannotResume("it is held")
    return made, (type(value) is _RLOCK,)


def _is_held(lock: Any) -> bool:
    if lock._is_owned() or not lock.acquire(blocking=False):
        return True
    lock.release()
    return False


def made(is_recursive: bool) -> Any:
    """A lock that nobody holds; called by the pickle."""
    return threading.RLock() if is_recursive else threading.Lock()
