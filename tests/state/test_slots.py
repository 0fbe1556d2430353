"""State of optimizers, put together from tensors and a skeleton."""

from __future__ import annotations

import json

import pytest
import torch

from gpurescue.errors import UsageError
from gpurescue.state import slots
from gpurescue.state.named import tree


def trained(kind, **options):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = kind(model.parameters(), **options)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(3)).square().sum()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    return tree({"model": model, "optimizer": optimizer})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.Adafactor, {}),
        (torch.optim.LBFGS, {"lr": 0.1, "max_iter": 2, "history_size": 2}),
        (torch.optim.LBFGS, {"lr": 0.1, "max_iter": 3, "history_size": 50}),
    ],
)
def test_a_skeleton_and_tensors_make_the_state_again(kind, options) -> None:
    found = trained(kind, **options)
    kept = json.loads(json.dumps(slots.skeletons(found)))
    assert kept
    for owner, skeleton in kept.items():
        optimizer, key = found.owners[owner]
        own = {n: t for n, t in found.tensors.items() if n.startswith(f"{owner}.")}
        paths = {name[len(owner) + 1 :]: tensor for name, tensor in own.items()}
        assert slots.filled(skeleton, paths) == optimizer.state[key]


def test_a_state_has_an_owner_and_a_parameter_has_none() -> None:
    found = trained(torch.optim.LBFGS, lr=0.1, max_iter=3)
    owner = "optimizer.model.weight"
    assert slots.owner_of(f"{owner}.old_dirs.1", found.owners) == owner
    assert slots.owner_of("model.weight", found.owners) is None
    assert slots.owner_of("x", found.owners) is None


def test_what_goes_leaves_no_gap_but_in_lists_with_places() -> None:
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    state = {"moment": a, "dirs": [b, c], "places": [b, c, None], "count": 3}
    left = slots.filled(slots.without(state, {id(a), id(c)}), {})
    assert left == {"dirs": [b], "places": [b, None, None], "count": 3}
    assert "moment" in state


def test_lists_are_made_in_the_order_of_their_numbers() -> None:
    tensors = {f"dirs.{n}": torch.tensor(n) for n in (10, 2, 0, 1, *range(3, 10))}
    made = slots.filled({}, tensors)
    assert [t.item() for t in made["dirs"]] == list(range(11))
    with pytest.raises(UsageError, match=r"dirs\.7"):
        slots.filled({}, {"dirs.7": torch.ones(1)})
