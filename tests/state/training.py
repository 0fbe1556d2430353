"""A small training on real data, run with a DataLoader that fails and is mended.

The same program runs twice: once with good data, and once with a bug that makes the
loader fail at a chosen sample, is mended while the run is parked, and goes on. Then all
that is left of the two must be the same, bit for bit.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import harness
import numpy as np
import torch
from sklearn.datasets import load_digits

from gpurescue.protocols import Watcher
from gpurescue.recovery.engine import Run, State
from gpurescue.recovery.hooks import Hooks
from gpurescue.recovery.plan import Restart
from gpurescue.source import foreign
from gpurescue.state.device import TorchRuntime

NUM_SAMPLES = 160
made: list[Training] = []
_DIGITS = load_digits(return_X_y=True)

SETUP = """\
import itertools, random
import numpy as np, torch
from torch import nn
from torch.utils.data import *

class Digits(Dataset):
    def __init__(self, change=None):
        self.images, self.labels = images, labels
        self.change = change
    def __len__(self):
        return len(self.images)
    def __getitem__(self, index):
        order.append(index)
        image = self.images[index]
        if self.change is not None:
            image = self.change(image)
        return image, self.labels[index]
"""
BODY = """\
torch.manual_seed(5); random.seed(5); np.random.seed(5)
model = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
{make}
for epoch in range({epochs}):
    for batch in {loop}:
        x, y = {unpack}
        note(x, y)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        random.random(); np.random.rand()
"""


@dataclass
class Training:
    """One program, in a notebook of its own.

    Attributes:
        make: Makes ``loader``.
        define: A cell before it.
        loop: What the loop goes over.
        unpack: Gets the batch out of an item.
    """

    make: str
    define: str = ""
    loop: str = "loader"
    unpack: str = "batch"
    epochs: int = 2
    book: harness.Notebook = field(default_factory=harness.Notebook)
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        made.append(self)
        images, labels = _DIGITS
        kept = torch.tensor(images[:NUM_SAMPLES], dtype=torch.float32) / 16
        self.images = list(kept)
        self.names = self.book.names
        self.names |= {
            "images": self.images,
            "labels": [int(label) for label in labels[:NUM_SAMPLES]],
            "note": self.note,
            "order": [],
            "through": through,
        }
        self.book.cell(SETUP)
        self.book.cell(self.define)

    def note(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """What the loop got."""
        text = x.detach().numpy().tobytes() + y.numpy().tobytes()
        self.seen.append(hashlib.sha256(text).hexdigest()[:8])

    def start(self, *, watch: bool = True, watcher: Watcher | None = None) -> Run:
        """Start the run, and wait until it is parked or over."""
        runtime = TorchRuntime()
        hooks = Hooks(on_failure=runtime.rollbacks)
        if watch:
            hooks.on_end = runtime.watch(foreign.held)
        body = BODY.format(
            make=self.make, loop=self.loop, unpack=self.unpack, epochs=self.epochs
        )
        run = self.book.start(body, hooks=hooks, watcher=watcher)
        run.wait(60)
        return run

    def end(self) -> dict[str, Any]:
        """All that is left, as text."""
        model, optimizer = self.names["model"], self.names["optimizer"]
        moments = [v for s in optimizer.state.values() for v in s.values()]
        tensors = [*model.state_dict().values(), *moments, torch.get_rng_state()]
        name, words, *rest = np.random.get_state()
        return {
            "batches": self.seen,
            "tensors": [hashlib.sha256(_bytes(t)).hexdigest()[:8] for t in tensors],
            "random": hash(random.getstate()),
            "numpy": (name, words.tobytes(), *rest),
        }


def let_go() -> None:
    """End the workers that belong to loaders of finished trainings.

    Left to the garbage collector, the queues of an iterator are closed before it can
    tell its workers to end, and torch waits five seconds for each of them.
    """
    while made:
        made.pop().names.clear()


def through(items: Any) -> Any:
    """A library's generator."""
    yield from items


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


def clean(training: Training) -> dict[str, Any]:
    """What is left of a run that never failed, without anybody watching."""
    run = training.start(watch=False)
    assert run.state is State.FINISHED, run.error
    return training.end()


def resume(run: Run, **options: Any) -> State:
    """Go on, and wait again."""
    run.resume(Restart(**options))
    return run.wait(60)


def spoil(training: Training, index: int = 100) -> Callable[[], None]:
    """Make one sample too short; the result mends it."""
    good = training.images[index]
    training.images[index] = good[:-1]

    def mend() -> None:
        training.images[index] = good

    return mend
