"""Folders of torch.distributed.checkpoint (DCP), also those that many ranks wrote.

Its ``.metadata`` says which tensors there are, and in which file each of their chunks
is. Each chunk is a file of ``torch.save`` inside of a file.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpurescue.errors import Refused
from gpurescue.store import inert
from gpurescue.store.foreign import (
    Found,
    Piece,
    is_tensor,
    leaves,
    load_plain,
    plain_tensor,
)
from gpurescue.store.format import DTYPES, LIMIT, Tensor
from gpurescue.store.inert import METADATA

_Sizes = tuple[int, ...]
_LARGEST = 2**62


@dataclass(frozen=True, slots=True)
class _Blob:
    """Where some bytes are."""

    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A part of a tensor."""

    offsets: _Sizes
    sizes: _Sizes
    blob: _Blob


def read_folder(path: Path) -> Found:
    """Look what a folder of torch.distributed.checkpoint has.

    Raises:
        Refused: It is none, damaged, or made to do harm.
    """
    data = _open(path, METADATA)
    if len(data) > LIMIT:
        raise Refused(f"its {METADATA} has {len(data)} bytes; none has over {LIMIT}")
    fields = _fields(inert.read(bytes(data)), "Metadata")
    folder = _Folder(path, _blobs(fields.get("storage_data")))
    found = Found()
    for name, about in _items(fields.get("state_dict_metadata")):
        if _is(about, "BytesStorageMetadata"):
            folder.add_value(found, name)
        else:
            folder.add_tensor(found, name, _fields(about, "TensorStorageMetadata"))
    return found


class _Folder:
    """The files beside a ``.metadata``, mapped.

    Args:
        path: Where they are.
        blobs: What is where in them.
    """

    def __init__(self, path: Path, blobs: dict[tuple[str, _Sizes], _Blob]) -> None:
        self._blobs = blobs
        names = {blob.file for blob in blobs.values()}
        self._files = {name: _open(path, name) for name in sorted(names)}
        for blob in blobs.values():
            if blob.offset + blob.nbytes > len(self._files[blob.file]):
                raise Refused(f"{blob.file} is shorter than {METADATA} says")
        # So that what is read in all is no larger than what there is.
        if sum(b.nbytes for b in blobs.values()) > sum(map(len, self._files.values())):
            raise Refused(f"{METADATA} names some bytes more than once")

    def add_value(self, found: Found, name: str) -> None:
        """Something that is no tensor; what needs unpickling is noted as lost."""
        blob = self._blob(name, ())
        try:
            values = list(leaves(self._load(blob), name))
        except Refused:
            found.lost[name] = "pickled object"
            return
        for inner, value in values:
            found.add_value(inner, value)

    def add_tensor(self, found: Found, name: str, about: dict[str, Any]) -> None:
        """A tensor, in however many chunks."""
        dtype, sizes = _dtype_of(about.get("properties")), _sizes(about.get("size"))
        chunks = self._chunks(name, sizes, about.get("chunks"))
        nbytes = math.prod(sizes) * DTYPES[dtype]
        for chunk in chunks:
            if math.prod(chunk.sizes) * DTYPES[dtype] > chunk.blob.nbytes:
                raise Refused(f"{name} is larger than the bytes that it is in")
        tensor = Tensor(
            dtype=dtype, shape=sizes, stride=_strides(sizes), storage=len(found.pieces)
        )
        found.add(name, tensor)
        found.pieces.append(
            Piece(nbytes, lambda to: self._fill(to, name, tensor, chunks))
        )

    def _chunks(self, name: str, whole: _Sizes, listed: Any) -> list[_Chunk]:
        chunks = {}
        for one in listed if isinstance(listed, list) else ():
            fields = _fields(one, "ChunkStorageMetadata")
            offsets, sizes = _sizes(fields.get("offsets")), _sizes(fields.get("sizes"))
            places = zip(offsets, sizes, whole, strict=False)
            fits = len(offsets) == len(sizes) == len(whole)
            if not fits or any(first + size > of for first, size, of in places):
                raise Refused(f"a part of {name} is outside of it")
            chunks[offsets] = _Chunk(offsets, sizes, self._blob(name, offsets))
        if sum(math.prod(c.sizes) for c in chunks.values()) != math.prod(whole):
            raise Refused(f"parts of {name} are missing, or there twice")
        return list(chunks.values())

    def _blob(self, name: str, offsets: _Sizes) -> _Blob:
        # What is no tensor has no offsets, which is found as those of a 0-dim one.
        blob = self._blobs.get((name, offsets))
        if blob is None:
            raise Refused(f"{METADATA} does not say where {name} is")
        return blob

    def _load(self, blob: _Blob) -> Any:
        part = memoryview(self._files[blob.file])[blob.offset :][: blob.nbytes]
        return load_plain(io.BytesIO(part))

    def _fill(
        self, to: memoryview, name: str, tensor: Tensor, chunks: list[_Chunk]
    ) -> None:
        import torch

        whole = torch.frombuffer(to, dtype=getattr(torch, tensor.dtype))
        whole = whole.reshape(tensor.shape)
        for chunk in chunks:
            value = self._load(chunk.blob)
            if is_tensor(value):
                value = plain_tensor(name, value)
            if (
                not is_tensor(value)
                or value.dtype != whole.dtype
                or value.shape != chunk.sizes
            ):
                raise Refused(f"{chunk.blob.file} has another {name} than it should")
            at = zip(chunk.offsets, chunk.sizes, strict=True)
            whole[tuple(slice(first, first + size) for first, size in at)] = value


