"""Runs that are seen in loops that no clock counts."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from types import FrameType

import harness
import pytest

from gpurescue.recovery import switch, visits
from gpurescue.recovery.engine import Run, State
from gpurescue.recovery.visits import Visits

WHILE = """
def outer():
    while not stop.is_set():
        inner()
        traces.append(gettrace())

def inner():
    big = Big()
    nap(0.002)
# %%
outer()
"""
FOR = "for i in range(10**9):\n    nap(0.002)\n    if stop.is_set():\n        break\n"


class Big:
    """Holds memory, in a user's frame."""

    def __init__(self) -> None:
        alive.add(self)


alive = weakref.WeakSet[Big]()


class Watcher:
    """Wants to see a run, for ever."""

    def __init__(self) -> None:
        self.lines: list[int] = []

    def wants(self) -> bool:
        return True

    def look(self, frame: FrameType, num_rounds: int) -> float:
        self.lines.append(frame.f_lineno)
        return 1000.0


class Scene:
    """A run with a visitor."""

    def __init__(self, program: str) -> None:
        self.stop = threading.Event()
        self.watcher = Watcher()
        self.book = harness.Notebook()
        self.book.names |= {"stop": self.stop, "nap": time.sleep, "Big": Big}
        self.book.names |= {"traces": [], "gettrace": sys.gettrace}
        *cells, body = program.split("# %%\n")
        for cell in cells:
            self.book.cell(cell)
        self.run: Run = self.book.ready(body)
        self.visits = Visits(self.run, self.watcher)
        self.visits.start()
        self.run.start()

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.watcher.lines) < count and time.monotonic() < deadline:
            time.sleep(0.01)

    def next_traces(self, num: int) -> list[object]:
        """What the run finds traced the next times that it looks."""
        traces: list[object] = self.book.names["traces"]
        begin = len(traces)
        while len(traces) < begin + num:
            time.sleep(0.01)
        return traces[begin:]

    def end(self) -> None:
        self.visits.close()
        self.stop.set()
        assert self.run.wait(30) is State.FINISHED


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(visits, "TICK", 0.05)


def test_a_while_loop_is_seen_at_its_first_statement():
    scene = Scene(WHILE)
    scene.wait_for(3)
    scene.end()
    assert len(scene.watcher.lines) >= 3
    assert set(scene.watcher.lines) == {4}


def test_nothing_is_traced_between_two_visits_and_no_frame_is_kept():
    scene = Scene(WHILE)
    scene.wait_for(2)
    scene.visits.close()
    time.sleep(0.2)
    traces = scene.next_traces(20)
    scene.end()
    assert not any(traces[5:])
    assert len(alive) <= 1


def test_a_loop_that_the_clock_counts_is_left_to_it():
    scene = Scene(FOR)
    time.sleep(0.5)
    scene.end()
    assert set(scene.watcher.lines) == {1}  # at its header


def test_a_look_is_over_in_time_though_its_frame_never_comes_by(monkeypatch):
    monkeypatch.setattr(switch, "PATIENCE", 0.2)
    program = "def f():\n    while True:\n        loop()\ndef loop():\n"
    program += "    while not stop.is_set():\n        nap(0.001)\n        g()\n"
    program += "def g():\n    traces.append(gettrace())\n# %%\nf()\n"
    scene = Scene(program.replace("while True", "while not stop.is_set()"))
    scene.wait_for(2)
    scene.visits.close()
    time.sleep(0.5)
    traces = scene.next_traces(20)
    scene.end()
    assert not any(traces)


def test_a_debuggers_trace_is_left_alone():
    scene = Scene(WHILE)
    seen: list[str] = []

    def trace(frame: FrameType, event: str, arg: object) -> object:
        seen.append(event)
        return trace

    def attach() -> None:
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            frame.f_trace = trace
            frame = frame.f_back
        sys.settrace(trace)

    scene.wait_for(1)
    scene.run.between_lines(attach)
    while not seen:
        time.sleep(0.01)
    time.sleep(0.2)
    before = len(scene.watcher.lines)
    num = len(seen)
    time.sleep(0.5)
    assert len(seen) > num  # it is there still
    assert len(scene.watcher.lines) <= before + 1
    scene.end()
