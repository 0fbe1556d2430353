"""How the cost of a checkpoint grows with tensors, and with checkpoints in the store.

    python tests/bench/growth.py [--quick]

Prints a table and, as its last line, one JSON object:

    growth_tensors      seconds that training stands still, for about the same bytes in
                        444, 4,440 and 44,400 tensors; growth_tensors_order is the
                        exponent from the second to the third: 1 is linear
    growth_checkpoints  seconds from the boundary until one is durable, with 10, 100 and
                        1,000 checkpoints in the store; growth_checkpoints_order is the
                        exponent from the second to the third
    growth_changed      bytes that a checkpoint adds to the store for each byte of the
                        state that has changed, by how many of 100 tensors train
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from gpurescue.state.capture import State
from gpurescue.store.checkpointer import Checkpointer, Keeping
from gpurescue.store.retention import Rules
from gpurescue.store.store import Store

NUM_BYTES = 256 * 2**20
RUN = "0123456789abcdef"


class Many(torch.nn.Module):
    """Layers of two tensors each."""

    def __init__(self, num_tensors: int, nbytes: int) -> None:
        super().__init__()
        size = max(1, nbytes // num_tensors // 4)
        self.layers = torch.nn.ParameterList(
            torch.nn.Parameter(torch.randn(size)) for _ in range(num_tensors)
        )


def stall_of(num_tensors: int, nbytes: int, num_rounds: int) -> float:
    """Seconds that training stands still; the median."""
    model = Many(num_tensors, nbytes)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = Checkpointer(Store(folder + "/s", create=True), RUN)
        for number in range(num_rounds + 2):
            with torch.no_grad():
                for parameter in model.layers:
                    parameter.add_(1.0)
            while not checkpointer.take(State(variables={"model": model})):
                checkpointer.wait()
            if number >= 2:
                found.append(checkpointer.stall)
            checkpointer.wait()
        checkpointer.close()
    return statistics.median(found)


def durable_at(counts: list[int]) -> dict[int, float]:
    """Seconds until a checkpoint is durable, with so many in the store before it."""
    tensors = [torch.randn(2_000) for _ in range(444)]
    found: dict[int, float] = {}
    keeping = Keeping(rules=Rules(last=10**6))
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        checkpointer = Checkpointer(
            Store(folder + "/s", create=True), RUN, keeping=keeping
        )
        taken: list[float] = []
        for _ in range(max(counts) + 5):
            tensors[len(taken) % 444].add_(1.0)
            checkpointer.wait()
            begun = time.perf_counter()
            while not checkpointer.take(State(variables={"t": tensors})):
                checkpointer.wait()
            checkpointer.wait()
            taken.append(time.perf_counter() - begun)
        checkpointer.close()
    for count in counts:
        found[count] = statistics.median(taken[count - 5 : count + 5])
    return found


def added_for(num_training: int, nbytes: int) -> float:
    """Bytes that a checkpoint adds, of a model most of which is frozen."""
    model = Many(100, nbytes)
    training = list(model.layers)[:num_training]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder + "/s", create=True)
        checkpointer = Checkpointer(store, RUN)
        for _ in range(3):
            with torch.no_grad():
                for parameter in training:
                    parameter.add_(1.0)
            while not checkpointer.take(State(variables={"model": model})):
                checkpointer.wait()
            checkpointer.wait()
        checkpointer.close()
        added = [row.added for row in store.rows()][1:]
    return statistics.median(added) / sum(t.nbytes for t in training)


def figures(quick: bool) -> dict[str, Any]:
    """Seconds, and exponents."""
    numbers = [44, 444, 4_440] if quick else [444, 4_440, 44_400]
    nbytes = NUM_BYTES // (8 if quick else 1)
    stalls = {n: stall_of(n, nbytes, 2 if quick else 5) for n in numbers}
    times = durable_at([5, 10, 30] if quick else [10, 100, 1_000])
    return {
        "growth_tensors": stalls,
        "growth_tensors_order": _order(stalls),
        "growth_checkpoints": times,
        "growth_checkpoints_order": _order(times),
        "growth_changed": {n: added_for(n, nbytes) for n in (1, 10, 100)},
    }


def _order(found: dict[int, float]) -> float:
    _, (low, before), (high, behind) = found.items()
    return math.log(behind / before) / math.log(high / low)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a short run")
    found = figures(parser.parse_args().quick)
    for name, value in found.items():
        print(f"{name:26} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
