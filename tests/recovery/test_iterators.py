"""A library's iterator that fails holds the run, with all that is around it alive."""

from __future__ import annotations

import itertools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import harness
import pytest

from gpurescue.errors import CannotResume
from gpurescue.recovery import guards, loops
from gpurescue.recovery.answers import Answers
from gpurescue.recovery.engine import Run, State
from gpurescue.recovery.hooks import Hooks
from gpurescue.recovery.plan import Action, Restart
from gpurescue.source import foreign


class Feed:
    """What a library would give to a loop: 0 to 5, and a failure at 3."""

    def __init__(self) -> None:
        self.at = 0
        self.is_broken = True
        self.has_moved = False

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        """Give the next item."""
        if self.at >= 6:
            raise StopIteration
        self.at += 1
        if self.at == 4 and self.is_broken:
            raise harness.Fault("three")
        return self.at - 1


def through(iterable: Any) -> Iterator[Any]:
    """A library's generator, which is over when an exception has left it."""
    yield from iterable


class Rest:
    """A library's trainer."""

    def fit(self, step: Callable[[Any], None], items: Any) -> str:
        for item in items:
            step(item)
        return "done"


@dataclass
class Again:
    """The rollback of a feed that has failed."""

    feed: Feed
    is_exact: bool = True
    gives_again: bool = True
    note: str = "gives 3 again"
    failures: list[Exception] = field(default_factory=list)

    def apply(self) -> None:
        if self.failures:
            raise self.failures.pop()
        self.feed.at = 3


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> harness.Notebook:
    held = foreign.held(Feed.__next__)
    assert held is not None
    monkeypatch.setattr(Feed, "__next__", held)
    found = harness.Notebook()
    found.names |= {"feed": Feed(), "out": [], "through": through, "Rest": Rest}
    found.names |= {"itertools": itertools}
    return found


def start(book: harness.Notebook, body: str, **options: Any) -> Run:
    feed = book.names["feed"]
    made = Again(feed, **options)
    run = book.start(body, hooks=Hooks(on_failure=lambda error, frame: [made]))
    assert run.wait(30) is State.SUSPENDED, run.error
    return run


def mend(book: harness.Notebook, run: Run, **options: Any) -> list[Any]:
    book.names["feed"].is_broken = False
    run.resume(Restart(**options))
    assert run.wait(30) is State.FINISHED, run.error
    return book.names["out"]


def failing_line(run: Run) -> str:
    assert run.suspension is not None
    held = run.suspension.innermost
    return held.definition.unit.line(held.line)


