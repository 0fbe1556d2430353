"""Memory of a device comes to the host whole, or not at all.

Most is done with a stand-in for the device; what needs one is in ``test_gpu.py``.
"""

from __future__ import annotations

import itertools
import random
import time

import far
import pytest
import saving
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checkpointer import Training, objects_of, take

from gpurescue.errors import NotWritten, StoreError
from gpurescue.store import devices
from gpurescue.store.checkpointer import Checkpointer
from gpurescue.store.hashing import mark_of
from gpurescue.store.jobs import DEVICES
from gpurescue.store.lanes import Ring
from gpurescue.store.memory import Memory
from gpurescue.store.reading import Reader
from gpurescue.store.snapshot import Snapshotter

# -- the ring


def filled(nbytes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, (nbytes,), dtype=torch.int8, generator=generator)


@given(
    nbytes=st.integers(0, 3000),
    block=st.integers(1, 700),
    num_slots=st.integers(1, 5),
)
@settings(max_examples=40, deadline=None)
def test_all_arrives_in_order(nbytes, block, num_slots) -> None:
    source = filled(nbytes)
    ring = Ring(far.Lane(delay=0.00005), block, num_slots)
    for _ in range(2):
        pieces = [piece.clone() for piece in ring.pieces(source)]
        assert torch.equal(torch.cat([*pieces, source[:0]]), source)


def test_a_block_is_not_used_while_it_is_read() -> None:
    source = filled(20_000)
    at = 0
    for piece in Ring(far.Lane(), 1000, 3).pieces(source):
        time.sleep(0.002)  # others arrive meanwhile
        assert torch.equal(piece, source[at : at + 1000])
        at += 1000
    assert at == 20_000


def test_who_stops_reading_leaves_no_block_on_its_way() -> None:
    lane = far.Lane(delay=0.01)
    ring = Ring(lane, 1000, 3)
    source, other = filled(9000), filled(9000, 1)
    for turn in range(5):
        for number, _ in enumerate(ring.pieces(source)):
            if number == turn:
                break
        assert lane.num_done == lane.num_sent
        found = torch.cat([piece.clone() for piece in ring.pieces(other)])
        assert torch.equal(found, other)


def test_memory_that_is_given_back_ends_it() -> None:
    """On a GPU what is under way may still be read; here it would be gone."""
    source = filled(100_000)
    ring = Ring(far.Lane(), 1000, 1)
    count = 0
    for _ in ring.pieces(source):
        count += 1
        if count == 5:
            source.untyped_storage().resize_(0)
    assert count == 5


def test_a_device_that_fails_is_told_and_the_ring_goes_on() -> None:
    lane = far.Lane()
    ring = Ring(lane, 1000, 3)
    source = filled(9000)

    def fails(piece: torch.Tensor) -> None:
        if piece.data_ptr() == source.data_ptr() + 4000:
            raise RuntimeError("unspecified launch failure")

    lane.fails = fails
    with pytest.raises(RuntimeError, match="launch failure"):
        list(ring.pieces(source))
    lane.fails = lambda piece: None
    assert sum(piece.numel() for piece in ring.pieces(source)) == 9000


# -- checkpoints


@pytest.fixture
def done():
    return []


@pytest.fixture
def checkpointer(store, done, monkeypatch):
    far.pretend(monkeypatch)
    made = Checkpointer(store, saving.RUN, on_done=done.append)
    made._snapshotter.close()
    made._snapshotter = Snapshotter(lane=far.Lane)
    yield made
    made.close()


def test_a_program_goes_on_from_what_was_on_a_device(store, checkpointer, done) -> None:
    training = Training()
    for _ in range(9):
        training.step()
        if len(training.losses) == 6:
            take(checkpointer, training.variables(), {})
            before = {k: v.clone() for k, v in training.net.state_dict().items()}
    assert checkpointer.wait(30)
    (manifest,) = done
    found, reader = objects_of(store, manifest.id)
    for name, value in before.items():
        assert torch.equal(found["net"].state_dict()[name], value)
        assert torch.equal(reader.tensor(f"net.{name}"), value)
    num_arrays = manifest.notes["num_buffers"]
    assert manifest.notes[DEVICES] == {
        "cpu": [(0, len(manifest.storages) - num_arrays)]
    }
    assert not store.verify()


