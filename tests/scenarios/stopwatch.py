"""How long a suspended run takes to go on, measured inside its kernel."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from IPython import get_ipython

from gpurescue.magics import extension
from gpurescue.recovery.frames import is_guarded


def start() -> Callable[[], float]:
    """Wait for the next cell, which goes on; the result gives its milliseconds.

    From the start of that cell to the first call of the user's code in the run.
    """
    job = extension.current().session.alive
    assert job is not None
    stamps: dict[str, float] = {}
    woken = job.run.hooks.on_wake

    def on_wake() -> None:
        woken()
        sys.setprofile(on_call)  # of the run's thread, which is the one that wakes

    def on_call(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and is_guarded(frame):
            sys.setprofile(None)
            stamps.setdefault("called", time.perf_counter())

    def on_cell(*_: Any) -> None:
        stamps.setdefault("typed", time.perf_counter())

    def stop() -> float:
        job.run.hooks.on_wake = woken
        get_ipython().events.unregister("pre_run_cell", on_cell)
        return 1e3 * (stamps["called"] - stamps["typed"])

    job.run.hooks.on_wake = on_wake
    get_ipython().events.register("pre_run_cell", on_cell)
    return stop
