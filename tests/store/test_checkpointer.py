"""Checkpoints of a program that goes on while they are taken."""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import threading
from typing import ClassVar

import numpy as np
import pytest
import saving
import torch

from gpurescue.errors import Locked, NotWritten, StoreError
from gpurescue.state.capture import State, write_streams
from gpurescue.state.rebuilding import Parts, rebuild
from gpurescue.store.checkpointer import Checkpointer
from gpurescue.store.jobs import BUFFERS, GRAPH, STREAMS
from gpurescue.store.reading import Reader
from gpurescue.store.store import Store


@pytest.fixture
def done():
    return []


@pytest.fixture
def checkpointer(store, done):
    made = Checkpointer(store, saving.RUN, on_done=done.append)
    yield made
    made.close()


def objects_of(store: Store, id: str):
    manifest, _ = store.manifest(id)
    reader = Reader(store, manifest)
    first = len(manifest.storages) - manifest.notes[BUFFERS]
    buffers = [reader.bytes_of(n) for n in range(first, len(manifest.storages))]
    parts = Parts(reader.storage, buffers, reader.tensor)
    return rebuild(reader.object(GRAPH), parts), reader


def take(checkpointer: Checkpointer, variables, notes) -> None:
    """Take one, whatever it waits for."""
    while not checkpointer.take(State(variables=variables, notes=notes)):
        assert checkpointer.wait(30)


class Training:
    """A small model that trains by every kind of optimizer that writes differently."""

    def __init__(self, fused: bool = True) -> None:
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(64, 400), torch.nn.BatchNorm1d(400), torch.nn.ReLU(),
            torch.nn.Dropout(0.1), torch.nn.Linear(400, 10),
        )  # fmt: skip
        self.optimizer = torch.optim.AdamW(self.net.parameters(), fused=fused)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 3, 0.5)
        self.losses: list[float] = []

    def step(self) -> None:
        self.optimizer.zero_grad()
        loss = self.net(torch.randn(32, 64)).square().mean()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.losses.append(loss.item())

    def variables(self):
        return {**vars(self), "array": np.arange(9_000.0)}


def test_a_program_goes_on_from_each_of_its_checkpoints(
    store, checkpointer, done
) -> None:
    training = Training()
    for _ in range(12):
        training.step()
        if len(training.losses) % 3 == 0:
            step = len(training.losses)
            take(checkpointer, training.variables(), {"step": step})
    assert checkpointer.wait(30)
    assert [manifest.notes["step"] for manifest in done] == [3, 6, 9, 12]
    assert checkpointer.counts.published == 4
    assert not store.verify()
    for manifest in done:
        found, reader = objects_of(store, manifest.id)
        again = Training()
        write_streams(reader.object(STREAMS))
        vars(again).update({k: v for k, v in found.items() if k != "array"})
        assert np.array_equal(found["array"], np.arange(9_000.0))
        while len(again.losses) < 12:
            again.step()
        assert again.losses == training.losses
        for one, other in zip(
            again.net.state_dict().values(), training.net.state_dict().values(),
            strict=True,
        ):  # fmt: skip
            assert torch.equal(one, other)


def test_a_step_beside_the_copy_changes_nothing_of_it(
    store, checkpointer, done
) -> None:
    training = Training()
    training.step()
    for _ in range(20):
        before = {k: v.clone() for k, v in training.net.state_dict().items()}
        take(checkpointer, training.variables(), {})
        training.step()
        checkpointer.wait()
        reader = Reader(store, done[-1])
        for key, value in before.items():
            assert torch.equal(reader.tensor(f"net.{key}"), value)
    assert checkpointer.counts.published == 20


def test_what_does_not_change_is_written_once(store, checkpointer, done) -> None:
    frozen = torch.nn.Linear(1000, 1000).requires_grad_(False)
    moving = torch.nn.Parameter(torch.randn(20_000))
    for number in range(4):
        moving.data.fill_(number)
        take(checkpointer, {"frozen": frozen, "moving": moving}, {})
        checkpointer.wait()
    added = [row.added for row in store.rows()]
    assert added[0] > 4_000_000
    assert all(80_000 <= n < 120_000 for n in added[1:])


