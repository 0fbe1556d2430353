"""Tensors of a checkpoint, read as they are asked for and checked when they are."""

from __future__ import annotations

import errno
import hashlib
import threading
from typing import Any

from gpurescue.errors import Damaged, Refused, StoreError
from gpurescue.store.format import Chunk, Manifest, Tensor
from gpurescue.store.packs import Pack
from gpurescue.store.store import Store


class Reader:
    """Reads one checkpoint; any thread may ask.

    Nothing is read before it is asked for, and each chunk is checked once. The packs
    are opened at once: whoever removes the checkpoint, and collects what nobody needs,
    does not take them away from here.

    Args:
        store: Where it is.
        manifest: What it consists of.
    """

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self.manifest = manifest
        self._store = store
        names = {chunk.pack for chunk in manifest.chunks}
        self._packs = {name: _opened(store, name) for name in names}
        self._chunks: dict[int, memoryview] = {}
        self._storages: dict[int, Any] = {}
        self._checked: set[int] = set()  # chunks, as they are on the disk
        self._lock = threading.Lock()

    def tensor(self, name: str) -> Any:
        """A tensor that looks at the mapped file: writing to it writes to a copy.

        Tensors that shared their memory share it here.

        Raises:
            KeyError: There is none of that name.
            Damaged: Its bytes are not those that were written.
        """
        found = self.manifest.tensors[name]
        try:
            storage = self.storage(found.storage)
        except Damaged as error:
            raise Damaged(f"{name}: {error}") from error
        return view(found, storage)

    def storage(self, number: int) -> Any:
        """An untyped storage of torch by its number, read and checked.

        Raises:
            Damaged: Its bytes are not those that were written.
        """
        import torch

        with self._lock:
            if number not in self._storages:
                part = self.bytes_of(number)
                made = torch.empty(0, device="cpu").untyped_storage()
                if part.nbytes:
                    made = torch.frombuffer(part, dtype=torch.uint8).untyped_storage()
                self._storages[number] = made
            return self._storages[number]

    def bytes_of(self, number: int) -> memoryview:
        """The bytes of a storage, not copied."""
        storage = self.manifest.storages[number]
        chunk = self._chunk(storage.chunk)
        return chunk[storage.offset : storage.offset + storage.nbytes]

    def unchecked(self, number: int) -> Any:
        """A storage that nobody else has, mapped and not read yet.

        To be used only by who calls ``check`` before anything comes of it.

        Raises:
            Damaged: The pack is missing or cut off.
            OSError: The system has no more room for mappings, or there is no file.
        """
        import torch

        storage = self.manifest.storages[number]
        chunk = self.manifest.chunks[storage.chunk]
        is_there = isinstance(self._packs[chunk.pack], Pack)
        if not is_there and self._store.keeps(chunk.pack):
            raise OSError(errno.ENOENT, "it is in memory only")
        part = self._pack(chunk).unchecked(chunk, storage.offset, storage.nbytes)
        return torch.frombuffer(part, dtype=torch.uint8).untyped_storage()

    def check(self, number: int) -> None:
        """Check a storage as it is on the disk, whatever is in memory.

        Raises:
            Damaged: Its bytes are not those that were written.
        """
        wanted = self.manifest.storages[number].chunk
        if wanted not in self._checked:
            self._read(self.manifest.chunks[wanted])
            self._checked.add(wanted)

    def object(self, name: str) -> memoryview:
        """The bytes of an object, not to be unpickled.

        Raises:
            KeyError: There is none of that name.
            Damaged: Its bytes are not those that were written.
        """
        try:
            return self._chunk(self.manifest.objects[name])
        except Damaged as error:
            raise Damaged(f"{name}: {error}") from error

    def sealed(self, name: str) -> bytes:
        """A copy of the bytes of an object, which are those that were signed.

        Only for a manifest that was signed by oneself.

        Raises:
            KeyError: There is none of that name.
            Damaged: Its bytes are not those that were written.
            Refused: They were exchanged by somebody, or are not sealed.
        """
        data = bytes(self.object(name))  # copied first: the file may change
        if hashlib.sha256(data).hexdigest() != self.manifest.seals.get(name):
            raise Refused(
                f"The object {name!r} of checkpoint {self.manifest.id} is not the one "
                "that was signed; it is not loaded."
            )
        return data

    def _chunk(self, number: int) -> memoryview:
        if number not in self._chunks:
            chunk = self.manifest.chunks[number]
            found = self._store.in_memory(chunk)
            if found is None:
                found = self._read(chunk)
                self._checked.add(number)
            self._chunks[number] = found
        return self._chunks[number]

    def _read(self, chunk: Chunk) -> memoryview:
        try:
            return self._pack(chunk).read(chunk)
        except Damaged:
            self._store.distrust(chunk.pack)
            raise

    def _pack(self, chunk: Chunk) -> Pack:
        found = self._packs[chunk.pack]
        if isinstance(found, StoreError):
            raise type(found)(str(found))
        return found


def _opened(store: Store, name: str) -> Pack | StoreError:
    """A pack, or why there is none: others may be read all the same."""
    try:
        return store.pack(name)
    except StoreError as error:
        return error.with_traceback(None)


def view(described: Tensor, storage: Any) -> Any:
    """A tensor on a storage of the CPU, as the manifest describes it."""
    import torch

    made = torch.empty(0, dtype=getattr(torch, described.dtype), device="cpu")
    return made.set_(storage, described.offset, described.shape, described.stride)


def described(tensor: Any, storage: int) -> Tensor:
    """How the manifest describes a tensor of torch that looks at a storage.

    Args:
        tensor: A strided ``torch.Tensor``.
        storage: The number of its storage.
    """
    return Tensor(
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        stride=tuple(tensor.stride()),
        storage=storage,
        offset=tensor.storage_offset(),
    )
