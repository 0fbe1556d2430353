"""The manifest of a checkpoint, as FORMAT.md describes it.

Read by ``msgspec``, which checks types, ranges and patterns as it decodes, and knows
no way to make anything but these records. What is left to check is how they fit.
"""

from __future__ import annotations

import hmac
import itertools
import re
from typing import Annotated, Any, Literal

import msgspec
import xxhash
from msgspec import Meta, Struct

from gpurescue.errors import Damaged, Refused

VERSION = 1
LIMIT = 2**29  # bytes of a manifest; 44,400 tensors take 6 MB
_HEAD = 1000  # more than the first line takes
ID = re.compile("[0-9a-f]{8,32}")
DIGEST = re.compile("[0-9a-f]{32}")

LARGEST = 2**62
MOST_SIZES = 64  # of a shape: most of torch refuses tensors with more

Natural = Annotated[int, Meta(ge=0, le=LARGEST)]
Identity = Annotated[str, Meta(pattern="^[0-9a-f]{8,32}$")]
Seal = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Time = Annotated[float, Meta(ge=0.0, le=1e11)]  # seconds since 1970
Sizes = Annotated[tuple[Natural, ...], Meta(max_length=MOST_SIZES)]

TRANSIENT = "transient"  # note: names of tensors that no state dict has
DTYPES = {
    "bool": 1, "uint8": 1, "int8": 1, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "uint16": 2, "int16": 2, "float16": 2, "bfloat16": 2,
    "uint32": 4, "int32": 4, "float32": 4, "complex32": 4,
    "uint64": 8, "int64": 8, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip


class Chunk(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Bytes in a pack, which are checked and stored as one.

    Attributes:
        digest: xxh3 of 128 bits, in hex.
        nbytes: How many.
        pack: Which pack they are in.
        offset: Where in it.
    """

    digest: Digest
    nbytes: Natural
    pack: Identity
    offset: Natural


class Storage(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Memory of one or more tensors, or of an array: a part of a chunk.

    A large one is a chunk of its own; small ones lie together in one, so that 40,000
    of them are digested and looked up as a few.

    Attributes:
        chunk: Number of the chunk.
        offset: Where in it.
        nbytes: How many bytes.
    """

    chunk: Natural
    offset: Natural
    nbytes: Natural


class Tensor(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A tensor: how a storage is looked at. Several may look at one.

    Attributes:
        dtype: As torch names it.
        shape: In elements.
        stride: In elements.
        storage: Number of the storage.
        offset: Of the first element, in elements.
        whole: Shape of the tensor that this is a shard of; empty if it is none.
        start: Where in that it begins.
    """

    dtype: str
    shape: Sizes
    stride: Sizes
    storage: Natural
    offset: Natural = 0
    whole: Sizes = ()
    start: Sizes = ()

    @property
    def num_reached(self) -> int:
        """Elements of the storage up to the last one that it looks at."""
        if 0 in self.shape:
            return self.offset
        steps = zip(self.shape, self.stride, strict=True)
        return self.offset + 1 + sum((size - 1) * step for size, step in steps)


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that a checkpoint consists of.

    Attributes:
        id: Its name.
        run: The run that it is of.
        number: Counts the checkpoints of a run, from 1.
        created: When, in seconds since 1970.
        chunks: Bytes, by number.
        storages: Memory, by number.
        tensors: By name, such as ``model.fc.weight``.
        objects: Chunks of pickled objects, by name; read only if signed by oneself.
        seals: SHA-256 of each of them: xxh3 is no proof against somebody who may
            write to a pack, and to read a pickle is to run it.
        lost: What could not be captured: its type, by its path.
        parent: The checkpoint that its run has gone on from; None for none.
        notes: Plain facts: the loop's place, versions, random streams.
    """

    id: Identity
    run: Identity
    number: Natural
    created: Time
    chunks: tuple[Chunk, ...]
    storages: tuple[Storage, ...]
    tensors: dict[str, Tensor]
    objects: dict[str, Natural] = {}
    seals: dict[str, Seal] = {}
    lost: dict[str, str] = {}
    parent: Identity | None = None
    notes: dict[str, Any] = {}


Signed = tuple[Manifest, bool]  # and whether it was signed by oneself


class _Head(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: Literal["gpurescue-checkpoint"] = "gpurescue-checkpoint"
    version: int = VERSION
    digest: Digest
    signature: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None


_head = msgspec.json.Decoder(_Head)
_manifest = msgspec.json.Decoder(Manifest)


def encode(manifest: Manifest, key: bytes | None) -> bytes:
    """A manifest as a file: a line that vouches for the line behind it.

    Args:
        manifest: What to write.
        key: To sign it with; None for a checkpoint whose objects nobody will load.

    Raises:
        Refused: It would not be read again.
    """
    check(manifest)
    try:
        body = msgspec.json.encode(manifest)
        # What ``check`` leaves. All would take 80 ms for 44,400 tensors, at one go.
        rest = msgspec.structs.replace(manifest, storages=(), tensors={})
        _manifest.decode(msgspec.json.encode(rest))
    except (msgspec.MsgspecError, ArithmeticError, RuntimeError, ValueError) as error:
        raise Refused(f"it would not be read again: {error}") from error
    except TypeError as error:
        raise Refused(f"a note is no plain fact: {error}") from error
    if len(body) > LIMIT - _HEAD:
        raise Refused(f"it has {len(body)} bytes, and none has over {LIMIT}")
    head = _Head(digest=xxhash.xxh3_128_hexdigest(body), signature=_sign(body, key))
    return msgspec.json.encode(head) + b"\n" + body


def decode(data: bytes, key: bytes | None) -> Signed:
    """Read a manifest.

    Returns:
        The manifest, and whether it was signed with ``key``.

    Raises:
        Damaged: Its bytes are not those that were written.
        Refused: It is not what this version reads, or does not fit together.
    """
    first, newline, body = data.partition(b"\n")
    if not newline:
        raise Damaged("its first line is cut off")
    try:
        head = _head.decode(first)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Refused(f"it does not begin as a manifest does: {error}") from None
    if head.version > VERSION:
        raise Refused(
            f"it is of version {head.version}, and this reads up to {VERSION}: install "
            "a newer gpurescue"
        )
    if xxhash.xxh3_128_hexdigest(body) != head.digest:
        raise Damaged("its bytes are not those that were written")
    try:
        manifest = _manifest.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Refused(f"it is no manifest: {error}") from None
    check(manifest)
    return manifest, _is_signed(head, body, key)


def is_signed(data: bytes, key: bytes | None) -> bool:
    """True for a manifest that was signed with a key; nothing else is looked at."""
    first, _, body = data.partition(b"\n")
    try:
        return _is_signed(_head.decode(first), body, key)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return False


def _is_signed(head: _Head, body: bytes, key: bytes | None) -> bool:
    expected = _sign(body, key)
    if expected is None or head.signature is None:
        return False
    return hmac.compare_digest(head.signature, expected)


def _sign(body: bytes, key: bytes | None) -> str | None:
    return None if key is None else hmac.digest(key, body, "sha256").hex()


def check(manifest: Manifest) -> None:
    """Check that the parts of a manifest fit.

    Raises:
        Refused: A tensor looks outside of its storage, chunks overlap, a number leads
            nowhere.
    """
    for number, storage in enumerate(manifest.storages):
        if storage.chunk >= len(manifest.chunks):
            raise Refused(f"storage {number} is in chunk {storage.chunk}, which is not")
        there = manifest.chunks[storage.chunk].nbytes
        if storage.offset + storage.nbytes > there:
            raise Refused(
                f"storage {number} ends outside of its chunk of {there} bytes"
            )
    for name, tensor in manifest.tensors.items():
        problem = _problem(tensor, manifest.storages)
        if problem:
            raise Refused(f"tensor {name!r} {problem}")
    for name, number in manifest.objects.items():
        if number >= len(manifest.chunks):
            raise Refused(f"object {name!r} is in chunk {number}, which is not there")
    places = sorted({(c.pack, c.offset, c.nbytes) for c in manifest.chunks if c.nbytes})
    for (pack, offset, nbytes), (other, behind, _) in itertools.pairwise(places):
        if pack == other and offset + nbytes > behind:
            raise Refused(f"chunks overlap at byte {behind} of pack {pack}")


def _problem(tensor: Tensor, storages: tuple[Storage, ...]) -> str | None:
    itemsize = DTYPES.get(tensor.dtype)
    if itemsize is None:
        return f"has an unknown dtype: {tensor.dtype!r}"
    if len(tensor.shape) > MOST_SIZES:
        return f"has {len(tensor.shape)} dimensions, and not up to {MOST_SIZES}"
    if len(tensor.shape) != len(tensor.stride):
        return f"has {len(tensor.shape)} sizes and {len(tensor.stride)} strides"
    if tensor.storage >= len(storages):
        return f"is in storage {tensor.storage}, which is not there"
    if max((*tensor.shape, *tensor.stride, *tensor.whole), default=0) > LARGEST:
        return f"has a size or a stride beyond {LARGEST}"
    needed, there = tensor.num_reached * itemsize, storages[tensor.storage].nbytes
    if needed > there:
        return f"needs {needed} bytes of a storage of {there}"
    if {len(tensor.whole), len(tensor.start)} - {0, len(tensor.shape)}:
        return "is a shard of other dimensions"
    if len(tensor.whole) != len(tensor.start):
        return "is a shard at no place"
    if tensor.whole and any(
        first + size > of
        for first, size, of in zip(
            tensor.start, tensor.shape, tensor.whole, strict=True
        )
    ):
        return f"is a shard that ends outside of {tensor.whole}"
    return None