def test_one_at_a_time(store, checkpointer, monkeypatch) -> None:
    holding, go_on = threading.Event(), threading.Event()
    publish = Store.publish

    def slow(self, *given):
        holding.set()
        go_on.wait(30)
        return publish(self, *given)

    monkeypatch.setattr(Store, "publish", slow)
    take(checkpointer, {"x": torch.ones(9)}, {})
    holding.wait(30)
    assert not checkpointer.take(State(variables={"x": torch.ones(9)}))
    go_on.set()
    assert checkpointer.wait(30)
    assert checkpointer.counts.waited == 1
    take(checkpointer, {"x": torch.ones(9)}, {})


def test_what_is_written_by_others_is_given_up_and_then_gathered(
    store, checkpointer, done
) -> None:
    chance = random.Random(0)
    tensors = [torch.randn(50_000) for _ in range(30)]
    outcomes = []
    for _ in range(40):
        before = [t.clone() for t in tensors]
        take(checkpointer, {"tensors": tensors}, {})
        for tensor in chance.sample(tensors, 3):
            tensor.numpy()[:] += 1
        checkpointer.wait()
        outcomes.append(not isinstance(done[-1], StoreError))
        if outcomes[-1]:
            reader = Reader(store, done[-1])
            for number, tensor in enumerate(before):
                assert torch.equal(reader.tensor(f"tensors.{number}"), tensor)
    assert checkpointer.counts.published == outcomes.count(True) > 10
    assert checkpointer.counts.torn == outcomes.count(False)
    assert not store.verify()


