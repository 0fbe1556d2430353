"""Training loops and steps that the benchmarks time: plain, plain again and guarded."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parents[1]
for folder in (TESTS.parent, TESTS / "recovery", TESTS / "kernel", TESTS / "scenarios"):
    sys.path.insert(0, str(folder))

import harness  # noqa: E402

from gpurescue.recovery.hooks import Hooks  # noqa: E402
from gpurescue.state.device import TorchRuntime  # noqa: E402

TRAIN = """
def train(num_steps, step):
    total = 0.0
    for epoch in range(2):
        for i in range(num_steps // 2):
            with context:
                loss = step(i)
            if loss is not None and loss < 0:
                continue
            total += advance(scale(i), 1)
    return total
"""
# Name of the size, milliseconds of a step, steps between two readings of the clock.
SIZES = (("02ms", 0.2, 300), ("1ms", 1.0, 60), ("10ms", 10.0, 6))

Loop = Callable[[int, Any], Any]
Meter = Callable[[Callable[[], Any]], float]


class _Context:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def names() -> dict[str, Any]:
    """What the loop uses."""
    return {"context": _Context(), "scale": abs, "advance": max}


def plain_loop(label: str) -> Loop:
    """The loop as Python compiles it."""
    own = names()
    exec(compile(TRAIN, f"<{label}>", "exec"), own)
    found: Loop = own["train"]
    return found


def width_of(target_ms: float) -> int:
    """The width of a step that takes about ``target_ms`` of CPU time."""
    for width in (0, *range(64, 4096, 64), *range(4096, 65536, 1024)):
        step = step_of_width(width)
        for i in range(20):
            step(i)
        start = time.thread_time()
        for i in range(20):
            step(i)
        if (time.thread_time() - start) / 20 * 1e3 >= target_ms:
            break
    return width


def step_of_width(width: int) -> Any:
    """Two layers and Adam; of no width one layer and SGD, the smallest step."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if width:
        model = torch.nn.Sequential(
            torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10)
        )
        optimizer: Any = torch.optim.Adam(model.parameters())
    else:
        model = torch.nn.Sequential(torch.nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), foreach=False)
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of the thread that works."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def measure(
    step: Any,
    num_steps: int,
    num_rounds: int,
    meter: Meter = cpu_seconds,
    others: Mapping[str, Loop] | None = None,
) -> dict[str, list[float]]:
    """What each loop costs per step in each round, in rotated order, inside a run."""
    book = harness.Notebook()
    book.names |= names()
    book.cell(TRAIN)
    loops = {label: plain_loop(label) for label in ("plain", "plain again")}
    loops |= {"guarded": book.names["train"], **(others or {})}
    costs: dict[str, list[float]] = {label: [] for label in loops}

    def rounds() -> None:
        order = list(loops)
        for i in range(num_rounds):
            first = i % len(order)
            for label in order[first:] + order[:first]:
                cost = meter(lambda label=label: loops[label](num_steps, step))
                costs[label].append(cost / num_steps)

    book.names["rounds"] = rounds
    hooks = Hooks(journal=TorchRuntime().journal(keeps_parameters=False))
    run = book.start("rounds()", hooks=hooks)
    run.wait()
    if run.error is not None:
        raise run.error
    return costs
