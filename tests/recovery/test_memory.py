"""A run that was mended holds no more than one that never failed."""

from __future__ import annotations

import weakref

import harness
import pytest

from gpurescue.recovery.engine import State
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
    assert run.wait(5) is State.SUSPENDED
    plan = run.resume(Restart(action=action))  # a front may keep it
    assert run.wait(5) is State.FINISHED, run.error
    assert num_alive == [0] * 12, plan