def test_what_is_on_the_host_has_no_note_of_devices(store, done, monkeypatch) -> None:
    made = Checkpointer(store, saving.RUN, on_done=done.append)
    take(made, {"x": torch.ones(3)}, {})
    made.close()
    assert DEVICES not in done[0].notes


def test_what_a_device_knows_unchanged_is_neither_copied_nor_written(
    store, checkpointer, done
) -> None:
    frozen = torch.nn.Linear(1000, 1000).requires_grad_(False)
    moving = torch.nn.Parameter(torch.randn(20_000))
    twice = [torch.zeros(50_000), torch.zeros(50_000)]
    sent = []
    for number in range(4):
        moving.data.fill_(number)
        take(checkpointer, {"frozen": frozen, "moving": moving, "twice": twice}, {})
        assert checkpointer.wait(30)
        (device,) = checkpointer._snapshotter._devices._known.values()
        sent.append(device.lane.num_sent)
    added = [row.added for row in store.rows()]
    assert added[0] > 4_200_000
    assert all(80_000 <= n < 120_000 for n in added[1:])
    # Marks, what is small (which has changed as well), and what has moved.
    assert {b - a for a, b in itertools.pairwise(sent[1:])} <= {2, 3}
    for manifest in done:
        assert torch.equal(
            Reader(store, manifest).tensor("frozen.weight"), frozen.weight
        )
    assert not store.verify()


def test_what_was_known_and_is_gone_from_the_store_is_written_again(
    store, checkpointer, done
) -> None:
    frozen = torch.randn(100_000)
    take(checkpointer, {"frozen": frozen}, {})
    assert checkpointer.wait(30)
    store.remove([done[0].id])
    store.gc(grace=0.0)
    take(checkpointer, {"frozen": frozen}, {})
    assert checkpointer.wait(30)
    assert torch.equal(Reader(store, done[1]).tensor("frozen"), frozen)
    assert not store.verify()


def test_what_others_write_is_given_up_and_then_gathered(
    store, checkpointer, done
) -> None:
    chance = random.Random(0)
    tensors = [torch.randn(50_000) for _ in range(20)]
    for _ in range(15):
        before = [t.clone() for t in tensors]
        take(checkpointer, {"tensors": tensors}, {})
        for tensor in chance.sample(tensors, 2):
            tensor.data.mul_(2)
        assert checkpointer.wait(30)
        if not isinstance(done[-1], StoreError):
            reader = Reader(store, done[-1])
            for number, tensor in enumerate(before):
                assert torch.equal(reader.tensor(f"tensors.{number}"), tensor)
    counts = checkpointer.counts
    assert counts.published + counts.torn == 15
    assert counts.published > 0
    assert counts.failed == 0
    assert not store.verify()


def test_state_whose_memory_is_given_back_meanwhile_is_given_up(
    store, checkpointer, done, monkeypatch
) -> None:
    monkeypatch.setattr(
        Snapshotter, "take", _then(Snapshotter.take, lambda: tensor.resize_(0))
    )
    value = torch.randn(100_000)
    tensor = value.untyped_storage()
    take(checkpointer, {"x": value}, {})
    assert checkpointer.wait(30)
    assert checkpointer.counts.torn == 1


def _then(function, further):
    def both(*given):
        found = function(*given)
        further()
        return found

    return both


# -- memory of the device runs out


def full(most: int):
    """As it is where there are so many bytes left."""
    hash_there = devices.hash_on_device

    def hashed(sources, block):
        if block > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return hash_there(sources, block)

    return hashed


