"""Killed runs that have opened files and set up loggers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from restoring import Start, killed, ready, start, went_on

pytest.importorskip("torch")

pytestmark = pytest.mark.kernel
__all__ = ["start"]

LOGGING = """
import csv, logging, sys, threading, time
import torch

logging.basicConfig(level=logging.INFO, format="%(message)s", filename="root.log")
log = logging.getLogger("train")
handler = logging.FileHandler("train.log", mode="w")
handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
log.addHandler(handler)
log.addHandler(logging.StreamHandler(sys.stdout))
lock = threading.Lock()

def epoch(number, net, optimizer, rows):
    for step in range(25):
        loss = (net(torch.randn(8, 4)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with lock:
            rows.writerow({"epoch": number, "step": step, "loss": loss.item()})
        log.info("loss %r", loss.item())
        with open("steps.txt", "a") as file:
            print(number, step, file=file)
        time.sleep(PACE)

def train(num_epochs):
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(net.parameters())
    with open("log.csv", "w", newline="") as file, open("raw", "wb") as raw:
        rows = csv.DictWriter(file, ["epoch", "step", "loss"])
        rows.writeheader()
        for number in range(num_epochs):
            epoch(number, net, optimizer, rows)
            raw.write(net.weight.detach().numpy().tobytes())
    log.warning("done")
    return file.closed

PACE = 0.0
"""
RUN = "is_closed = train(12)"
FILES = ("log.csv", "raw", "train.log", "root.log", "steps.txt")


def test_files_and_logs_end_as_those_of_a_run_that_nobody_killed(
    start: Start, tmp_path: Path
) -> None:
    ready(start, LOGGING, RUN).close()
    wanted = {name: (tmp_path / name).read_bytes() for name in FILES}
    for name in FILES:
        (tmp_path / name).unlink()
    book = ready(start, LOGGING, "PACE = 0.03")
    killed(book, f"%%resilient\n{RUN}", tmp_path, 2)
    for seconds in (0.3, 1.2, 2.0):  # while it is brought back
        again = start()
        again.send("%restore")
        time.sleep(seconds)
        os.kill(again.manager.provisioner.pid, signal.SIGKILL)
    again = start()
    killed(again, "%restore", tmp_path, 2)
    last = start()
    looked = last.run("%restore --look\nrestored['train.file']", timeout=60)
    assert "is opened where its run goes on" in (looked.value or "")
    result = last.run("%restore", timeout=60)
    assert went_on(result), result.traceback
    assert "Cut back to what steps.txt had then" in result.stdout
    assert last.run("(is_closed, len(log.handlers))").value == "(True, 2)"
    assert result.stdout.endswith("done\n")
    assert last.run("logging.shutdown()").is_ok
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == wanted


def test_a_file_that_was_changed_since_is_named_and_nothing_is_cut(
    start: Start, tmp_path: Path
) -> None:
    book = ready(start, LOGGING, "PACE = 0.03")
    killed(book, f"%%resilient\n{RUN}", tmp_path, 1)
    book.client.stop_channels()
    changed = tmp_path / "train.log"
    kept = changed.read_bytes()
    changed.write_bytes(b"what I think of it\n" * 1000)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    again = start()
    refused = again.run("%restore", timeout=60)
    assert f"{changed} is not what it was" in refused.traceback
    assert again.run("'log' in globals()").value == "False"
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
    changed.write_bytes(kept)
    before["train.log"] = kept
    assert "budget" in again.run("%restore --budget 1000", timeout=60).traceback
    assert again.run("'log' in globals()").value == "False"
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
    assert went_on(again.run("%restore", timeout=60))
    assert (tmp_path / "train.log").read_bytes().endswith(b"WARNING train done\n")


DRAWING = """
%matplotlib inline
import hashlib, time
import matplotlib.pyplot as plt
import numpy as np, torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

@torch.compile
def loss_of(y):
    return (y ** 2).mean() + y.relu().sum()

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 8)
    def forward(self, x):
        return self.inner(x).tanh()

def train(num_steps):
    torch.manual_seed(0)
    plain = Net()
    net = torch.compile(plain, dynamic=False)
    optimizer = torch.optim.AdamW(plain.parameters())
    fig, (left, right) = plt.subplots(1, 2)
    line, = left.plot([], [], label="loss")
    left.legend()
    losses = []
    for step in range(num_steps):
        loss = loss_of(net(torch.randn(8, 4)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        line.set_data(range(len(losses)), losses)
        left.relim()
        left.autoscale_view()
        right.imshow(plain.inner.weight.detach().numpy())
        right.images[:-1] and right.images[0].remove()
        right.set_title(f"step {step}")
        time.sleep(PACE)
    return fig, left, net, losses

def digest(fig):
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return hashlib.sha256(np.asarray(canvas.buffer_rgba()).tobytes()).hexdigest()

PACE = 0.0
"""
DRAW = "fig, left, net, losses = train(60)"
SEEN = """
kinds = type(net).__name__, type(fig).__name__
print(digest(fig), repr(losses), kinds, left.figure is fig, net.dynamo_ctx._dynamic)
"""


def test_figures_and_compiled_models_end_as_if_nobody_had_killed_the_run(
    start: Start, tmp_path: Path
) -> None:
    whole = ready(start, DRAWING, DRAW)
    seen = whole.run(SEEN)
    assert seen.is_ok, seen.traceback
    wanted = seen.stdout
    assert "OptimizedModule" in wanted
    whole.close()
    book = ready(start, DRAWING, "PACE = 0.1")
    killed(book, f"%%resilient\n{DRAW}", tmp_path, 2)
    again = start()
    killed(again, "%restore", tmp_path, 2)
    last = start()
    result = last.run("%restore", timeout=120)
    assert went_on(result), result.traceback
    assert last.run(SEEN).stdout == wanted
    assert result.data("display_data", "image/png")
