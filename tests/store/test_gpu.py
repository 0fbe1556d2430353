"""Checkpoints of a program on a GPU, on a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import saving
import torch
from test_checkpointer import objects_of, take

from gpurescue.errors import StoreError
from gpurescue.state.capture import State
from gpurescue.state.named import named
from gpurescue.store.checkpointer import Checkpointer
from gpurescue.store.jobs import DEVICES
from gpurescue.store.lanes import CudaLane, Ring
from gpurescue.store.reading import Reader
from gpurescue.store.restore import restore

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "foreach Adam": lambda p: torch.optim.Adam(p, foreach=True),
    "fused AdamW": lambda p: torch.optim.AdamW(p, fused=True),
    "capturable": lambda p: torch.optim.AdamW(p, capturable=True),
}


@pytest.fixture
def done():
    return []


@pytest.fixture
def checkpointer(store, done):
    made = Checkpointer(store, saving.RUN, on_done=done.append)
    yield made
    made.close()


class Training:
    """A model whose step is longer or shorter than its copy, as the width has it."""

    def __init__(
        self, kind: str = "fused AdamW", width: int = 800, where: str = "cuda"
    ) -> None:
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(64, width), torch.nn.BatchNorm1d(width), torch.nn.ReLU(),
            torch.nn.Linear(width, width), torch.nn.Dropout(0.1),
            torch.nn.Linear(width, 10),
        ).to(where)  # fmt: skip
        self.optimizer = OPTIMIZERS[kind](self.net.parameters())
        self.where = where
        self.losses: list[torch.Tensor] = []

    def step(self) -> None:
        self.optimizer.zero_grad()
        x = torch.randn(256, 64, device=self.where)
        loss = self.net(x).square().mean()
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.detach())

    def tensors(self):
        return named({"net": self.net, "optimizer": self.optimizer})

    def variables(self):
        return {"net": self.net, "optimizer": self.optimizer}


def clones(training: Training) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in training.tensors().items()}


def test_a_side_stream_brings_what_the_current_one_has_written() -> None:
    lane = CudaLane(torch.device("cuda", 0))
    ring = Ring(lane, 2**20, 3)
    source = torch.zeros(50 * 2**20 + 3, dtype=torch.int8, device="cuda")
    for number in range(1, 20):
        for _ in range(20):
            source.mul_(3)
        source.fill_(number)
        lane.follow()
        found = torch.cat([piece.clone() for piece in ring.pieces(source)])
        assert torch.equal(found, torch.full_like(found, number))


@pytest.mark.parametrize("width", [64, 800, 6000])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_steps_beside_the_copy_change_nothing_of_it(
    store, checkpointer, done, kind, width
) -> None:
    training = Training(kind, width)
    training.step()
    for _ in range(4):
        before = clones(training)
        take(checkpointer, training.variables(), {})
        training.step()
        training.step()
        assert checkpointer.wait(60)
        if isinstance(done[-1], StoreError):  # statistics of a wide BatchNorm
            assert checkpointer.counts.torn
            continue
        reader = Reader(store, done[-1])
        assert done[-1].notes[DEVICES].keys() == {"cuda:0"}
        for name, value in before.items():
            assert torch.equal(reader.tensor(name), value.cpu()), name
    assert checkpointer.counts.published >= 2
    assert checkpointer.counts.failed == 0
    assert not store.verify()


def test_checkpoints_change_nothing_of_the_training(checkpointer) -> None:
    plain = Training()
    for _ in range(30):
        plain.step()
    other = Training()
    for number in range(30):
        if number % 3 == 0:
            checkpointer.take(State(variables=other.variables()))
        other.step()
    assert checkpointer.wait(60)
    assert checkpointer.counts.published
    assert torch.equal(torch.stack(plain.losses), torch.stack(other.losses))


WRITES = {
    "p.data.mul_": lambda p: p.data.mul_(0.5),
    "p.data.neg_": lambda p: p.data.neg_(),
    "one element": lambda p: p.data.view(-1)[-1:].neg_(),
    "foreach": lambda p: torch._foreach_mul_([p.data], 2.0),
    "storage": lambda p: p.untyped_storage().fill_(1),
    "p.data =": lambda p: setattr(p, "data", torch.randn_like(p)),
    "given back": lambda p: p.untyped_storage().resize_(0),
}


@pytest.mark.parametrize("form", WRITES)
def test_what_is_written_meanwhile_is_never_taken_for_whole(
    store, checkpointer, done, form
) -> None:
    for _ in range(12):
        tensors = [torch.randn(3_000_000, device="cuda") for _ in range(6)]
        before = [t.cpu() for t in tensors]
        take(checkpointer, {"tensors": tensors}, {})
        for tensor in tensors[::2]:
            WRITES[form](tensor)
        assert checkpointer.wait(60)
        if not isinstance(done[-1], StoreError):
            reader = Reader(store, done[-1])
            for number, value in enumerate(before):
                assert torch.equal(reader.tensor(f"tensors.{number}"), value)
    assert checkpointer.counts.failed == 0
    assert not store.verify()


def test_what_another_stream_is_still_writing_is_waited_for(
    store, checkpointer, done
) -> None:
    """Loaders that fetch ahead do that: the next batch is state of the run."""
    batch = torch.zeros(20_000_000, device="cuda")
    source = torch.ones(20_000_000).pin_memory()
    side = torch.cuda.Stream()
    take(checkpointer, {"batch": batch}, {})
    assert checkpointer.wait(60)
    for number in range(5):
        source.fill_(number)
        with torch.cuda.stream(side):
            batch.copy_(source, non_blocking=True)
        take(checkpointer, {"batch": batch}, {})
        assert checkpointer.wait(60)
        found = Reader(store, done[-1]).tensor("batch")
        assert torch.equal(found, torch.full_like(found, number))


def test_what_does_not_change_is_written_once(store, checkpointer, done) -> None:
    frozen = torch.nn.Linear(3000, 3000).cuda().requires_grad_(False)
    moving = torch.nn.Parameter(torch.randn(20_000, device="cuda"))
    for number in range(4):
        moving.data.fill_(number)
        take(checkpointer, {"frozen": frozen, "moving": moving}, {})
        assert checkpointer.wait(60)
    added = [row.added for row in store.rows()]
    assert added[0] > 36_000_000
    assert all(80_000 <= n < 120_000 for n in added[1:])


@pytest.mark.parametrize("where", ["cuda", "cpu"])
@pytest.mark.parametrize("kind", ["SGD", "fused AdamW"])
def test_it_is_restored_wherever_the_program_is(
    store, checkpointer, done, where, kind
) -> None:
    training = Training(kind)
    training.step()
    before = clones(training)
    take(checkpointer, training.variables(), {})
    assert checkpointer.wait(60)
    other = Training(kind, where=where)
    other.step()
    other.step()
    restore(Reader(store, done[-1]), other.variables()).wait()
    found = other.tensors()
    for name, value in before.items():
        if not name.endswith(".step"):  # a number of the host, for some optimizers
            assert found[name].device.type == where
        assert torch.equal(found[name].cpu(), value.cpu()), name


def test_objects_come_back_on_the_cpu(store, checkpointer, done) -> None:
    value = torch.arange(100_000.0, device="cuda")
    take(checkpointer, {"pair": (value, value[5:]), "odd": {1, 2}}, {})
    assert checkpointer.wait(60)
    found, _ = objects_of(store, done[-1].id)
    assert torch.equal(found["pair"][0], value.cpu())
    assert found["pair"][1].data_ptr() == found["pair"][0].data_ptr() + 20


def test_on_a_device_that_is_full_the_same_is_taken(
    store, checkpointer, done, monkeypatch
) -> None:
    """And nothing of it is left over for the program to fall over."""
    training = Training(width=3000)
    training.step()
    take(checkpointer, training.variables(), {})
    assert checkpointer.wait(60)
    torch.cuda.empty_cache()
    _, whole = torch.cuda.mem_get_info()
    used = torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((used + 4 * 2**20) / whole)
    try:
        before = {name: t.cpu() for name, t in training.tensors().items()}
        take(checkpointer, training.variables(), {})
        assert checkpointer.wait(60)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    reader = Reader(store, done[-1])
    for name, value in before.items():
        assert torch.equal(reader.tensor(name), value), name


def test_no_memory_of_the_device_is_kept(checkpointer) -> None:
    training = Training(width=3000)
    training.step()
    kept = []
    for _ in range(4):
        take(checkpointer, training.variables(), {})
        assert checkpointer.wait(60)
        training.optimizer.zero_grad()
        torch.cuda.synchronize()
        kept.append(torch.cuda.memory_allocated())
        training.step()
    assert len(set(kept[1:])) == 1


def test_nothing_is_taken_while_a_graph_is_captured(checkpointer) -> None:
    value = torch.ones(100_000, device="cuda")
    take(checkpointer, {"value": value}, {})
    assert checkpointer.wait(60)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value.mul_(2)
        assert not checkpointer.take(State(variables={"value": value}))
    graph.replay()
    assert float(value[0]) == 2.0


FAILING = """
import sys

sys.path[:0] = {paths}
import saving
import torch
from test_checkpointer import take

from gpurescue.errors import NotWritten
from gpurescue.store.checkpointer import Checkpointer
from gpurescue.store.store import Store

value = torch.ones(100_000, device="cuda")
made = Checkpointer(Store({store!r}, create=True), saving.RUN)
for _ in range(2):
    take(made, {{"value": value}}, {{}})
    made.wait()
value[torch.tensor([10**9], device="cuda")]  # fails on the device, later
try:
    take(made, {{"value": value}}, {{}})
except NotWritten as error:
    print(error)
made.close()
value.sum().item()
"""


def test_an_error_of_the_programs_own_stays_the_programs_own(tmp_path) -> None:
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1])]
    text = FAILING.format(paths=paths, store=str(tmp_path / "store"))
    found = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=300
    )
    assert "The memory of a device could not be read: CUDA error" in found.stdout
    assert found.returncode == 1
    assert found.stderr.count("Traceback") == 1
    assert "NotWritten" not in found.stderr
