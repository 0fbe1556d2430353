"""Trains, takes checkpoints all the time, and is killed: again and again.

    python killing.py STORE TIMES SEED

Prints, as JSON, how often it was killed and how many checkpoints were published.
Whatever was published before must be there, whole, after each kill.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from gpurescue.state.capture import State
from gpurescue.store.checkpointer import Checkpointer, Keeping
from gpurescue.store.retention import Rules
from gpurescue.store.store import Store

RUN = "0123456789abcdef"
KEY = b"k" * 32


def steps() -> Iterator[dict[str, object]]:
    """Train; gives the variables after each step."""
    net = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.Linear(300, 50))
    optimizer = torch.optim.Adam(net.parameters())
    while True:
        optimizer.zero_grad()
        net(torch.randn(8, 300)).square().sum().backward()
        optimizer.step()
        yield {"net": net, "optimizer": optimizer}


def train(path: Path, told: int) -> None:
    """Take one checkpoint after the other until somebody ends this process."""
    done = []
    store, rules = Store(path, key=KEY), Rules(last=10_000)  # all of them stay
    keeping = Keeping(rules=rules)
    checkpointer = Checkpointer(store, RUN, keeping=keeping, on_done=done.append)
    for number, variables in enumerate(steps()):
        checkpointer.take(State(variables=variables, notes={"step": number}))
        while done:
            os.write(told, f"{done.pop(0).id}\n".encode())


def killed_once(path: Path, chance: random.Random) -> list[str]:
    """The checkpoints that one process said it had published before it was killed."""
    reading, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            train(path, told)
        finally:
            os._exit(1)
    os.close(told)
    if chance.random() < 0.8:  # one that has published something
        select.select([reading], [], [], 60)
    time.sleep(chance.uniform(0.02, 0.25))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), status
    with os.fdopen(reading) as file:
        return file.read().split()


def main() -> None:
    path, times, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)  # a pool of threads does not live through a fork
    chance = random.Random(seed)
    next(steps())  # what is imported and made once is there for all of them
    Store(path, key=KEY, create=True)
    published: set[str] = set()
    num_published = 0
    for _ in range(times):
        fresh = set(killed_once(path, chance))
        published |= fresh
        num_published += len(fresh)
        store = Store(path, key=KEY)
        found = {row.id for row in store.rows()}
        assert published <= found, published - found
        assert not store.verify(), store.verify()
        if len(found) > 40:  # a disk is not endless
            newest = [row.id for row in store.rows()][-5:]
            store.remove(sorted(found - set(newest)))
            store.gc(grace=0.0)
            published &= set(newest)
    print(json.dumps({"killed": times, "published": num_published}))


if __name__ == "__main__":
    main()
