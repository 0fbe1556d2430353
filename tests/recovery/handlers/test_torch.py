"""PyTorch's own frames and C code between the guard and the user's handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gpurescue.recovery.handlers import Fate

pytest.importorskip("torch")

_HEAD = """
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
@guard
def f(*args, **kwargs):
    raise EXC("a bug")
"""
# Each calls f somewhere below PyTorch.
_CALLS = {
    "forward": """
class M(nn.Module):
    def forward(self, x): return f(x)
def go(): nn.Sequential(nn.Identity(), M())(torch.ones(2))
""",
    "forward with hooks": """
class M(nn.Module):
    def forward(self, x): return f(x)
def go():
    m = M()
    m.register_forward_hook(lambda *a: None, always_call=True)
    m.register_forward_pre_hook(lambda *a: None)
    m(torch.ones(2))
""",
    "forward hook": """
def go():
    m = nn.Linear(2, 2)
    m.register_forward_hook(f)
    m(torch.ones(1, 2))
""",
    "backward hook": """
def go():
    m = nn.Linear(2, 2)
    m.register_full_backward_hook(f)
    m(torch.ones(1, 2, requires_grad=True)).sum().backward()
""",
    "tensor hook": """
def go():
    x = torch.ones(2, requires_grad=True)
    x.register_hook(f)
    x.sum().backward()
""",
    "function forward": """
class F(torch.autograd.Function):
    forward = staticmethod(f)
def go(): F.apply(torch.ones(2, requires_grad=True))
""",
    "function backward": """
class F(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()
    backward = staticmethod(f)
def go(): F.apply(torch.ones(2, requires_grad=True)).sum().backward()
""",
    "dataset": """
class D(Dataset):
    def __len__(self): return 4
    def __getitem__(self, index): return f(index)
def go():
    for batch in DataLoader(D(), batch_size=2): pass
""",
    "guarded dataset": """
class D(Dataset):
    def __len__(self): return 4
    @guard
    def __getitem__(self, index): raise EXC("a bug")
def go():
    for batch in DataLoader(D(), batch_size=2): pass
""",
    "iterable dataset": """
class D(IterableDataset):
    def __iter__(self):
        yield torch.ones(2)
        yield f()
def go():
    for batch in DataLoader(D(), batch_size=1): pass
""",
    "collate": """
def go(): list(DataLoader([1, 2], collate_fn=f))
""",
    "optimizer closure": """
def go(): torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=.1).step(f)
""",
    "scheduler": """
def go():
    opt = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=.1)
    torch.optim.lr_scheduler.LambdaLR(opt, f)
""",
    "checkpoint": """
from torch.utils.checkpoint import checkpoint
def go(): checkpoint(f, torch.ones(2, requires_grad=True), use_reentrant=False)
""",
    "no_grad": """
def go():
    with torch.no_grad(), torch.autocast("cpu"), torch.inference_mode(): f()
""",
    "no_grad decorator": """
@torch.no_grad()
def go(): f()
""",
    "anomaly": """
def go():
    with torch.autograd.detect_anomaly(check_nan=False), torch.random.fork_rng(): f()
""",
    "profiler": """
def go():
    with torch.profiler.record_function("x"), torch.device("cpu"): f()
""",
    "vmap": """
def go(): torch.vmap(f)(torch.ones(2, 2))
""",
    "func grad": """
def go(): torch.func.grad(f)(torch.ones(()))
""",
    "module apply": """
def go(): nn.Sequential(nn.Linear(2, 2)).apply(f)
""",
    "load state dict": """
def go():
    m = nn.Linear(2, 2)
    m._register_load_state_dict_pre_hook(f)
    m.load_state_dict(m.state_dict())
""",
}
_ERRORS = ["ValueError", "RuntimeError", "IndexError", "KeyError", "AttributeError"]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("error", _ERRORS)
@pytest.mark.parametrize("call", _CALLS)
def test_unhandled(call: str, error: str, play: Callable[..., Any]) -> None:
    source = _HEAD + _CALLS[call] + "\nrun = go\n"
    run = play(source.replace("EXC", error))
    assert run.misses() == run.false_intercepts() == []
    assert run.first is Fate.UNHANDLED


@pytest.mark.parametrize("error", _ERRORS)
@pytest.mark.parametrize("call", _CALLS)
def test_handled(call: str, error: str, play: Callable[..., Any]) -> None:
    handler = f"""
def run():
    try:
        go()
    except {error}:
        pass
"""
    run = play((_HEAD + _CALLS[call]).replace("EXC", error) + handler)
    assert run.final is None
    assert run.first is Fate.HANDLED


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried", "shape mismatch"])
def test_skipping_batches_when_out_of_memory(
    message: str, play: Callable[..., Any]
) -> None:
    run = play(
        _HEAD.replace('EXC("a bug")', f"RuntimeError({message!r})")
        + _CALLS["forward"]
        + """
def run():
    for batch in range(2):
        try:
            go()
        except torch.cuda.OutOfMemoryError:
            continue
        except RuntimeError as e:
            if "out of memory" in str(e):
                torch.cuda.empty_cache()
                continue
            raise
"""
    )
    expected = Fate.HANDLED if "memory" in message else Fate.UNHANDLED
    assert run.first is expected
    assert not run.false_intercepts()


@pytest.mark.parametrize("error", [*_ERRORS, "TypeError"])
def test_index_probed_by_c_passes(error: str, play: Callable[..., Any]) -> None:
    """A subscript's C code replaces whatever ``__index__`` raises."""
    run = play(f"""
import torch
class A:
    @guard
    def __index__(self): raise {error}
def run():
    try:
        torch.ones(3)[A()]
    except (TypeError, IndexError):
        pass
""")
    assert run.verdicts
    assert not run.false_intercepts()


def test_property_of_a_module_falls_back_to_getattr(play: Callable[..., Any]) -> None:
    run = play("""
import torch
class M(torch.nn.Module):
    @property
    @guard
    def x(self): raise AttributeError("inner")
def run():
    M().x
""")
    assert run.first is Fate.HANDLED  # nn.Module.__getattr__ raises another one


@pytest.mark.parametrize("handles", [True, False])
def test_below_torch_compile(handles: bool, play: Callable[..., Any]) -> None:
    error = "KeyError" if handles else "OSError"
    run = play(f"""
import torch
@guard
def f():
    raise KeyError("x")
step = torch._dynamo.disable(f)
def go(x):
    y = x + 1
    torch._dynamo.graph_break()
    step()
    return y
def run():
    try:
        torch.compile(go, backend="eager")(torch.ones(2))
    except {error}:
        pass
""")
    assert not run.false_intercepts()
    assert run.first is not (Fate.UNHANDLED if handles else Fate.HANDLED)
