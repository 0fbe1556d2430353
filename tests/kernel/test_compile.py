"""torch.compile sees functions as the user wrote them, and follows edits."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.kernel

IMPORTS = """\
import torch
from torch import nn
"""
FUNCTIONS = """\
def scale(x, n):
    total = x
    for i in range(n):
        total = total + i * x
    return total

def step(x, w):
    h = torch.relu(scale(x, 3) @ w)
    with torch.no_grad():
        mean = h.mean()
    while mean > 100:  # depends on data: the graph breaks here, with us and without
        mean = mean / 2
    return (h * mean).sum()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x.sum()
"""
MEASURE = """\
import torch._dynamo
from torch._dynamo.testing import CompileCounterWithBackend
torch._dynamo.reset()
counter = CompileCounterWithBackend("eager")
torch.manual_seed(0)
w = torch.randn(4, 4, requires_grad=True)
compiled = torch.compile(step, backend=counter)
net = torch.compile(Net(), backend=counter)
for i in range(5):
    (compiled(torch.randn(5, 4), w) + net(torch.randn(3, 4))).backward()
breaks = [torch._dynamo.explain(f)(*a).graph_break_count for f, a in
          [(step, (torch.randn(5, 4), w)), (Net(), (torch.randn(3, 4),))]]
(counter.frame_count, counter.op_count, breaks)
"""


def test_no_graph_break_and_no_compilation_is_added(notebook):
    imported = notebook.run(IMPORTS, timeout=60)  # the compiler itself comes later
    assert imported.is_ok
    notebook.run(FUNCTIONS)
    inside = notebook.run("%%resilient\n" + MEASURE, timeout=60)
    assert inside.is_ok, inside.traceback
    beside = notebook.run(MEASURE, timeout=60)
    assert notebook.run("%unload_ext gpurescue").is_ok
    without = notebook.run(FUNCTIONS + MEASURE, timeout=60)
    assert without.value is not None
    assert inside.value == beside.value == without.value
    assert (
        notebook.run(
            "'plain' in torch._dynamo.convert_frame.compile_frame.__code__.co_name"
        ).value
        == "False"
    )


EDITED = """\
def helper(x):
    return x * 2

def loss_of(x, table):
    return (helper(x) + table[x.long()]).sum()
"""
COMPILED = """\
import torch
from torch._dynamo.testing import CompileCounterWithBackend
counter = CompileCounterWithBackend("eager")
compiled = torch.compile(loss_of, backend=counter, dynamic=False)
table, found, counts = torch.ones(3), [], []
"""
BODY = """\
%%resilient
for i in range(6):
    found.append(compiled(torch.full((2,), float(i)), table).item())
    counts.append(counter.frame_count)
"""


def test_an_edited_function_is_compiled_again(notebook):
    notebook.run(EDITED)
    assert notebook.run(COMPILED, timeout=60).is_ok
    crashed = notebook.run(BODY, timeout=60)
    assert crashed.error == "Suspended"
    assert "index 3 is out of bounds" in crashed.traceback
    notebook.run(EDITED.replace("x * 2", "x * 3"))  # what is inlined in it
    notebook.run("table = torch.ones(5)")
    again = notebook.run("%resume", timeout=60)
    assert "index 5 is out of bounds" in again.traceback
    notebook.run(EDITED.replace("x * 2", "x * 3").replace("x.long()", "x.long() % 5"))
    done = notebook.run("%resume", timeout=60)
    assert done.is_ok, done.traceback
    assert notebook.run("found").value == str(
        [2 * (k * i + 1.0) for i, k in enumerate([2, 2, 2, 3, 3, 3])]
    )
    assert notebook.run("counts").value == "[1, 1, 1, 2, 2, 3]"
