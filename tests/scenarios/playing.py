"""Programs of the pack, played in a real kernel and in a plain process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from driver import Notebook, Result
from scenario import Scenario

HERE = Path(__file__).parent


class Reference:
    """A plain Python process that runs the programs without their bugs."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "reference.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._is_running = False

    def begin(self, program: Scenario, folder: Path) -> None:
        """Run it in a folder of its own; returns at once."""
        if self._is_running:  # its test has failed before it asked
            self._answer()
        cells = [*program.clean_cells, program.clean_body]
        task = json.dumps({"cells": cells, "folder": str(folder)})
        print(task, file=self.process.stdin, flush=True)
        self._is_running = True

    def end(self) -> dict[str, Any]:
        """What the program has left, and what it printed."""
        found = self._answer()
        assert "error" not in found, found["error"]
        return found

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        self._is_running = False
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


def enter(book: Notebook, folder: Path) -> None:
    """Give the next program the kernel as if it were a fresh one."""
    done = book.run(
        f"__import__('sys').path.append({str(HERE)!r})\n"
        f"__import__('surroundings').enter({str(folder)!r})\n"
        "%load_ext gpurescue",
        timeout=60,
    )
    assert done.is_ok, done.traceback


def leave(book: Notebook) -> None:
    """Take back all that a program has done to the kernel."""
    state = book.run("print(__import__('gpurescue').rescue())").stdout
    if "suspended" in state:
        book.run("__import__('gpurescue').resume(action='abandon')")
    book.run("__import__('surroundings').enter('/')\n%reset -f")
    assert book.run("%unload_ext gpurescue").is_ok


def crash(book: Notebook, program: Scenario) -> Result:
    """Run the program up to its bug."""
    for cell in program.cells:
        done = book.run(cell, timeout=60)
        assert done.is_ok, done.traceback
    crashed = book.run(f"{program.magic}\n{program.body}", timeout=60)
    assert crashed.error == "Suspended", crashed.traceback or crashed.stdout
    return crashed


def progress(book: Notebook, program: Scenario) -> float:
    """How much work has been done, by the program's own measure."""
    return float(book.run(f"print({program.progress})").stdout)


def is_resume(cell: str) -> bool:
    """Tell a cell that goes on from one that mends."""
    return cell.lstrip("%").startswith("resume")


def printed(program: Scenario, crashed: Result, answers: list[Result]) -> str:
    """What the program itself has printed: a resume first says what it will do."""
    lines = crashed.stdout.splitlines(True)
    for cell, answer in zip(program.fix, answers, strict=True):
        if is_resume(cell):
            lines += answer.stdout.splitlines(True)[1:]
    return "".join(lines)


def left(book: Notebook, names: list[str]) -> dict[str, str]:
    """The fingerprint of what a program has left in the kernel."""
    found = book.run(
        f"print(__import__('json').dumps("
        f"__import__('fingerprint').of(globals(), {names})))",
        timeout=60,
    )
    assert found.is_ok, found.traceback
    return json.loads(found.stdout)
