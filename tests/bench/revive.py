"""Runs that are killed and brought back in a new kernel, against restarting them.

    python tests/bench/revive.py [--quick] [--kills N] [--seed N] [NAME ...]

Each program of the scenario pack (``tests/scenarios``), without its bug, or those with
a name: it runs in a real kernel that is killed with SIGKILL at a random moment behind
a checkpoint; a new kernel is told to ``%restore``, and is perhaps killed again, before
one may end the run. A kill counts if the next kernel went on in the middle of the run.

    problems   runs that did not come back, or not exactly
    exact      kills behind which all variables, random streams and files were, at the
               end, those of a plain process that nobody has killed
    lost_s     seconds from the newest checkpoint to the kill, median and worst
    redone     steps of an optimizer that were done again, median and worst per kill
    revive_s   from ``%load_ext gpurescue`` and ``%restore`` in a fresh kernel to the
               end of the first new round, imports included, median
    restart_s  from starting a plain process on what the killed run has left to the
               same amount of work: imports, data, the program's own last checkpoint if
               it saves any, the lost work
    ratio      the second by the first, median over the kills

So that short programs can be killed, an optimizer's step takes 30 ms longer in the
runs that are killed; not in the ones that are timed. Left out are programs that are of
no use without something outside of their process: they are named. Prints a table and,
as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parents[1]
for name in ("kernel", "scenarios", "bench"):
    sys.path.insert(0, str(TESTS / name))

import playing  # noqa: E402
import restart  # noqa: E402
import scenario  # noqa: E402
from driver import Notebook  # noqa: E402
from scenario import Scenario  # noqa: E402

COUNTED = """
from torch.optim.optimizer import register_optimizer_step_post_hook as _register
_steps = open("../steps", "ab", buffering=0)
_register(lambda *_, **__: _steps.write(b"x") and None)
"""
SLOWER = (
    COUNTED
    + """
import time as _time
_register(lambda *_, **__: _time.sleep(0.03))
"""
)
OFTEN = """
%config GpuRescue.checkpoints = True
%config GpuRescue.seconds_between = 0.05
%config GpuRescue.budget = 90
"""
# Nothing of torch is imported before the clock starts.
TIMED = """
import threading, time
def _watch():
    from gpurescue.magics import extension
    first = None
    while True:
        time.sleep(0.001)
        job = None if extension._loaded is None else extension.current().session.job
        rounds = 0 if job is None else job.run.clock.num_rounds
        first = first or rounds
        if rounds > first:
            print(f"REVIVED {time.time()} {eval(PROGRESS, globals())}")
            return
threading.Thread(target=_watch, daemon=True).start()
"""
MOST = 60.0  # seconds that anything may take
ELSEWHERE = {
    "nondeterministic_error/vision_busy_server": "asks a server in its own process",
    "gpu_contention/rl_rendezvous_port": "holds a port of its machine",
    "nondeterministic_error/rl_slow_worker": "has its environment in a child process",
    "resource_bug/tabular_quota": "writes to a database, which knows later rows",
}


@dataclass
class Outcome:
    """What became of one program."""

    kills: int = 0
    exact: int = 0
    missed: int = 0
    lost_s: list[float] = field(default_factory=list)
    redone: list[float] = field(default_factory=list)
    revive_s: list[float] = field(default_factory=list)
    restart_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, lost: list[float], differs: set[str]) -> None:
        """Count kills of a run that has gone on to its end."""
        self.kills += len(lost)
        self.exact += 0 if differs else len(lost)
        self.lost_s += lost
        if differs:
            self.wrong.append(f"differs: {sorted(differs)}")


class Folder:
    """Where one program runs, from kernel to kernel."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.run = base / "run"
        self.clean = base / "clean"
        for path in (self.run, self.clean):
            path.mkdir()

    def ids(self) -> set[str]:
        """Checkpoints that are there."""
        found = (self.run / ".gpurescue" / "checkpoints").glob("*.json")
        return {path.stem for path in found}

    def newest(self) -> float:
        """When the newest one was made."""
        found = (self.run / ".gpurescue" / "checkpoints").glob("*.json")
        return max((path.stat().st_mtime for path in found), default=0.0)

    def num_steps(self) -> int:
        """Steps of optimizers that were done here, again ones included."""
        return (self.base / "steps").stat().st_size

    @contextlib.contextmanager
    def kernel(self) -> Iterator[Notebook]:
        """A fresh kernel in the program's folder."""
        os.environ["JUPYTER_DATA_DIR"] = str(self.base / "jupyter")
        book = Notebook(self.run)
        try:
            yield book
        finally:
            book.close()


