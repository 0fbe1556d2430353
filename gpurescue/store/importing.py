"""Checkpoints made of the files of other programs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpurescue.errors import Refused
from gpurescue.store import packs
from gpurescue.store.folders import read_folder
from gpurescue.store.foreign import Found, Piece, read_safetensors, read_torch
from gpurescue.store.format import Manifest, Storage
from gpurescue.store.layout import LINE, SMALL, lay_out
from gpurescue.store.packs import Progress
from gpurescue.store.plans import Contents, Plan
from gpurescue.store.store import Store

_GATHERED = 2**20  # bytes of small pieces that make one chunk
_ZIP = b"PK\x03\x04"


def import_(
    store: Store,
    path: Path,
    *,
    run: str,
    prefix: str = "",
    progress: Progress | None = None,
) -> Manifest:
    """Make a checkpoint of a file of safetensors or torch, or of a folder of DCP.

    Nothing is unpickled. Values that are no tensors go to ``notes``, and what cannot be
    had without unpickling is named in ``lost``. As much memory is used as the tensors
    have.

    Args:
        store: Where the checkpoint is going to be.
        path: What to read.
        run: The id of the run that it is going to be of.
        prefix: Put before each name.
        progress: Called with numbers of bytes: of each that is read, and written.

    Raises:
        Refused: It is of no format that is known, damaged, or made to do harm.
        NotWritten: The disk is full, or broken.
        Locked: Another process writes checkpoints of that run.
    """
    start = f"{prefix}." if prefix else ""
    with _reading(path):
        found = _found(path)
        _check(found, start)
        packed = _Packed(found.pieces, progress)
    values = {f"{start}{name}": value for name, value in found.values.items()}
    contents = Contents(
        run=run,
        storages=tuple(packed.storages),
        tensors={f"{start}{name}": t for name, t in found.tensors.items()},
        lost={f"{start}{name}": kind for name, kind in found.lost.items()},
        notes={"imported": _readable(path.name), "values": values},
    )
    with store.writer(run), store.plan(packed.keys) as plan:
        return store.publish(
            plan, packs.pieces(packed.for_plan(plan)), contents, progress
        )


def _readable(name: str) -> str:
    return os.fsencode(name).decode(errors="replace")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.") from error
    except Refused as error:
        raise Refused(f"{path}: {error}.") from error


def _found(path: Path) -> Found:
    if path.is_dir():
        return read_folder(path)
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(_ZIP):
        return read_torch(path)
    if head[8:] == b"{":
        return read_safetensors(path)
    raise Refused(
        "it is neither safetensors, nor a file of torch.save since torch 1.6, nor a "
        "folder of torch.distributed.checkpoint. Load it where you trust it, and save "
        "its state dict as one of these"
    )


def _check(found: Found, start: str) -> None:
    if not found.tensors:
        raise Refused("it has no tensors")
    texts = [start, *found.tensors, *found.values, *found.lost]
    texts += [value for value in found.values.values() if isinstance(value, str)]
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise Refused("it has names or texts that are no Unicode") from None


class _Packed:
    """Memory laid out as a pack, with what is small gathered.

    Args:
        pieces: What there is.
        progress: Called with the bytes of each piece that is read.

    Attributes:
        storages: Where each piece is.
        keys: Digest and number of bytes of each chunk.
    """

    def __init__(self, pieces: Sequence[Piece], progress: Progress | None) -> None:
        self.storages: list[Storage] = []
        self._sizes: list[int] = []
        self._sort_out(pieces)
        self._layout = lay_out(self._sizes)
        self._data = packs.buffer(self._layout.nbytes)
        for piece, storage in zip(pieces, self.storages, strict=True):
            start = self._layout.offsets[storage.chunk] + storage.offset
            if piece.nbytes:
                piece.fill(self._data[start : start + piece.nbytes])
            if progress is not None:
                progress(piece.nbytes)
        places = zip(self._layout.offsets, self._sizes, strict=True)
        parts = [(self._data[start : start + size], size) for start, size in places]
        self.keys = [(packs.digest_of(part), size) for part, size in parts]

    def _sort_out(self, pieces: Sequence[Piece]) -> None:
        gathered = -1
        for piece in pieces:
            is_small = piece.nbytes < SMALL
            if is_small and gathered >= 0 and self._sizes[gathered] < _GATHERED:
                chunk = gathered
            else:
                chunk = len(self._sizes)
                self._sizes.append(0)
                gathered = chunk if is_small else gathered
            start = -(-self._sizes[chunk] // LINE) * LINE
            self.storages.append(Storage(chunk, start, piece.nbytes))
            self._sizes[chunk] = start + piece.nbytes

    def for_plan(self, plan: Plan) -> memoryview:
        """The pack without what is in the store already.

        What is left keeps its order, so it only moves towards the beginning.
        """
        old = self._layout.offsets
        moves = zip(plan.fresh, plan.layout.offsets, strict=True)
        for number, to in sorted(moves, key=lambda move: old[move[0]]):
            start, size = old[number], self._sizes[number]
            if start != to:
                self._data[to : to + size] = self._data[start : start + size]
        return self._data[: plan.layout.nbytes]
