"""State of all kinds, from a checkpoint: in objects made again, and put back."""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from saving import checkpoint
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import lr_scheduler, swa_utils

from gpurescue.state import slots
from gpurescue.state.capture import write_streams
from gpurescue.state.named import tree
from gpurescue.store import objects
from gpurescue.store.jobs import STREAMS
from gpurescue.store.restore import restore
from gpurescue.store.store import Store

NUM_BEFORE, NUM_AFTER = 7, 6


@dataclass
class Program:
    """Makes what it consists of, and does one step."""

    make: Callable[[], dict[str, Any]]
    step: Callable[..., Any]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1))


def loss_of(model: nn.Module) -> torch.Tensor:
    return model(torch.randn(5, 6)).square().mean()


def plain(p: dict[str, Any]) -> None:
    p["opt"].zero_grad()
    loss_of(p["net"]).backward()
    p["opt"].step()


def adam(**more: Callable[[Any], Any]) -> dict[str, Any]:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    found = {"net": model, "opt": optimizer}
    return found | {name: make(found) for name, make in more.items()}


# -- schedules


def sequential(p: dict[str, Any]) -> Any:
    parts = [
        lr_scheduler.LinearLR(p["opt"], 0.1, total_iters=4),
        lr_scheduler.CosineAnnealingLR(p["opt"], 9),
        lr_scheduler.StepLR(p["opt"], 2, 0.5),
    ]
    return lr_scheduler.SequentialLR(p["opt"], parts, [4, 9])


def scheduled(p: dict[str, Any]) -> None:
    plain(p)
    p["sched"].step()


def on_plateau(p: dict[str, Any]) -> None:
    plain(p)
    p["sched"].step(loss_of(p["net"]).item())


def swa() -> dict[str, Any]:
    found = adam(sched=lambda p: swa_utils.SWALR(p["opt"], swa_lr=0.01))
    return found | {"mean": swa_utils.AveragedModel(found["net"], use_buffers=True)}


def averaging(p: dict[str, Any]) -> None:
    scheduled(p)
    p["mean"].update_parameters(p["net"])


# -- scaling, averages, optimizers


def scaled() -> dict[str, Any]:
    return adam(scaler=lambda p: torch.amp.GradScaler("cpu", 1024.0, growth_interval=3))


def scaling(p: dict[str, Any]) -> None:
    p["opt"].zero_grad()
    p["scaler"].scale(loss_of(p["net"])).backward()
    p["scaler"].unscale_(p["opt"])
    p["scaler"].step(p["opt"])
    p["scaler"].update()


def ema() -> dict[str, Any]:
    found = adam()
    copies = {name: x.detach().clone() for name, x in found["net"].named_parameters()}
    return found | {"copies": copies}


def following(p: dict[str, Any]) -> None:
    plain(p)
    for name, value in p["net"].named_parameters():
        p["copies"][name].lerp_(value.detach(), 0.1)


def lbfgs() -> dict[str, Any]:
    model = net()
    search = {"history_size": 4, "line_search_fn": "strong_wolfe"}
    return {"net": model, "opt": torch.optim.LBFGS(model.parameters(), 0.3, **search)}


def searching(p: dict[str, Any]) -> None:
    batch = torch.randn(5, 6)
    p["net"].eval()

    def closure() -> torch.Tensor:
        p["opt"].zero_grad()
        loss = p["net"](batch).square().mean()
        loss.backward()
        return loss

    p["opt"].step(closure)


