"""Makes small checkpoints."""

from __future__ import annotations

from typing import Any

from gpurescue.store import packs
from gpurescue.store.format import Manifest, Tensor
from gpurescue.store.store import Store

RUN = "0123456789abcdef"


def save(store: Store, values: dict[str, bytes], **further: Any) -> Manifest:
    """Save each value as a tensor of bytes."""
    keys = [(packs.digest_of(value), len(value)) for value in values.values()]
    tensors = {
        name: Tensor(dtype="uint8", shape=(len(value),), stride=(1,), chunk=number)
        for number, (name, value) in enumerate(values.items())
    }
    with store.plan(keys) as plan:
        data = packs.buffer(plan.layout.nbytes)
        given = list(values.values())
        for number, offset in zip(plan.fresh, plan.layout.offsets, strict=True):
            data[offset : offset + len(given[number])] = given[number]
        return store.publish(plan, data, tensors, run=RUN, **further)


def load(store: Store, id: str) -> dict[str, bytes]:
    """The tensors of a checkpoint, as they were saved."""
    manifest, _ = store.manifest(id)
    opened = {name: store.pack(name) for name in {c.pack for c in manifest.chunks}}
    return {
        name: bytes(
            opened[manifest.chunks[t.chunk].pack].read(manifest.chunks[t.chunk])
        )
        for name, t in manifest.tensors.items()
    }
