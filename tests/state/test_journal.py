"""A round of real training that runs again is as if it had never begun."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
sys.path.insert(0, str(Path(__file__).parents[1] / "recovery"))

import harness  # noqa: E402

from gpurescue.errors import CannotResume  # noqa: E402
from gpurescue.recovery.engine import Run, State  # noqa: E402
from gpurescue.recovery.hooks import Hooks  # noqa: E402
from gpurescue.recovery.plan import Action, Restart  # noqa: E402
from gpurescue.state.device import TorchRuntime  # noqa: E402

SETUP = """
import random
import numpy as np
import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(0); random.seed(0); np.random.seed(0)
x, y = load_digits(return_X_y=True)
data = torch.utils.data.TensorDataset(
    torch.tensor(x[:256], dtype=torch.float32) / 16, torch.tensor(y[:256])
)
loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
model = nn.Sequential(
    nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10)
)
optimizer = make_optimizer(model.parameters())
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
losses, seen = [], 0
"""
TRAIN = """
def train():
    global seen
    for epoch in range(2):
        for images, labels in loader:
            images = images + 0.1 * random.random() + 0.1 * np.random.randn()
            check("start")
            loss = nn.functional.cross_entropy(model(images), labels)
            check("forward")
            optimizer.zero_grad()
            loss.backward()
            check("backward")
            optimizer.step()
            check("step")
            scheduler.step()
            losses.append(loss.item())
            seen += len(labels)
            check("end")
"""
PLACES = ["start", "forward", "backward", "step", "end"]
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
}


class Gate:
    """Fails at one place of one round, until it is opened."""

    def __init__(self, place: str, count: int) -> None:
        self.place, self.left, self.is_open = place, count, False

    def __call__(self, place: str) -> None:
        if place == self.place and not self.is_open:
            self.left -= 1
            if self.left == 0:
                raise ValueError(place)


def run(
    place: str, optimizer: str, *, journal: bool = True, count: int = 11
) -> tuple[harness.Notebook, Run, Gate]:
    gate = Gate(place, count)
    book = harness.Notebook()
    book.names |= {"check": gate, "make_optimizer": OPTIMIZERS[optimizer]}
    book.cell(SETUP)
    book.cell(TRAIN)
    hooks = Hooks(
        journal=TorchRuntime().journal(keeps_parameters=journal), marks_all=True
    )
    started = book.start("train()\n", hooks=hooks)
    started.wait(30)
    return book, started, gate


def outcome(names: dict[str, Any]) -> list[Any]:
    state = {**names["model"].state_dict()}
    moments = names["optimizer"].state_dict()["state"]
    return [
        {k: v.tolist() for k, v in state.items()},
        {
            i: {k: torch.as_tensor(v).tolist() for k, v in s.items()}
            for i, s in moments.items()
        },
        names["scheduler"].state_dict(),
        names["optimizer"].param_groups[0]["lr"],
        names["losses"],
        names["seen"],
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    ]


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("place", PLACES)
def test_round_runs_again_bit_for_bit(place: str, optimizer: str) -> None:
    clean, finished, _ = run("nowhere", optimizer)
    assert finished.state is State.FINISHED, finished.error
    expected = outcome(clean.names)
    book, held, gate = run(place, optimizer)
    assert held.state is State.SUSPENDED, held.error
    gate.is_open = True
    held.resume(Restart(action=Action.ITERATION))
    assert held.wait(30) is State.FINISHED, held.error
    assert outcome(book.names) == expected


@pytest.mark.parametrize("place", PLACES)
def test_without_copies_a_step_cannot_be_taken_back(place: str) -> None:
    book, held, gate = run(place, "adam", journal=False)
    gate.is_open = True
    if place in {"step", "end"}:
        with pytest.raises(CannotResume, match=r"Adam\.step has moved the parameters"):
            held.resume(Restart(action=Action.ITERATION))
        held.resume(Restart())
    else:
        held.resume(Restart(action=Action.ITERATION))
    assert held.wait(30) is State.FINISHED, held.error
    clean, _, _ = run("nowhere", "adam")
    assert outcome(book.names)[0] == outcome(clean.names)[0]


def test_first_step_of_all_can_be_taken_back() -> None:
    clean, _, _ = run("nowhere", "adam")
    expected = outcome(clean.names)
    book, held, gate = run("step", "adam", count=1)
    gate.is_open = True
    held.resume(Restart(action=Action.ITERATION))
    assert held.wait(30) is State.FINISHED, held.error
    assert outcome(book.names) == expected


def test_skipped_batch_is_as_if_it_had_not_been_there() -> None:
    """The random streams go on where they were when the batch came."""
    book, held, _ = run("backward", "adam", count=3)
    held.resume(Restart(action=Action.SKIP_BATCH))
    assert held.wait(30) is State.FINISHED, held.error
    assert len(book.names["losses"]) == 15
    assert book.names["model"][1].num_batches_tracked == 15


def test_gradients_that_were_added_to_are_refused() -> None:
    book = harness.Notebook()
    gate = Gate("backward", 4)
    book.names |= {"check": gate, "make_optimizer": OPTIMIZERS["sgd"]}
    book.cell(SETUP)
    body = TRAIN.replace("            optimizer.zero_grad()\n", "")
    book.cell(body.replace("optimizer.step()", "pass").replace("scheduler.step()", ""))
    hooks = Hooks(journal=TorchRuntime().journal(keeps_parameters=True), marks_all=True)
    held = book.start("train()\n", hooks=hooks)
    assert held.wait(30) is State.SUSPENDED
    with pytest.raises(CannotResume, match="gradients were added"):
        held.resume(Restart(action=Action.ITERATION))
    gate.is_open = True
    held.resume(Restart())
    assert held.wait(30) is State.FINISHED, held.error
