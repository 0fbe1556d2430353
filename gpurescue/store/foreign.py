"""Tensors in files of other programs: safetensors, ``torch.save``, torch's DCP.

Such a file may come from anybody. None of it is unpickled, but for what
``torch.load(weights_only=True)`` takes to be plain; and what a file says of its sizes
is held against how large it is.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gpurescue.errors import Refused
from gpurescue.store.exporting import safetensors_library
from gpurescue.store.format import DTYPES, Tensor
from gpurescue.store.reading import described

_DEEPEST, _MOST = 32, 2_000_000  # of values in values, and of values in all


@dataclass(frozen=True, slots=True)
class Piece:
    """Memory of one or more tensors, read when it is wanted.

    Attributes:
        nbytes: How much.
        fill: Writes it to a buffer of that size.
    """

    nbytes: int
    fill: Callable[[memoryview], None]


@dataclass(slots=True)
class Found:
    """What is in a file.

    Attributes:
        pieces: Memory, by number.
        tensors: By name; their ``storage`` is the number of a piece.
        values: Numbers and texts, by name.
        lost: The type of all else, by name.
    """

    pieces: list[Piece] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor.

        Raises:
            Refused: There is one of that name, or no manifest can describe it.
        """
        if tensor.dtype not in DTYPES:
            raise Refused(f"{name} is of {tensor.dtype}, which a store cannot hold")
        try:
            msgspec.convert(msgspec.to_builtins(tensor), Tensor)
        except msgspec.ValidationError as error:
            raise Refused(f"{name} is beyond all sizes: {error}") from None
        if name in self.tensors:
            raise Refused(f"two tensors have the name {name!r}")
        self.tensors[name] = tensor

    def add_value(self, name: str, value: object) -> None:
        """Note what is no tensor."""
        is_number = isinstance(value, int | float) and math.isfinite(value)
        if value is None or isinstance(value, str):
            self.values[name] = value
        elif is_number and abs(value) < 2**53:  # type: ignore[arg-type]
            self.values[name] = value
        else:
            self.lost[name] = type(value).__name__


def read_safetensors(path: Path) -> Found:
    """Look what a file of safetensors has.

    Raises:
        Refused: It is damaged, or none.
        UsageError: The library is not installed.
    """
    safetensors = safetensors_library()
    found = Found()
    try:
        file = safetensors.safe_open(path, "pt")
        for name in file.keys():
            tensor = file.get_tensor(name)
            found.add(name, described(tensor, len(found.pieces)))
            found.pieces.append(_piece(tensor))
        tied = file.metadata() or {}
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise Refused(f"it cannot be read: {error!s:.200}") from error
    for name, same in tied.items():
        if name not in found.tensors and same in found.tensors:
            found.tensors[name] = found.tensors[same]
    return found


def _piece(tensor: Any) -> Piece:
    """The memory of one tensor, which may be a part of a mapped file."""
    size = tensor.dtype.itemsize
    return _part(
        tensor.untyped_storage(), tensor.storage_offset() * size, tensor.nbytes
    )


def _part(storage: Any, offset: int, nbytes: int) -> Piece:
    import torch

    def fill(to: memoryview) -> None:
        part = torch.empty(0, dtype=torch.uint8).set_(storage, offset, (nbytes,), (1,))
        torch.frombuffer(to, dtype=torch.uint8).copy_(part)

    return Piece(nbytes, fill)


def read_torch(path: Path) -> Found:
    """Look what a file of ``torch.save`` has.

    Raises:
        Refused: It is damaged, or would have to be unpickled.
    """
    found = Found()
    numbers: dict[int, int] = {}
    for name, value in leaves(load_plain(path)):
        if not is_tensor(value):
            found.add_value(name, value)
            continue
        tensor = plain_tensor(name, value)
        storage = tensor.untyped_storage()
        number = numbers.setdefault(storage._cdata, len(found.pieces))
        if number == len(found.pieces):
            found.pieces.append(_part(storage, 0, storage.nbytes()))
        found.add(name, described(tensor, number))
    return found


def load_plain(file: Path | io.BytesIO) -> Any:
    """``torch.load``, of nothing but tensors and plain values.

    Args:
        file: A path, whose tensors are mapped; or all that is in a file.

    Raises:
        Refused: It would have to be unpickled, or cannot be read.
    """
    import torch

    if tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 6):
        raise Refused("this torch can be tricked by such files: update it to 2.6")
    _check_stored(file)
    is_mapped = isinstance(file, Path)
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=is_mapped)
    except pickle.UnpicklingError as error:
        raise Refused(
            "it has more in it than tensors and plain values, and what it has is not "
            "run. Load it where you trust it, and save its state dict"
        ) from error
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refused(f"it cannot be read: {why:.200}") from error


def _check_stored(file: Path | io.BytesIO) -> None:
    """torch.save compresses nothing; what is compressed may become a thousandfold."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise Refused(f"it cannot be read: {error!s:.200}") from error
    if any(entry.file_size > entry.compress_size for entry in entries):
        raise Refused("it is compressed, which torch.save does not do")
    if isinstance(file, io.BytesIO):
        file.seek(0)


def is_tensor(value: object) -> bool:
    """True for a tensor of torch."""
    import torch

    return isinstance(value, torch.Tensor)


def plain_tensor(name: str, value: Any) -> Any:
    """A tensor as a store holds it: strided, of plain numbers.

    Raises:
        Refused: It is sparse, quantized or of a class of its own.
    """
    import torch

    is_plain = type(value) in {torch.Tensor, torch.nn.Parameter}
    if not is_plain or value.layout != torch.strided or value.is_quantized:
        kind = f"{type(value).__name__} of layout {value.layout}"
        raise Refused(f"{name} is a {kind}, which a store cannot hold")
    if value.device.type != "cpu":
        raise Refused(f"{name} has no memory: it is on the device {value.device}")
    return value.detach().resolve_conj().resolve_neg()


def leaves(root: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested dicts and lists, by names such as ``model.fc.weight``.

    Args:
        root: Where to begin.
        name: What that is called; empty to leave it out of the names.

    Raises:
        Refused: They are nested without end.
    """
    waiting: list[tuple[str, Any, int]] = [(name, root, 0)]
    for _ in range(_MOST):
        if not waiting:
            return
        name, value, depth = waiting.pop()
        if depth > _DEEPEST:
            break
        if isinstance(value, dict):
            items = [*value.items()]
        elif isinstance(value, list | tuple):
            items = [*enumerate(value)]
        else:
            yield name or "value", value
            continue
        inner = [
            (f"{name}.{key}" if name else str(key), x, depth + 1) for key, x in items
        ]
        waiting += reversed(inner)
    raise Refused("it is nested without end")
