"""What a run notes while it trains."""

from __future__ import annotations

import statistics
import sys
import threading
import time

import harness
import pytest

import gpurescue
from gpurescue.errors import NotWritten, UsageError
from gpurescue.hindsight import recorder, tables
from gpurescue.hindsight.journal import Journal, Origin
from gpurescue.hindsight.recorder import Recorder
from gpurescue.hindsight.records import Records
from gpurescue.recovery.engine import State

ID = "ab" * 8


class Scene:
    """A run that is recorded."""

    def __init__(self, folder, program, opened=None, names=None, **settings) -> None:
        self.records = Records(folder, create=True)
        self.problems: list[str] = []
        book = harness.Notebook()
        book.names |= {"log": recorder.log, "arg": recorder.arg, "out": []}
        book.names |= names or {}
        self.names = book.names
        *cells, body = program.split("# %%\n")
        for cell in cells:
            book.cell(cell)
        self.run = book.ready(body)
        self.recorder = Recorder(
            self.run.clock, opened or self.journal, settings, self.problems.append
        )
        self.recorder.start()
        self.run.start()
        assert self.run.wait(30) is State.FINISHED
        self.recorder.close("finished")

    def journal(self) -> Journal:
        return Journal(self.records, Origin(id=ID, began=time.time()))


LOOPS = """
def train():
    lr = arg("lr", 0.1)
    for epoch in range(2):
        for i in range(3):
            out.append(log("loss", epoch + lr * i))
        log("end", True)
# %%
train()
"""


def test_values_are_logged_with_their_places(tmp_path):
    scene = Scene(tmp_path, LOOPS, lr=0.5)
    found = tables.logs(scene.records).reset_index()
    losses = found.dropna(subset="loss")
    assert list(losses["loss"]) == scene.names["out"] == [0, 0.5, 1, 1, 1.5, 2]
    assert list(losses["step"]) == [0, 1, 2, 0, 1, 2]
    assert list(found.dropna(subset="end")["epoch"]) == [0, 1]
    assert list(tables.runs(scene.records)["lr"]) == [0.5]
    assert scene.recorder.num_noted == 8


def test_outside_of_a_run_nothing_is_logged_and_arguments_are_their_defaults(tmp_path):
    assert recorder.log("x", 3) == 3
    assert recorder.arg("x", 4) == 4
    program = "import threading\nt = threading.Thread(target=lambda: log('x', 1))\n"
    scene = Scene(tmp_path, f"{program}t.start()\nt.join()\n")
    assert list(tables.runs(scene.records)["num_logs"]) == [0]
    assert not recorder._by_clock
    assert not recorder._open


@pytest.mark.parametrize("name", ["", 3, None])
def test_a_name_is_a_text(name):
    with pytest.raises(UsageError, match="is logged by a name"):
        recorder.log(name, 1)


def test_a_run_goes_on_if_it_cannot_be_recorded(tmp_path):
    def opened():
        raise NotWritten("The disk is full.")

    scene = Scene(tmp_path, LOOPS, opened)
    assert scene.problems == ["The disk is full."]
    assert len(scene.names["out"]) == 6
    assert tables.runs(scene.records).empty


def test_a_disk_that_is_full_in_between_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "EVERY", 0.01)
    real, num = Journal.write, [0]

    def write(self, *given):
        num[0] += 1
        if num[0] > 2:
            raise NotWritten("The disk is full.")
        real(self, *given)

    monkeypatch.setattr(Journal, "write", write)
    program = (
        "import time\nfor i in range(50):\n    log('x', i)\n    time.sleep(0.002)\n"
    )
    scene = Scene(tmp_path, program)
    assert scene.problems == ["The disk is full."]
    found = list(tables.logs(scene.records, ["x"])["x"])
    assert found == list(range(len(found)))
    assert 0 < len(found) < 50


def test_what_was_logged_by_now_can_be_waited_for(tmp_path):
    ready, done = threading.Event(), threading.Event()
    seen = []

    def look():
        ready.wait(20)
        recorder.settle()
        seen.extend(tables.logs(Records(tmp_path), ["x"])["x"])
        done.set()

    thread = threading.Thread(target=look)
    thread.start()
    program = "log('x', 7)\nready.set()\ndone.wait(20)\n"
    Scene(tmp_path, program, names={"ready": ready, "done": done})
    thread.join()
    assert seen == [7]


def test_logging_costs_little(tmp_path):
    program = """
import time
def train():
    for epoch in range(3):
        for i in range(300):
            before = time.perf_counter()
            log("x", 0.5)
            out.append(time.perf_counter() - before)
# %%
train()
"""
    scene = Scene(tmp_path, program)
    assert statistics.median(scene.names["out"]) < 100e-6  # the bench has the bar


def test_the_public_names_are_these():
    assert gpurescue.log is recorder.log
    assert gpurescue.arg is recorder.arg
    assert sys.modules["gpurescue"].__dict__["log"] is recorder.log
