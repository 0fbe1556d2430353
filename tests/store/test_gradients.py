"""Gradients at a boundary are state: accumulation goes on from them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from saving import RUN, checkpoint
from torch import nn

from gpurescue.errors import UsageError
from gpurescue.state import slots
from gpurescue.state.capture import State, zeroed
from gpurescue.state.iterators import Loop
from gpurescue.state.named import tree
from gpurescue.store import objects
from gpurescue.store.checkpointer import Checkpointer
from gpurescue.store.exporting import Target, export
from gpurescue.store.restore import restore
from gpurescue.store.store import Store


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(300, 300), nn.Linear(300, 2)
        self.unused = nn.Linear(3, 3)
        self.register_buffer("table", torch.arange(5.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x))


def trained() -> dict[str, Any]:
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(8, 300)).square().sum().backward()
    optimizer.step()
    return {"net": net, "optimizer": optimizer}


def gradients(net: nn.Module) -> dict[str, Any]:
    return {name: p.grad for name, p in net.named_parameters()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b))
        for a, b in zip(one.values(), other.values(), strict=True)
    )


@pytest.mark.parametrize("change", ["none", "more", "all"])
def test_gradients_are_as_they_were(store: Store, change: str) -> None:
    live = trained()
    net = live["net"]
    expected = copy.deepcopy(gradients(net))
    assert expected["unused.weight"] is None
    reader = checkpoint(store, live)
    assert "net.first.weight.grad" in reader.manifest.tensors
    assert "net.unused.weight.grad" not in reader.manifest.tensors
    if change == "none":
        net.zero_grad()
    else:
        net(torch.randn(8, 300)).sum().backward()
    if change == "all":
        net.unused(torch.ones(3)).sum().backward()
    done = restore(reader, live)
    done.wait()
    assert same(gradients(net), expected)
    assert done.missing == done.unused == ()
    gone = {"net.unused.weight.grad", "net.unused.bias.grad"} if change == "all" else ()
    assert set(done.dropped) == set(gone)


def test_accumulation_goes_on_in_objects_that_are_made_again(store: Store) -> None:
    live = trained()
    reader = checkpoint(store, live)
    found = objects.load(store, reader.manifest.id)
    batch = torch.randn(8, 300)
    for one in (live, found):
        one["net"](batch).sum().backward()
        one["optimizer"].step()
    assert same(gradients(found["net"]), gradients(live["net"]))
    assert same(found["net"].state_dict(), live["net"].state_dict())
    assert slots.skeletons(tree(found)) == slots.skeletons(tree(live))


def test_tied_weights_and_tensors_without_a_module_have_theirs(store: Store) -> None:
    embed, head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
    head.weight = embed.weight
    alone = torch.ones(3, requires_grad=True)
    model = nn.Sequential(embed, head)
    live = {"model": model, "alone": alone}
    (model(torch.tensor([1, 2])).sum() + (alone * 2).sum()).backward()
    expected = embed.weight.grad.clone()
    reader = checkpoint(store, live)
    model.zero_grad()
    alone.grad = None
    restore(reader, live).wait()
    assert torch.equal(head.weight.grad, expected)
    assert torch.equal(alone.grad, torch.full((3,), 2.0))


def test_gradients_of_a_wrong_shape_are_refused(store: Store) -> None:
    live = trained()
    reader = checkpoint(store, live)
    other = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="Nothing was restored"):
        restore(reader, {"net": other, "optimizer": live["optimizer"]})
    assert other.weight.grad is None


def test_a_run_that_accumulates_tears_no_checkpoint(store: Store) -> None:
    live = trained()
    done: list[Any] = []
    checkpointer = Checkpointer(store, RUN, on_done=done.append)
    expected = []
    while len(done) < 4:
        copied = copy.deepcopy(gradients(live["net"]))
        if checkpointer.take(State(variables=live)):
            expected.append(copied)
        live["net"](torch.randn(8, 300)).sum().backward()
        checkpointer.wait(30)
    checkpointer.close()
    assert checkpointer.counts.torn == checkpointer.counts.stopped == 0
    for manifest, grads in zip(done, expected, strict=False):
        found = objects.load(store, manifest.id)
        assert same(gradients(found["net"]), grads)


# -- what is set to None at once is not state


class Own(torch.optim.SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Does what it wants."""


def test_gradients_that_a_round_begins_with_zeroing_are_left_out(store: Store) -> None:
    live = trained()
    loop = Loop(iter(()), (), (live["optimizer"],))
    reader = checkpoint(store, {**live, "<loop 0>": loop})
    assert not [name for name in reader.manifest.tensors if name.endswith(".grad")]
    found = objects.load(store, reader.manifest.id)
    assert not any(gradients(found["net"]).values())


def test_only_zero_grad_of_torch_is_known_to_set_them_to_none() -> None:
    net = Net()
    patched = torch.optim.SGD(net.parameters())
    patched.zero_grad = lambda: None  # type: ignore[method-assign]
    for owner, is_known in (
        (net, True),
        (torch.optim.SGD(net.parameters()), True),
        (Own(net.parameters()), False),
        (patched, False),
        (None, False),
    ):
        found = zeroed({"loop": Loop(iter(()), (), (owner,))})
        assert bool(found) == is_known


# -- exporting


@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_what_no_state_dict_has_is_not_exported(
    store: Store, tmp_path: Path, format: str
) -> None:
    live = trained()
    reader = checkpoint(store, live)
    assert "net.table" in reader.manifest.tensors
    target = Target(path=tmp_path / "weights", format=format, prefix="net")
    names = export(store, reader.manifest.id, target)
    assert set(names) == set(live["net"].state_dict())


def test_a_buffer_that_is_not_persistent_is_restored(store: Store) -> None:
    live = trained()
    live["net"].table.mul_(3)
    reader = checkpoint(store, live)
    live["net"].table.zero_()
    restore(reader, live).wait()
    assert torch.equal(live["net"].table, torch.arange(5.0) * 3)
