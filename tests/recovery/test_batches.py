"""Restarts of a whole round: run it again, or leave its batch out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import harness
import pytest

from gpurescue.errors import CannotResume, UsageError
from gpurescue.recovery import loops
from gpurescue.recovery.engine import Run, State
from gpurescue.recovery.hooks import Hooks
from gpurescue.recovery.plan import Action, Restart


class Stream:
    """A journal of one random stream, and the stream itself."""

    def __init__(self) -> None:
        self.num_drawn = 0
        self.reason: str | None = None

    def draw(self) -> int:
        self.num_drawn += 1
        return self.num_drawn

    def find(self, roots: Iterable[object]) -> None: ...

    def rest(self) -> None: ...

    def mark(self) -> StreamMark:
        return StreamMark(self)


class StreamMark:
    def __init__(self, stream: Stream) -> None:
        self.stream, self.before = stream, stream.num_drawn

    def problem(self, roots: Iterable[object]) -> str | None:
        return self.stream.reason

    def apply(self) -> None:
        self.stream.num_drawn = self.before


TRAIN = """
class Meter:
    def __init__(self):
        self.num_seen = 0
        self.history = []

meter = Meter()

def train(data, meter):
    total = 0
    losses = []
    def report():
        return total
    for epoch in range(2):
        for x in data:
            meter.num_seen += 1
            with held:
                noise = draw()
                x = x * 10 + noise
                losses.append(x)
                meter.history.append(x)
                total += use(x)
        losses.append(report())
    return total, losses, meter.num_seen, meter.history
"""
USE = """
def use(x):
    if x in bad:
        raise ValueError(x)
    return x
"""
BODY = "result = train([1, 2, 3], meter)\n"


class Held:
    def __init__(self, out: list[str]) -> None:
        self.out = out

    def __enter__(self) -> None:
        self.out.append("enter")

    def __exit__(self, *_: object) -> None:
        self.out.append("exit")


def start(
    *cells: str, bad: Iterable[int] = (), body: str = BODY, marks_all: bool = True
) -> tuple[harness.Notebook, Run, Stream]:
    stream = Stream()
    book = harness.Notebook()
    book.names |= {"draw": stream.draw, "bad": set(bad), "held": Held([])}
    for cell in cells or (USE, TRAIN):
        book.cell(cell)
    run = book.start(body, hooks=Hooks(journal=stream, marks_all=marks_all))
    run.wait(30)
    return book, run, stream


def expected(**changes: Any) -> Any:
    book, run, _ = start(**changes)
    assert run.state is State.FINISHED, run.error
    return book.names["result"]


# The second batch of the second epoch: 2 * 10 + 5.
BAD = 25


def test_round_runs_again_as_if_it_had_not_begun() -> None:
    book, run, _ = start(bad=[BAD])
    assert run.state is State.SUSPENDED
    book.names["bad"].clear()
    plan = run.resume(Restart(action=Action.ITERATION))
    assert "runs round 2/3 again from line 16" in str(plan)
    assert run.wait(30) is State.FINISHED, run.error
    assert book.names["result"] == expected()


def test_round_runs_again_in_the_edited_function() -> None:
    book, run, _ = start(bad=[BAD])
    edited = TRAIN.replace("x * 10 + noise", "x * 100 + noise")
    book.redefine(run, edited)
    run.resume(Restart(action=Action.ITERATION))
    assert run.wait(30) is State.FINISHED, run.error
    _, losses, num_seen, _ = book.names["result"]
    assert losses[:5] == [11, 22, 33, 66, 14]
    assert losses[5:7] == [205, 306]
    assert num_seen == 6


def test_skipped_batch_leaves_no_trace() -> None:
    book, run, stream = start(bad=[BAD])
    plan = run.resume(Restart(action=Action.SKIP_BATCH))
    assert plan.aside == {"x": BAD}
    assert run.wait(30) is State.FINISHED, run.error
    total, losses, num_seen, history = book.names["result"]
    assert losses == [11, 22, 33, 66, 14, 35, 66 + 14 + 35]
    assert (total, num_seen, len(history)) == (115, 5, 5)
    assert stream.num_drawn == 5


def test_cells_of_a_body_are_rounds_too() -> None:
    body = (
        "total, losses = 0, []\nfor x in (1, 2, 3):\n    noise = draw()\n"
        "    losses.append(noise)\n    total += use(x * 10 + noise)\n"
        "result = total, losses\n"
    )
    book, run, _ = start(bad=[22], body=body)
    assert run.state is State.SUSPENDED
    book.names["bad"].clear()
    run.resume(Restart(action=Action.ITERATION))
    assert run.wait(30) is State.FINISHED, run.error
    assert book.names["result"] == (66, [1, 2, 3]) == expected(body=body)


def test_what_the_journal_cannot_take_back_is_refused() -> None:
    book, run, stream = start(bad=[BAD])
    stream.reason = "Adam.step has moved the parameters"
    with pytest.raises(CannotResume, match=r"Adam\.step has moved the parameters"):
        run.resume(Restart(action=Action.ITERATION))
    assert run.state is State.SUSPENDED
    plan = run.resume(Restart(action=Action.SKIP_BATCH))
    assert "what the round has done stays: Adam.step has moved" in str(plan)
    assert run.wait(30) is State.FINISHED, run.error
    assert book.names["result"][2] == 6


def test_rounds_that_are_too_short_are_not_marked() -> None:
    body = "for i in range(3000):\n    use(i)\n"
    _, run, _ = start(bad=[2500], body=body, marks_all=False)
    with pytest.raises(CannotResume, match="its top was not marked"):
        run.resume(Restart(action=Action.ITERATION))
    run.resume(Restart(action=Action.SKIP_BATCH))
    assert run.wait(30) is State.FINISHED, run.error


def test_long_rounds_are_marked_by_themselves(monkeypatch) -> None:
    # A mark takes some 0.1 ms here, and many times that where others work, too.
    monkeypatch.setattr(loops, "BUDGET", 0.02)
    body = "import time\nfor i in range(7):\n    time.sleep(0.1)\n    use(i)\n"
    book, run, _ = start(bad=[5], body=body, marks_all=False)
    book.names["bad"].clear()
    run.resume(Restart(action=Action.ITERATION))
    assert run.wait(30) is State.FINISHED, run.error


def test_no_loop_no_round() -> None:
    _, run, _ = start(bad=[1], body="use(1)\n")
    with pytest.raises(UsageError, match="there is no round to go back to"):
        run.resume(Restart(action=Action.ITERATION))


def test_failing_iterator_has_no_round() -> None:
    _, run, _ = start(body="for i in map(lambda i: 1 // i, (1, 0, 1)):\n    use(i)\n")
    assert run.state is State.SUSPENDED
    with pytest.raises(CannotResume, match="could not be fetched"):
        run.resume(Restart(action=Action.ITERATION))
    run.resume(Restart(action=Action.SKIP_BATCH))
    assert run.wait(30) is State.FINISHED, run.error
