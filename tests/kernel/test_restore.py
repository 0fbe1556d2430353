"""Runs whose kernels are killed, and that go on in new ones."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from driver import Notebook
from restoring import ANOTHER, Start, ids, killed, ready, start, until, went_on

pytest.importorskip("torch")

pytestmark = pytest.mark.kernel
__all__ = ["start"]

TRAINING = """
import random, time
import numpy as np, torch
from torch.utils.data import DataLoader, TensorDataset

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(16, 40)
        self.norm = torch.nn.BatchNorm1d(40)
        self.outer = torch.nn.Linear(40, 4)
    def forward(self, x):
        x = torch.relu(self.norm(self.inner(x)))
        return self.outer(torch.nn.functional.dropout(x, 0.2, self.training))

def augmented(loader):
    for x, y in loader:
        yield x + random.random() * 0.01 + float(np.random.rand()) * 0.01, y

def epoch(net, optimizer, loader):
    total = 0.0
    for number, (x, y) in enumerate(augmented(loader)):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        total += loss.item()
        time.sleep(PACE)
    return total / (number + 1)

def train(num_epochs):
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(0)
    data = TensorDataset(torch.randn(320, 16), torch.randint(4, (320,)))
    loader = DataLoader(data, batch_size=32, shuffle=True)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    means = []
    for _ in range(num_epochs):
        means.append(2.0 * epoch(net, optimizer, loader) + random.random())
        schedule.step()
    return net, optimizer, means

losses, PACE = [], 0.0
"""
RUN = "net, optimizer, means = train(12)"
DIGEST = """
import hashlib
found = hashlib.sha256()
kept = [v for s in optimizer.state.values() for v in s.values()]
for tensor in [*net.state_dict().values(), *kept, torch.get_rng_state()]:
    found.update(tensor.detach().numpy().tobytes())
for value in (losses, means, random.getstate(), np.random.get_state()):
    found.update(repr(value).encode())