def gathers_nothing(chunks, nbytes):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("most", [10**9, 10**7, 0])
@pytest.mark.parametrize("gathers", [True, False])
def test_on_a_device_that_is_full_the_same_is_taken(
    store, checkpointer, done, monkeypatch, most, gathers
) -> None:
    monkeypatch.setattr(devices, "hash_on_device", full(most))
    if not gathers:
        monkeypatch.setattr(devices, "_gather_there", gathers_nothing)
    training = Training()
    training.step()
    for _ in range(2):
        before = {k: v.clone() for k, v in training.net.state_dict().items()}
        take(checkpointer, training.variables(), {})
        training.step()
        assert checkpointer.wait(30)
        reader = Reader(store, done[-1])
        for name, value in before.items():
            assert torch.equal(reader.tensor(f"net.{name}"), value)
    take(checkpointer, training.variables(), {})
    assert checkpointer.wait(30)
    take(checkpointer, training.variables(), {})
    assert checkpointer.wait(30)
    assert store.rows()[-1].added < 10_000  # nothing has changed: only objects
    assert not store.verify()


def test_more_that_is_small_than_a_device_gathers_goes_to_the_host(monkeypatch) -> None:
    far.pretend(monkeypatch)
    monkeypatch.setattr(devices, "_GATHERED", 3 * 2**20)
    memory = Memory()
    tensors = [filled(60_000, n) for n in range(100)]  # six chunks
    for tensor in tensors:
        memory.add_storage(tensor.untyped_storage())
    snapshotter = Snapshotter(lane=far.Lane)
    taken = snapshotter.take(memory)
    taken.identify()
    assert [chunk.source is None for chunk in taken.chunks].count(True) > 2
    for chunk in taken.chunks:
        members = [
            (part.offset, tensor)
            for part, tensor in zip(taken.parts, tensors, strict=True)
            if taken.chunks[part.chunk] is chunk
        ]
        expected = torch.zeros(chunk.nbytes, dtype=torch.int8)
        for offset, tensor in members:
            expected[offset : offset + tensor.numel()] = tensor
        assert chunk.mark == mark_of(expected.numpy())
    taken.forget()
    snapshotter.close()


# -- the device fails


def test_a_device_that_fails_at_the_boundary_is_told(
    store, checkpointer, monkeypatch
) -> None:
    def fails(*given):
        raise RuntimeError("CUDA error: an illegal memory access\nCompile with ...")

    take(checkpointer, {"x": torch.ones(100_000)}, {})
    assert checkpointer.wait(30)
    monkeypatch.setattr(far.Lane, "settle", fails)
    with pytest.raises(NotWritten, match=r"illegal memory access; this run goes on"):
        take(checkpointer, {"x": torch.ones(100_000)}, {})
    assert not checkpointer.is_busy


def test_a_device_that_fails_in_the_background_fails_the_checkpoint_only(
    store, checkpointer, done
) -> None:
    training = Training()
    training.step()
    take(checkpointer, training.variables(), {})
    assert checkpointer.wait(30)
    (device,) = checkpointer._snapshotter._devices._known.values()

    def fails(source: torch.Tensor) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    device.lane.fails = fails
    training.step()
    take(checkpointer, training.variables(), {})
    training.step()  # its hook fails too: the step does not
    assert checkpointer.wait(30)
    assert isinstance(done[-1], StoreError)
    assert "launch failure" in str(done[-1])
    assert len(store.rows()) == 1
    device.lane.fails = lambda source: None
    take(checkpointer, training.variables(), {})
    assert checkpointer.wait(30)
    assert len(store.rows()) == 2
    assert not store.verify()


def test_without_memory_for_the_whole_the_steps_wait(
    store, checkpointer, done, monkeypatch
) -> None:
    monkeypatch.setattr("gpurescue.store.room._available_memory", lambda: 300 * 2**20)
    tensors = [torch.nn.Parameter(torch.randn(3_000_000)) for _ in range(9)]
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    optimizer = torch.optim.SGD(tensors, lr=0.1, fused=True)
    for _ in range(2):
        before = [t.detach().clone() for t in tensors]
        take(checkpointer, {"tensors": tensors}, {})
        optimizer.step()
        assert checkpointer.wait(60)
        reader = Reader(store, done[-1])
        for number, tensor in enumerate(before):
            assert torch.equal(reader.tensor(f"tensors.{number}"), tensor)
    assert not store.verify()
