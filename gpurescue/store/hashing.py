"""A hash of memory that the device it is on can take, and the host takes alike.

Memory is cut into rows of 4096 bytes, the last one filled up with zeros. Each row is
multiplied by a fixed matrix of random bytes with 16 columns, as signed integers: no sum
passes 2**26, so all of it is exact, whoever computes it, in whatever order. The *mark*
of the memory is xxh3 (128 bits) of its size and its rows' products, one behind the
other.

Two rows that differ have one product with a chance of 2**-128: let them differ in byte
j. Whatever the other weights of a column are, at most one of the 256 values of its
weight for j makes both sums equal, and the columns are independent. (Sums of 64-bit
words times odd weights, which wrap, are not good enough: to flip the signs of two
doubles adds 2**63 twice, which is nothing.) Rows and their order are then told apart by
xxh3. Like that, it is no proof against somebody who looks for two memories of one mark.

Why a product of matrices: units for 8-bit integers do 16 sums of all bytes in one
reading. In steps of torch's own, a mixing of words reads and writes each byte a dozen
times.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

ROW = 4096
WIDTH = 16
_PIECE = 2**20  # bytes that the host hashes at a time: they are in its cache
_LARGE = 4 * 2**20  # from here on bytes are hashed where they are, and not gathered
_LEAST = 32  # rows, or a multiple: libraries refuse to multiply 16 and fewer
_MOST = 16384  # rows that are made ``float32`` at a time
_EXACT = 1024  # bytes whose sum stays within 2**24, up to where float32 is exact

Product = Callable[[Any, Any], None]


@dataclass(frozen=True, slots=True)
class Hashed:
    """What a device has computed, or is going to.

    Attributes:
        rows: On the device, ``int32``, shape (rows, 16).
        ranges: Of each memory: which rows are its, in order.
        sizes: Of each memory, in bytes.
    """

    rows: Any
    ranges: tuple[tuple[slice, ...], ...]
    sizes: tuple[int, ...]

    def marks(self, rows: Any) -> list[str]:
        """The mark of each memory.

        Args:
            rows: Those that are on the device, on the host.
        """
        return [
            _mark(nbytes, (rows[one].numpy().data for one in ranges))
            for nbytes, ranges in zip(self.sizes, self.ranges, strict=True)
        ]


def _mark(nbytes: int, rows: Iterable[Any]) -> str:
    found = xxhash.xxh3_128(nbytes.to_bytes(8, "little"))
    for some in rows:
        found.update(some)
    return found.hexdigest()


def hash_on_device(sources: Sequence[Any], block: int) -> Hashed:
    """Have a device hash memory, in the order of its current stream.

    Args:
        sources: Memory, as tensors of one device, ``int8``, one-dimensional and
            contiguous.
        block: Bytes of memory that the device may take for it, beside 1/64 of what is
            hashed; a multiple of 128 KiB.
    """
    import torch

    product = fastest(sources[0].device)
    num_rows = sum(-(-source.numel() // ROW) for source in sources) + _LEAST
    rows = sources[0].new_empty((num_rows, WIDTH), dtype=torch.int32)
    ranges: list[list[slice]] = [[] for _ in sources]
    end = 0
    for number, source in enumerate(sources):
        if nbytes := _in_place(source.numel()):
            found = slice(end, end + nbytes // ROW)
            product(source[:nbytes].view(-1, ROW), rows[found])
            ranges[number].append(found)
            end = found.stop
    gathered = None
    for pieces in _batches([source.numel() for source in sources], block // ROW):
        if gathered is None:
            gathered = sources[0].new_empty((block // ROW, ROW))
        count = _gather(sources, pieces, gathered)
        padded = -(-count // _LEAST) * _LEAST
        product(gathered[:padded], rows[end : end + padded])
        for piece in pieces:
            first = end + piece.row
            ranges[piece.source].append(slice(first, first + piece.num_rows))
        end += count
    sizes = tuple(source.numel() for source in sources)
    return Hashed(rows, tuple(map(tuple, ranges)), sizes)


class Marking:
    """Takes the mark of memory of the host, piece by piece.

    Args:
        nbytes: Its size.
    """

    def __init__(self, nbytes: int) -> None:
        self._found = xxhash.xxh3_128(nbytes.to_bytes(8, "little"))

    def update(self, data: Any) -> None:
        """Go on with a writable buffer; all but the last are of whole rows."""
        import torch

        if not memoryview(data).nbytes:
            return
        product = fastest(torch.device("cpu"))
        found = torch.frombuffer(data, dtype=torch.int8)
        to = found.new_empty((_PIECE // ROW, WIDTH), dtype=torch.int32)
        for start in range(0, found.numel(), _PIECE):
            rows = _filled_up(found[start : start + _PIECE])
            product(rows, to[: len(rows)])
            self._found.update(to[: len(rows)].numpy().data)

    def mark(self) -> str:
        """The mark, once all of it is there."""
        return self._found.hexdigest()


def mark_of(data: Any) -> str:
    """The mark of memory of the host, a writable buffer."""
    found = Marking(memoryview(data).nbytes)
    found.update(data)
    return found.mark()


def _filled_up(piece: Any) -> Any:
    import torch

    over = -piece.numel() % ROW
    return (torch.cat([piece, piece.new_zeros(over)]) if over else piece).view(-1, ROW)


# -- what is gathered first: a call for each small memory would take longer


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of a memory, and where they are in the block."""

    source: int
    start: int
    nbytes: int
    row: int

    @property
    def num_rows(self) -> int:
        return -(-self.nbytes // ROW)


def _in_place(nbytes: int) -> int:
    """How many bytes from the first on are hashed where they are."""
    return nbytes // (_LEAST * ROW) * (_LEAST * ROW) if nbytes >= _LARGE else 0


def _batches(sizes: Sequence[int], num_rows: int) -> Iterator[list[_Piece]]:
    """All the rest, in as many blocks of rows as it takes."""
    pieces: list[_Piece] = []
    row = 0
    for source, nbytes in enumerate(sizes):
        start = _in_place(nbytes)
        while start < nbytes:
            count = min(nbytes - start, (num_rows - row) * ROW)
            pieces.append(_Piece(source, start, count, row))
            start += count
            row += pieces[-1].num_rows
            if row == num_rows:
                yield pieces
                pieces, row = [], 0
    if pieces:
        yield pieces


def _gather(sources: Sequence[Any], pieces: Sequence[_Piece], block: Any) -> int:
    """Fill rows of a block; how many."""
    import torch

    count = pieces[-1].row + pieces[-1].num_rows
    block[:count].zero_()
    flat = block.view(-1)
    found = [sources[p.source][p.start : p.start + p.nbytes] for p in pieces]
    to = [flat[p.row * ROW : p.row * ROW + p.nbytes] for p in pieces]
    torch._foreach_copy_(to, found)
    return count


# -- the product


@functools.cache
def fastest(device: Any) -> Product:
    """The fastest product that is exact on a device; tried once.

    The product is called with rows, ``int8``, shape (rows, 4096), and with where it
    writes to, ``int32``, shape (rows, 16).
    """
    import torch

    data = hashlib.shake_128(b"rows").digest(_LEAST * ROW)
    rows = torch.frombuffer(bytearray(data), dtype=torch.int8).view(-1, ROW).clone()
    rows[0], rows[1], rows[2, ::2], rows[2, 1::2] = -128, 127, -128, 127
    rows = rows.to(device)
    exact = _exact(device)
    ours, theirs = (
        torch.empty((_LEAST, WIDTH), dtype=torch.int32, device=device) for _ in "12"
    )
    exact(rows, ours)
    try:
        fast = _fast(device)
        fast(rows, theirs)
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, AttributeError):  # an old device, an old torch
        return exact
    return _either(fast, exact) if torch.equal(ours, theirs) else exact


def _either(fast: Product, exact: Product) -> Product:
    """Libraries choose by shape how they multiply, and may refuse some."""
    import torch

    def product(rows: Any, to: Any) -> None:
        try:
            fast(rows, to)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError:
            exact(rows, to)

    return product


def _weights() -> Any:
    import torch

    data = hashlib.shake_128(b"gpurescue").digest(ROW * WIDTH)
    return torch.frombuffer(bytearray(data), dtype=torch.int8).view(WIDTH, ROW)


def _fast(device: Any) -> Product:
    import torch

    weights = _weights().to(device).t()

    def product(rows: Any, to: Any) -> None:
        torch._int_mm(rows, weights, out=to)

    return product


def _exact(device: Any) -> Product:
    import torch

    weights = _weights().to(device).t().to(torch.float32)

    def product(rows: Any, to: Any) -> None:
        to.zero_()
        with torch.autocast(device.type, enabled=False):
            for first, start in itertools.product(
                range(0, len(rows), _MOST), range(0, ROW, _EXACT)
            ):
                part, some = slice(first, first + _MOST), slice(start, start + _EXACT)
                found = rows[part, some].to(torch.float32) @ weights[some]
                to[part] += found.to(torch.int32)

    return product
