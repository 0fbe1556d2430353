"""Loops of a running cell, written down at the top of a round."""

from __future__ import annotations

import itertools
from types import FrameType

import harness
import pytest

torch = pytest.importorskip("torch")

from training import Training  # noqa: E402

from gpurescue.magics import scene  # noqa: E402
from gpurescue.recovery.engine import State  # noqa: E402
from gpurescue.state import capture  # noqa: E402
from gpurescue.state.rebuilding import Parts  # noqa: E402
from gpurescue.store.format import DTYPES  # noqa: E402

NUM_ROUNDS = 26  # that are over when the run is written down; 20 in each epoch


class Watcher:
    """Captures what the run consists of, at the top of one round."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.found: capture.Captured | None = None

    def look(self, frame: FrameType, num_rounds: int) -> float:
        if self.found is None and len(self.training.seen) == NUM_ROUNDS:
            code = compile("loader, model, optimizer", "<cell>", "exec")
            names = self.training.names
            variables = scene.variables_of_run(code, names, frame)
            self.found = capture.capture(variables, DTYPES)
            self.tensors = {
                name: tensor.detach().clone()
                for name, tensor in self.found.tensors.items()
            }
            self.storages = [s.clone() for s in self.found.storages]
            self.buffers = [bytearray(b.raw()) for b in self.found.buffers]
        return 0.0


@pytest.mark.parametrize(
    ("loop", "unpack"),
    [
        ("loader", "batch"),
        ("enumerate(tqdm(loader, disable=True))", "batch[1]"),
        ("zip(loader, itertools.count())", "batch[0]"),
    ],
)
def test_the_rest_of_an_epoch_is_the_one_of_the_run(loop: str, unpack: str) -> None:
    make = (
        "from tqdm import tqdm\n"
        "loader = DataLoader(Digits(lambda x: x * torch.rand(())), 8, shuffle=True)"
    )
    training = Training(make, loop=loop, unpack=unpack)
    watcher = Watcher(training)
    run = training.start(watcher=watcher)
    assert run.state is State.FINISHED, run.error
    assert watcher.found is not None
    assert watcher.found.lost == {}
    expected = training.seen[NUM_ROUNDS:]
    parts = Parts(
        watcher.storages.__getitem__, watcher.buffers, watcher.tensors.__getitem__
    )
    found = capture.rebuilt(watcher.found.objects, watcher.found.streams, parts)
    loops = {name: x for name, x in found.items() if "<loop" in name}
    assert list(loops) == ["<loop 0>", "<loop 1>"]
    assert list(loops["<loop 0>"].iterator) == []
    training.seen.clear()
    model, optimizer = found["model"], found["optimizer"]
    inner = loops["<loop 1>"]
    for batch in itertools.chain(inner.items, inner.iterator):
        x, y = eval(unpack, {"batch": batch})
        training.note(x, y)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert training.seen == expected
    for name, value in model.state_dict().items():
        assert torch.equal(value, training.names["model"].state_dict()[name])


@pytest.mark.parametrize(
    ("first", "are_state"), [("", False), ("total = 0; ", True), ("pass; ", True)]
)
def test_gradients_are_state_unless_a_round_begins_without(
    first: str, are_state: bool
) -> None:
    book = harness.Notebook()
    book.cell("import torch\nnet = torch.nn.Linear(2, 1)")
    book.cell("opt = torch.optim.SGD(net.parameters(), 0.1)")
    found: list[set[str]] = []

    class Looking:
        def look(self, frame: FrameType, num_rounds: int) -> float:
            code = compile("net, opt", "<cell>", "exec")
            variables = scene.variables_of_run(code, book.names, frame)
            found.append(set(capture.capture(variables, DTYPES).tensors))
            return 0.0

    book.start(
        f"for x in torch.ones(3, 2):\n    {first}opt.zero_grad()\n"
        "    net(x).sum().backward()\n    opt.step()\n",
        watcher=Looking(),
    ).wait(30)
    gradients = {"net.weight.grad", "net.bias.grad"} if are_state else set()
    assert (
        found
        == [{"net.weight", "net.bias"}] + [{"net.weight", "net.bias"} | gradients] * 2
    )
