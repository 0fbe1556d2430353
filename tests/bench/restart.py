"""Going on in place against a restart from the program's own last checkpoint.

    python tests/bench/restart.py [NAME ...]

For each program of the scenario pack (``tests/scenarios``), or those with a name:

    resume_ms      from the start of the cell that goes on to the first call of the
                   user's code, in a real kernel
    restart_s      from starting a plain process in the folder that the crashed run has
                   left to the work that had been done at the crash: imports, data,
                   model, the last checkpoint, the lost steps. The bug is mended.
    restart_ratio  the second by the first

Prints a table and, as its last line, one JSON object with a list for each of these.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parents[1]
for name in ("kernel", "scenarios"):
    sys.path.insert(0, str(TESTS / name))

import playing  # noqa: E402
import scenario  # noqa: E402
from driver import Notebook  # noqa: E402
from scenario import Scenario  # noqa: E402

RESTART = """
import json, os, sys, threading, time
began, cells, progress, goal = json.loads(sys.stdin.read())
names = {"__name__": "__main__"}
answer, sys.stdout = sys.stdout, open(os.devnull, "w")

def watch():
    while True:
        time.sleep(0.002)
        try:
            is_there = eval(progress, dict(names)) >= goal
        except Exception:
            continue
        if is_there:
            print(json.dumps(time.time() - began), file=answer, flush=True)
            os.killpg(0, 9)

threading.Thread(target=watch, daemon=True).start()
for cell in cells:
    exec(compile(cell, "<cell>", "exec"), names)
time.sleep(1)
"""


def measure(book: Notebook, program: Scenario, folder: Path) -> dict[str, float]:
    """Both times of one program."""
    crashed = folder / "crashed"
    crashed.mkdir()
    playing.enter(book, crashed)
    try:
        playing.crash(book, program)
        goal = playing.progress(book, program)
        kept = folder / "kept"
        resume_ms = _resumed(book, program, crashed, kept)
    finally:
        playing.leave(book)
    restart_s = restarted(program, kept, goal)
    return {
        "resume_ms": resume_ms,
        "restart_s": restart_s,
        "restart_ratio": 1e3 * restart_s / resume_ms,
    }


def _resumed(book: Notebook, program: Scenario, folder: Path, kept: Path) -> float:
    """Milliseconds to the first call; what the crash has left is kept for a restart."""
    waiting = list(program.fix)
    while not playing.is_resume(waiting[0]):
        book.run(waiting.pop(0), timeout=60)
    shutil.copytree(folder, kept)
    book.run("_stop = __import__('stopwatch').start()")
    done = book.run(waiting[0], timeout=60)
    assert done.is_ok or done.error == "Suspended", done.traceback
    return float(book.run("print(_stop())").stdout)


def restarted(program: Scenario, folder: Path, goal: float) -> float:
    """Seconds until a new process has done again what the crash has cost."""
    cells = [*program.clean_cells, program.clean_body]
    process = subprocess.Popen(
        [sys.executable, "-c", RESTART],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        text=True,
        start_new_session=True,
    )
    task = json.dumps([time.time(), cells, program.progress, goal])
    printed, _ = process.communicate(task)
    return float(printed.splitlines()[-1])


def measured(programs: list[Scenario]) -> dict[str, dict[str, float]]:
    """The figures of each program by its name."""
    found = {}
    with Notebook() as book:
        for program in programs:
            with tempfile.TemporaryDirectory() as folder:
                found[program.name] = measure(book, program, Path(folder))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("name", nargs="*", help="part of the name of a program")
    wanted = parser.parse_args().name or [""]
    pack = scenario.pack(scenario.PROGRAMS)
    pack = [p for p in pack if any(part in p.name for part in wanted)]
    found = measured(pack)
    print(f"{'':44}{'resume ms':>10}{'restart s':>10}{'ratio':>8}")
    for name, row in found.items():
        print(f"{name:44}" + "{:10.2f}{:10.2f}{:8.0f}".format(*row.values()))
    figures: dict[str, Any] = {
        key: [round(row[key], 3) for row in found.values()]
        for key in ("resume_ms", "restart_s", "restart_ratio")
    }
    for key, values in figures.items():
        print(f"{key}: median {statistics.median(values):.2f}")
    print(json.dumps({"programs": list(found), **figures}))


if __name__ == "__main__":
    main()