def kill(book: Notebook, cell: str, folder: Folder, behind: int) -> float | None:
    """Run a cell and kill its kernel.

    Args:
        book: The kernel.
        cell: What to run.
        folder: Where its checkpoints are.
        behind: New checkpoints to wait for; the kill comes up to 60 ms later.

    Returns:
        Seconds since the newest checkpoint; None if the cell was over before.
    """
    before = seen = folder.ids()
    book.send(cell)
    until = time.monotonic() + MOST
    while time.monotonic() < until:
        seen = seen | folder.ids()
        if len(seen - before) >= behind:
            time.sleep(random.random() * 0.06)
            os.kill(book.manager.provisioner.pid, signal.SIGKILL)
            return time.time() - folder.newest()
        if book.client.shell_channel.msg_ready():
            return None
        time.sleep(0.002)
    return None


def _run(book: Notebook, cell: str) -> None:
    done = book.run(cell, timeout=MOST)
    assert done.is_ok, f"{done.reply} {done.traceback}"


def begun(program: Scenario, folder: Folder) -> float | None:
    """Run a program in a kernel that is killed; as ``kill``."""
    with folder.kernel() as book:
        playing.enter(book, folder.run)
        for cell in (SLOWER, OFTEN, *program.clean_cells):
            _run(book, cell)
        body = f"%%resilient --park\n{program.clean_body}"
        return kill(book, body, folder, random.randint(1, 3))


def killed_again(folder: Folder) -> float | None:
    """Bring it back in a kernel that is killed, too; as ``kill``."""
    with folder.kernel() as book:
        playing.enter(book, folder.run)
        for cell in (SLOWER, OFTEN):
            _run(book, cell)
        return kill(book, "%restore --park", folder, 1)


@dataclass(frozen=True)
class Ended:
    """A run that was brought back and has ended.

    Attributes:
        seconds: To the end of the first new round; None if there was none.
        progress: What had been done by then, by the program's own measure.
        differs: Names of what is not as in a run that nobody has killed.
    """

    seconds: float | None
    progress: float
    differs: set[str]


def ended(
    program: Scenario, folder: Folder, clean: dict[str, Any], watch: str
) -> Ended:
    """Bring a run back in a fresh kernel that watches it, and let it end."""
    with folder.kernel() as book:
        _run(book, f"PROGRESS = {program.progress!r}\n{watch}")
        start = time.time()
        done = book.run("%load_ext gpurescue\n%restore --park --budget 0", timeout=MOST)
        assert done.is_ok, done.traceback
        assert "Goes on from checkpoint" in done.stdout, f"{done}"
        told = [x.split() for x in done.stdout.splitlines() if x[:7] == "REVIVED"]
        seconds = float(told[0][1]) - start if told else None
        progress = float(told[0][2]) if told else 0.0
        here = str(TESTS / "scenarios")
        _run(book, f"__import__('sys').path.append({here!r})")
        left = playing.left(book, clean["names"])
    wanted = clean["left"]
    names = {*left, *wanted}
    differs = {n for n in names if left.get(n) != wanted.get(n)}
    return Ended(seconds, progress, differs)


