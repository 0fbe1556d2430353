"""Programs that the generator has found to go wrong: exact now, or refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "generator"))

from properties import Case, Edit, Verdict, check

GROUP_OF_TWO = """
async def f():
    T('once')
    try:
        raise ExceptionGroup('g', [KeyError(), ValueError()])
    except* KeyError:
        T(1, 'key')
    except* ValueError:
        T(1, 'value')
"""
GROUP_WITH_OWN = """
def f():
    T('once')
    try:
        try:
            raise ExceptionGroup('g', [KeyError(), ValueError()])
        except* KeyError:
            T(1, 'key')
        except* ValueError:
            int('')
    except ValueError:
        pass
"""
TARGET_BOUND = """
b = 5
b ^= T((b := 1), 'call')
T(b)
"""
ELEMENT_OF_BOUND = """
x = [5]
x[0] += T((x := [1])[0], 'call')
T(x)
"""
DEAD_ITERATOR = """
async def ag(k):
    yield k
    T(1, 'second')
"""
LOOP_OVER_IT = """
match 1:
    case _:
        async for i in ag(5):
            T(i)
"""
CONTINUES_IN_TRY = """
for i in [1, 2]:
    try:
        f(i)
        continue
    except ValueError:
        pass
"""
HANDLED_ON_THE_WAY = """
def f():
    try:
        T(1, 'passes')
    finally:
        if len(str(T(4))) > 5:
            return
        try:
            raise KeyError
        except KeyError as error:
            T(3)
"""
FAILS_IN_FINALLY = """
def f(i):
    return T(i, i)
"""
RETURNS_THROUGH_IT = """
async def co():
    a = 1
    for i in range(2):
        try:
            if i:
                return T(7)
        finally:
            a -= f(i)
        T(a)
"""
LEAVES_IN_FINALLY = """
class M:
    def __init__(self, n):
        self.n = n
    def __enter__(self):
        pass
    def __exit__(self, *_):
        T(self.n, self.n)
"""
WITH_IN_COPIES = """
def f(b):
    try:
        if b:
            return T
    finally:
        with M(3), M(5):
            T(1)
"""


def verdict(*parts: str, at: tuple[Any, ...], edit: Edit) -> Verdict:
    faults = frozenset((label, 0) for label in at)
    return check(("", *parts), Case(faults=faults, edit=edit, seed=3))


@pytest.mark.parametrize("edit", list(Edit))
@pytest.mark.parametrize(
    ("parts", "at", "refusal"),
    [
        ((GROUP_OF_TWO, "await f()\n"), ("key", "value"), "already been left"),
        ((GROUP_WITH_OWN, "f()\n"), ("key",), "already been left"),
        ((TARGET_BOUND,), ("call",), "was changed by"),
        ((ELEMENT_OF_BOUND,), ("call",), None),
        ((DEAD_ITERATOR, LOOP_OVER_IT), ("second",), "might lose an item"),
        (("def f(i):\n    T(i, 'inner')\n", CONTINUES_IN_TRY), ("inner",), None),
        ((FAILS_IN_FINALLY, RETURNS_THROUGH_IT, "await co()\n"), (1,), None),
        ((LEAVES_IN_FINALLY, WITH_IN_COPIES, "f(0)\n"), (5,), None),
        ((HANDLED_ON_THE_WAY, "f()\n"), ("passes",), "already been left"),
    ],
    ids=[
        "two clauses",
        "one clause and another",
        "augmented",
        "element",
        "dead",
        "jump",
        "pending",
        "copies",
        "on the way",
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_exact_or_refused(parts, at, refusal, edit):
    found = verdict(*parts, at=at, edit=edit)
    assert not found.problem
    assert found.refusal == "" if refusal is None else refusal in found.refusal
