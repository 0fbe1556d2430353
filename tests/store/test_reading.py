"""Reading tensors of a checkpoint."""

from __future__ import annotations

import os

import pytest
import torch
from saving import save_tensors, spoil

from gpurescue.errors import Damaged
from gpurescue.store.reading import Reader
from gpurescue.store.store import Store


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
    spoil(store, manifest, "a")
    reader = Reader(store, manifest)
    with pytest.raises(Damaged, match=r"^a: bytes 0 to 36000"):
        reader.tensor("a")
    assert torch.equal(reader.tensor("b"), torch.zeros(9000))


def test_a_file_that_is_cut_off_while_it_is_read_ends_nothing(store: Store) -> None:
    """Nor does a disk that is broken: both send a signal to whoever touches that."""
    manifest = save_tensors(store, {"a": torch.ones(90_000), "b": torch.zeros(9)})
    reader = Reader(store, manifest)
    assert torch.equal(reader.tensor("b"), torch.zeros(9))
    (path,) = (store.path / "packs").iterdir()
    os.truncate(path, 4096)
    with pytest.raises(Damaged, match=r"^a: bytes 0 to 360000 .* cannot be read"):
        reader.tensor("a")
