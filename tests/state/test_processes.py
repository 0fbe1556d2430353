"""What belongs to a process is not taken into another."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.pool import ThreadPool

import pytest

pytest.importorskip("torch")

from gpurescue.state import graph, rebuilding
from gpurescue.state.lost import Lost


class Worker(threading.Thread):
    """A kind of thread."""


def _child(stack: ExitStack) -> object:
    arguments = [sys.executable, "-c", "input()"]
    return stack.enter_context(subprocess.Popen(arguments, stdin=subprocess.PIPE))


KINDS: dict[str, Callable[[ExitStack], object]] = {
    "thread": lambda stack: Worker(target=print),
    "child": _child,
    "process": lambda stack: multiprocessing.Process(target=print),
    "pool": lambda stack: stack.enter_context(ThreadPool(1)),
    "executor": lambda stack: stack.enter_context(ThreadPoolExecutor(1)),
    "future": lambda stack: stack.enter_context(ThreadPoolExecutor(1)).submit(
        threading.get_ident
    ),
}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_lost_as_a_whole_and_named(kind: str, stack: ExitStack) -> None:
    value = KINDS[kind](stack)
    found = graph.capture({"x": {"inside": [value]}, "y": 5})
    assert list(found.lost) == ["x['inside'][0]"]
    assert ": " in found.lost["x['inside'][0]"]  # its type, and why
    parts = rebuilding.Parts(lambda number: None, [], lambda name: None)
    again = rebuilding.rebuild(found.data, parts)
    assert isinstance(again["x"]["inside"][0], Lost)
    assert again["y"] == 5
