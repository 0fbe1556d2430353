"""Memory that is written to while it is copied is copied first, or found torn."""

from __future__ import annotations

import ctypes
import os
import random
import sys
import threading
from collections import Counter

import far
import numpy as np
import pytest
import torch

from gpurescue.errors import Torn
from gpurescue.state.named import named
from gpurescue.store.hashing import mark_of
from gpurescue.store.layout import lay_out
from gpurescue.store.memory import Memory
from gpurescue.store.packs import digest_of
from gpurescue.store.pipe import Pipe
from gpurescue.store.snapshot import Snapshot, Snapshotter
from gpurescue.store.staging import Staging

LONG = os.environ.get("GPURESCUE_LONG") == "1"


@pytest.fixture(params=["host", "device"])
def snapshotter(request, monkeypatch):
    if request.param == "device":
        far.pretend(monkeypatch)
    made = Snapshotter(lane=far.Lane)
    yield made
    made.close()


def memory_of(variables):
    found = Memory()
    storages = [t.untyped_storage() for t in named(variables).values()]
    for storage in {s._cdata: s for s in storages}.values():
        found.add_storage(storage)
    return found


def bytes_at(address, nbytes):
    return ctypes.string_at(address, nbytes)


class Copying:
    """Copies a snapshot in the background; what came of it, against what it was."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        memory = snapshot.memory
        self.before = [
            bytes_at(a, n) for a, n in zip(memory.addresses, memory.sizes, strict=True)
        ]
        self.staging = Staging()
        self.layout = lay_out([chunk.nbytes for chunk in snapshot.chunks])
        self.staging.reserve(self.layout.nbytes)
        self.torn: Torn | None = None
        pipe = Pipe(self.staging, self.layout.nbytes)
        snapshot.identify()
        snapshot.place(enumerate(self.layout.offsets), pipe)
        self.thread = threading.Thread(target=self.copy)

    def copy(self) -> None:
        try:
            self.snapshot.copy()
        except Torn as torn:
            self.torn = torn

    def copied(self) -> list[bytes]:
        sizes = [len(value) for value in self.before]
        return [
            bytes_at(
                self.staging.address + self.layout.offsets[p.chunk] + p.offset, nbytes
            )
            for p, nbytes in zip(self.snapshot.parts, sizes, strict=True)
        ]


class Net(torch.nn.Module):
    def __init__(self, width: int = 300) -> None:
        super().__init__()
        self.first = torch.nn.Linear(width, width)
        self.norm = torch.nn.BatchNorm1d(width)
        self.wide = torch.nn.BatchNorm1d(20_000)  # its statistics are large
        self.last = torch.nn.Linear(width, width, bias=False)

    def forward(self, x):
        wide = self.wide(x[:, :1].expand(-1, 20_000))
        return self.last(self.norm(self.first(x))).sum() + wide.sum()


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "fused SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, foreach=False),
    "foreach Adam": lambda p: torch.optim.Adam(p, foreach=True),
    "fused AdamW": lambda p: torch.optim.AdamW(p, fused=True),
    "fused Adagrad": lambda p: torch.optim.Adagrad(p, fused=True),
    "LBFGS": lambda p: torch.optim.LBFGS(p, max_iter=2, history_size=3),
}


def stepping(kind):
    torch.manual_seed(0)
    net = Net()
    optimizer = OPTIMIZERS[kind](net.parameters())

    def step() -> None:
        def closure():
            optimizer.zero_grad()
            loss = net(torch.randn(8, 300)).square()
            loss.backward()
            return loss

        optimizer.step(closure)

    step()
    return {"net": net, "optimizer": optimizer}, step


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_while_copying_tears_nothing(kind, snapshotter) -> None:
    """But the statistics of a large BatchNorm: those are gathered the next time."""
    variables, step = stepping(kind)
    for is_known in (False, True):
        memory = memory_of(variables)
        copying = Copying(snapshotter.take(memory))
        statistics = {variables["net"].wide.running_mean.data_ptr()}
        statistics.add(variables["net"].wide.running_var.data_ptr())
        numbers = {n for n, a in enumerate(memory.addresses) if a in statistics}
        step()  # before anything is copied in the background
        assert copying.snapshot.num_saved > 0
        copying.copy()
        found = copying.copied()
        torn = set() if copying.torn is None else set(copying.torn.numbers)
        assert torn == (set() if is_known else numbers)
        for number, before in enumerate(copying.before):
            assert (found[number] == before) is (number not in torn)
        if copying.torn is not None:
            snapshotter.found_torn(copying.snapshot, copying.torn)


def numpy_alias(p):
    p.detach().numpy().ravel()[p.numel() // 2] += 1


def through_storage(p):
    storage = p.untyped_storage()
    storage[storage.nbytes() - 3] = (storage[storage.nbytes() - 3] + 1) % 256


def swapped(p):
    torch.utils.swap_tensors(p, torch.nn.Parameter(torch.randn_like(p)))


def new_data(p):
    p.data = torch.randn_like(p)


def no_grad_multiplied(p):
    with torch.no_grad():
        p.mul_(1.5)


def one_bit(p):
    p.data.view(-1)[-1].neg_()


WRITES = {
    "p.data.mul_": lambda p: p.data.mul_(0.5),
    "p.data.neg_": lambda p: p.data.neg_(),
    "p.mul_": no_grad_multiplied,
    "numpy": numpy_alias,
    "storage": through_storage,
    "p.data =": new_data,
    "swap_tensors": swapped,
    "one bit": one_bit,
    "dlpack": lambda p: torch.from_dlpack(p.detach()).add_(1),
    "foreach": lambda p: torch._foreach_mul_([p.data], 2.0),
}


@pytest.mark.parametrize("form", WRITES)
def test_what_is_written_while_it_is_copied_is_never_taken_for_whole(
    form, snapshotter
) -> None:
    chance, outcomes = random.Random(form), Counter()
    for _ in range(1500 if LONG else 60):
        tensors = [torch.nn.Parameter(torch.randn(40_000)) for _ in range(12)]
        copying = Copying(snapshotter.take(memory_of({"tensors": tensors})))
        copying.thread.start()
        for _ in range(chance.randrange(400)):
            pass
        for tensor in chance.sample(tensors, 4):
            WRITES[form](tensor)
        copying.thread.join()
        torn = set() if copying.torn is None else set(copying.torn.numbers)
        found = copying.copied()
        wrong = {n for n, b in enumerate(copying.before) if found[n] != b}
        assert wrong <= torn
        outcomes["torn" if torn else "whole"] += 1
    assert outcomes["whole"] + outcomes["torn"] > 0
    if form in {"p.data =", "swap_tensors"}:  # the old memory is as it was
        assert not outcomes["torn"]


def test_equal_memory_has_equal_keys_wherever_it_is(snapshotter) -> None:
    sizes = [3, 70_000, 17, 0, 1_000_000, 5_000, 300_000]
    values = [torch.randn(size) for size in sizes]
    keys = []
    for _ in range(2):
        memory = memory_of({"v": [value.clone() for value in values]})
        assert sum(memory.sizes) == 4 * sum(sizes)
        taken = snapshotter.take(memory)
        taken.identify()
        keys.append(taken.keys)
        taken.forget()
    assert keys[0] == keys[1]
    expected = {digest_of(values[1].numpy()), f"device-{mark_of(values[1].numpy())}"}
    assert keys[0][1][0] in expected


def test_arrays_are_memory_too(snapshotter) -> None:
    memory = Memory()
    arrays = [np.arange(50_000), np.zeros(0), np.arange(3)]
    for array in arrays:
        memory.add_buffer(array)
    copying = Copying(snapshotter.take(memory))
    copying.copy()
    assert copying.copied() == [array.tobytes() for array in arrays]


def test_hooks_of_optimizers_are_as_before(snapshotter) -> None:
    hooks = sys.modules["torch.optim.optimizer"]._global_optimizer_pre_hooks
    before = dict(hooks)
    variables, _ = stepping("Adam")
    taken = snapshotter.take(memory_of(variables))
    assert len(hooks) == len(before) + 1
    Copying(taken).copy()
    assert dict(hooks) == before


def test_a_step_goes_on_if_nothing_is_copied_after_all(snapshotter) -> None:
    variables, step = stepping("Adam")
    taken = snapshotter.take(memory_of(variables))
    stepper = threading.Thread(target=step)
    stepper.start()
    taken.forget()
    stepper.join(30)
    assert not stepper.is_alive()
