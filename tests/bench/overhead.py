"""What checkpoints at the default budget cost a whole run.

    python tests/bench/overhead.py [--quick]

Three copies of one training loop in rotated order: plain, plain again (the A/A row) and
guarded, inside a run with checkpoints on at the default budget of 1 %. Wall time per
step, since what a checkpoint costs is above all other work beside it; medians of the
rounds' ratios. Prints a table and, as its last line, one JSON object:

    run_overhead   of the guarded run against the plain one, minus 1
    run_noise      the same for the second plain copy
    num_taken      checkpoints that were published
    scene_s        of each, seconds to find out what the run consists of, and that it
                   can be gone on with from there; median
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import training  # first: it sets the paths and the number of threads
from stalls import Training

from gpurescue.magics import scripts
from gpurescue.magics.scene import Scene
from gpurescue.recovery.engine import Body, Run
from gpurescue.recovery.hooks import Hooks
from gpurescue.source.folders import Folders
from gpurescue.source.modules import Modules
from gpurescue.state.capture import State
from gpurescue.state.device import TorchRuntime
from gpurescue.state.surroundings import Surroundings
from gpurescue.store.checkpointer import Checkpointer
from gpurescue.store.policy import Settings
from gpurescue.store.regular import Regular
from gpurescue.store.store import Store

LOOP = """
def train(step, seconds):
    start = clock()
    num_steps = 0
    for i in range(10**9):
        step()
        num_steps += 1
        if clock() - start > seconds:
            break
    return (clock() - start) / num_steps
"""


def _plain(program: Training) -> Callable[[float], float]:
    names: dict[str, Any] = {"clock": time.perf_counter}
    exec(compile(LOOP, "<plain>", "exec"), names)
    return lambda seconds: float(names["train"](program.step, seconds))


class _Guarded:
    """The loop inside of runs that take checkpoints."""

    def __init__(self, program: Training, folder: Path) -> None:
        self.book = training.harness.Notebook()
        self.book.names |= {"clock": time.perf_counter, "step": program.step}
        self.book.cell(LOOP)
        self.program, self.folder = program, folder
        self.num_taken = 0
        self.scenes: list[float] = []

    def __call__(self, seconds: float) -> float:
        self.book.names["seconds"] = seconds
        body = "found = train(step, seconds)\n"
        text = scripts.Text(
            written=body, source=body, filename=training.harness.keep(body)
        )
        script = scripts.compile_script(text, flags=0, interactivity="none")
        hooks = Hooks(journal=TorchRuntime().journal(keeps_parameters=False))
        run = Run(Body(code=script.code, namespace=self.book.names), hooks=hooks)
        regular = run.clock.watcher = self._regular(script, run)
        run.start()
        run.wait()
        regular.close()
        if regular.checkpointer is not None:
            self.num_taken += regular.checkpointer.counts.published
        if run.error is not None:
            raise run.error
        return float(self.book.names["found"])

    def _regular(self, script: scripts.Script, run: Run) -> Regular:
        scene = Scene(
            script=lambda: script,
            namespace=self.book.names,
            hidden=(),
            modules=Modules(Folders(())),
            where=run.clock.__str__,
            surroundings=Surroundings(),
        )

        def opened(report: Any) -> Checkpointer:
            store = Store(self.folder, create=True)
            return Checkpointer(store, "0123456789abcdef", on_done=report)

        def state(frame: FrameType, anyway: bool) -> State | None:
            start = time.perf_counter()
            found = scene(frame, anyway)
            self.scenes.append(time.perf_counter() - start)
            return found

        return Regular(opened, Settings(), state)


def figures(quick: bool) -> dict[str, Any]:
    """The ratios."""
    program = Training(num_blocks=0, length=16)
    seconds, num_rounds = (15.0, 1) if quick else (90.0, 3)
    with tempfile.TemporaryDirectory() as folder:
        guarded = _Guarded(program, Path(folder) / "store")
        ways = {
            "plain": _plain(program),
            "plain again": _plain(program),
            "guarded": guarded,
        }
        costs: dict[str, list[float]] = {label: [] for label in ways}
        for way in ways.values():
            way(1.0)
        for number in range(num_rounds):
            order = list(ways)
            first = number % len(order)
            for label in order[first:] + order[:first]:
                costs[label].append(ways[label](seconds))
    return {
        "run_overhead": _ratio(costs["guarded"], costs["plain"]),
        "run_noise": _ratio(costs["plain again"], costs["plain"]),
        "num_taken": guarded.num_taken,
        "scene_s": statistics.median(guarded.scenes),
        "overhead_step_s": statistics.median(costs["plain"]),
    }


def _ratio(own: list[float], plain: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(own, plain, strict=True)) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a short run")
    found = figures(parser.parse_args().quick)
    for name, value in found.items():
        print(f"{name:16} {value:.5g}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
