"""Programs copied at every top of a round: each copy goes on to the same end."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import harness
import pytest
import reviving

sys.path.insert(0, str(Path(__file__).parent / "generator"))

import programs
import properties

NAMES = sorted(path.stem for path in harness.SAMPLES.glob("*.py"))

OPERANDS = """
def f(n):
    total = 0
    for i in range(n):
        total += T(i)
    return total
# %%
x = [1, 2]
acc = 0
for e in range(2):
    acc += T(1) * f(2) + T(2)
    T([T(3), f(2), T(4)])
    T({"a": T(5), "b": f(1)})
    T(f"{T(6)} {f(1)} {T(7)}")
    T(T(0) or f(2) or T(8))
    T(f(2) if T(1) else T(9))
    T(T(0) < f(2) < T(10))
    x[T(0)] = f(2)
    x[f(2) - 1] += T(11)
    a, b = T(1), f(3)
    T(*[T(12)], **{})
    while T(1) and f(1) == 0 and e == 0:
        e += 1
    for j in [f(1), T(13)]:
        T(j)
T((acc, x, a, b))
"""
SHARED = """
def make():
    n = 0
    def bump():
        nonlocal n
        n += 1
        return n
    def read():
        return n
    for i in [1, 2, 3]:
        bump()
        T(n)
    return bump, read
# %%
bump, read = make()
for i in range(2):
    bump()
    T(read())
"""
METHODS = """
class A:
    def __init__(self, n):
        self.__n = n
        for i in range(2):
            T(i)
    def go(self):
        for x in [1, 2]:
            T(x + self.__n)
        return self
class B(A):
    def go(self):
        found = super().go()
        for i in range(2):
            T(i)
        return found
# %%
T(B(3).go() is not None)
for i in range(2):
    B(i).go()
"""
BLOCKS = """
class M:
    def __init__(self, name, swallows=False):
        self.name, self.swallows = name, swallows
    def __enter__(self):
        T(("enter", self.name))
        return self
    def __exit__(self, kind, *rest):
        T(("exit", self.name, kind is None))
        return self.swallows
def g(n):
    with M("a") as a, M("b"):
        try:
            for i in range(3):
                T(i)
                if i == n:
                    raise KeyError(i)
            else:
                T("else")
        except KeyError as error:
            T(error.args)
        finally:
            T("finally")
        return T(a.name)
# %%
for e in range(4):
    with M("cell", swallows=True):
        T(g(e))
        for i in range(2):
            T(i)
        raise ValueError
"""
GENERATORS = """
def batches(n):
    with_end = None
    try:
        for i in range(n):
            got = yield i
            T(("got", got))
    finally:
        T("end")
def augmented(source):
    for x in source:
        yield x + T(10)
def both():
    yield from batches(2)
    result = yield from augmented(batches(2))
    yield result
# %%
for i, x in enumerate(augmented(batches(3))):
    T((i, x))
for x in both():
    T(x)
waiting = batches(5)
for i in range(3):
    T(next(waiting))
    T(waiting.send("sent") if i else None)
waiting.close()
"""
WHILES = """
def f(n):
    i = 0
    while i < n:
        i += 1
        T(i)
        k = 0
        while True:
            k += 1
            if T(k) == 2:
                break
    else:
        T("else")
    return i
# %%
n = 0
while n < 3:
    n += T(1)
    T(f(2) + n)
    for a in range(2):
        for b in range(2):
            for c in "xy":
                T((a, b, c))
T(n)
"""
INLINED = """
i = x = "global"
# %%
while T(1) and i != 2:
    for i in range(3):
        for k in "ab":
            locals()
            T([T((x,
                  k, i))
               for x in (1,
                         2)])
            T({x: T(y)
               for x, y in zip("cd",
                               "ef")})
T(x)
"""
FILES = """
def write(file, n):
    for i in range(n):
        file.write(f"{i}\\n")
    return file.tell()
