"""The loop clock."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import harness
import pytest

from gpurescue.recovery import loops
from gpurescue.recovery.engine import State


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
    assert run.wait(5) is State.FINISHED, run.error
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
