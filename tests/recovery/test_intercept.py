"""Which frame a run is held in: where nobody further up handles the exception."""

from __future__ import annotations

import harness
import pytest

from gpurescue.recovery.engine import State

PROGRAMS = {
    "a task stores it": (
        "outer",
        """
import asyncio
async def f(): raise ValueError
def outer(): return asyncio.run(f())
""",
    ),
    "a future stores it": (
        "outer",
        """
from concurrent.futures import ThreadPoolExecutor
def f(): raise ValueError
def outer():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(f).result()
""",
    ),
    "the last of many attempts": (
        "f",
        """
def f(): raise ValueError
def outer():
    for attempt in range(5):
        try:
            return f()
        except ValueError:
            if attempt == 4: raise
""",
    ),
    "kept, and raised after all": (
        "f",
        """
def f(): raise ValueError
def outer():
    try:
        return f()
    except ValueError as error:
        kept = error
    raise kept
""",
    ),
    "handled many times, and then not": (
        "f",
        """
class Reader:
    strict = False
    def read(self):
        try:
            f()
        except ValueError:
            if self.strict: raise
def f(): raise ValueError
def outer():
    reader = Reader()
    for attempt in range(20):
        reader.strict = attempt == 19
        reader.read()
""",
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_run_is_held_where_nobody_handles(program: str) -> None:
    function, source = PROGRAMS[program]
    book = harness.Notebook()
    book.cell(source)
    run = book.start("outer()")
    assert run.wait(20) is State.SUSPENDED
    assert run.suspension is not None
    assert run.suspension.frames[0].frame.f_code.co_name == function


def test_what_the_program_handles_goes_on() -> None:
    book = harness.Notebook()
    book.cell(PROGRAMS["handled many times, and then not"][1])
    run = book.start("reader = Reader()\nfor _ in range(20): reader.read()")
    assert run.wait(20) is State.FINISHED
