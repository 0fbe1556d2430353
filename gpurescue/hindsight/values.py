"""Values that are logged: taken at once, written down later.

Taking one must be quick and change nothing, so that a run that logs is the run that it
would have been. What takes time, such as waiting for a device, is left to ``stored``.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from gpurescue.hindsight.records import (
    ARRAY,
    FIGURE,
    FLAG,
    JSON,
    SCALAR,
    TENSOR,
    TEXT,
)

MOST_BYTES = 16 * 1024 * 1024  # of one value
_MOST_LETTERS = 1_000_000
_MOST_INTEGER = 2**63 - 1  # that SQLite has
Stored = tuple[int, Any]


def taken(value: Any) -> Any:
    """What cannot change any more: the value itself, or a copy of it.

    Args:
        value: A number, a text, an array, a tensor, a figure, or plain objects.
    """
    if type(value) in _LASTING:
        return value
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        return _of_tensor(value)
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _TooLarge(value) if value.nbytes > MOST_BYTES else value.copy()
    if numpy is not None and isinstance(value, numpy.generic):
        return value
    if hasattr(value, "savefig"):
        return _Picture(value)
    return _Plain(value)


_LASTING = {int, float, bool, str, type(None)}


def _of_tensor(value: Any) -> Any:
    if value.numel() * value.element_size() > MOST_BYTES:
        return _TooLarge(value)
    return value.detach().clone()


class _TooLarge:
    """Stands for a value that is not kept."""

    def __init__(self, value: Any) -> None:
        self.text = f"a {type(value).__name__} of shape {tuple(value.shape)}: too large"


class _Picture:
    """A figure, drawn as it is now."""

    def __init__(self, figure: Any) -> None:
        file = io.BytesIO()
        figure.savefig(file, format="png")
        self.data = file.getvalue()


class _Plain:
    """Lists and dictionaries, as JSON; of anything else what ``repr`` says."""

    def __init__(self, value: Any) -> None:
        self.kind = JSON
        try:
            self.text = msgspec.json.encode(value).decode()
        except (TypeError, ValueError, msgspec.MsgspecError):
            self.kind, self.text = TEXT, repr(value)


def stored(value: Any) -> Stored:
    """The kind of a value that was taken, and what the database has of it."""
    try:
        kind, found = _stored(value)
    except Exception as error:  # noqa: BLE001 - one value must not cost the others
        kind, found = TEXT, f"a {type(value).__name__} that cannot be kept: {error}"
    if type(found) is str:  # SQLite takes no half of a letter
        found = found[:_MOST_LETTERS].encode(errors="replace").decode()
    return kind, found


def _stored(value: Any) -> Stored:
    found = _STORED.get(type(value))
    if found is not None:
        return found(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _stored_tensor(value)
    return _stored_array(value)


def _number(value: float) -> Stored:
    return SCALAR, None if math.isnan(value) else value  # NULL is "not a number"


def _integer(value: int) -> Stored:
    if abs(value) <= _MOST_INTEGER:
        return SCALAR, value
    return TEXT, str(value)


_STORED: dict[type, Callable[[Any], Stored]] = {
    float: _number,
    int: _integer,
    bool: lambda value: (FLAG, int(value)),
    str: lambda value: (TEXT, value),
    type(None): lambda value: (JSON, "null"),
    _TooLarge: lambda value: (TEXT, value.text),
    _Picture: lambda value: (FIGURE, value.data),
    _Plain: lambda value: (value.kind, value.text),
}


def _stored_tensor(value: Any) -> Stored:
    if value.numel() == 1 and value.ndim == 0 and not value.is_complex():
        return stored(value.item())
    try:
        return TENSOR, _npy(value.cpu().numpy())
    except (TypeError, RuntimeError):  # NumPy has no such dtype, as of bfloat16
        return TENSOR, _npy(value.cpu().to_dense().float().numpy())


def _stored_array(value: Any) -> Stored:
    """An array, or a scalar of NumPy."""
    if value.ndim == 0 and value.dtype.kind in "biuf":
        return stored(value.item())
    if value.dtype.hasobject:
        return TEXT, repr(value)
    return ARRAY, _npy(value)


def _npy(array: Any) -> bytes:
    """The bytes of a file of NumPy's own format."""
    import numpy as np

    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def read(kind: int, value: Any) -> Any:
    """A value as it was logged, from what the database has; a figure as PNG."""
    if kind == SCALAR:
        return math.nan if value is None else value
    if kind == FLAG:
        return bool(value)
    if kind == JSON:
        return msgspec.json.decode(value)
    if kind in {ARRAY, TENSOR}:
        import numpy as np

        return np.load(io.BytesIO(value), allow_pickle=False)
    return value
