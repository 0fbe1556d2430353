"""Statements that only look, whatever they do."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch.utils.data import DataLoader, TensorDataset

from gpurescue.state.sandbox import Sandbox


class Scene:
    """A training program, and all that it computes from."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 8),
            torch.nn.BatchNorm1d(8),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(8, 2),
        )
        self.net[1].eval()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)
        self.stream = np.random.default_rng(3)
        self.generator = torch.Generator()
        data = TensorDataset(torch.randn(20, 4), torch.randint(2, (20,)))
        self.loader = DataLoader(data, batch_size=5, shuffle=True)
        self.train()

    def train(self) -> None:
        for x, y in self.loader:
            self.optimizer.zero_grad()
            self.loss(x, y).backward()
            self.optimizer.step()

    def loss(self, x, y):
        return torch.nn.functional.cross_entropy(self.net(x), y)

    def roots(self):
        return list(vars(self).values())

    def digest(self):
        tensors = [*self.net.state_dict().values(), torch.get_rng_state()]
        tensors += [p.grad for p in self.net.parameters() if p.grad is not None]
        tensors += [v for s in self.optimizer.state.values() for v in s.values()]
        return (
            [t.numpy().tobytes() for t in tensors],
            [m.training for m in self.net.modules()],
            [p.requires_grad for p in self.net.parameters()],
            [p.grad is None for p in self.net.parameters()],
            random.getstate(),
            repr(np.random.get_state()),
            repr(self.stream.bit_generator.state),
            self.generator.get_state().tolist(),
            [g["lr"] for g in self.optimizer.param_groups],
            self.schedule.state_dict(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
        )


def draw(scene):
    torch.rand(3)
    random.random()
    np.random.rand()
    scene.stream.random()
    torch.rand(2, generator=scene.generator)


def iterate(scene):
    return [x.sum() for x, _ in scene.loader]


def evaluate(scene):
    scene.net.eval()
    torch.set_grad_enabled(False)
    return scene.net(torch.ones(3, 4))


def forward(scene):
    scene.net.train()
    scene.net(torch.randn(5, 4))


def backward(scene):
    scene.loss(torch.randn(5, 4), torch.zeros(5, dtype=torch.long)).backward()


def forget(scene):
    scene.optimizer.zero_grad(set_to_none=True)


def step(scene):
    scene.optimizer.step()
    scene.schedule.step()


def write(scene):
    scene.net[0].weight.data.fill_(float("nan"))
    scene.net[0].bias.requires_grad_(False)
    torch.set_default_dtype(torch.float64)


def fail(scene):
    write(scene)
    draw(scene)
    raise KeyError("in the statement")


LOOKS = [draw, iterate, evaluate, forward, backward, forget, step, write]


@pytest.mark.parametrize("look", LOOKS)
def test_a_program_goes_on_as_if_nobody_had_looked(look):
    scene = Scene()
    before = scene.digest()
    with Sandbox(scene.roots()):
        look(scene)
        assert scene.digest() != before
    assert scene.digest() == before
    undisturbed = Scene()
    undisturbed.train()
    wanted = undisturbed.digest()
    other = Scene()
    with Sandbox(other.roots()):
        look(other)
    other.train()
    assert other.digest() == wanted


def test_what_a_statement_raises_goes_on_with_everything_put_back():
    scene = Scene()
    before = scene.digest()
    with pytest.raises(KeyError, match="in the statement"), Sandbox(scene.roots()):
        fail(scene)
    assert scene.digest() == before


@pytest.mark.parametrize("look", [draw, iterate, evaluate, forget])
def test_a_backward_pass_to_come_is_not_spoiled(look):
    digests = []
    for looks in (True, False):
        one = Scene()
        loss = one.loss(torch.ones(5, 4), torch.zeros(5, dtype=torch.long))
        if looks:
            with Sandbox(one.roots()):
                look(one)
        one.optimizer.zero_grad()
        loss.backward()
        one.optimizer.step()
        digests.append(one.digest())
    assert digests[0] == digests[1]


def test_it_can_be_used_again():
    scene = Scene()
    box = Sandbox(scene.roots())
    for _ in range(2):
        before = scene.digest()
        with box:
            draw(scene)
        assert scene.digest() == before
        scene.train()