def rows(path):
    with open(path) as file, open("copy", "wb", buffering=0) as copy:
        file.readline()
        for i in range(3):
            copy.write(file.readline().encode())
        return file.read()
# %%
with open("log", "w") as file:
    for e in range(3):
        T(write(file, 3))
T(rows("log"))
T(file.closed)
for e in range(2):
    T((open("log").read(), open("copy").read()))
"""
PROGRAMS = {
    "files": FILES,
    "operands": OPERANDS,
    "shared cells": SHARED,
    "methods": METHODS,
    "blocks": BLOCKS,
    "generators": GENERATORS,
}
SHOWN = PROGRAMS | {"whiles": WHILES, "inlined": INLINED}


@pytest.fixture(autouse=True)
def _forget():
    yield
    harness.forget()


@pytest.mark.parametrize("name", list(PROGRAMS))
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # programs leave files open
def test_each_copy_ends_as_the_program_does(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = reviving.sweep(PROGRAMS[name].split("# %%\n"))
    assert not found.wrong
    assert found.num_copies >= 5


@pytest.mark.parametrize("name", list(SHOWN))
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_each_copy_from_inside_of_any_loop_ends_as_the_program_does(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    found = reviving.sweep(SHOWN[name].split("# %%\n"), shows=True)
    assert not found.wrong
    assert found.num_copies >= 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shows", [False, True])
def test_samples(name, shows):
    assert not reviving.sweep(harness.load(name), most=30, shows=shows).wrong


REFUSED = {
    "a file that cannot be opened again: it is no plain file": "import os\n"
    "with open(os.devnull) as file:\n    for i in [1]:\n        T(i)\n",
    "of <module> does not call f itself": "def f(x):\n    for i in [1]:\n"
    "        T(i)\n    return x\n"
    "# %%\nT(sorted([2, 1], key=f))\n",
    "of <module> does not call A.p itself": "class A:\n    @property\n"
    "    def p(self):\n        for i in [1]:\n            T(i)\n# %%\nA().p\n",
    "in the `except` block": "try:\n    T([][0])\nexcept IndexError:\n"
    "    for i in [1]:\n        T(i)\n",
    "in the `finally` block": "try:\n    T(1)\nfinally:\n"
    "    for i in [1]:\n        T(i)\n",
    "is a generator, or awaits": "def g():\n    for i in [1]:\n        yield i\n"
    "# %%\nT(list(g()))\n",
    "may have been changed": "# %%\ndef f():\n    global n\n    n = 5\n"
    "    for i in [1]:\n        T(i)\n    return 1\n# %%\nn = 1\nT(n + f())\n",
}


@pytest.mark.parametrize("reason", list(REFUSED))
def test_what_would_not_be_exact_is_refused_while_it_runs(reason):
    found = reviving.sweep(REFUSED[reason].split("# %%\n"))
    assert not found.wrong
    assert not found.num_copies
    assert all(reason in text for text in found.refused), found.refused
    assert found.refused


def random_programs(first: int, count: int, *, shows: bool = False) -> int:
    """How many copies of random programs were taken, all of them exact."""
    num_copies = 0
    for number in range(first, first + count):
        parts = list(programs.make(random.Random(number)).cells)
        alone = properties.plain(parts)
        if alone.error is not None:
            continue
        found = reviving.sweep(
            parts,
            most=6,
            wanted=alone.trace,
            probe=properties.Probe(),
            shows=shows,
        )
        assert not found.wrong, f"program {number}"
        num_copies += found.num_copies
        harness.forget()
    return num_copies


@pytest.mark.filterwarnings("ignore")
def test_random_programs():
    assert random_programs(0, 40) > 20
    assert random_programs(40, 40, shows=True) > 3


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", range(1000, 2000, 100))
def test_many_random_programs(first):
    assert random_programs(first, 100) > 40
    assert random_programs(first, 40, shows=True) > 3
