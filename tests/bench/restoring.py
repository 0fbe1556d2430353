"""Restoring a checkpoint: how soon a program computes again, lazily and eagerly.

    python tests/bench/restoring.py [--quick]

The state is a GPT of 124 million parameters with Adam's, 1.49 GB; a smaller one with
`--quick`. Each restore goes into the same model and a fresh optimizer, as after a
restart. Cold means that no page of the packs is in memory. Prints a table and, as its
last line, one JSON object with medians:

    cold_lazy, cold_eager, warm_lazy, warm_eager
                          seconds from the start of the restore to the end of
                          `return`     the restore itself
                          `forward`    the first forward
                          `step`       the first step of the optimizer
                          `next_step`  and how long the step after that took
    first_forward_ratio   lazy against eager, cold: the medians of `forward`
    is_exact              true if all had the same loss after the second step, bit for
                          bit, as the program that was saved
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS / "store")]

import torch  # noqa: E402
from saving import save_tensors  # noqa: E402
from torch import nn  # noqa: E402

from gpurescue.state.named import named  # noqa: E402
from gpurescue.store.format import Manifest  # noqa: E402
from gpurescue.store.reading import Reader  # noqa: E402
from gpurescue.store.restore import restore  # noqa: E402
from gpurescue.store.store import Store  # noqa: E402

Figures = dict[str, Any]
_PATIENCE = 60.0  # seconds
NUM_TOKENS = 32
KINDS = [(heat, how) for heat in ("cold", "warm") for how in ("lazy", "eager")]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.num_heads = width // 64

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.attention(self.first(x)).view(batch, length, 3, self.num_heads, 64)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(found.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


class GPT(nn.Module):
    """As GPT-2: the embedding is tied, and positions are read without a call."""

    def __init__(self, vocabulary: int, width: int, depth: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(1024, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tokens(x) + self.positions.weight[: x.shape[1]]
        return self.head(self.norm(self.blocks(x)))


class Program:
    """A model in training."""

    def __init__(self, *, quick: bool) -> None:
        torch.manual_seed(0)
        self.model = GPT(8192, 512, 4) if quick else GPT(50257, 768, 12)
        self.renew()
        high = self.model.tokens.num_embeddings
        self.tokens = torch.randint(high, (1, NUM_TOKENS + 1))

    def renew(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)

    @property
    def variables(self) -> dict[str, object]:
        return {"model": self.model, "optimizer": self.optimizer}

    def forward(self) -> torch.Tensor:
        found = self.model(self.tokens[:, :-1])
        return nn.functional.cross_entropy(found[0], self.tokens[0, 1:])

    def backward(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


@contextlib.contextmanager
def saved(program: Program) -> Iterator[tuple[Store, Manifest]]:
    """The program's state in a store that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder, "store"), create=True)
        yield store, save_tensors(store, named(program.variables))


def evict(store: Store) -> None:
    """Have the system forget the packs; what is mapped stays, so collect it before.

    It keeps what is not on the disk yet, and what a restore that was lazy still reads:
    on a busy machine that takes some seconds.
    """
    for path in (store.path / "packs").iterdir():
        end = time.monotonic() + _PATIENCE
        while not _is_forgotten(path):
            assert time.monotonic() < end, "the packs are still in memory"
            time.sleep(0.1)


def _is_forgotten(path: Path) -> bool:
    gc.collect()
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        return _share_in_memory(file) < 0.05
    finally:
        os.close(file)


def _share_in_memory(file: int) -> float:
    pages = os.fstat(file).st_size // 4096
    page, found = bytearray(4096), 0
    for _ in range(200):
        with contextlib.suppress(BlockingIOError):
            place = random.randrange(pages) * 4096
            found += bool(os.preadv(file, [page], place, os.RWF_NOWAIT))
    return found / 200


def once(program: Program, run: Callable[[], Any]) -> tuple[Figures, float]:
    """Restore by ``run``, and train on; times, and the last loss."""
    start = time.perf_counter()
    times = [start]
    run()
    times.append(time.perf_counter())
    loss = program.forward()
    times.append(time.perf_counter())
    program.backward(loss)
    times.append(time.perf_counter())
    program.backward(program.forward())
    end = time.perf_counter()
    figures = {
        name: at - start
        for name, at in zip(("return", "forward", "step"), times[1:], strict=True)
    }
    return figures | {"next_step": end - times[-1]}, float(program.forward().detach())


def measure(*, quick: bool, rounds: int | None = None) -> Figures:
    """All figures; see the top of this file."""
    program = Program(quick=quick)
    program.backward(program.forward())
    found: dict[str, list[Figures]] = defaultdict(list)
    losses = set()
    with saved(program) as (store, manifest):
        losses.add(once(program, lambda: None)[1])
        for number in range(rounds or (4 if quick else 3)):
            for heat, how in KINDS[number % 4 :] + KINDS[: number % 4]:
                program.renew()
                evict(store)
                if heat == "warm":
                    assert not store.verify()
                figures, loss = once(
                    program,
                    lambda how=how: restore(
                        Reader(store, manifest), program.variables, lazy=how == "lazy"
                    ),
                )
                found[f"{heat}_{how}"].append(figures)
                losses.add(loss)
    medians = {
        kind: {k: statistics.median(row[k] for row in rows) for k in rows[0]}
        for kind, rows in sorted(found.items())
    }
    ratio = medians["cold_lazy"]["forward"] / medians["cold_eager"]["forward"]
    return {**medians, "first_forward_ratio": ratio, "is_exact": len(losses) == 1}


def main() -> None:
    """Print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smaller state")
    figures = measure(quick=parser.parse_args().quick)
    print(f"{'seconds':12}{'return':>10}{'forward':>10}{'step':>10}{'next step':>10}")
    for kind, row in figures.items():
        if isinstance(row, dict):
            print(f"{kind:12}" + "".join(f"{value:10.3f}" for value in row.values()))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
