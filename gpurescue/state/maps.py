"""Arrays of NumPy that are files: mapped again, and not copied into a checkpoint.

Of an array that is only read the file is taken to be what it was, if its size and some
of its bytes are. What was written through another one is in the checkpoint, and is
written to the file again when the run goes on.
"""

from __future__ import annotations

import importlib
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.state import reopening

Reduced = tuple[Any, ...]
Pairs = Sequence[tuple[Any, Any]]

_READ, _PRIVATE = "r", "c"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """A file that is an array.

    Attributes:
        path: Absolute.
        is_read: True if nothing can be written through it.
        dtype: Of the array.
        shape: Of the array.
        order: ``C`` or ``F``.
        offset: Where the array begins in the file, in bytes.
        size: Of the file, in bytes.
        proof: Of what is in it if it is only read; see ``reopening.proof``.
    """

    path: str
    is_read: bool
    dtype: Any
    shape: tuple[int, ...]
    order: Any
    offset: int
    size: int
    proof: bytes


def is_map(value: object) -> bool:
    """True for an array that is a file, or a part of one."""
    kind = type(value)
    return kind.__name__ == "memmap" and kind.__module__ == "numpy"


def reduced(value: Any, make: Callable[[Mapped, Any], Any]) -> Reduced | None:
    """How such an array is pickled; None for one that is by itself in memory.

    Args:
        value: The array.
        make: Called when it is read: with the file, and with what was in the array if
            it can be written to.

    Raises:
        CannotResume: Its file is not there any more.
    """
    if is_map(value.base):
        root = value.base
        if not isinstance(root.base, mmap.mmap):
            return None
        return part, (root, _distance(value, root), *_form(value))
    if not isinstance(value.base, mmap.mmap) or value.mode == _PRIVATE:
        return None
    return make, (_mapped(value), None if value.mode == _READ else _copied(value))


def _copied(value: Any) -> Any:
    return importlib.import_module("numpy").array(value)


def _form(value: Any) -> tuple[Any, ...]:
    return value.shape, value.strides, value.dtype


def _distance(value: Any, root: Any) -> int:
    """Bytes from the beginning of an array to that of a part of it."""
    begins = [x.__array_interface__["data"][0] for x in (value, root)]
    return int(begins[0] - begins[1])


def _mapped(value: Any) -> Mapped:
    is_read = value.mode == _READ
    path, offset = str(value.filename), int(value.offset)
    try:
        size = os.stat(path).st_size
        proof = reopening.proof(path, offset, size) if is_read else b""
    except OSError as error:
        raise CannotResume(f"its file cannot be read: {error}") from error
    return Mapped(
        path=path,
        is_read=is_read,
        dtype=value.dtype,
        shape=value.shape,
        order="C" if value.flags.c_contiguous else "F",
        offset=offset,
        size=size,
        proof=proof,
    )


def opened(file: Mapped) -> Any:
    """Map a file again; nothing of it is changed.

    Raises:
        CannotResume: It is gone, or not what it was; names it.
    """
    try:
        size = os.stat(file.path).st_size
        is_same = size == file.size and (
            not file.is_read
            or reopening.proof(file.path, file.offset, size) == file.proof
        )
        if is_same:
            mode: Any = _READ if file.is_read else "r+"
            return importlib.import_module("numpy").memmap(
                file.path, file.dtype, mode, file.offset, file.shape, file.order
            )
    except OSError as error:
        raise CannotResume(f"{file.path} cannot be mapped again: {error}.") from error
    raise CannotResume(
        f"{file.path}, which the run has as an array, is not what it was: it had "
        f"{file.size} bytes, and has {size}, or other ones. Put it back as it was."
    )


def part(root: Any, distance: int, shape: Any, strides: Any, dtype: Any) -> Any:
    """A part of such an array; called by the pickle."""
    np = importlib.import_module("numpy")
    if not is_map(root):  # a copy, of which nobody goes on
        flat = root.reshape(-1, order="A").view(np.uint8)
        return np.ndarray(shape, dtype, flat, distance, strides)
    begins = root.offset % mmap.ALLOCATIONGRANULARITY
    made = np.ndarray.__new__(
        np.memmap, shape, dtype, root.base, begins + distance, strides
    )
    vars(made).update(vars(root))
    return made


def go_on(found: Pairs) -> None:
    """Write to each file what the array had in it, given as pairs of both."""
    for made, content in found:
        made[...] = content
