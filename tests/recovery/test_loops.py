"""The loop clock."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator
from typing import Any

import harness
import pytest

from gpurescue.recovery import hands, loops
from gpurescue.recovery.engine import State
from gpurescue.recovery.plan import Action, Restart


@pytest.fixture
def clock() -> Iterator[loops.Clock]:
    found = loops.Clock()
    found.start()
    yield found
    found.stop()


def test_outside_a_run_it_is_plain_iter() -> None:
    assert type(loops.loop_iterator([1])) is type(iter([1]))


def test_two_hands_and_no_more(clock: loops.Clock) -> None:
    for _ in (outer := loops.loop_iterator(range(3))):
        for _ in loops.loop_iterator(enumerate(range(4))):
            assert type(loops.loop_iterator(range(5))) is type(iter(range(5)))
    del outer, _
    assert str(clock) == "epoch 3/3, step 4/4"


def test_an_inner_loop_that_is_over_keeps_its_reading(clock: loops.Clock) -> None:
    outer = loops.loop_iterator(range(3))
    next(outer)
    for _ in loops.loop_iterator("ab"):
        pass
    assert str(clock) == "epoch 1/3, step 2/2"
    next(outer)
    inner = loops.loop_iterator(i for i in range(9))
    next(inner)
    assert str(clock) == "epoch 2/3, step 1"


def test_one_loop_counts_steps(clock: loops.Clock) -> None:
    loop = loops.loop_iterator(zip("ab", "cd", strict=True))
    next(loop)
    assert str(clock) == "step 1"


def test_an_iterator_dies_with_its_loop() -> None:
    class Items:
        def __init__(self) -> None:
            self.left = 3

        def __iter__(self) -> Items:
            return self

        def __next__(self) -> int:
            self.left -= 1
            return self.left

    book = harness.Notebook()
    book.names |= {"Items": Items, "note": (seen := []).append, "ref": weakref.ref}
    run = book.start(
        "for item in (items := Items()):\n"
        "    alive = ref(items)\n"
        "    del items\n"
        "    break\n"
        "note(alive())\n"
    )
    assert run.wait(30) is State.FINISHED, run.error
    gc.collect()
    assert seen == [None]


def test_an_iterator_without_iter_works() -> None:
    class Steps:
        def __next__(self) -> int:
            raise StopIteration

    class Count:
        def __iter__(self) -> Steps:
            return Steps()

    assert list(loops.loop_iterator(Count())) == []


def test_a_length_that_raises_is_unknown(clock: loops.Clock) -> None:
    class Items(list):
        def __len__(self) -> int:
            raise RuntimeError

    loop = loops.loop_iterator(Items([1]))
    next(loop)
    assert str(clock) == "step 1"


class Starting:
    """An iterator that begins anew whenever somebody asks for its iterator."""

    def __init__(self, num: int) -> None:
        self.num, self.given, self.num_asked = num, 0, 0

    def __iter__(self) -> Starting:
        self.given = 0
        self.num_asked += 1
        return self

    def __next__(self) -> int:
        if self.given == self.num:
            raise StopIteration
        self.given += 1
        return self.given


class Marks:
    """Marks, and remembers which rounds."""

    def __init__(self) -> None:
        self.marked: list[int] = []

    def __call__(self, hand: hands.Hand, item: object, frame: object) -> object:
        self.marked.append(hand.count)
        return item

    def rest(self) -> None: ...


LENGTHS = [0, 1, 2, 3, 4, 5, 4095, 4096, 4097, 4098, 8191, 8192, 8193, 12_345]


@pytest.mark.parametrize("is_marked", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_every_item_is_given_once_and_counted(
    clock: loops.Clock, length: int, is_marked: bool
) -> None:
    clock.marker = Marks() if is_marked else None
    for iterable in (range(1, length + 1), Starting(length)):
        loop = loops.loop_iterator(iterable)
        for count, item in enumerate(loop, start=1):
            assert item == count
            if count in LENGTHS:
                assert str(clock).startswith(f"step {count}")
        assert str(clock).startswith(f"step {length}")
        assert next(loop, None) is None
    assert iterable.num_asked == 1


def test_rounds_too_short_to_be_marked_are_not_seen(clock: loops.Clock) -> None:
    clock.marker = marks = Marks()
    loop = loops.loop_iterator(range(10_000))
    for _ in loop:
        hand = hands.hand_of(loop)
        assert hand is not None
        assert hand.round is None or hand.count <= loops.NUM_TRIALS + 1
    assert marks.marked == [1, 2]


def test_long_rounds_are_all_marked(clock: loops.Clock) -> None:
    clock.marker = marks = Marks()
    for _ in loops.loop_iterator(range(6)):
        time.sleep(0.05)
    assert marks.marked == [1, 2, 3, 4, 5, 6]


def test_marks_that_were_slow_at_first_are_tried_again(
    clock: loops.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Marks):
        def __call__(self, *args):
            until = time.perf_counter() + (2 * limit if len(self.marked) < 2 else 0)
            while time.perf_counter() < until:
                pass
            return super().__call__(*args)

    monkeypatch.setattr(loops, "BUDGET", 0.1)  # far from what a busy machine adds
    limit = 0.1 * loops.BUDGET
    clock.marker = marks = Slow()
    for _ in loops.loop_iterator(range(5)):
        time.sleep(0.1)
    assert marks.marked == [1, 2, 3, 4, 5]


def test_marks_that_stay_slow_are_given_up(
    clock: loops.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Marks):
        def __call__(self, *args):
            until = time.perf_counter() + 0.02
            while time.perf_counter() < until:
                pass
            return super().__call__(*args)

    monkeypatch.setattr(loops, "BUDGET", 0.1)  # of 0.1 s: a half of what a mark takes
    monkeypatch.setattr(loops, "PAUSE", 0.0)
    clock.marker = marks = Slow()
    for _ in range(10):
        for _ in loops.loop_iterator(range(2)):
            time.sleep(0.1)
    assert len(marks.marked) <= loops.NUM_TRIALS + loops.NUM_RETRIES


ROWS = """
class Rows:
    at = 0
    def __iter__(self):
        return self
    def __next__(self):
        fetch(self.at)
        self.at += 1
        return self.at