print(found.hexdigest(), len(losses))
"""


@pytest.fixture
def wanted(start: Start) -> str:
    """What the program ends with if nothing happens to it."""
    book = start()
    assert book.run(TRAINING, timeout=60).is_ok
    assert book.run(RUN, timeout=60).is_ok
    return book.run(DIGEST).stdout


def slow(book: Notebook) -> None:
    assert book.run(TRAINING, timeout=60).is_ok
    assert book.run("PACE = 0.04").is_ok


def test_a_killed_run_goes_on_to_the_same_end(
    start: Start, wanted: str, tmp_path: Path
) -> None:
    book = start()
    slow(book)
    killed(book, f"%%resilient\n{RUN}", tmp_path, 2)
    again = start()
    killed(again, "%restore", tmp_path, 2)
    last = start()
    told = last.run("%unload_ext gpurescue\n%load_ext gpurescue").stdout
    assert re.fullmatch(
        r"The last run here did not end \(.*\); %restore .* step .*\n", told
    )
    result = last.run("%restore", timeout=60)
    assert went_on(result)
    assert "step" in result.stdout
    assert last.run(DIGEST).stdout == wanted
    assert not last.run("%unload_ext gpurescue\n%load_ext gpurescue").stdout


def test_what_a_cell_has_defined_before_counts_as_an_edit(
    start: Start, tmp_path: Path
) -> None:
    book = start()
    slow(book)
    killed(book, f"%%resilient\n{RUN}", tmp_path, 1)
    again = start()
    assert again.run(TRAINING.replace("losses.append(", "losses.append(-")).is_ok
    assert went_on(again.run("%restore", timeout=60))
    signs = again.run("print([x < 0 for x in losses])").stdout
    assert signs.startswith("[False")
    assert signs.rstrip().endswith("True]")
    assert signs.count("False") + signs.count("True") == 120


def test_only_the_variables_of_a_run(start: Start, tmp_path: Path) -> None:
    book = start()
    slow(book)
    killed(book, f"%%resilient\n{RUN}", tmp_path, 1)
    again = start()
    shown = again.run("%restore --look", timeout=60)
    assert "losses" in shown.stdout
    assert again.run("0 < len(losses) < 120").value == "True"
    assert again.run("restored['train.net'](torch.ones(2, 16)).shape").value == (
        "torch.Size([2, 4])"
    )


def test_a_run_that_crashes_after_it_was_brought_back_is_mended(
    start: Start, wanted: str, tmp_path: Path
) -> None:
    book = start()
    slow(book)
    killed(book, f"%%resilient\n{RUN}", tmp_path, 1)
    again = start()
    bad = TRAINING.replace("total += loss", "total += 1 / 0 + loss")
    assert again.run(bad).is_ok
    held = again.run("%restore", timeout=60)
    assert "Suspended" in held.traceback
    assert again.run(TRAINING.rpartition("\nlosses")[0]).is_ok
    assert again.run("%resume", timeout=60).is_ok
    assert again.run(DIGEST).stdout == wanted


def test_a_mended_run_goes_on_mended(start: Start, wanted: str, tmp_path: Path) -> None:
    book = start()
    bad = TRAINING.replace(
        "total += loss", "total += 1 / 0 if len(losses) == 30 else loss"
    )
    assert book.run(bad, timeout=60).is_ok
    assert book.run("PACE = 0.04").is_ok
    assert "Suspended" in book.run(f"%%resilient\n{RUN}", timeout=60).traceback
    assert book.run(TRAINING.rpartition("\nlosses")[0]).is_ok
    killed(book, "%resume", tmp_path, 1)
    again = start()
    assert went_on(again.run("%restore", timeout=60))
    assert again.run(DIGEST).stdout == wanted


@pytest.mark.parametrize("way", ["SIGTERM", "shutdown"])
def test_a_kernel_that_is_sent_away_saves_its_run(
    start: Start, wanted: str, tmp_path: Path, way: str
) -> None:
    book = start()
    slow(book)
    assert book.run("%config GpuRescue.seconds_between = 1000").is_ok
    assert book.run("%config GpuRescue.grace = 15").is_ok  # it may be a busy machine
    book.send(f"%%resilient\nopen('begun', 'w').close()\n{RUN}")
    until((tmp_path / "begun").exists)
    time.sleep(1)
    before = ids(tmp_path)
    if way == "SIGTERM":
        os.kill(book.manager.provisioner.pid, signal.SIGTERM)
        book.manager.provisioner.process.wait(20)
    else:
        book.manager.shutdown_wait_time = 40
        book.manager.shutdown_kernel()
    assert len(ids(tmp_path) - before) == 1
    again = start()
    assert went_on(again.run("%restore", timeout=60))
    assert again.run(DIGEST).stdout == wanted


LOST = "CUDA error: device-side assert triggered"


def test_a_device_that_is_lost_takes_a_new_kernel(
    start: Start, wanted: str, tmp_path: Path
) -> None:
    book = start()
    raising = f"(_ for _ in ()).throw(torch.AcceleratorError({LOST!r}))"
    bug = f"{raising} if len(losses) == 60 and PACE else loss.backward()"
    bad = TRAINING.replace("loss.backward()", bug)
    assert book.run(bad, timeout=60).is_ok
    assert book.run("PACE = 0.04").is_ok
    held = book.run(f"%%resilient\n{RUN}", timeout=60)
    assert "Suspended" in held.traceback
    assert "Restart the kernel" in held.panels[0]
    assert re.search(r"The newest checkpoint is .* of epoch \d+/12, step", held.stdout)
    refused = book.run("%resume")
    assert "takes no more commands" in refused.traceback
    os.kill(book.manager.provisioner.pid, signal.SIGKILL)
    again = start()
    assert again.run(TRAINING.rpartition("\nlosses")[0]).is_ok
    assert went_on(again.run("%restore", timeout=60))
    assert again.run(DIGEST).stdout == wanted


def test_what_somebody_else_has_written_runs_when_it_is_trusted(
    start: Start, wanted: str, tmp_path: Path
) -> None:
    book = start()
    slow(book)
    killed(book, f"%%resilient\n{RUN}", tmp_path, 1)
    (tmp_path / "jupyter").rename(tmp_path / "of somebody else")  # with their key
    again = start()
    refused = again.run("%restore", timeout=60)
    assert "was not signed with your key" in refused.traceback
    assert again.run("'losses' in globals()").value == "False"
    assert went_on(again.run("%restore --trust", timeout=60))
    assert again.run(DIGEST).stdout == wanted


def test_files_that_were_edited_are_told_before_anything_runs(
    start: Start, wanted: str, tmp_path: Path
) -> None:
    (tmp_path / "helpers.py").write_text("def total(a, b):\n    return a + b\n")
    book = start()
    slow(book)
    mine = TRAINING.partition("def train")[0].replace(
        "total += loss.item()", "total = helpers.total(total, loss.item())"
    )
    assert book.run(f"import helpers\n{mine}", timeout=60).is_ok
    killed(book, f"%%resilient\n{RUN}", tmp_path, 1)
    text = "# edited\ndef total(a, b):\n    return a + b\n"
    (tmp_path / "helpers.py").write_text(text)
    again = start()
    refused = again.run("%restore", timeout=60)
    assert "helpers.py was edited" in refused.traceback
    assert went_on(again.run("%restore --force", timeout=60))
    assert again.run(DIGEST).stdout == wanted


ROWS = """
import random, time
import numpy as np, torch
from torch.utils.data import DataLoader, IterableDataset

