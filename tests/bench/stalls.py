"""What a checkpoint of 124 M parameters with Adam costs the training beside it.

    python tests/bench/stalls.py [--quick]

Each way of saving is used in turn, in rotated order, at the boundary behind a training
step; training goes on at once. Of each: for how long training stood still, when all
was durable, and, in another phase with no training beside it, the CPU time of the
process. ``memcpy`` (into memory that was touched before) and ``O_DIRECT`` (a write of
the same bytes from there, with ``fsync``, beside the same training) are the limits that
ratios are to. Our digests, and the proof of every copy, are included.

Where there is a GPU the same is done there (``cuda_stall_copy``, ``cuda_peers`` and so
on): the limit is then a copy of all bytes, in one piece, to pinned memory, and training
stands still until the device has done what it was given on the program's own stream.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gpurescue.state.capture import State
from gpurescue.state.named import named
from gpurescue.store import packs
from gpurescue.store.checkpointer import Checkpointer
from gpurescue.store.staging import Staging
from gpurescue.store.store import Store

warnings.filterwarnings("ignore", category=UserWarning)
RUN = "0123456789abcdef"
WIDTH, NUM_TOKENS = 768, 50257


class Block(torch.nn.Module):
    """A block of GPT-2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.out = torch.nn.Linear(width, width)
        self.up = torch.nn.Linear(width, 4 * width)
        self.down = torch.nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        split = self.qkv(self.norm1(x)).view(batch, length, 3, 12, width // 12)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        found = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True
        )
        x = x + self.out(found.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))


class Gpt(torch.nn.Module):
    """GPT-2, with 124 M parameters if it has 12 blocks."""

    def __init__(self, num_blocks: int = 12) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(NUM_TOKENS, WIDTH)
        self.places = torch.nn.Embedding(1024, WIDTH)
        self.blocks = torch.nn.ModuleList(Block(WIDTH) for _ in range(num_blocks))
        self.norm = torch.nn.LayerNorm(WIDTH)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.tokens.weight.t()


