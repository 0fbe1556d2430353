"""The peers that can be installed: what they cost, and what they bring back.

    reloading 1.1.2   around the loop of the steps, or on every function of the user's;
                      asks for an edit of the file, and goes on behind the failed round
                      or with the failed call again
    jurigged 0.6.1    puts an edit of the file in force at the next call; a failure ends
                      the program as ever
    sys.settrace      what debuggers see each line with; a failure ends the program

Each is used as its own documentation says, on the same programs and in the same run as
we are.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import training  # it puts the folders of the tests on the path

# isort: split
import placements
from scenario import Scenario

PEERS = ("reloading loop", "reloading function", "jurigged")
_PROMPT = "press return to continue"
_MARK = "@reloading"
_LOOP = "in enumerate(loader):"
# The body of the loop that is measured, without its `continue`: reloading compiles the
# body by itself, where `continue` is a syntax error.
_BODY = """
            with context:
                loss = step(i)
            if not (loss is not None and loss < 0):
                total += advance(scale(i), 1)
"""
_RELOADING_LOOP = f"""
from reloading import reloading
def train(num_steps, step):
    total = 0.0
    for epoch in range(2):
        for i in reloading(range(num_steps // 2)):
{_BODY.strip(chr(10))}
"""
_RELOADING_FUNCTION = f"""
from reloading import reloading
@reloading
def one(i, step):
    total = 0.0
    if True:
        if True:
{_BODY.strip(chr(10))}
    return total
def train(num_steps, step):
    total = 0.0
    for epoch in range(2):
        for i in range(num_steps // 2):
            total += one(i, step)
"""


def are_installed() -> bool:
    """True if there is something to compare with."""
    return all(find_spec(name) for name in ("reloading", "jurigged"))


# --- what they cost while nothing fails ---


@contextlib.contextmanager
def loops() -> Iterator[dict[str, training.Loop]]:
    """The training loop under each of them."""
    found = {"sys.settrace": _traced(training.plain_loop("traced"))}
    if not are_installed():
        yield found
        return
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        found["reloading loop"] = _loop_in(folder, "loop_form", _RELOADING_LOOP)
        found["reloading function"] = _loop_in(folder, "call_form", _RELOADING_FUNCTION)
        import jurigged

        watcher = jurigged.watch(f"{folder}/watched.py", logger=lambda _: None)
        found["jurigged"] = _loop_in(folder, "watched", training.TRAIN)
        try:
            yield found
        finally:
            watcher.stop()
            sys.path.remove(folder)


def _loop_in(folder: str, name: str, source: str) -> training.Loop:
    Path(folder, f"{name}.py").write_text(source)
    module = importlib.import_module(name)
    vars(module).update(training.names())
    found: training.Loop = module.train
    return found


def _traced(loop: training.Loop) -> training.Loop:
    """Each line of the user's code is seen, nothing else."""
    code = loop.__code__  # type: ignore[attr-defined]

    def trace(frame: FrameType, event: str, _: object) -> Any:
        return trace if frame.f_code is code else None

    def train(num_steps: int, step: Any) -> None:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            loop(num_steps, step)
        finally:
            sys.settrace(before)

    return train


# --- what they bring back ---


@dataclass(frozen=True, slots=True)
class Repair:
    """What became of a program that failed.

    Attributes:
        went_on: True if one edit was enough to bring it to its end.
        digest: What it has left then.
    """

    went_on: bool
    digest: str


def repair(peer: str, placement: Scenario) -> Repair:
    """Run a program under a peer, and edit its file when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "ready.py").write_text(placements.SETUP)
        path = Path(folder, "program.py")
        path.write_text(_script(peer, placement.cells, placement.body))
        fixed = _script(peer, placement.clean_cells, placement.clean_body)
        option = ["-m", "jurigged"] if peer == "jurigged" else []
        with _started([*option, str(path)]) as process:
            num_asked, digest = _answered(process, path, fixed)
    return Repair(went_on=bool(digest) and num_asked == 1, digest=digest)


def _script(peer: str, cells: tuple[str, ...], body: str) -> str:
    text = "\n".join(["from ready import *", *cells, body])
    if peer == "reloading loop":
        text = text.replace(_LOOP, "in reloading(enumerate(loader)):")
    elif peer == "reloading function":
        text = _decorated(text)
    else:
        return text + "\nprint('digest', digest(model, optimizer, log))\n"
    head = "from reloading import reloading\n"
    return head + text + "\nprint('digest', digest(model, optimizer, log))\n"


def _decorated(text: str) -> str:
    """``@reloading`` on all functions; methods with it have no ``super()``."""
    lines = text.splitlines()
    found = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
    for node in reversed(found):
        lines.insert(min([node, *node.decorator_list], key=_line).lineno - 1, _MARK)
    return "\n".join(lines)


def _line(node: ast.stmt | ast.expr) -> int:
    return node.lineno


@contextlib.contextmanager
def _started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    stop = threading.Timer(60, process.kill)
    stop.start()
    try:
        with process:
            yield process
            process.kill()
    finally:
        stop.cancel()


def _answered(
    process: subprocess.Popen[str], path: Path, fixed: str
) -> tuple[int, str]:
    """Edit the file whenever it asks: how often that was, and the digest in the end."""
    assert process.stdin is not None
    assert process.stdout is not None
    num_asked = 0
    for line in process.stdout:
        if line.startswith("digest "):
            return num_asked, line.split()[1]
        if _PROMPT in line:
            num_asked += 1
            if num_asked > 3:  # the edit has not reached it
                break
            path.write_text(fixed)
            process.stdin.write("\n")
            process.stdin.flush()
    return num_asked, ""


_STEPS = """
import time
from reloading import reloading
table = {0: 0}
def step(i):
    x = table[i]
    print("stamp", time.time(), flush=True)
for i in reloading(range(3)):
    step(i)
"""


def restore_ms(num_rounds: int) -> float:
    """From the answer to reloading's question to the next line of the user's."""
    return statistics.median(_restored() for _ in range(num_rounds))


def _restored() -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.py")
        path.write_text(_STEPS)
        start = 0.0
        with _started([str(path)]) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("stamp") and start:
                    return 1e3 * (float(line.split()[1]) - start)
                if _PROMPT in line:
                    path.write_text(
                        _STEPS.replace("    step(i)\n", "    table[i] = i; step(i)\n")
                    )
                    start = time.time()
                    process.stdin.write("\n")
                    process.stdin.flush()
    return float("nan")


def measured(expected: dict[str, str], quick: bool) -> dict[str, dict[str, Any]]:
    """For each peer: programs that go on, those that are exact, the time it takes."""
    if not are_installed():
        return {}
    programs = placements.PLACEMENTS[:2] if quick else placements.PLACEMENTS
    found: dict[str, dict[str, Any]] = {}
    for peer in PEERS:
        repairs = {p.name: repair(peer, p) for p in programs}
        exact = sum(r.digest == expected[name] for name, r in repairs.items())
        went_on = sum(r.went_on for r in repairs.values())
        found[peer] = {"went_on": went_on, "exact": exact, "scenarios": len(programs)}
    found["reloading loop"]["resume_ms"] = restore_ms(3 if quick else 15)
    return found


if __name__ == "__main__":
    import inplace

    print(json.dumps(measured(inplace.reference_digests(), quick=False)))