"""


class Fetch:
    """Fails once for some of the rows."""

    def __init__(self, fails: list[int]) -> None:
        self.fails = fails

    def __call__(self, at: int) -> None:
        if at in self.fails:
            self.fails.remove(at)
            raise OSError(at)


@pytest.mark.parametrize("is_guarded", [False, True])
def test_an_item_that_failed_is_not_counted_twice(is_guarded: bool) -> None:
    book = harness.Notebook()
    book.names |= {"fetch": Fetch([70, 71]), "note": (seen := []).append}
    if is_guarded:
        book.cell(ROWS)
    else:
        exec(ROWS, book.names)
    run = book.start("for row in Rows():\n    note(row)\n    if row == 99: break\n")
    for count in (71, 72):
        assert run.wait(30) is State.SUSPENDED, run.error
        assert run.suspension is not None
        # What the loop is about to begin.
        assert str(run.clock) == f"step {count}" == run.suspension.where
        run.resume(Restart(action=Action.RETRY if is_guarded else Action.SKIP))
    assert run.wait(30) is State.FINISHED, run.error
    assert seen == list(range(1, 100))
    assert str(run.clock) == "step 99"


@pytest.mark.parametrize("marks_all", [False, True])
def test_an_iterator_that_is_asked_again_goes_on(
    clock: loops.Clock, marks_all: bool
) -> None:
    names: dict[str, Any] = {"fetch": Fetch([0, 2, 3, 9])}
    exec(ROWS, names)
    clock.marker, clock.marks_all = Marks(), marks_all
    loop = loops.loop_iterator(names["Rows"]())
    seen: list[int] = []
    while len(seen) < 12:
        try:
            seen.append(next(loop))
        except OSError:
            assert str(clock) == f"step {len(seen) + 1}"
            hand = hands.hand_of(loop)
            assert hand is not None
            hand.take_back()
        assert str(clock) == f"step {len(seen)}"
    assert seen == list(range(1, 13))
