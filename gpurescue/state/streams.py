"""The random streams of the process, read often and put back seldom.

``random.getstate()`` and NumPy's ``get_state()`` cost tens of microseconds, which is
too much for each round of a loop. A fingerprint of the memory that they read is ten
times cheaper, and a stream that has not moved since it was read last need not be read
again.
"""

from __future__ import annotations

import _random
import ctypes
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

Restore = Callable[[], None]
_HEAD = object.__basicsize__
_MT_SIZE = 625 * 4  # NumPy's mt19937_state: 624 words, and the position


@dataclass(slots=True)
class _Cached:
    """A stream with a fingerprint: read again only if it has moved."""

    fingerprint: Callable[[], Any]
    read: Callable[[], Any]
    last: tuple[Any, Any] = (None, None)

    def state(self) -> Any:
        now = self.fingerprint()
        if now is None or now != self.last[0]:
            self.last = now, self.read()
        return self.last[1]


class Streams:
    """``random``, NumPy's global stream, and torch's on the CPU and each device."""

    def __init__(self) -> None:
        self._python = _Cached(_python_fingerprint, random.getstate)
        self._numpy: _Cached | None = None

    def read(self) -> Restore:
        """Read them all; the result puts them back as they are now."""
        found: list[Restore] = [_setter(random.setstate, self._python.state())]
        if (module := sys.modules.get("numpy.random")) is not None:
            if self._numpy is None:
                self._numpy = _numpy(module)
            found.append(_setter(module.set_state, self._numpy.state()))
        if (torch := sys.modules.get("torch")) is not None:
            found += [_setter(g.set_state, g.get_state()) for g in _generators(torch)]

        def restore() -> None:
            for put_back in found:
                put_back()

        return restore


def _setter(put_back: Callable[[Any], Any], state: Any) -> Restore:
    return lambda: put_back(state)


def _python_fingerprint() -> Any:
    instance: Any = getattr(random, "_inst")  # noqa: B009 - typeshed hides it
    size = _random.Random.__basicsize__ - _HEAD
    return ctypes.string_at(id(instance) + _HEAD, size), instance.gauss_next


def _numpy(module: ModuleType) -> _Cached:
    stream = module.mtrand._rand
    generator = stream._bit_generator
    # Its memory beside the generator's: a normal number that is kept for next time.
    size = type(stream).__basicsize__ - _HEAD

    def fingerprint() -> Any:
        if type(generator).__name__ != "MT19937" or stream is not module.mtrand._rand:
            return None
        address = generator.ctypes.state_address
        own = ctypes.string_at(id(stream) + _HEAD, size)
        return ctypes.string_at(address, _MT_SIZE), own

    return _Cached(fingerprint, lambda: module.get_state(legacy=False))


def _generators(torch: ModuleType) -> list[Any]:
    found = [torch.default_generator]
    if torch.cuda.is_initialized():
        found += torch.cuda.default_generators
    return found
