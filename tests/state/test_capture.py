"""What a program consists of, captured."""

from __future__ import annotations

import random

import numpy as np
import torch

from gpurescue.state import capture
from gpurescue.state.rebuilding import Parts, rebuild
from gpurescue.store.format import DTYPES

CELL = """
import math
unused = [1]
class Net(torch.nn.Module):
    scale = 2
    def forward(self, x): return helper(x) * k
def helper(x): return x * table["a"]
k, table, data = 3, {"a": 1}, [4]
def train(): return [step(b) for b in data]
def step(b): return lambda: deepest
deepest, other = 9, 10
net = Net()
"""


def namespace_of(source):
    names = {"torch": torch, "__name__": "__main__"}
    exec(source, names)
    return names


def test_names_are_followed_through_functions_and_classes() -> None:
    names = namespace_of(CELL)
    used = capture.used_names(compile("train(); net", "<cell>", "exec"), names)
    assert set(used) == {
        *("train", "data", "step", "deepest"),
        *("net", "helper", "k", "table"),
    }


def test_variables_of_frames_bear_the_function_and_which_one() -> None:
    frames = [("train", {"x": 1}), ("step", {"y": 2}), ("train", {"x": 3})]
    code = compile("k", "<cell>", "exec")
    found = capture.variables_of(code, {"k": 5, "z": 6}, frames)
    assert found == {"k": 5, "train.x": 1, "step.y": 2, "train.2.x": 3}


def test_tensors_are_kept_by_name_and_the_graph_holds_names() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    extra = torch.nn.Parameter(torch.ones(2))
    extra.note = "mine"
    array = np.arange(5)
    variables = {"model": model, "opt": optimizer, "rest": [extra], "a": array}
    found = capture.capture(variables, DTYPES)
    assert set(found.tensors) >= {"model.0.weight", "opt.model.0.weight.exp_avg"}
    assert found.lost == {}
    storages = [s.clone() for s in found.storages]
    tensors = {
        name: torch.empty(0, dtype=t.dtype).set_(
            storages[found.numbers[name]], t.storage_offset(), t.shape, t.stride()
        )
        for name, t in found.tensors.items()
    }
    buffers = [bytearray(b) for b in found.buffers]
    parts = Parts(storages.__getitem__, buffers, tensors.__getitem__)
    made = rebuild(found.objects, parts)
    assert made["opt"].param_groups[0]["params"][0] is made["model"][0].weight
    assert isinstance(made["model"][0].bias, torch.nn.Parameter)
    assert not made["model"][0].bias.requires_grad
    assert made["rest"][0].note == "mine"
    assert torch.equal(made["rest"][0], extra)
    assert np.array_equal(made["a"], array)
    for key, value in model.state_dict().items():
        assert torch.equal(made["model"].state_dict()[key], value)
    state = made["opt"].state[made["model"][0].weight]
    assert torch.equal(state["exp_avg"], optimizer.state[model[0].weight]["exp_avg"])


def test_tensors_that_are_no_memory_go_with_the_objects() -> None:
    sparse = torch.eye(3).to_sparse()
    found = capture.capture({"s": sparse, "d": torch.ones(3)}, DTYPES)
    assert set(found.tensors) == {"d"}
    storages = found.storages
    made = rebuild(
        found.objects,
        Parts(storages.__getitem__, list(found.buffers), found.tensors.__getitem__),
    )
    assert torch.equal(made["s"].to_dense(), torch.eye(3))


def test_tensors_of_which_not_all_can_be_said_go_with_the_objects() -> None:
    """Or are named, if torch itself could not make them again."""
    one = torch.zeros(4, dtype=torch.uint8)
    variables = {
        "many": torch.ones([1] * 70),
        "bit": one.view(torch.uint1),
        "half a byte": one.view(torch.float4_e2m1fn_x2),
        "bits": one.view(torch.bits8),
        "plain": one,
    }
    found = capture.capture(variables, DTYPES)
    assert set(found.tensors) == {"plain"}
    assert found.lost == {"half a byte": "Tensor", "bits": "Tensor"}
    storages = found.storages
    parts = Parts(storages.__getitem__, [], found.tensors.__getitem__)
    made = rebuild(found.objects, parts)
    assert made["many"].shape == (1,) * 70
    assert made["many"].item() == 1.0
    assert made["bit"].dtype == torch.uint1


def test_streams_go_on_where_they_were() -> None:
    def draws():
        return random.gauss(0, 1), np.random.normal(), torch.randn(3).tolist()

    draws()
    read = capture.read_streams()
    first = draws()
    capture.write_streams(read)
    assert draws() == first