LOOPS = {
    "itself": ("feed", list(range(6))),
    "counted": ("enumerate(feed)", list(enumerate(range(6)))),
    "zip, first": ("zip(feed, 'abcdef')", list(zip(range(6), "abcdef", strict=True))),
    "zip, last": ("zip('abcdef', feed)", list(zip("abcdef", range(6), strict=True))),
    "slice": ("itertools.islice(feed, 5)", list(range(5))),
    "pairs": ("itertools.pairwise(feed)", list(itertools.pairwise(range(6)))),
    "chain": ("itertools.chain(feed, 'x')", [*range(6), "x"]),
    "library's generator": ("through(enumerate(feed))", list(enumerate(range(6)))),
    "own generator": ("own(feed)", [i * 2 for i in range(6)]),
    "expression": ("(i + 1 for i in feed)", [i + 1 for i in range(6)]),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_gets_every_item_once_through_anything(
    name: str, book: harness.Notebook
) -> None:
    source, expected = LOOPS[name]
    book.cell("def own(items):\n    for item in items:\n        yield item * 2\n")
    run = start(book, f"for item in {source}:\n    out.append(item)\n")
    assert "gives 3 again" in str(run.plan(Restart()))
    assert mend(book, run) == expected


STATEMENTS = {
    "next": "it = iter(feed)\nfor _ in range(6):\n    out.append(next(it))\n",
    "comprehension": "out += [(i, out.append(i))[0] for i in feed]\n",
    "list": "out += list(through(feed))\n",
    "unpacking": "a, b, *c = feed\nout += [a, b, *c]\n",
    "trainer": "out.append(Rest().fit(out.append, through(feed)))\n",
    "while": (
        "it = iter(feed)\nwhile (item := next(it, None)) is not None:\n"
        "    out.append(item)\n"
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_call_goes_on_inside(name: str, book: harness.Notebook) -> None:
    expected: list[Any] = []
    names = {**book.names, "out": expected, "feed": range(6)}
    exec(STATEMENTS[name], names)
    book.names["Rest"] = names["Rest"]
    run = start(book, STATEMENTS[name])
    assert mend(book, run) == expected


def test_the_loop_of_the_user_is_what_is_shown(book: harness.Notebook) -> None:
    book.cell("def train(items):\n    for item in through(items):\n        item\n")
    run = start(book, "train(feed)\n")
    held = run.suspension
    assert held is not None
    assert [frame.name for frame in held.frames] == ["train", "<module>"]
    assert failing_line(run) == "    for item in through(items):"
    shown = [entry.name for entry in traceback.extract_tb(held.error.__traceback__)]
    assert shown == ["train", "through", "__next__"]
    assert "if self.at == 4" not in held.traceback_text
    assert 'raise harness.Fault("three")' in held.traceback_text
    mend(book, run)


def test_the_next_item_is_asked_for_on_skip(book: harness.Notebook) -> None:
    run = start(book, "for item in through(feed):\n    out.append(item)\n")
    assert mend(book, run, action=Action.SKIP) == [0, 1, 2, 4, 5]


def test_what_cannot_be_asked_again_is_refused_and_can_be_skipped(
    book: harness.Notebook,
) -> None:
    body = "for item in through(feed):\n    out.append(item)\n"
    run = start(book, body, is_exact=False, gives_again=False, note="it has ended")
    with pytest.raises(CannotResume, match="it has ended; use %resume --skip"):
        run.plan(Restart())
    assert "it has ended" in str(run.plan(Restart(action=Action.SKIP)))
    assert mend(book, run, action=Action.SKIP) == [0, 1, 2, 4, 5]


def test_an_iterator_that_says_nothing_is_not_asked_again(
    book: harness.Notebook,
) -> None:
    body = "for item in through(feed):\n    out.append(item)\n"
    run = start(book, body, gives_again=False)
    with pytest.raises(CannotResume, match="might lose an item"):
        run.plan(Restart())
    run.resume(Restart(action=Action.ABANDON))
    assert run.wait(30) is State.ABANDONED


def test_a_statement_may_be_skipped_or_begun_again(book: harness.Notebook) -> None:
    run = start(book, "out.append('a')\nout += list(feed)\nout.append('b')\n")
    assert mend(book, run, action=Action.SKIP) == ["a", "b"]
    book.names |= {"feed": Feed(), "out": []}
    run = start(book, "out.append('a')\nout += list(feed)\nout.append('b')\n")
    assert mend(book, run, line=2) == ["a", 3, 4, 5, "b"]


def test_a_function_returns_instead(book: harness.Notebook) -> None:
    book.cell("def total(items):\n    return sum(through(items))\n")
    run = start(book, "out.append(total(feed))\n")
    assert mend(book, run, action=Action.RETURN, value=7) == [7]


def test_an_outer_frame_calls_again(book: harness.Notebook) -> None:
    book.cell("def total(items):\n    return sum(through(items))\n")
    run = start(book, "out.append('a')\nout.append(total(feed))\n")
    assert mend(book, run, frame=1) == ["a", 3 + 4 + 5]


def test_the_exception_goes_on_as_it_was(book: harness.Notebook) -> None:
    book.cell(
        "def train(items):\n    try:\n        for item in through(items):\n"
        "            out.append(item)\n    finally:\n        out.append('left')\n"
    )
    run = start(book, "train(feed)\n")
    run.resume(Restart(action=Action.RAISE))
    assert run.wait(30) is State.FAILED
    assert isinstance(run.error, harness.Fault)
    shown = [entry.name for entry in traceback.extract_tb(run.error.__traceback__)]
    assert shown == ["<module>", "train", "through", "__next__"]
    assert book.names["out"] == [0, 1, 2, "left"]


def test_a_handler_of_the_users_gets_it(book: harness.Notebook) -> None:
    book.names["Fault"] = harness.Fault
    run = book.start(
        "try:\n    for item in through(feed):\n        out.append(item)\n"
        "except Fault:\n    out.append('handled')\n"
    )
    assert run.wait(30) is State.FINISHED, run.error
    assert book.names["out"] == [0, 1, 2, "handled"]


def test_a_failure_while_asking_is_held_in_turn(book: harness.Notebook) -> None:
    feed = book.names["feed"]
    made = Again(feed, failures=[OSError("no worker starts")])
    hooks = Hooks(on_failure=lambda error, frame: [made])
    run = book.start("for i in through(feed):\n    out.append(i)\n", hooks=hooks)
    assert run.wait(30) is State.SUSPENDED
    feed.is_broken = False
    run.resume(Restart())
    assert run.wait(30) is State.SUSPENDED
    assert run.suspension is not None
    assert str(run.suspension.error) == "no worker starts"
    assert mend(book, run) == list(range(6))


def test_a_failure_while_asking_raises_what_failed_first(
    book: harness.Notebook,
) -> None:
    made = Again(book.names["feed"], failures=[OSError("no worker starts")])
    hooks = Hooks(on_failure=lambda error, frame: [made])
    run = book.start("for i in feed:\n    out.append(i)\n", hooks=hooks)
    assert run.wait(30) is State.SUSPENDED
    run.resume(Restart())
    assert run.wait(30) is State.SUSPENDED
    run.resume(Restart(action=Action.RAISE))
    assert run.wait(30) is State.FAILED
    assert isinstance(run.error, harness.Fault)


TRAIN = (
    "def train(items):\n    for item in {loop}:\n        out.append({value})\n"
    "    return 'end'\n"
)


@pytest.mark.parametrize("loop", ["items", "through(items)"])
def test_an_edited_loop_body_takes_effect_with_the_item(
    loop: str, book: harness.Notebook
) -> None:
    book.cell(TRAIN.format(loop=loop, value="item"))
    run = start(book, "out.append(train(feed))\n")
    book.redefine(run, TRAIN.format(loop=loop, value="item * 10"))
    assert mend(book, run) == [0, 1, 2, 30, 40, 50, "end"]


@pytest.mark.parametrize(
    ("loop", "expected"),
    [("enumerate(items)", ["new"]), ("through(items)", [])],
)
def test_a_new_line_before_the_loop_runs_where_that_is_possible(
    loop: str, expected: list[str], book: harness.Notebook
) -> None:
    book.cell(TRAIN.format(loop=loop, value="item"))
    run = start(book, "out.append(train(feed))\n")
    source = TRAIN.format(loop=loop, value="item")
    book.redefine(run, source.replace("    for", "    out.append('new')\n    for"))
    told = "takes effect from the next time round" in str(run.plan(Restart()))
    assert told is not bool(expected)
    items = list(enumerate(range(6))) if "enum" in loop else list(range(6))
    assert mend(book, run) == [*items[:3], *expected, *items[3:], "end"]


def test_a_changed_line_that_waits_has_to_be_begun_again(
    book: harness.Notebook,
) -> None:
    book.cell("def first(it):\n    return next(it)\n")
    body = "it = iter(feed)\nfor _ in range(6):\n    out.append(first(it))\n"
    run = start(book, body)
    book.redefine(run, "def first(it):\n    return -next(it)\n")
    with pytest.raises(CannotResume, match="%resume --at 2 runs the new one"):
        run.plan(Restart())
    assert mend(book, run, line=2) == [0, 1, 2, -3, -4, -5]


def test_where_there_is_no_run_it_is_as_it_was(book: harness.Notebook) -> None:
    feed = Feed()
    with pytest.raises(harness.Fault, match="three") as caught:
        list(feed)
    assert caught.value.__context__ is None
    assert [e.name for e in caught.traceback][-1] == "__next__"
    last = str(caught.traceback[-1].statement).strip()
    assert last == 'raise harness.Fault("three")'
    feed.is_broken = False
    assert list(feed) == [4, 5]
    assert Feed.__next__.__doc__ == "Give the next item."


def test_the_user_sees_no_frame_of_the_library(book: harness.Notebook) -> None:
    """A function of the user's that fails inside is held there, as ever."""
    book.cell("def f(x):\n    return x + missing\n")
    book.names["missing"] = 1
    run = start(book, "for i in map(f, feed):\n    out.append(i)\n    del missing\n")
    assert run.suspension is not None
    assert [frame.name for frame in run.suspension.frames] == ["f", "<module>"]
    run.resume(Restart(action=Action.ABANDON))
    assert run.wait(30) is State.ABANDONED


def test_only_what_loses_nothing_passes_a_question_on() -> None:
    feed = Feed()
    assert loops.passes_on(feed, feed)
    assert loops.passes_on(enumerate(zip(feed, "ab", strict=False)), feed)
    assert not loops.passes_on(zip("ab", feed, strict=False), feed)
    assert not loops.passes_on(itertools.islice(feed, 2), feed)
    assert not loops.passes_on(through(feed), feed)
    assert not loops.passes_on(zip(strict=False), feed)


def test_code_that_cannot_be_guarded_is_left_alone() -> None:
    names: dict[str, Any] = {}
    exec("def unknown(self): return next(self.it)", names)
    assert foreign.held(names["unknown"]) is None
    outer = 1

    def closes_over(self: Any) -> Any:
        return outer

    assert foreign.held(closes_over) is None


def test_a_forked_process_is_in_no_run(book: harness.Notebook) -> None:
    def fork() -> int:
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(guards._run() is not None)

    book.names["fork"] = fork
    run = book.start("out.append(fork())\n")
    assert run.wait(30) is State.FINISHED, run.error
    assert book.names["out"] == [0]


def test_an_own_failure_hands_the_exception_on(
    book: harness.Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "STRICT", False)
    monkeypatch.setattr(Answers, "_hold_iterator", lambda *_: 1 / 0)
    run = book.start("for i in feed:\n    out.append(i)\n")
    assert run.wait(30) is State.SUSPENDED
    assert run.suspension is not None
    assert run.suspension.iterator is None
    run.resume(Restart(action=Action.RAISE))
    assert run.wait(30) is State.FAILED
    assert isinstance(run.error, harness.Fault)


def test_a_guard_that_is_not_taken_adds_no_call(book: harness.Notebook) -> None:
    events: list[str] = []
    feed = Feed()
    sys.setprofile(lambda frame, event, arg: events.append(event))
    next(feed)
    sys.setprofile(None)
    assert events == ["c_call", "call", "return", "c_return", "c_call"]
