"""The objects of a run as bytes, with what is large beside them.

``cloudpickle`` writes the objects; it knows functions, classes and closures of a
notebook. The bytes of tensors and arrays are left out: each storage once, by number, so
that what shares memory shares it again. What cannot be written is left out too, and
named by the path that leads to it.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import cloudpickle

_STORAGE, _BUFFER = "storage", "buffer"
# Of these cloudpickle writes something else: a copy of a file's text, bytes.
_CHANGED = (io.TextIOWrapper, io.BufferedIOBase, io.RawIOBase, memoryview)
_DEEPEST = 8  # steps of a path that is looked for


@dataclass(frozen=True, slots=True)
class Captured:
    """A graph of objects.

    Attributes:
        data: The objects, pickled.
        storages: Storages of tensors (``torch.UntypedStorage``), by number.
        buffers: Bytes of arrays and the like, by number.
        lost: The type of what could not be written, by path.
    """

    data: bytes
    storages: tuple[Any, ...]
    buffers: tuple[pickle.PickleBuffer, ...]
    lost: dict[str, str]


class Lost:
    """Stands where something could not be written."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<a {self.kind} that could not be kept>"


def capture(roots: Mapping[str, object]) -> Captured:
    """Write the objects that some names lead to.

    Args:
        roots: Variables by name.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(dict(roots))
    lost = _paths(roots, pickler.lost) if pickler.lost else {}
    return Captured(
        file.getvalue(), tuple(pickler.storages), tuple(pickler.buffers), lost
    )


def rebuild(
    data: bytes, storage: Callable[[int], Any], buffers: Iterator[Any] | list[Any]
) -> dict[str, Any]:
    """Make the objects again.

    Args:
        data: From a source that is trusted: to read a pickle is to run it.
        storage: Gives a storage by its number.
        buffers: The bytes of arrays, by number.
    """
    unpickler = _Unpickler(io.BytesIO(data), buffers=buffers)
    unpickler.storage = storage
    found: dict[str, Any] = unpickler.load()
    return found


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO) -> None:
        self.buffers: list[pickle.PickleBuffer] = []
        super().__init__(file, protocol=5, buffer_callback=self._keep)
        self.storages: list[Any] = []
        self.lost: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        torch = sys.modules.get("torch")
        self._kinds = () if torch is None else (torch.storage.TypedStorage,)

    def _keep(self, buffer: pickle.PickleBuffer) -> bool:
        self.buffers.append(buffer)
        return False

    def persistent_id(self, obj: Any) -> Any:
        """A storage goes by its number, what it is of, and how many elements."""
        if not isinstance(obj, self._kinds):
            return None
        own = obj._untyped_storage
        number = self._numbers.setdefault(own._cdata, len(self.storages))
        if number == len(self.storages):
            self.storages.append(own)
        return _STORAGE, number, obj.dtype

    def reducer_override(self, obj: Any) -> Any:
        """As cloudpickle does it; what cannot be written is noted."""
        found = super().reducer_override(obj)
        if found is not NotImplemented or isinstance(obj, type | FunctionType):
            return found
        if isinstance(obj, _CHANGED) and not isinstance(obj, io.BytesIO):
            return self._lose(obj)
        try:
            reduce = self.dispatch_table.get(type(obj))
            return obj.__reduce_ex__(5) if reduce is None else reduce(obj)
        except Exception:  # noqa: BLE001 - a user's __reduce__ may raise anything
            return self._lose(obj)

    def _lose(self, obj: Any) -> Any:
        self.lost[id(obj)] = obj
        return Lost, (type(obj).__name__,)


class _Unpickler(pickle.Unpickler):
    storage: Callable[[int], Any]

    def persistent_load(self, pid: Any) -> Any:
        kind, number, dtype = pid
        assert kind == _STORAGE
        torch = sys.modules["torch"]
        return torch.storage.TypedStorage(
            wrap_storage=self.storage(number), dtype=dtype, _internal=True
        )


def _paths(roots: Mapping[str, object], lost: Mapping[int, Any]) -> dict[str, str]:
    """By which path each object is reached, the shortest one."""
    found: dict[str, str] = {}
    left = set(lost)
    waiting = [(name, value) for name, value in roots.items()]
    seen: set[int] = set()
    for _ in range(_DEEPEST):
        following: list[tuple[str, object]] = []
        for path, value in waiting:
            if id(value) in left:
                left.discard(id(value))
                found[path] = type(value).__name__
            elif id(value) not in seen:
                seen.add(id(value))
                following += [(f"{path}{step}", x) for step, x in _inside(value)]
        waiting = following
        if not left:
            break
    found |= {f"?.{id(lost[key]):x}": type(lost[key]).__name__ for key in left}
    return found


def _inside(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r:.40}]", x) for key, x in list(value.items()))
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", x) for index, x in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from (("{}", x) for x in value)
    else:
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            yield from ((f".{name}", x) for name, x in list(own.items()))
        closure = getattr(value, "__closure__", None) or ()
        names = getattr(getattr(value, "__code__", None), "co_freevars", ())
        for name, cell in zip(names, closure, strict=False):
            try:
                yield f".<closure>.{name}", cell.cell_contents
            except ValueError:
                continue
