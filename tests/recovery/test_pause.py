"""Pause and edit without a crash: at the next statement of the user's."""

from __future__ import annotations

import threading
import time
from typing import Any

import harness
import pytest

from gpurescue.recovery.engine import Run, State
from gpurescue.recovery.plan import Action, Restart

COUNT = """
def count(limit):
    total = 0
    for i in range(limit):
        with lock:
            total += step(i)
        try:
            seen.add(i)
        finally:
            total += 0
        if stop.is_set() and i > 1000:
            break
    return i, total
"""
STEP = """
def step(i):
    nap(0.0001)
    return i % 7
"""


class Booth:
    """A run that counts until it is told to stop."""

    def __init__(self, *cells: str, body: str = "result = count(10**9)\n") -> None:
        self.stop = threading.Event()
        self.book = harness.Notebook()
        self.book.names |= {
            "stop": self.stop,
            "lock": threading.Lock(),
            "nap": time.sleep,
            "seen": set(),
        }
        for cell in cells or (STEP, COUNT):
            self.book.cell(cell)
        self.run: Run = self.book.start(body)
        self.wait_for(50)

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 10
        while len(self.book.names["seen"]) < count and time.monotonic() < deadline:
            time.sleep(0.001)

    def pause(self) -> None:
        assert self.run.pause()
        assert self.run.wait(30) is State.SUSPENDED, self.run.error

    def go_on(self, restart: Restart | None = None, more: int = 50) -> None:
        self.run.resume(restart or Restart())
        self.wait_for(len(self.book.names["seen"]) + more)

    def finish(self) -> Any:
        self.stop.set()
        if self.run.state is State.SUSPENDED:
            self.run.resume(Restart())
        assert self.run.wait(30) is State.FINISHED, self.run.error
        return self.book.names["result"]


def test_a_pause_leaves_no_trace() -> None:
    booth = Booth()
    for _ in range(20):
        booth.pause()
        booth.go_on(more=10)
    last, total = booth.finish()
    assert total == sum(i % 7 for i in range(last + 1))
    assert booth.book.names["seen"] == set(range(last + 1))
    assert booth.run.num_suspensions == 20


def test_a_paused_run_stands_before_a_statement_of_the_users() -> None:
    booth = Booth()
    booth.pause()
    held = booth.run.suspension
    assert held is not None
    assert held.is_paused
    assert held.innermost.name in {"step", "count"}
    assert held.frames[-1].name == "<module>"
    booth.finish()


def test_an_edit_during_a_pause_takes_effect_at_once() -> None:
    booth = Booth()
    booth.pause()
    booth.book.redefine(booth.run, COUNT.replace("total += 0", "edited.append(i)"))
    booth.book.names["edited"] = []
    booth.go_on()
    last, total = booth.finish()
    edited = booth.book.names["edited"]
    assert edited == list(range(edited[0], last + 1))
    assert total == sum(i % 7 for i in range(last + 1))


def test_an_edit_while_running_takes_effect_at_the_next_statement() -> None:
    booth = Booth()
    booth.book.names["edited"] = []
    booth.book.redefine(booth.run, COUNT.replace("total += 0", "edited.append(i)"))
    booth.wait_for(len(booth.book.names["seen"]) + 20)
    last, total = booth.finish()
    edited = booth.book.names["edited"]
    assert edited == list(range(edited[0], last + 1))
    assert total == sum(i % 7 for i in range(last + 1))
    assert booth.run.num_suspensions == 0


def test_a_pause_does_not_break_into_a_library_call() -> None:
    booth = Booth(STEP.replace("0.0001", "0.0001 if i < 60 else 0.3"), COUNT)
    booth.wait_for(60)
    begun = time.monotonic()
    booth.pause()
    assert time.monotonic() - begun > 0.1
    booth.book.redefine(booth.run, STEP)
    last, total = booth.finish()
    assert total == sum(i % 7 for i in range(last + 1))


def test_a_pause_can_be_raised_after_all() -> None:
    booth = Booth(
        STEP,
        COUNT,
        body=(
            "try:\n    count(10**9)\nexcept KeyboardInterrupt:\n"
            "    result = 'stopped early'\n"
        ),
    )
    booth.pause()
    booth.run.resume(Restart(action=Action.RAISE))
    assert booth.run.wait(30) is State.FINISHED
    assert booth.book.names["result"] == "stopped early"


def test_a_paused_run_can_be_abandoned() -> None:
    booth = Booth()
    booth.pause()
    booth.run.resume(Restart(action=Action.ABANDON))
    assert booth.run.wait(30) is State.ABANDONED


def test_a_run_that_is_over_cannot_be_paused() -> None:
    run = harness.Notebook().start("x = 1\n")
    run.wait(30)
    assert not run.pause()


GENERATOR = """
def numbers():
    i = 0
    while True:
        yield i
        i += 1

def count(limit):
    total = 0
    for i in numbers():
        total += step(i)
        seen.add(i)
        if stop.is_set():
            break
    return i, total
"""
COROUTINE = """
import asyncio

async def count(limit):
    total = 0
    for i in range(limit):
        await asyncio.sleep(0)
        total += step(i)
        seen.add(i)
        if stop.is_set():
            break
    return i, total
"""


@pytest.mark.parametrize(
    ("cells", "body"),
    [
        ((STEP, GENERATOR), "result = count(10**9)\n"),
        ((STEP, COROUTINE), "result = await count(10**9)\n"),
        (
            (
                STEP,
                "def outer(n):\n    return max([n], key=lambda n: 0) and count(n)\n"
                + COUNT,
            ),
            "result = outer(10**9)\n",
        ),
        (
            (STEP,),
            "total = 0\nfor i in range(10**9):\n    total += step(i)\n"
            "    seen.add(i)\n    if stop.is_set():\n        break\n"
            "result = i, total\n",
        ),
    ],
    ids=["generator", "coroutine", "library call between", "cell"],
)
def test_a_pause_anywhere_leaves_no_trace(cells: tuple[str, ...], body: str) -> None:
    booth = Booth(*cells, body=body)
    for _ in range(10):
        booth.pause()
        booth.go_on(more=7)
    last, total = booth.finish()
    assert total == sum(i % 7 for i in range(last + 1))
    assert booth.book.names["seen"] == set(range(last + 1))
