"""A run that was mended holds no more than one that never failed."""

from __future__ import annotations

import weakref

import harness
import pytest

from gpurescue.recovery.engine import State
from gpurescue.recovery.hooks import Hooks
from gpurescue.recovery.plan import Action, Restart

TRAIN = """
def model(x):
    made = Big()
    alive.append(ref(made))
    return made
def train(n):
    for i in range(n):
        x = Big()
        alive.append(ref(x))
        with held:
            loss = criterion(model(x), i)
        del x
        num_alive.append(sum(r() is not None for r in alive))
"""
BODY = """
train(6)
for k in range(6):
    criterion(model(k), k)
    num_alive.append(sum(r() is not None for r in alive))
"""


class Big:
    """Stands for a tensor."""


class Held:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("action", [Action.RETRY, Action.SKIP])
@pytest.mark.parametrize("fail_at", [2, 8])
def test_nothing_is_kept_alive(fail_at: int, action: Action) -> None:
    num_calls = 0

    def criterion(made: Big, i: int) -> int:
        nonlocal num_calls
        num_calls += 1
        if num_calls == fail_at:
            raise ValueError(i)
        return i

    book = harness.Notebook()
    num_alive: list[int] = []
    book.names |= {"Big": Big, "held": Held(), "ref": weakref.ref}
    book.names |= {"alive": [], "num_alive": num_alive, "criterion": criterion}
    book.cell(TRAIN)
    run = book.start(BODY)
    assert run.wait(30) is State.SUSPENDED
    plan = run.resume(Restart(action=action))  # a front may keep it
    assert run.wait(30) is State.FINISHED, run.error
    assert num_alive == [0] * 12, plan


FORWARD = """
def forward(n):
    return library(n)
for_each = [forward]
"""


def test_failed_call_gives_back_what_it_held() -> None:
    """Also where the exception was raised from another one, with a frame of its own."""
    alive: list[weakref.ref[Big]] = []

    def allocate() -> None:
        activation = Big()
        alive.append(weakref.ref(activation))
        raise KeyError(1)

    def library(n: int) -> int:
        activation = Big()
        alive.append(weakref.ref(activation))
        if n:
            return n
        try:
            allocate()
        except KeyError as error:
            raise MemoryError("no room") from error
        return n

    used = iter([500, 200])
    book = harness.Notebook()
    book.names |= {"library": library}
    book.cell(FORWARD)
    hooks = Hooks(memory=lambda: {"host": next(used)})
    run = book.start("for n in (1, 0):\n    forward(n)\n", hooks=hooks)
    assert run.wait(30) is State.SUSPENDED
    assert [ref() for ref in alive] == [None] * 3
    assert run.suspension is not None
    assert run.suspension.freed == {"host": 300}
    run.resume(Restart(action=Action.SKIP))
    assert run.wait(30) is State.FINISHED, run.error


def test_generator_that_handled_an_earlier_exception_lives_on() -> None:
    """Its frame is in the traceback of what the failure was raised from."""
    book = harness.Notebook()
    out: list[object] = []
    book.names |= {"out": out}
    book.cell(
        "def numbers():\n"
        "    try:\n"
        "        raise KeyError(0)\n"
        "    except KeyError as error:\n"
        "        kept.append(error)\n"
        "        yield 1\n"
        "        yield 2\n"
        "def fail(cause):\n"
        "    raise ValueError('late') from cause\n"
    )
    book.names |= {"kept": []}
    run = book.start("for i in numbers():\n    out.append(i)\n    fail(kept[0])\n")
    for _ in range(2):
        assert run.wait(30) is State.SUSPENDED
        run.resume(Restart(action=Action.SKIP))
    assert run.wait(30) is State.FINISHED, run.error
    assert out == [1, 2]
