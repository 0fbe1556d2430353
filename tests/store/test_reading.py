"""Reading tensors of a checkpoint."""

from __future__ import annotations

import pytest
import saving
import torch

from gpurescue.errors import Damaged
from gpurescue.store import packs
from gpurescue.store.format import Storage
from gpurescue.store.reading import Reader, described
from gpurescue.store.store import Contents, Store


def save_tensors(store: Store, tensors):
    """Each storage is a chunk."""
    storages = list({t.untyped_storage()._cdata: t for t in tensors.values()}.values())
    numbers = {t.untyped_storage()._cdata: n for n, t in enumerate(storages)}
    raw = [bytes(t.untyped_storage()) for t in storages]
    keys = [(packs.digest_of(value), len(value)) for value in raw]
    with store.plan(keys) as plan:
        data = packs.buffer(plan.layout.nbytes)
        for n, offset in zip(plan.fresh, plan.layout.offsets, strict=True):
            data[offset : offset + len(raw[n])] = raw[n]
        contents = Contents(
            run=saving.RUN,
            storages=tuple(Storage(n, 0, len(value)) for n, value in enumerate(raw)),
            tensors={
                name: described(t, numbers[t.untyped_storage()._cdata])
                for name, t in tensors.items()
            },
        )
        return store.publish(plan, data, contents)


def test_tensors_come_back_as_they_were(store: Store) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "base": base,
        "view": base[1:, ::2],
        "turned": base.t(),
        "half": torch.randn(3, dtype=torch.bfloat16),
        "flag": torch.tensor(True),
        "empty": torch.empty(0, 3),
    }
    reader = Reader(store, save_tensors(store, tensors))
    for name, tensor in tensors.items():
        found = reader.tensor(name)
        assert found.dtype == tensor.dtype
        assert found.stride() == tensor.stride()
        assert torch.equal(found, tensor)
    reader.tensor("view")[0, 0] = 99
    assert reader.tensor("base")[1, 0] == 99


def test_writing_to_a_tensor_does_not_write_to_the_store(store: Store) -> None:
    manifest = save_tensors(store, {"a": torch.ones(2000)})
    Reader(store, manifest).tensor("a").zero_()
    assert torch.equal(Reader(store, manifest).tensor("a"), torch.ones(2000))
    assert not store.verify()


def test_a_damaged_tensor_is_named_and_others_are_read(store: Store) -> None:
    manifest = save_tensors(store, {"a": torch.ones(9000), "b": torch.zeros(9000)})
    chunk = manifest.chunks[0]
    path = store.path / "packs" / f"{chunk.pack}.pack"
    with path.open("r+b") as file:
        file.seek(chunk.offset + 5)
        file.write(b"\xff")
    reader = Reader(store, manifest)
    with pytest.raises(Damaged, match=r"^a: bytes 0 to 36000"):
        reader.tensor("a")
    assert torch.equal(reader.tensor("b"), torch.zeros(9000))
