"""Loops of a running cell, written down at the top of a round."""

from __future__ import annotations

import itertools
from types import FrameType

import pytest

torch = pytest.importorskip("torch")

from training import Training  # noqa: E402

from gpurescue.magics import keeping  # noqa: E402
from gpurescue.recovery.engine import State  # noqa: E402
from gpurescue.state import capture  # noqa: E402
from gpurescue.state.graph import Parts  # noqa: E402
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
            variables = keeping.variables_of_run(code, names, frame)
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