class Rows(IterableDataset):
    def __iter__(self):
        order = list(range(200))
        random.shuffle(order)
        for number in order:
            yield number + torch.rand(())

random.seed(1), torch.manual_seed(1), np.random.seed(1)
loader = DataLoader(Rows(), batch_size=4)
losses, means, PACE = [], [], 0.0
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(()))])
net = torch.nn.Identity()
"""
OVER_ROWS = """
for epoch in range(3):
    for rows in loader:
        losses.append(rows.sum().item())
        time.sleep(PACE)
"""


def test_a_generator_that_no_name_leads_to_goes_on(
    start: Start, tmp_path: Path
) -> None:
    wanted = ready(start, ROWS, OVER_ROWS).run(DIGEST).stdout
    book = ready(start, ROWS, "PACE = 0.02")
    killed(book, f"%%resilient\n{OVER_ROWS}", tmp_path, 2)
    again = start()
    assert went_on(again.run("%restore", timeout=60))
    assert again.run(DIGEST).stdout == wanted


WHILE = """
done = 0
while done < 60:
    x = torch.randn(8, 16) + random.random()
    optimizer.zero_grad()
    loss = net(x).square().mean()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    done += 1
    time.sleep(PACE)
"""
THIRD = """
for fold in range(1):
    for epoch in range(1):
        for x in torch.utils.data.DataLoader(torch.randn(240, 16), 4, shuffle=True):
            optimizer.zero_grad()
            loss = net(x).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            time.sleep(PACE)
"""
IN_CELL = """
for seed in (torch.manual_seed, random.seed, np.random.seed):
    seed(0)
net, means = torch.nn.Linear(16, 4), []
optimizer = torch.optim.AdamW(net.parameters())
"""


@pytest.mark.parametrize("loop", [WHILE, THIRD], ids=["while", "third"])
def test_a_loop_that_no_clock_counts_goes_on(
    start: Start, tmp_path: Path, loop: str
) -> None:
    setup = f"{TRAINING}\n{IN_CELL}"
    wanted = ready(start, setup, loop).run(DIGEST).stdout
    book = ready(start, setup, "PACE = 0.2")
    killed(book, f"%%resilient\n{loop}", tmp_path, 1)
    again = start()
    assert again.run("%restore --look", timeout=60).is_ok
    assert 0 < int(again.run("len(losses)").value or 0) < 60
    assert went_on(again.run("%restore", timeout=60))
    assert again.run(DIGEST).stdout == wanted


def test_another_version_of_python_makes_its_own_code_from_the_sources(
    start: Start, wanted: str, tmp_path: Path
) -> None:
    book = start()
    slow(book)
    assert book.run(ANOTHER).is_ok
    killed(book, f"%%resilient\n{RUN}", tmp_path, 1)
    again = start()
    refused = again.run("%restore", timeout=60)
    assert re.search(
        r"Python was 3\.10\.4, and is 3\.\d+\.\d+\. %restore --force goes on all",
        refused.traceback,
    )
    assert again.run("'losses' in globals()").value == "False"
    result = again.run("%restore --force", timeout=60)
    assert went_on(result)
    assert "could not make again" not in result.stdout
    assert again.run(DIGEST).stdout == wanted


def test_a_run_that_is_alive_elsewhere_is_left_alone(
    start: Start, tmp_path: Path
) -> None:
    book = start()
    slow(book)
    book.send(f"%%resilient\n{RUN}")
    until(lambda: bool(ids(tmp_path)))
    again = start()
    refused = again.run("%restore", timeout=60)
    assert f"alive: process {book.manager.provisioner.pid} on" in refused.traceback
    assert again.run("'losses' in globals()").value == "False"


LOSING = """
import threading, time
stop = threading.Event()
helper = threading.Thread(target=stop.wait, daemon=True)
helper.start()
config = {"notify": [helper]}
done = []
def work():
    for i in range(100):
        done.append(i)
        time.sleep(PACE)
PACE = 0.1
"""


def test_what_is_not_there_any_more_is_said_and_named_where_it_is_used(
    start: Start, tmp_path: Path
) -> None:
    book = start()
    assert book.run(LOSING).is_ok
    killed(book, "%%resilient\nwork()\nhelper.join()", tmp_path, 1)
    again = start()
    held = again.run("%restore", timeout=60)
    assert "Not there any more: helper (Thread: a thread ends" in held.stdout
    assert "Thread that could not be kept is asked for 'join'" in held.traceback
    assert again.run("len(done)").value == "100"
    assert again.run("import threading\nhelper = threading.Thread()").is_ok
    assert again.run("helper.start()").is_ok
    assert again.run("%resume", timeout=60).is_ok