class Lookahead:
    """Wraps an optimizer, and is none."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.count = inner, 0
        groups = inner.param_groups
        self.slow = [p.detach().clone() for group in groups for p in group["params"]]

    def zero_grad(self) -> None:
        self.inner.zero_grad()

    def step(self) -> None:
        self.inner.step()
        self.count += 1
        fast = [p for group in self.inner.param_groups for p in group["params"]]
        if self.count % 3 == 0:
            with torch.no_grad():
                for slow, parameter in zip(self.slow, fast, strict=True):
                    slow.lerp_(parameter, 0.5)
                    parameter.copy_(slow)


def wrapped() -> dict[str, Any]:
    model = net()
    inner = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return {"net": model, "opt": Lookahead(inner)}


def several() -> dict[str, Any]:
    model = net()
    first, last = model[0], model[3]
    parts = {
        "first": torch.optim.RMSprop(first.parameters(), centered=True),
        "rest": [torch.optim.Adagrad(last.parameters())],
    }
    return {"net": model, "parts": parts}


def taking_turns(p: dict[str, Any]) -> None:
    p["net"].zero_grad()
    loss_of(p["net"]).backward()
    p["parts"]["first"].step()
    p["parts"]["rest"][0].step()


# -- modules


def tied() -> dict[str, Any]:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 1))
    model[2].weight = model[0].weight
    return {"net": model, "opt": torch.optim.Adam(model.parameters(), 0.02)}


def normed() -> dict[str, Any]:
    first = parametrizations.weight_norm(nn.Linear(6, 8))
    model = nn.Sequential(first, parametrizations.spectral_norm(nn.Linear(8, 1)))
    return {"net": model, "opt": torch.optim.Adam(model.parameters(), 0.02)}


class Counting(nn.Module):
    """A buffer that is in no state dict, and one that is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(4)
        self.register_buffer("calls", torch.zeros(4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.norm(self.inner(x)) * self.calls.cos()


def counting() -> dict[str, Any]:
    model = Counting()
    return {"net": model, "opt": torch.optim.Adam(model.parameters(), 0.02)}


def flat() -> dict[str, Any]:
    """All parameters are views of one storage."""
    whole = torch.randn(6 * 8 + 8 + 8 + 1)
    model, at = net(), 0
    for parameter in model.parameters():
        parameter.data = whole[at : at + parameter.numel()].view_as(parameter)
        at += parameter.numel()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.5)
    return {"net": model, "opt": optimizer, "whole": whole}


def decaying(p: dict[str, Any]) -> None:
    plain(p)
    p["whole"].mul_(0.99)


# -- what holds tensors

Pair = namedtuple("Pair", "mean count")


@dataclass
class Memory:
    recent: deque[torch.Tensor] = field(default_factory=lambda: deque(maxlen=3))
    by_class: Any = field(default_factory=lambda: defaultdict(lambda: torch.zeros(2)))
    order: OrderedDict[str, torch.Tensor] = field(default_factory=OrderedDict)


def held() -> dict[str, Any]:
    pair = Pair(torch.zeros(3), [0])
    memory = Memory()
    memory.recent.append(torch.ones(2))
    return adam() | {"memory": memory, "pair": pair, "array": np.zeros(4)}


def holding(p: dict[str, Any]) -> None:
    plain(p)
    memory = p["memory"]
    memory.recent.append(memory.recent[-1] * torch.rand(2))
    memory.by_class[len(memory.recent) % 2] += torch.rand(2)
    memory.order[str(p["pair"].count[0])] = memory.recent[0]
    p["pair"].mean.add_(torch.rand(3))
    p["pair"].count[0] += 1
    p["array"] += np.random.rand(4)


def streams() -> dict[str, Any]:
    return {
        "numpy": np.random.default_rng(3),
        "philox": np.random.Generator(np.random.Philox(4)),
        "legacy": np.random.RandomState(5),
        "python": random.Random(6),
        "torch": torch.Generator().manual_seed(7),
        "seen": [],
    }


def drawing(p: dict[str, Any]) -> None:
    p["seen"] += [
        *p["numpy"].normal(size=3),
        *p["philox"].random(3),
        *p["legacy"].randn(3),
        p["python"].gauss(0, 1),
        *torch.randn(17, generator=p["torch"]).tolist(),
    ]


PROGRAMS = {
    "plain": Program(adam, plain),
    "SequentialLR": Program(lambda: adam(sched=sequential), scheduled),
    "OneCycleLR": Program(
        lambda: adam(sched=lambda p: lr_scheduler.OneCycleLR(p["opt"], 0.1, 20)),
        scheduled,
    ),
    "LambdaLR": Program(
        lambda: adam(sched=lambda p: lr_scheduler.LambdaLR(p["opt"], lambda n: 0.9**n)),
        scheduled,
    ),
    "ReduceLROnPlateau": Program(
        lambda: adam(
            sched=lambda p: lr_scheduler.ReduceLROnPlateau(p["opt"], patience=1)
        ),
        on_plateau,
    ),
    "SWALR": Program(swa, averaging),
    "GradScaler": Program(scaled, scaling),
    "EMA": Program(ema, following),
    "LBFGS": Program(lbfgs, searching),
    "wrapped optimizer": Program(wrapped, plain),
    "several optimizers": Program(several, taking_turns),
    "tied": Program(tied, plain),
    "parametrizations": Program(normed, plain),
    "non-persistent buffer": Program(counting, plain),
    "views of one storage": Program(flat, decaying),
    "holders": Program(held, holding),
    "random generators": Program(streams, drawing),
}


def flattened(value: Any, depth: int = 12) -> Any:
    """All that a value consists of, to be compared."""
    if isinstance(value, torch.Tensor):
        grad = value.grad if value.is_leaf else None
        return value.tolist(), None if grad is None else grad.tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {str(k): flattened(x, depth - 1) for k, x in value.items() if depth}
    if isinstance(value, list | tuple | deque):
        return [flattened(x, depth - 1) for x in value if depth]
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, nn.Module):
        return flattened(value.state_dict(), depth - 1)
    if isinstance(value, torch.optim.Optimizer):
        return flattened(value.state_dict(), depth - 1)
    own = getattr(value, "__dict__", None)
    return (
        flattened(own, depth - 1) if own and not callable(value) else str(type(value))
    )


def went_on(program: Program, found: dict[str, Any]) -> Any:
    for _ in range(NUM_AFTER):
        program.step(found)
    return flattened(found)


def begun(program: Program) -> dict[str, Any]:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    found = program.make()
    for _ in range(NUM_BEFORE):
        program.step(found)
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_objects_that_are_made_again_go_on_as_they_did(store: Store, name: str) -> None:
    program = PROGRAMS[name]
    found = begun(program)
    reader = checkpoint(store, found)
    assert reader.manifest.lost == {}
    expected = went_on(program, found)
    again = objects.load(store, reader.manifest.id)
    write_streams(reader.object(STREAMS))
    assert went_on(program, again) == expected
    assert expected != flattened(begun(program))


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize(
    "name", sorted(PROGRAMS.keys() - {"holders", "random generators"})
)
def test_live_objects_go_on_as_they_did(store: Store, name: str, lazy: bool) -> None:
    program = PROGRAMS[name]
    found = begun(program)
    reader = checkpoint(store, found)
    expected = went_on(program, found)
    fresh = program.make()
    saved = objects.load(store, reader.manifest.id)
    skeletons = slots.skeletons(tree(saved))
    objects.make_ready(saved, fresh)
    restore(reader, fresh, skeletons=skeletons, lazy=lazy).wait()
    objects.put_back(saved, fresh)
    objects.put_streams_back(reader)
    if name == "wrapped optimizer":
        fresh["opt"].count = saved["opt"].count  # a plain number of the user's
    assert went_on(program, fresh) == expected