class Training:
    """A run of the model, with a step that is longer than a copy of its state."""

    def __init__(self, num_blocks: int, length: int = 128, where: str = "cpu") -> None:
        torch.manual_seed(0)
        self.where = where
        self.model = Gpt(num_blocks).to(where)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        count = 1 if where == "cpu" else 128
        self._ids = torch.randint(0, NUM_TOKENS, (count, length + 1), device=where)

    def step(self) -> None:
        """One step."""
        logits = self.model(self._ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), self._ids[:, 1:].flatten()
        )
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()  # between steps no way has gradients to save

    def stand_still(self) -> None:
        """Wait until the device has done what it was given."""
        if self.where == "cuda":
            torch.cuda.current_stream().synchronize()

    def state(self) -> dict[str, Any]:
        """As ``state_dict`` gives it."""
        return {"model": self.model.state_dict(), "optim": self.optimizer.state_dict()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it, by name."""
        return named({"model": self.model, "optimizer": self.optimizer})


class Ways:
    """Ways to save: each gives what waits until all is durable."""

    def __init__(self, training: Training, folder: Path) -> None:
        self.training = training
        self.folder = folder
        tensors = training.tensors().values()
        self._sources = [(t.data_ptr(), t.nbytes) for t in tensors]
        self.nbytes = sum(size for _, size in self._sources)
        self._staging = Staging()
        self._staging.reserve(self.nbytes + 2**20)
        if training.where == "cuda":
            self._there = torch.zeros(self.nbytes, dtype=torch.int8, device="cuda")
            self._here = torch.zeros(self.nbytes, dtype=torch.int8, pin_memory=True)
        self._number = 0
        self._is_published = threading.Event()
        self._done: object = None
        self.checkpointer: Checkpointer | None = None

    def path(self) -> Path:
        """One that is new."""
        self._number += 1
        return self.folder / str(self._number)

    def ours(self) -> Callable[[], None]:
        """A ``Checkpointer``, with digests taken and every copy proved."""
        if self.checkpointer is None:
            store = Store(self.folder / "store", create=True)
            self.checkpointer = Checkpointer(store, RUN, on_done=self._published)
        variables = {"model": self.training.model, "optimizer": self.training.optimizer}
        while not self.checkpointer.take(State(variables=variables)):
            self.checkpointer.wait()
        return self._wait

    def _published(self, done: object) -> None:
        self._done = done
        self._is_published.set()

    def _wait(self) -> None:
        self._is_published.wait()
        self._is_published.clear()
        if isinstance(self._done, Exception):
            raise self._done

    def settle(self) -> None:
        """Let what is done behind a checkpoint come to its end."""
        if self.checkpointer is not None:
            self.checkpointer.wait()

    def memcpy(self) -> Callable[[], None]:
        """The limit for what copies before it returns."""
        if self.training.where == "cuda":
            self._here.copy_(self._there)
            return lambda: None
        to = self._staging.address
        for address, nbytes in self._sources:
            ctypes.memmove(to, address, nbytes)
            to += nbytes
        return lambda: None

    def o_direct(self) -> Callable[[], None]:
        """The limit for what is durable at all; it stops nobody."""
        path = self.path()
        size = self.nbytes // 4096 * 4096

        def write() -> None:
            file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_DIRECT, 0o600)
            for start in range(0, size, packs.PIECE):
                end = min(start + packs.PIECE, size)
                os.pwrite(file, self._staging.data[start:end], start)
            os.fsync(file)
            os.close(file)

        return _in_thread(write)

    def torch_save(self) -> Callable[[], None]:
        """``torch.save``, with an ``fsync`` behind it."""
        path = self.path()
        torch.save(self.training.state(), path)
        return lambda: _sync(path)

    def safetensors(self) -> Callable[[], None]:
        """``safetensors.torch.save_file``, with an ``fsync`` behind it."""
        from safetensors.torch import save_file

        path = self.path()
        save_file({k: t.detach() for k, t in self.training.tensors().items()}, path)
        return lambda: _sync(path)

    def dcp_save(self) -> Callable[[], None]:
        """``torch.distributed.checkpoint.save``."""
        dcp.save(self.training.state(), checkpoint_id=self.path(), no_dist=True)
        return lambda: None

    def dcp_async(self) -> Callable[[], None]:
        """``torch.distributed.checkpoint.async_save``."""
        found = dcp.async_save(
            self.training.state(), checkpoint_id=self.path(), no_dist=True
        )
        return lambda: (found.result(), None)[1]

    def clean(self) -> None:
        """Remove what the others have written."""
        for path in self.folder.iterdir():
            if path.name != "store":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.checkpointer is not None:
            store = self.checkpointer.store
            store.remove([row.id for row in store.rows()])
            store.gc(grace=0.0)

    def close(self) -> None:
        """End our threads."""
        if self.checkpointer is not None:
            self.checkpointer.close()


def _in_thread(work: Callable[[], None]) -> Callable[[], None]:
    thread = threading.Thread(target=work)
    thread.start()
    return thread.join


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)


LABELS = (
    "memcpy",
    "o_direct",
    "ours",
    "torch_save",
    "safetensors",
    "dcp_save",
    "dcp_async",
)
PEERS = LABELS[3:]


def saved(ways: Ways, label: str, *, trains: bool) -> dict[str, float]:
    """Save once, with training going on beside it or with nothing else."""
    ways.training.stand_still()
    cpu, begun = time.process_time(), time.perf_counter()
    wait = getattr(ways, label)()
    ways.training.stand_still()
    stalled = time.perf_counter()
    done: list[float] = []

    def durable() -> None:
        wait()
        done.append(time.perf_counter())

    waiter = threading.Thread(target=durable)
    waiter.start()
    while trains and not done:
        ways.training.step()
    waiter.join()
    ways.settle()
    return {
        "stall": stalled - begun,
        "durable": done[0] - begun,
        "cpu": time.process_time() - cpu,
    }


def measured(
    num_blocks: int, num_rounds: int, where: str
) -> dict[str, dict[str, float]]:
    """Medians for each way; ``cpu`` from rounds without training."""
    training = Training(num_blocks, where=where)
    training.step()
    rows: dict[str, list[dict[str, float]]] = {label: [] for label in LABELS}
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        ways = Ways(training, Path(folder))
        for trains in (True, False):
            for number in range(-2, num_rounds):  # the first two: what is done once
                first = number % len(LABELS)
                for label in LABELS[first:] + LABELS[:first]:
                    training.step()
                    found = saved(ways, label, trains=trains)
                    if number >= 0:
                        rows[label].append({**found, "trains": trains})
                    ways.clean()
        ways.close()
    return {label: _medians(found) for label, found in rows.items()}


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    beside = [row for row in rows if row["trains"]]
    alone = [row for row in rows if not row["trains"]]
    return {
        "stall": statistics.median(row["stall"] for row in beside),
        "durable": statistics.median(row["durable"] for row in beside),
        "durable_alone": statistics.median(row["durable"] for row in alone),
        "cpu": statistics.median(row["cpu"] for row in alone),
    }


def figures(quick: bool, where: str = "cpu") -> dict[str, Any]:
    """Ratios to the limits, and the rows themselves."""
    found = measured(2 if quick else 12, 2 if quick else 5, where)
    copy, write = found["memcpy"], found["o_direct"]
    limit = "stall_memcpy" if where == "cpu" else "stall_copy"
    ratios = {
        label: {
            limit: row["stall"] / copy["stall"],
            "durable_odirect": row["durable"] / write["durable"],
            "cpu_s": row["cpu"],
        }
        for label, row in found.items()
    }
    peers = {label: ratios[label] for label in PEERS}
    return {**ratios["ours"], "peers": peers, "rows": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a smaller state")
    quick = parser.parse_args().quick
    found = figures(quick)
    rows = dict(found["rows"])
    if torch.cuda.is_available():
        there = figures(quick, "cuda")
        found |= {f"cuda_{name}": value for name, value in there.items()}
        rows |= {f"cuda {label}": row for label, row in there["rows"].items()}
    for label, row in rows.items():
        print(f"{label:16}", *(f"{name} {value:8.3f}" for name, value in row.items()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
