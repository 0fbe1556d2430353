"""Kernels of one notebook that are killed, and what the next one says."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from driver import Notebook, Result

SETUP = """
import os
os.environ['JUPYTER_DATA_DIR'] = {data!r}
%load_ext gpurescue
%config GpuRescue.seconds_between = 0.1
%config GpuRescue.checkpoints = True
%config GpuRescue.budget = 50
"""
ANOTHER = """
import platform
from gpurescue.state import codes
platform.python_version = lambda: "3.10.4"
codes.TAG = "cpython-310 0000"
"""


Start = Callable[[], Notebook]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts kernels of one notebook."""
    started: list[Notebook] = []

    def one() -> Notebook:
        book = Notebook(tmp_path)
        started.append(book)
        data = str(tmp_path / "jupyter")
        assert book.run(SETUP.format(data=data), timeout=60).is_ok
        return book

    yield one
    for book in started:
        book.close()


def ready(start: Start, *cells: str) -> Notebook:
    """A kernel in which cells have run."""
    book = start()
    for cell in cells:
        done = book.run(cell, timeout=120)
        assert done.is_ok, done.traceback
    return book


def until(happened: Callable[[], bool]) -> None:
    """Wait for something."""
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end, "It did not happen."
        time.sleep(0.02)


def killed(book: Notebook, body: str, folder: Path, num_checkpoints: int) -> None:
    """Run a cell until there are so many checkpoints, and kill the kernel."""
    before = seen = ids(folder)
    book.send(body)
    for _ in range(1200):
        seen = seen | ids(folder)
        if len(seen - before) >= num_checkpoints:
            break
        time.sleep(0.02)
    else:
        pytest.fail("There is no checkpoint.")
    os.kill(book.manager.provisioner.pid, signal.SIGKILL)


def ids(folder: Path) -> set[str]:
    return {
        path.stem for path in (folder / ".gpurescue" / "checkpoints").glob("*.json")
    }


def went_on(result: Result) -> bool:
    return "Goes on from checkpoint" in result.stdout