def test_a_full_disk_is_told_and_training_goes_on(
    store, checkpointer, done, monkeypatch
) -> None:
    write = os.pwrite

    def full(file, data, offset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    training = Training()
    training.step()
    monkeypatch.setattr(os, "pwrite", full)
    take(checkpointer, training.variables(), {})
    training.step()
    checkpointer.wait()
    assert isinstance(done[-1], NotWritten)
    assert checkpointer.counts.failed == 1
    monkeypatch.setattr(os, "pwrite", write)
    assert store.rows() == []
    take(checkpointer, training.variables(), {})
    checkpointer.wait()
    assert len(store.rows()) == 1
    assert not store.verify()


def test_the_newest_two_are_read_from_memory(store, checkpointer, done) -> None:
    for number in range(4):
        take(checkpointer, {"x": torch.full((30_000,), float(number))}, {})
        checkpointer.wait()
    for pack in (store.path / "packs").iterdir():
        pack.unlink()
    for number in (2, 3):
        found = Reader(store, done[number]).tensor("x")
        assert torch.equal(found, torch.full((30_000,), float(number)))
    with pytest.raises(StoreError, match="missing"):
        Reader(store, done[1]).tensor("x")


def test_a_run_has_one_writer(store, checkpointer) -> None:
    with pytest.raises(Locked):
        Checkpointer(store, saving.RUN)


def test_the_end_waits_for_the_last_one(store) -> None:
    before = threading.active_count()
    one = Checkpointer(store, "f" * 16)
    take(one, {"x": torch.ones(100_000)}, {})
    one.close()
    assert len(store.rows()) == 1
    assert threading.active_count() == before
    Checkpointer(store, "f" * 16).close()


def test_what_cannot_be_captured_is_named(store, checkpointer, done) -> None:
    take(checkpointer, {"trainer": {"own": threading.local()}, "x": 1}, {})
    checkpointer.wait()
    (why,) = done[0].lost.items()
    assert why == ("trainer['own']", "_local: each thread has values of its own in it")


def test_without_any_memory_it_is_refused(store, checkpointer, monkeypatch) -> None:
    monkeypatch.setattr(MEMORY, lambda: 1_000_000)
    with pytest.raises(NotWritten, match=r"25%.*1 MiB.*goes on without"):
        checkpointer.take(State(variables={"x": torch.ones(100_000)}))


MEMORY = "gpurescue.store.room._available_memory"
LITTLE = 300 * 2**20  # a quarter: some pieces, and less than the state below


def large_state() -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    """A frozen tensor that is larger than what may be copied, and some that train."""
    sizes = [25_000_000, *[3_000_000] * 5]
    tensors = [torch.nn.Parameter(torch.randn(size)) for size in sizes]
    tensors[0].requires_grad_(False)
    for tensor in tensors[1:]:
        tensor.grad = torch.ones_like(tensor)
    return tensors, torch.optim.SGD(tensors[1:], lr=0.1, fused=True)


def test_a_state_that_memory_does_not_hold_twice_is_written_as_it_is_copied(
    store, checkpointer, done, monkeypatch
) -> None:
    monkeypatch.setattr(MEMORY, lambda: LITTLE)
    tensors, optimizer = large_state()
    for _ in range(2):
        before = [t.detach().clone() for t in tensors]
        take(checkpointer, {"tensors": tensors, "optimizer": optimizer}, {})
        optimizer.step()
        assert checkpointer.wait(60)
        reader = Reader(store, done[-1])
        for number, tensor in enumerate(before):
            assert torch.equal(reader.tensor(f"tensors.{number}"), tensor)
    assert [row.added > 100_000_000 for row in store.rows()] == [True, False]
    assert not store.verify()


def test_a_disk_that_fails_does_not_hold_a_run_that_waits_for_it(
    store, checkpointer, done, monkeypatch
) -> None:
    def broken(file, data, offset):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(MEMORY, lambda: LITTLE)
    monkeypatch.setattr(os, "pwrite", broken)
    tensors, optimizer = large_state()
    take(checkpointer, {"tensors": tensors, "optimizer": optimizer}, {})
    optimizer.step()
    assert checkpointer.wait(60)
    assert isinstance(done[-1], NotWritten)
    assert store.rows() == store.unwritten() == []


def test_what_is_always_written_meanwhile_is_copied_while_the_run_stands_still(
    store, checkpointer, done
) -> None:
    tensors = [torch.randn(300_000) for _ in range(40)]
    for turn in range(3):  # other tensors each time: what was torn is gathered then
        take(checkpointer, {"tensors": tensors}, {})
        for tensor in tensors[turn * 12 : turn * 12 + 12]:
            tensor.numpy()[:] += 1
        assert checkpointer.wait(60)
    assert checkpointer.counts.stopped in {0, 1}
    assert checkpointer.counts.torn + checkpointer.counts.published == 3
    if checkpointer.counts.torn == 2:
        assert checkpointer.counts.stopped == 1
    assert not store.verify()


def test_old_checkpoints_go_as_new_ones_come(store, checkpointer, done) -> None:
    for number in range(40):
        take(checkpointer, {"x": torch.full((30_000,), float(number))}, {})
    assert checkpointer.wait(30)
    assert checkpointer.counts.published == 40
    left = [row.number for row in store.rows()]
    assert {1, 38, 39, 40} <= set(left)
    assert len(left) < 30
    assert not store.verify()


def test_memory_of_other_devices_is_refused(store, checkpointer) -> None:
    with pytest.raises(NotWritten, match="on the device meta"):
        checkpointer.take(State(variables={"x": torch.ones(3, device="meta")}))


class Probe:
    """Says whether cycles are looked for while it is written."""

    found: ClassVar[list[bool]] = []

    def __reduce__(self):
        self.found.append(gc.isenabled())
        return Probe, ()


@pytest.mark.parametrize("is_on", [True, False])
def test_no_cycles_are_looked_for_while_training_stands_still(
    checkpointer, is_on
) -> None:
    """Of 44,400 tensors that took longer than all the rest."""
    Probe.found.clear()
    if not is_on:
        gc.disable()
    try:
        take(checkpointer, {"probe": Probe()}, {})
        assert gc.isenabled() is is_on
    finally:
        gc.enable()
    assert Probe.found
    assert not any(Probe.found)


def test_texts_of_code_are_written_once(store, checkpointer, done) -> None:
    sources = {"one": "x = 1\n", "two": "y = 2\n", "copy": "x = 1\n"}
    for number in range(2):
        while not checkpointer.take(State(variables={"n": number}, sources=sources)):
            assert checkpointer.wait(30)
        assert checkpointer.wait(30)
    first, second = done
    texts = [name for name in second.objects if name.startswith("source ")]
    assert len(texts) == 2
    for name in texts:
        assert second.chunks[second.objects[name]] == first.chunks[first.objects[name]]
    reader = Reader(store, second)
    code = json.loads(bytes(reader.object("code")))
    found = {n: bytes(reader.object(f"source {sha}")) for n, sha in code.items()}
    assert found == {name: text.encode() for name, text in sources.items()}
