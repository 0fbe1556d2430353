"""Instructions of a guarded training loop against the plain one's.

    python tests/bench/instructions.py [--quick]

Counted by valgrind's callgrind in one process, in rotated order, with real training
steps of about 0.2, 1 and 10 ms. Counts do not depend on what else the machine does. For
each size the ratios to the plain loop, minus 1 (median of the rounds): of the guarded
loop, and of a second plain copy, the A/A row.

Prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import training

from gpurescue.recovery import loops

NUM_STEPS = {"02ms": 600, "1ms": 120, "10ms": 12}  # in two epochs, 0.12 s in all
NUM_WARM = 6  # rounds that are left out: what marks cost is found out once in a run
_TOTALS = re.compile(r"^totals: (\d+)", re.M)


def counted(widths: dict[str, int], part: int) -> dict[str, dict[str, float]]:
    """The ratios for each size, from a process that valgrind runs.

    Args:
        widths: Of the steps, by size.
        part: What part of the steps to do: 6 for a sixth.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind", "--tool=callgrind", "--instr-atstart=no",
            f"--callgrind-out-file={folder}/counts", "--vgdb-prefix=" + folder + "/gdb",
            sys.executable, __file__, "--inside", json.dumps(widths),
            "--part", str(part), "--folder", folder,
        ]  # fmt: skip
        env = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if done.returncode:
            raise RuntimeError(f"valgrind: {done.stderr[-2000:]}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _control(folder: str, option: str) -> None:
    prefix = f"--vgdb-prefix={folder}/gdb"
    command = ["callgrind_control", prefix, option, str(os.getpid())]
    subprocess.run(command, check=True, capture_output=True)


def _meter(folder: str) -> Callable[[Callable[[], Any]], float]:
    """Counts the instructions of a piece of work."""

    def count(work: Callable[[], Any]) -> float:
        before = set(Path(folder).glob("counts.*"))
        _control(folder, "--instr=on")
        work()
        _control(folder, "--dump")
        _control(folder, "--instr=off")
        (dump,) = set(Path(folder).glob("counts.*")) - before
        totals = _TOTALS.search(dump.read_text())
        assert totals is not None
        return float(totals[1])

    return count


def _inside(widths: dict[str, int], part: int, folder: str) -> None:
    found: dict[str, dict[str, float]] = {}
    pause = loops.PAUSE
    for suffix, milliseconds, _ in training.SIZES:
        if suffix not in widths:
            continue
        step = training.step_of_width(widths[suffix])
        _control(folder, "--instr=on")  # as slow as it is going to be
        loops.PAUSE = pause * _seconds(step) / (milliseconds / 1e3)
        _control(folder, "--instr=off")
        num_steps, num_rounds = NUM_STEPS[suffix] // part, NUM_WARM + 3
        costs = training.measure(step, num_steps, num_rounds, _meter(folder))
        costs = {label: own[NUM_WARM:] for label, own in costs.items()}
        plain = costs["plain"]
        found[suffix] = {"step": statistics.median(plain)} | {
            label: statistics.median(a / b for a, b in zip(own, plain, strict=True)) - 1
            for label, own in costs.items()
            if label != "plain"
        }
    print(json.dumps(found))


def _seconds(step: Callable[[int], Any]) -> float:
    for i in range(5):
        step(i)
    start = time.perf_counter()
    for i in range(5):
        step(i)
    return (time.perf_counter() - start) / 5


def measured(quick: bool) -> dict[str, dict[str, float]] | None:
    """The ratios, or None where there is no valgrind."""
    if shutil.which("callgrind_control") is None:
        return None
    sizes = training.SIZES[:1] if quick else training.SIZES
    widths = {suffix: training.width_of(ms) for suffix, ms, _ in sizes}
    return counted(widths, 6 if quick else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a short run")
    for name in ("--inside", "--part", "--folder"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        _inside(json.loads(given.inside), int(given.part), given.folder)
        return
    found = measured(given.quick)
    if found is None:
        raise SystemExit("There is no valgrind: apt-get install valgrind.")
    for suffix, row in found.items():
        print(suffix, *(f"{label} {value:.6g}" for label, value in row.items()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
