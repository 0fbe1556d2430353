"""Where a run stands, by the names that its user has given to its loops."""

from __future__ import annotations

import ast
import sys
import weakref

import harness
import pytest

from gpurescue.recovery import places
from gpurescue.recovery.engine import State
from gpurescue.recovery.plan import Restart

LOOPS = """
def inner(tag):
    for x, y in [(1, 2), (3, 4)]:
        here(tag)
def train():
    for epoch in range(5, 20, 5):
        for i, (a, b) in enumerate(zip("abc", "def")):
            if i == 1 and epoch == 10:
                for lr in [0.1, "x"]:
                    inner("deep")
        for letter in "ab":
            here("letter")
        here("epoch")
def gives():
    for z in (1,):
        here("generator")
        yield z
# %%
train()
for a in range(2):
    for given in gives():
        here("given")
    for n, (p, q) in enumerate(sorted([(3, 4)]), 7):
        here("numbered")
    for p, q in {1: 2}.items():
        here("items")
here("nowhere")
"""
EXPECTED = {
    "letter": [[("epoch", e), ("letter", n)] for e in (5, 10, 15) for n in range(2)],
    "deep": [
        [("epoch", 10), ("i", 1), ("lr", lr), ("step", n)]
        for lr in (0.1, "x")
        for n in range(2)
    ],
    "epoch": [[("epoch", e)] for e in (5, 10, 15)],
    "generator": [[("a", a), ("z", 1)] for a in range(2)],
    "given": [[("a", a), ("given", 0)] for a in range(2)],
    "numbered": [[("a", a), ("n", 7)] for a in range(2)],
    "items": [[("a", a), ("step", 0)] for a in range(2)],
    "nowhere": [[]],
}


def run(program: str):
    """A run of a program that says ``here``, and what it was told there, by tag."""
    seen: dict[str, list[list[tuple[str, object]]]] = {}

    def here(tag):
        seen.setdefault(tag, []).append(list(places.place(sys._getframe(1))))

    book = harness.Notebook()
    book.names["here"] = here
    *cells, body = program.split("# %%\n")
    for cell in cells:
        book.cell(cell)
    found = book.start(body)
    found.wait(20)
    return book, found, seen


def test_loops_are_at_what_their_variables_have():
    _, found, seen = run(LOOPS)
    assert found.state is State.FINISHED
    assert seen == EXPECTED


def test_a_run_that_goes_on_after_a_mend_stands_where_it_stood():
    program = """
def step(i):
    here("step")
    if i == 1:
        raise ValueError
    here("end")
# %%
for epoch in range(2):
    for i in range(3):
        step(i)
"""
    book, found, seen = run(program)
    assert found.state is State.SUSPENDED
    mended = "def step(i):\n    here('step')\n    pass\n    here('end')\n"
    book.redefine(found, mended)
    found.resume(Restart())
    found.wait(20)
    assert found.state is State.FINISHED
    every = [[("epoch", e), ("i", i)] for e in range(2) for i in range(3)]
    assert seen["step"] == every
    assert seen["end"] == every


def test_an_edited_loop_that_is_going_on_is_there_once():
    program = """
def train():
    for epoch in range(2):
        for i in range(2):
            here("a")
            if epoch == 1 and i == 0:
                1 / 0
            here("b")
# %%
train()
"""
    book, found, seen = run(program)
    assert found.state is State.SUSPENDED
    book.redefine(found, program.partition("# %%")[0].replace("1 / 0", "pass"))
    found.resume(Restart())
    found.wait(20)
    assert found.state is State.FINISHED
    every = [[("epoch", e), ("i", i)] for e in range(2) for i in range(2)]
    assert seen["b"] == every


def test_nothing_is_kept_alive():
    program = """
def train():
    for i in range(2):
        big = Big()
        here("x")
        del big
        count.append(len(alive))
# %%
train()
"""
    alive: weakref.WeakSet[object] = weakref.WeakSet()

    class Big:
        def __init__(self):
            alive.add(self)

    book = harness.Notebook()
    count: list[int] = []
    book.names |= {"Big": Big, "alive": alive, "count": count}
    book.names["here"] = lambda tag: places.place(sys._getframe(1))
    first, body = program.split("# %%\n")
    book.cell(first)
    assert book.start(body).wait(20) is State.FINISHED
    assert count == [0, 0]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("for x in y", "x"),
        ("for x, z in y", ""),
        ("for i, x in enumerate(y)", "i"),
        ("for i, x in tqdm(enumerate(y))", "i"),
        ("for i, x in zip(y, y)", "i"),
        ("for _ in y", ""),
        ("for self.x in y", ""),
        ("for (a, b), x in zip(y, y)", ""),
    ],
)
def test_names_of_loops(header, name):
    (loop,) = ast.parse(f"{header}: pass").body
    assert isinstance(loop, ast.For)
    assert places._name(loop) == name
