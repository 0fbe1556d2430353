"""Reading tensors of a checkpoint."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from saving import save_tensors, spoil

from gpurescue.errors import Damaged
from gpurescue.store.reading import Reader
from gpurescue.store.restore import restore
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


COLLECTOR = """
import sys
from gpurescue.store.store import Store
store = Store(sys.argv[1])
store.remove([row.id for row in store.rows()])
gone = store.gc(grace=0.0)
assert any(name.endswith(".pack") for name in gone), gone
"""


@pytest.mark.parametrize("lazy", [True, False])
def test_nobody_takes_away_what_somebody_reads(store: Store, lazy: bool) -> None:
    """Not even another process that removes the checkpoint and collects its packs."""
    saved = torch.nn.Linear(600, 600)
    names = {f"net.{name}": x.detach() for name, x in saved.named_parameters()}
    reader = Reader(store, save_tensors(store, names))
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", COLLECTOR, str(store.path)],
        env={**os.environ, "PYTHONPATH": str(root)}, check=True,
    )  # fmt: skip
    assert not list((store.path / "packs").iterdir())
    live = torch.nn.Linear(600, 600)
    restore(reader, {"net": live}, lazy=lazy).wait()
    assert torch.equal(live.weight, saved.weight)
    assert torch.equal(live.bias, saved.bias)


def test_a_lost_pack_is_named_and_others_are_read(store: Store) -> None:
    save_tensors(store, {"a": torch.ones(9000)})
    (path,) = (store.path / "packs").iterdir()
    both = save_tensors(store, {"a": torch.ones(9000), "b": torch.zeros(9000)})
    path.unlink()
    reader = Reader(store, both)
    for _ in range(2):
        with pytest.raises(Damaged, match=rf"^a: .*{path.name} is missing"):
            reader.tensor("a")
    assert torch.equal(reader.tensor("b"), torch.zeros(9000))


def test_a_reader_holds_one_descriptor_for_each_pack(store: Store) -> None:
    manifest = save_tensors(store, {"a": torch.ones(9000)})
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    reader = Reader(store, manifest)
    tensor = reader.tensor("a")
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del reader
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert torch.equal(tensor, torch.ones(9000))
