"""Pickles read as records: nothing in them is imported, made or called.

The ``.metadata`` of a torch.distributed.checkpoint folder is a pickle. Here the names
of its classes stay names, and what would call one becomes a record of the call. Names
and opcodes that such a file has no use for are refused.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from gpurescue.errors import Refused
from gpurescue.store.format import DTYPES

METADATA = ".metadata"
_HOME = "torch.distributed.checkpoint.metadata"
_NAMES = {
    *((_HOME, name) for name in (
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata",
        "TensorProperties", "ChunkStorageMetadata", "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    )),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    *(("pathlib", f"{kind}Path") for kind in ("Posix", "PurePosix", "Windows")),
    ("pathlib._local", "PosixPath"),  # since Python 3.13
    *(("torch", dtype) for dtype in DTYPES),
}  # fmt: skip
_OPCODES = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_LIST APPEND APPENDS EMPTY_DICT MEMOIZE BINGET LONG_BINGET STACK_GLOBAL"
).split()


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A class or function that a pickle names."""

    module: str
    name: str


@dataclass(slots=True, eq=False)
class Record:
    """A call that a pickle asks for, and was not given.

    Attributes:
        of: What it would call.
        args: With what.
        state: What it would then give to the result.
    """

    of: Name
    args: tuple[Any, ...]
    state: Any = None


def read(data: bytes) -> Any:
    """What a ``.metadata`` describes, in plain values, names and records.

    Raises:
        Refused: It asks for what none has, or is no pickle.
    """
    try:
        return _Reader(io.BytesIO(data)).load()
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 - a bad pickle fails in any way
        kind = type(error).__name__
        raise Refused(f"its {METADATA} cannot be read ({kind})") from None


class _Reader(pickle._Unpickler):
    """In Python: the one in C makes room for whatever a pickle says that it has."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            asked = f"{module}.{name}"
            raise Refused(f"its {METADATA} asks for {asked!r:.200}, and nothing is run")
        return Name(module, name)

    def _call(self) -> None:
        args, of = self.stack.pop(), self.stack.pop()
        if not (isinstance(of, Name) and isinstance(args, tuple)):
            raise Refused(f"its {METADATA} calls what is no class")
        self.stack.append(Record(of, args))

    def _build(self) -> None:
        state, record = self.stack.pop(), self.stack[-1]
        if not isinstance(record, Record) or record.state is not None:
            raise Refused(f"its {METADATA} changes what it has not made")
        record.state = state

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def _set_items(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def _set(self, to: Any, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Not a tuple: hashing one that is a million deep ends the process.
            if not (isinstance(to, dict) and isinstance(key, str | Record)):
                raise Refused(f"its {METADATA} has a key of type {type(key).__name__}")
            to[key] = value

    def _unknown(self) -> None:
        raise Refused(f"its {METADATA} is no pickle that one could be")

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Any]] = {
        **dict.fromkeys(range(256), _unknown),
        **{
            code: pickle._Unpickler.dispatch[code]
            for code in (getattr(pickle, name)[0] for name in _OPCODES)
        },
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
    }