def _open(folder: Path, name: str) -> mmap.mmap | bytes:
    """A file of the folder itself: no link, no pipe, nothing outside."""
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise Refused(f"{name!r:.200} is no file of the folder")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        file = os.open(folder / name, flags)
    except OSError as error:
        raise Refused(f"{name} cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise Refused(f"{name} is no plain file")
        return mmap.mmap(file, 0, prot=mmap.PROT_READ) if found.st_size else b""
    finally:
        os.close(file)


# -- what the records of a .metadata say


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, inert.Record) and value.of.name == kind


def _fields(value: Any, kind: str) -> dict[str, Any]:
    if not _is(value, kind) or not isinstance(value.state, dict):
        raise Refused(f"its {METADATA} has no {kind} where one should be")
    found: dict[str, Any] = value.state
    return found


def _items(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Refused(f"its {METADATA} does not name its tensors")
    return list(value.items())


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise Refused(f"its {METADATA} has no number where one should be")
    return value


def _sizes(value: Any) -> _Sizes:
    args: tuple[Any, ...] = value.args if _is(value, "Size") else ()
    if len(args) != 1 or not isinstance(args[0], tuple) or len(args[0]) > 64:
        raise Refused(f"its {METADATA} has no size where one should be")
    return tuple(_number(size) for size in args[0])


def _dtype_of(value: Any) -> str:
    state = value.state if _is(value, "TensorProperties") else None
    found = state[0] if isinstance(state, tuple) and state else None
    if not isinstance(found, inert.Name) or found.name not in DTYPES:
        raise Refused(f"its {METADATA} has no dtype where one should be")
    return found.name


def _strides(sizes: _Sizes) -> _Sizes:
    found, step = [], 1
    for size in reversed(sizes):
        found.append(step)
        step *= max(size, 1)
    return tuple(reversed(found))


def _blobs(value: Any) -> dict[tuple[str, _Sizes], _Blob]:
    found = {}
    for key, place in value.items() if isinstance(value, dict) else ():
        index, info = _fields(key, "MetadataIndex"), _fields(place, "_StorageInfo")
        name, file = index.get("fqn"), info.get("relative_path")
        if not isinstance(name, str) or not isinstance(file, str):
            raise Refused(f"its {METADATA} does not say where things are")
        if info.get("transform_descriptors"):
            raise Refused(f"{name} is compressed, or otherwise transformed")
        offset = index.get("offset")
        offsets = () if offset is None else _sizes(offset)
        blob = _Blob(file, _number(info.get("offset")), _number(info.get("length")))
        found[name, offsets] = blob
    return found
