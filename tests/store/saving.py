"""Makes small checkpoints."""

from __future__ import annotations

import ctypes
from typing import Any

from gpurescue.state.capture import State
from gpurescue.store import packs
from gpurescue.store.checkpointer import Checkpointer
from gpurescue.store.format import Manifest, Storage, Tensor
from gpurescue.store.plans import Contents
from gpurescue.store.reading import Reader, described
from gpurescue.store.store import Store

RUN = "0123456789abcdef"


def save(store: Store, values: dict[str, bytes], **further: Any) -> Manifest:
    """Save each value as a tensor of bytes."""
    keys = [(packs.digest_of(value), len(value)) for value in values.values()]
    tensors = {
        name: Tensor(dtype="uint8", shape=(len(value),), stride=(1,), storage=number)
        for number, (name, value) in enumerate(values.items())
    }
    with store.plan(keys) as plan:
        data = packs.buffer(plan.layout.nbytes)
        given = list(values.values())
        for number, offset in zip(plan.fresh, plan.layout.offsets, strict=True):
            data[offset : offset + len(given[number])] = given[number]
        storages = tuple(Storage(n, 0, len(value)) for n, value in enumerate(given))
        contents = Contents(run=RUN, storages=storages, tensors=tensors, **further)
        return store.publish(plan, packs.pieces(data), contents)


def _bytes(storage: Any) -> bytes:
    return ctypes.string_at(storage.data_ptr(), storage.nbytes())


def spoil(store: Store, manifest: Manifest, name: str) -> None:
    """Change one byte of a tensor on the disk."""
    chunk = manifest.chunks[manifest.storages[manifest.tensors[name].storage].chunk]
    path = store.path / "packs" / f"{chunk.pack}.pack"
    with path.open("r+b") as file:
        file.seek(chunk.offset + chunk.nbytes // 2)
        (before,) = file.read(1)
        file.seek(chunk.offset + chunk.nbytes // 2)
        file.write(bytes([before ^ 0xFF]))


def load(store: Store, id: str) -> dict[str, bytes]:
    """The tensors of a checkpoint, as they were saved."""
    manifest, _ = store.manifest(id)
    opened = {name: store.pack(name) for name in {c.pack for c in manifest.chunks}}
    found = {}
    for name, tensor in manifest.tensors.items():
        chunk = manifest.chunks[manifest.storages[tensor.storage].chunk]
        found[name] = bytes(opened[chunk.pack].read(chunk))
    return found


def raw_bytes(storage: Any) -> bytes:
    """What is in an untyped storage of torch; ``bytes`` goes over it one by one."""
    import torch

    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes()


def save_tensors(store: Store, tensors: dict[str, Any], **further: Any) -> Manifest:
    """Save tensors of torch; each storage is a chunk."""
    distinct = {t.untyped_storage()._cdata: t for t in tensors.values()}
    numbers = {key: number for number, key in enumerate(distinct)}
    raw = [raw_bytes(t.untyped_storage()) for t in distinct.values()]
    keys = [(packs.digest_of(value), len(value)) for value in raw]
    with store.plan(keys) as plan:
        data = packs.buffer(plan.layout.nbytes)
        for n, offset in zip(plan.fresh, plan.layout.offsets, strict=True):
            data[offset : offset + len(raw[n])] = raw[n]
        contents = Contents(
            run=RUN,
            storages=tuple(Storage(n, 0, len(value)) for n, value in enumerate(raw)),
            tensors={
                name: described(t, numbers[t.untyped_storage()._cdata])
                for name, t in tensors.items()
            },
            **further,
        )
        return store.publish(plan, packs.pieces(data), contents)


def checkpoint(store: Store, variables: dict[str, Any]) -> Reader:
    """Take one checkpoint of what variables lead to."""
    done: list[Any] = []
    checkpointer = Checkpointer(store, RUN, on_done=done.append)
    while not checkpointer.take(State(variables=variables)):
        assert checkpointer.wait(30)
    checkpointer.close()
    (manifest,) = done
    assert isinstance(manifest, Manifest), manifest
    return Reader(store, manifest)