def attempt(
    program: Scenario, reference: playing.Reference, again: bool, found: Outcome
) -> None:
    """Kill a program once, or twice, and bring it back."""
    base = Path(tempfile.mkdtemp(prefix="gpurescue-revive-"))
    try:
        folder = Folder(base)
        counted = dataclasses.replace(
            program, clean_cells=(COUNTED, *program.clean_cells)
        )
        reference.begin(counted, folder.clean)
        clean = reference.end()
        num_steps = folder.num_steps()
        lost = [begun(program, folder)]
        if lost[0] is None:
            found.missed += 1
            return
        shutil.copytree(folder.run, base / "kept")
        if again:
            lost.append(killed_again(folder))
        done = ended(program, folder, clean, COUNTED if again else TIMED)
        found.add([seconds for seconds in lost if seconds is not None], done.differs)
        if again:
            redone = folder.num_steps() - 2 * num_steps
            found.redone.append(redone / len(lost))
        elif done.seconds is not None:
            found.revive_s.append(done.seconds)
            found.restart_s.append(
                restart.restarted(program, base / "kept", done.progress)
            )
    except (AssertionError, TimeoutError) as error:
        found.wrong.append(str(error).strip()[-300:])
    finally:
        shutil.rmtree(base, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--quick", action="store_true", help="4 kills")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    wanted = 4 if options.quick else options.kills
    pack = [
        program
        for program in scenario.pack(scenario.PROGRAMS)
        if program.name not in ELSEWHERE
        and (not options.names or any(n in program.name for n in options.names))
    ]
    found = {program.name: Outcome() for program in pack}
    reference = playing.Reference()
    try:
        play(pack, found, reference, wanted)
    finally:
        reference.close()
    report(found)


def play(
    pack: list[Scenario],
    found: dict[str, Outcome],
    reference: playing.Reference,
    wanted: int,
) -> None:
    """Go through the programs until there are enough kills."""
    num_rounds = 0
    while sum(x.kills for x in found.values()) < wanted and num_rounds < 50:
        for program in pack:
            outcome = found[program.name]
            if outcome.missed < 3 or outcome.kills:
                again = bool(num_rounds % 2)
                attempt(program, reference, again, outcome)
                print(f"  {program.name:45} {_line(outcome)}", flush=True)
            if sum(x.kills for x in found.values()) >= wanted:
                break
        num_rounds += 1


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else float("nan")


def _figure(values: list[float]) -> float | None:
    return round(statistics.median(values), 3) if values else None


def _worst(values: list[float]) -> float | None:
    return round(max(values), 3) if values else None


def _line(x: Outcome) -> str:
    text = (
        f"kills {x.kills:3} exact {x.exact:3} missed {x.missed} "
        f"lost_s {_median(x.lost_s):.2f} redone {_median(x.redone):.1f} "
        f"revive_s {_median(x.revive_s):.2f} "
        f"restart_s {_median(x.restart_s):.2f}"
    )
    return text + (f" {x.wrong[-1][:200]!r}" if x.wrong else "")


def report(found: dict[str, Outcome]) -> None:
    """Print the table, and the figures as JSON."""
    for name, why in ELSEWHERE.items():
        print(f"{name:47} left out: {why}")
    for name, outcome in found.items():
        print(f"{name:47} {_line(outcome)}")
    outcomes = found.values()
    pairs = [p for x in outcomes for p in zip(x.revive_s, x.restart_s, strict=True)]
    figures = {
        "kills": sum(x.kills for x in outcomes),
        "exact": sum(x.exact for x in outcomes),
        "lost_s": _figure([s for x in outcomes for s in x.lost_s]),
        "lost_s_worst": _worst([s for x in outcomes for s in x.lost_s]),
        "redone": _figure([n for x in outcomes for n in x.redone]),
        "redone_worst": _worst([n for x in outcomes for n in x.redone]),
        "problems": sum(len(x.wrong) for x in outcomes),
        "revive_s": _figure([revive for revive, _ in pairs]),
        "restart_s": _figure([again for _, again in pairs]),
        "ratio": _figure([again / revive for revive, again in pairs]),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
