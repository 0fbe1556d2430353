"""A failure of ours anywhere: the user has their own exception, or never notices.

Every function of ``recovery/`` and ``source/`` that is called while a sample crashes,
is held and goes on is made to fail once: at its first call, and at its last. A part of
them in each run of the tests; all with GPURESCUE_LONG=1.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import harness
import pytest

from gpurescue.errors import RescueError
from gpurescue.recovery import guards, own
from gpurescue.recovery.engine import Run, State
from gpurescue.recovery.handlers import walk
from gpurescue.recovery.plan import Action, Restart

ROOT = Path(guards.__file__).parents[1]
OURS = (str(ROOT / "recovery"), str(ROOT / "source"))
# What guarded code and the thread call themselves: shells that hold what may fail.
SHELLS = {
    *("Run._main", "Run._execute", "Run._end", "Run._leave", "Run._following"),
    *("Run._ask", "Run._wake", "Run._publish", "enter", "leave", "passed"),
    *("caught", "caught_last", "_safely", "_run", "loop_iterator", "Hand.__next__"),
    *(
        "Hand.__iter__",
        "Hand.__del__",
        "Hand.segments",
        "Continuation.run",
        "Continuation.take",
    ),
    *("Continuation.end", "Continuation.returned", "Continuation.left"),
    *("Continuation.leave", "Continuation._run_body", "Continuation._next"),
    *("HandBack.run", "HandBack.__init__", "handing_back", "_Trace._local"),
    *("harmless", "failed"),
}


class Injected(Exception):
    """A failure of ours."""


class Saboteur:
    """Counts calls into our code in a run's thread, and makes one of them fail."""

    def __init__(self, target: tuple[CodeType, int] | None = None) -> None:
        self.counts: Counter[CodeType] = Counter()
        self.target = target
        self.has_struck = False

    def enter(self) -> None:
        sys.setprofile(self._event)

    def _event(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(OURS):
            return
        if code.co_qualname in SHELLS or code.co_name.startswith("<"):
            return
        self.counts[code] += 1
        if self.target == (code, self.counts[code]):
            self.has_struck = True
            raise Injected(code.co_qualname)  # and profiling is over


PROGRAM = [
    """
class Manager:
    def __enter__(self):
        T("enter")
        return self
    def __exit__(self, *error):
        T(("exit", error[0] and error[0].__name__))

def numbers(n):
    for i in range(n):
        yield T(i)

def inner(x):
    y = T(x) + T(10)
    with Manager():
        y += T(fail(x))
    return y

def outer(n):
    total = 0
    for i in numbers(n):
        try:
            total += inner(i)
        finally:
            T("finally")
        if total > 1000:
            break
    else:
        T("else")
    return total
""",
    "results = []\nfor k in range(2):\n    results.append(T(outer(3)))\nT(results)\n",
]
EDITED = (
    PROGRAM[0]
    .replace("total = 0", "total = 0  # edited")
    .replace('T("else")', 'T("else")\n        T("new")')
)


class Failing:
    """``fail``: raises the user's exception once."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, x: int) -> int:
        self.left -= 1
        if self.left == 0:
            raise harness.Fault(x)
        return x


def play(saboteur: Saboteur, edit: str | None) -> tuple[Run, list[Any]]:
    """Run the program; mend it as often as it is held."""
    probe = harness.Probe()
    book = harness.Notebook()
    book.names |= {"T": probe, "fail": Failing(2)}
    book.cell(PROGRAM[0])
    hooks_start = harness.hooks(on_start=saboteur.enter)
    run = book.start(PROGRAM[1], hooks=hooks_start)
    for _ in range(5):
        if run.wait(3) is not State.SUSPENDED:
            break
        if edit is not None and run.num_suspensions == 1:
            book.redefine(run, edit)
        go_on(run)
    return run, probe.out


def go_on(run: Run) -> None:
    try:
        run.resume(Restart())
    except RescueError:  # further out, where the statement cannot run again
        run.resume(Restart(action=Action.RAISE))


def strikes(edit: str | None) -> list[tuple[CodeType, int]]:
    saboteur = Saboteur()
    run, _ = play(saboteur, edit)
    assert run.state is State.FINISHED, run.error
    assert run.num_suspensions == 1
    return [
        (code, n) for code, count in saboteur.counts.items() for n in sorted({1, count})
    ]


@pytest.fixture
def _logged_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "STRICT", False)
    monkeypatch.setattr(own, "STRICT", False)
    monkeypatch.setattr(walk, "STRICT", False)


@pytest.mark.usefixtures("_logged_only")
@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(None, id="retry"),
        pytest.param(EDITED, id="edit", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_user_has_their_own_exception(
    edit: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    _, expected = play(Saboteur(), edit)
    found = strikes(edit)
    assert len(found) > 100
    found = found[:: 1 if os.environ.get("GPURESCUE_LONG") else 12]
    wrong: list[str] = []
    for code, n in found:
        saboteur = Saboteur((code, n))
        caplog.clear()
        run, out = play(saboteur, edit)
        if edit and "Edited callers keep their old code." in caplog.messages:
            out = in_new_code(out)
        what = f"{Path(code.co_filename).stem}.{code.co_qualname} #{n}"
        problem = verdict(run, out, expected)
        if problem:
            wrong.append(f"{what}: {problem}")
    assert not wrong, "\n".join(wrong)


def in_new_code(out: list[Any]) -> list[Any]:
    """``out`` as if the call of ``outer`` that was held had switched; it said it."""
    missing = out.index("else") + 1
    return out if out[missing] == "new" else [*out[:missing], "new", *out[missing:]]


def verdict(run: Run, out: list[Any], expected: list[Any]) -> str:
    if run.state is State.FINISHED:
        return "" if out == expected else "another trace"
    if run.state is not State.FAILED:
        return f"left {run.state.value}"
    if not isinstance(run.error, harness.Fault):
        text = "".join(traceback.format_exception(run.error))[-1500:]
        return f"failed with {text}"
    files = {entry.filename for entry in traceback.extract_tb(run.error.__traceback__)}
    ours = [name for name in files if name.startswith(OURS)]
    return f"shows {ours}" if ours else ""


@pytest.mark.usefixtures("_logged_only")
@pytest.mark.parametrize("edit", [None, EDITED], ids=["retry", "edit"])
def test_a_failure_while_going_on_is_planned_leaves_the_run_parked(
    edit: str | None,
) -> None:
    """In the thread that asks: the run can still be resumed."""
    book = harness.Notebook()
    probe = harness.Probe()
    book.names |= {"T": probe, "fail": Failing(2)}
    book.cell(PROGRAM[0])
    run = book.start(PROGRAM[1])
    assert run.wait(30) is State.SUSPENDED
    if edit is not None:
        book.redefine(run, edit)
    counting = Saboteur()
    sys.setprofile(counting._event)
    run.plan(Restart())
    sys.setprofile(None)
    for code in list(counting.counts)[:: 1 if os.environ.get("GPURESCUE_LONG") else 4]:
        saboteur = Saboteur((code, 1))
        sys.setprofile(saboteur._event)
        with contextlib.suppress(Injected):  # or not called: what it gave was kept
            run.plan(Restart())
        sys.setprofile(None)
        assert run.state is State.SUSPENDED, code
    run.resume(Restart())
    assert run.wait(30) is State.FINISHED, run.error
