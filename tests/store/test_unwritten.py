"""Checkpoints that no disk takes stay in memory, and can be had from there."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import threading
from collections.abc import Iterator

import far
import pytest
import saving
import torch
from test_faults import CALLS, Disk

from gpurescue.errors import Damaged, Locked, NotWritten, Torn
from gpurescue.state.capture import State
from gpurescue.store import exporting, held, objects, tables
from gpurescue.store import restore as restoring
from gpurescue.store.checkpointer import Checkpointer, Keeping
from gpurescue.store.format import Manifest
from gpurescue.store.reading import Reader
from gpurescue.store.restore import restore
from gpurescue.store.snapshot import Snapshotter
from gpurescue.store.store import Store

KEY = b"k" * 32


class Program:
    """Some of it never changes; what does says which step it is at."""

    def __init__(self, store: Store) -> None:
        self.frozen = torch.nn.Linear(300, 300).requires_grad_(False)
        self.net = torch.nn.Linear(200, 200)
        self.done: list[object] = []
        self.checkpointer = Checkpointer(store, saving.RUN, on_done=self.done.append)

    def take(self, step: int) -> object:
        with torch.no_grad():
            self.net.weight.fill_(step)
        given = {"frozen": self.frozen, "net": self.net}
        while not self.checkpointer.take(State(variables=given, notes={"step": step})):
            assert self.checkpointer.wait(30)
        assert self.checkpointer.wait(30)
        return self.done[-1]

    def assert_has(self, store: Store, id: str, step: int, *, lazy: bool) -> None:
        """A checkpoint has all that there was at a step."""
        manifest, is_signed = store.manifest(id)
        assert (manifest.notes["step"], is_signed) == (step, True)
        frozen, net = torch.nn.Linear(300, 300), torch.nn.Linear(200, 200)
        live = {"frozen": frozen, "net": net}
        restore(Reader(store, manifest), live, lazy=lazy).wait()
        assert torch.equal(net.weight, torch.full_like(net.weight, step))
        assert torch.equal(frozen.weight, self.frozen.weight)
        saved = objects.load(store, id)
        assert torch.equal(saved["net"].weight, net.weight)


@pytest.fixture
def program(store) -> Iterator[Program]:
    made = Program(store)
    yield made
    made.checkpointer.close()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "_LARGE", 256)  # small tensors are mapped too


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def steps(store: Store) -> list[int]:
    """Those of the checkpoints that are in memory only."""
    return [store.manifest(row.id)[0].notes["step"] for row in store.unwritten()]


@pytest.mark.parametrize("begins", [True, False])
def test_the_newest_two_are_there_all_the_same(store, program, monkeypatch, begins):
    """Also for who opens the store anew, as a notebook does."""
    if not begins:
        assert isinstance(program.take(0), Manifest)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        for step in range(1, 5):
            assert isinstance(program.take(step), NotWritten)
    assert "No space left" in str(program.done[-1])
    assert "in the memory" in str(program.done[-1])
    opened = Store(store.path, key=KEY)
    assert steps(opened) == [3, 4]
    for row, step in zip(opened.unwritten(), (3, 4), strict=True):
        for lazy in (True, False):
            program.assert_has(opened, row.id, step, lazy=lazy)
    listed = [(line.unwritten, line.signed) for line in tables.lines(opened)]
    assert listed == [(False, True)] * (not begins) + [(True, True)] * 2
    assert "in memory only" in tables.text(tables.lines(opened))
    assert opened.verify() == {}
    written = program.take(5)
    assert isinstance(written, Manifest)
    program.assert_has(opened, written.id, 5, lazy=True)
    assert steps(opened) == [4]
    assert opened.verify() == {}
    assert program.checkpointer.counts.failed == 4


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("name", CALLS)
def test_whatever_fails_it_is_in_memory(store, program, monkeypatch, name, error):
    """Each system call of a checkpoint that writes, one after the other."""
    first = program.take(0)
    assert isinstance(first, Manifest)
    disk = Disk(monkeypatch, name)
    program.take(1)
    num_calls, disk.error = disk.num_calls, error
    assert num_calls > 1
    failed = 0
    for at in range(num_calls):
        step = 10 + at
        disk.num_calls, disk.fails_at = 0, at
        done = program.take(step)
        disk.fails_at = -1
        if isinstance(done, NotWritten):
            failed += 1
            newest = store.unwritten()[-1].id
            program.assert_has(store, newest, step, lazy=bool(at % 2))
        else:  # not of the checkpoint itself, but of tidying behind it
            assert isinstance(done, Manifest)
        assert store.verify() == {}
        program.assert_has(store, first.id, 0, lazy=False)
    assert failed
    assert isinstance(program.take(99), Manifest)


def test_the_last_one_is_written_when_there_is_room_again(store, monkeypatch):
    program = Program(store)
    program.take(0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        program.take(1)
        program.take(2)
    program.checkpointer.close()
    assert store.unwritten() == []
    newest = store.rows()[-1]
    assert [row.number for row in store.rows()] == [1, 2]
    program.assert_has(Store(store.path, key=KEY), newest.id, 2, lazy=True)
    assert store.verify() == {}


def test_nothing_is_left_in_memory_of_a_run_that_is_over(store, monkeypatch):
    program = Program(store)
    program.take(0)
    monkeypatch.setattr(os, "pwrite", full)
    program.take(1)
    (row,) = store.unwritten()
    program.checkpointer.close()
    assert store.unwritten() == []
    with pytest.raises(Damaged, match="missing"):
        store.manifest(row.id)
    assert len(store.rows()) == 1
    assert held.of(store.path).packs == {}


def test_nothing_is_left_in_memory_of_a_store_that_nobody_has(tmp_path):
    store = Store(tmp_path / "s", key=KEY, create=True)
    path = store.path
    assert path in held._held
    del store
    gc.collect()
    assert path not in held._held


def test_it_can_be_exported(store, program, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        program.take(7)
    (row,) = store.unwritten()
    path = tmp_path / "x.pt"
    target = exporting.Target(path=path, format="torch", prefix="", overwrite=False)
    exporting.export(store, row.id, target)
    saved = torch.load(path, weights_only=True)
    assert torch.equal(saved["net.weight"], torch.full((200, 200), 7.0))


def test_who_collects_garbage_is_not_waited_for(store, program):
    program.take(0)
    with open(store.path / "locks" / "gc", "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert isinstance(program.take(1), Locked)
    (row,) = store.unwritten()
    program.assert_has(store, row.id, 1, lazy=True)
    assert isinstance(program.take(2), Manifest)


def test_a_copy_in_memory_says_nothing_about_the_disk(store, program):
    """What is mapped from the disk is checked as it is there."""
    made = program.take(1)
    assert isinstance(made, Manifest)
    saving.spoil(store, made, "net.weight")
    program.assert_has(store, made.id, 1, lazy=False)
    live = {"frozen": torch.nn.Linear(300, 300), "net": torch.nn.Linear(200, 200)}
    done = restore(Reader(store, made), live)
    with pytest.raises(Damaged, match=r"net\.weight"):
        done.wait()


def test_what_it_needs_of_others_is_not_collected(store, program, monkeypatch):
    """Of the checkpoint before it, which is removed, but for what both have."""
    first = program.take(0)
    assert isinstance(first, Manifest)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        program.take(1)
    (row,) = store.unwritten()
    store.remove([first.id])
    for _ in range(2):
        Store(store.path, key=KEY).gc(grace=0.0)
    assert store.rows() == []
    program.assert_has(store, row.id, 1, lazy=True)
    assert isinstance(program.take(2), Manifest)
    assert store.verify() == {}


def test_two_runs_have_memories_of_their_own(store, program, monkeypatch):
    other = Checkpointer(store, "f" * 16, keeping=Keeping())
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        program.take(1)
    assert len(store.unwritten()) == 1
    other.close()
    assert len(store.unwritten()) == 1


@pytest.mark.parametrize(
    ("name", "at"), [("pwrite", 0), ("pwrite", 2), ("rename", 0), ("rename", 1)]
)
def test_memory_of_a_device_is_copied_to_the_end(store, monkeypatch, name, at):
    """Its digests are not known before; the disk fails long before that."""
    far.pretend(monkeypatch)
    tensors = [torch.nn.Parameter(torch.randn(3_000_000)) for _ in range(5)]
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    optimizer = torch.optim.SGD(tensors, lr=0.1, fused=True)
    before = [tensor.detach().clone() for tensor in tensors]
    done: list[object] = []
    checkpointer = Checkpointer(store, saving.RUN, on_done=done.append)
    checkpointer._snapshotter.close()
    checkpointer._snapshotter = Snapshotter(lane=far.Lane)
    disk = Disk(monkeypatch, name)
    disk.fails_at = at
    while not checkpointer.take(State(variables={"tensors": tensors})):
        assert checkpointer.wait(30)
    optimizer.step()
    assert checkpointer.wait(60)
    assert isinstance(done[-1], NotWritten)
    (row,) = store.unwritten()
    assert_equal(Reader(store, store.manifest(row.id)[0]), before)
    assert store.rows() == []
    disk.fails_at = -1
    checkpointer.close()
    (row,) = store.rows()
    assert_equal(Reader(store, store.manifest(row.id)[0]), before)
    assert store.verify() == {}


def assert_equal(reader: Reader, tensors: list[torch.Tensor]) -> None:
    for number, tensor in enumerate(tensors):
        assert torch.equal(reader.tensor(f"tensors.{number}"), tensor)


def test_what_is_torn_is_not_kept_either(store, monkeypatch):
    done: list[object] = []
    checkpointer = Checkpointer(store, saving.RUN, on_done=done.append)
    go_on, planned = threading.Event(), Store.planned

    def slow(*given):
        assert go_on.wait(30)
        return planned(*given)

    monkeypatch.setattr(Store, "planned", slow)
    tensor = torch.zeros(100_000)
    with open(store.path / "locks" / "gc", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        while not checkpointer.take(State(variables={"x": tensor})):
            assert checkpointer.wait(30)
        tensor.numpy()[:] += 1  # before it was copied, and no optimizer says so
        go_on.set()
        assert checkpointer.wait(30)
    assert isinstance(done[-1], Torn)
    assert store.unwritten() == []
    checkpointer.close()


def test_what_is_out_of_date_is_not_written_last(store, monkeypatch):
    """The newest one went through a ring, and left nothing in memory."""
    done: list[object] = []
    checkpointer = Checkpointer(store, saving.RUN, on_done=done.append)
    for tensor in (torch.zeros(100_000), torch.randn(25_000_000)):
        with monkeypatch.context() as patch:
            if not done:
                patch.setattr(os, "pwrite", full)
            patch.setattr("gpurescue.store.room._available_memory", lambda: 300 * 2**20)
            while not checkpointer.take(State(variables={"x": tensor})):
                assert checkpointer.wait(30)
            assert checkpointer.wait(60)
    assert [type(one) for one in done] == [NotWritten, Manifest]
    assert len(store.unwritten()) == 1
    checkpointer.close()
    (row,) = store.rows()
    assert row.nbytes > tensor.nbytes
    assert store.unwritten() == []
