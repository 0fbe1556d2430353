"""Checkpoints that a run in a real kernel takes by itself."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from gpurescue.store.reading import Reader
from gpurescue.store.store import Store

pytestmark = pytest.mark.kernel

TRAINING = """
import time, torch
def make():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(20, 300), torch.nn.BatchNorm1d(300), torch.nn.Linear(300, 5)
    )
    return net, torch.optim.AdamW(net.parameters(), fused=True)
def train(net, optimizer, num_epochs):
    losses = []
    for epoch in range(num_epochs):
        for i in range(20):
            optimizer.zero_grad()
            loss = net(torch.randn(16, 20)).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            time.sleep(0.005)
    return losses
net, optimizer = make()
"""


@pytest.fixture
def folder(notebook, tmp_path):
    path = tmp_path / "kept"
    data = str(tmp_path / "jupyter")  # where the key is
    notebook.run(f"import os\nos.environ['JUPYTER_DATA_DIR'] = {data!r}")
    assert notebook.run(f"%config GpuRescue.folder = {str(path)!r}").is_ok
    assert notebook.run("%config GpuRescue.seconds_between = 0.1").is_ok
    assert notebook.run(TRAINING).is_ok
    return path


def test_a_run_leaves_its_state_behind(notebook, folder) -> None:
    cell = "%%resilient --budget 50\nlosses = train(net, optimizer, 12)\nprint('end')\n"
    found = notebook.run(cell, timeout=120)
    assert found.is_ok
    assert found.stdout == "end\n"
    plain = notebook.run(
        "before = net.state_dict(), losses\nnet, optimizer = make()\n"
        "losses = train(net, optimizer, 12)\n"
        "losses == before[1] and all(map(torch.equal, net.state_dict().values(), "
        "before[0].values()))",
        timeout=120,
    )
    assert plain.value == "True"
    notebook.run(JOIN)
    store = Store(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    rows = store.rows()
    assert len(rows) > 1
    assert not store.verify()
    manifest, is_signed = store.manifest(rows[-1].id)
    assert not is_signed  # nobody has the key but the user
    assert manifest.notes["where"].startswith("epoch ")
    assert manifest.lost == {}
    assert not any("__gr_" in name for name in manifest.tensors)
    names = set(manifest.tensors)
    assert {"net.0.weight", "optimizer.net.0.weight.exp_avg"} <= names
    reader = Reader(store, manifest)
    assert reader.tensor("net.0.weight").shape == (300, 20)
    code = json.loads(bytes(reader.object("code")))
    texts = [bytes(reader.object(f"source {sha}")).decode() for sha in code.values()]
    assert len(texts) == 2
    assert TRAINING.strip() in {text.strip() for text in texts}
    assert any("losses = train(net, optimizer, 12)" in text for text in texts)


@pytest.mark.parametrize("option", ["--budget 0", ""])
def test_none_are_taken_if_nobody_wants_them(notebook, folder, option) -> None:
    cell = f"%%resilient {option}\nlosses = train(net, optimizer, 8)\n"
    notebook.run(f"%config GpuRescue.checkpoints = {bool(option)}")
    assert notebook.run(cell, timeout=120).is_ok
    notebook.run("%config GpuRescue.checkpoints = False")
    assert not list(folder.glob("checkpoints/*.json"))


JOIN = (
    "import threading\n[t.join() for t in threading.enumerate() "
    "if t.name == 'gpurescue-last-checkpoint']"
)


def test_a_checkpoint_is_put_back_into_live_objects(notebook, folder) -> None:
    notebook.run("import gpurescue\nnet, optimizer = make()")
    cell = (
        "%%resilient --budget 50\n"
        "schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)\n"
        "for number in range(25):\n"
        "    losses = train(net, optimizer, 1)\n    schedule.step()\n"
    )
    assert notebook.run(cell, timeout=120).is_ok
    notebook.run(JOIN)
    (shown,) = notebook.run("%checkpoints").displays
    assert "tensors" in shown
    assert "not signed" not in shown
    found = notebook.run("table = gpurescue.checkpoints()\nlen(table) > 0")
    assert found.value == "True"
    notebook.run("last = table.id.iloc[-1]\nend = schedule.last_epoch")
    ways = [
        "gpurescue.restore(last)",
        "net, optimizer = make()\n"
        "schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)\n"
        "gpurescue.restore(last, lazy=False)",
    ]
    ends = []
    for way in ways:
        assert notebook.run(way).is_ok
        at = "schedule.last_epoch, optimizer.param_groups[0]['lr']"
        ends.append(notebook.run(f"train(net, optimizer, 2), {at}", timeout=60).value)
    assert ends[0] == ends[1]
    assert notebook.run("gpurescue.verify()").value == "{}"
    wrong = notebook.run("gpurescue.restore('abc')")
    assert wrong.error == "UsageError"
    assert "no checkpoint of that name: 'abc'" in wrong.traceback


def test_a_budget_that_makes_no_sense_is_refused(notebook, folder) -> None:
    found = notebook.run("%%resilient --budget 300\nprint('ran')\n")
    assert found.error == "UsageError"
    assert found.stdout == ""
    assert "3.0 is no part of the run's time" in found.traceback


def test_a_folder_that_cannot_be_written_is_told_once(notebook, folder) -> None:
    folder.write_text("a file is in the way")
    found = notebook.run("%%resilient --budget 50\nlosses = train(net, optimizer, 8)\n")
    assert found.is_ok
    assert found.stdout.count("No checkpoints: ") == 1


def test_the_best_checkpoint_stays(notebook, folder) -> None:
    notebook.run("%config GpuRescue.best = 'max accuracy'")
    found = notebook.run(
        "%%resilient --budget 90\n"
        "for number in range(18):\n"
        "    accuracy = torch.tensor(0.9 - abs(number - 4) / 100)\n"
        "    losses = train(net, optimizer, 2)\n",
        timeout=120,
    )
    assert found.is_ok
    notebook.run(JOIN)
    notebook.run("%config GpuRescue.best = ''")
    rows = Store(folder).rows()
    assert len(rows) > 3
    known = [row.metrics["accuracy"] for row in rows]
    assert max(known) > max(known[0], *known[-3:])  # others would have kept these


@pytest.mark.parametrize("best", ["val_loss", "least val_loss", "min 1"])
def test_a_setting_that_says_not_what_is_best_is_refused(notebook, best) -> None:
    notebook.run(f"%config GpuRescue.best = {best!r}")
    found = notebook.run("%%resilient --budget 50\nprint('ran')\n")
    notebook.run("%config GpuRescue.best = ''")
    assert found.error == "UsageError"
    assert "such as 'min val_loss'" in found.traceback
    assert found.stdout == ""
