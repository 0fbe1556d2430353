"""What a run consists of, seen from the top of a round."""

from __future__ import annotations

from types import FrameType
from typing import Any

import harness
import pytest

from gpurescue.recovery import suspension
from gpurescue.recovery.suspension import Standing

CELL = """\
def train(data):
    for number, x in enumerate(data):
        for _ in range(2):
            total = x
        while True:
            break
for epoch in range(3):
    train([7, 8, 9])
    seen.append(epoch)
for other in "ab":
    pass
"""


class Watcher:
    """Looks at every round."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[str, Any, Any]]] = []

    def look(self, frame: FrameType, num_rounds: int) -> float:
        self.seen.append([readable(held) for held in suspension.standing(frame)])
        return 0.0


def readable(held: Standing) -> tuple[str, Any, Any]:
    loops = {
        name: (type(iterator).__name__, items)
        for name, (iterator, items, _) in held.loops.items()
    }
    return held.function, held.variables, loops


def test_frames_have_the_loops_that_they_are_in_and_the_item_not_begun_with() -> None:
    watcher = Watcher()
    book = harness.Notebook()
    book.names["seen"] = []
    run = book.start(CELL, watcher=watcher)
    run.wait(30)
    assert book.names["seen"] == [0, 1, 2]
    first = watcher.seen[0]
    assert first == [("", {}, {"<loop 0>": ("range_iterator", (0,))})]
    body, train = watcher.seen[2]
    assert body == ("", {}, {"<loop 0>": ("range_iterator", ())})
    name, variables, loops = train
    assert name == "train"
    assert variables == {"data": [7, 8, 9], "number": 0, "x": 7, "_": 1, "total": 7}
    assert loops == {"<loop 0>": ("enumerate", ((1, 8),))}
    assert watcher.seen[-1] == [("", {}, {"<loop 1>": ("str_ascii_iterator", ("b",))})]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("opt.zero_grad(); f()", "a"),
        ("x, (y, z) = item; opt.zero_grad(); other.zero_grad()", "ab"),
        ("opt.zero_grad(); f(); other.zero_grad()", "a"),
        ("f(); opt.zero_grad()", ""),
        ("x = item.x; opt.zero_grad()", ""),
        ("opt.zero_grad(set_to_none=False)", ""),
        ("opt = item; opt.zero_grad()", ""),
        ("holder.x = item; opt.zero_grad()", ""),
        ("x = opt.zero_grad()", ""),
        ("if item: opt.zero_grad()", ""),
    ],
)
def test_what_a_round_sets_to_none_first(body: str, expected: str) -> None:
    class Watched(Watcher):
        def look(self, frame: FrameType, num_rounds: int) -> float:
            for held in suspension.standing(frame):
                zeroed = [zeroed for _, _, zeroed in held.loops.values()]
                self.seen.append(["".join(map(str, found)) for found in zeroed])
            return 0.0

    watcher = Watched()
    book = harness.Notebook()
    book.names |= {
        "opt": Named("a"),
        "other": Named("b"),
        "f": int,
        "holder": Named(""),
    }
    items = "[(1, (2, 3))]" if body.startswith("x, ") else "[opt]"
    run = book.start(f"for item in {items}:\n    {body}\n", watcher=watcher)
    run.wait(30)
    assert watcher.seen[0] == [expected]


class Named:
    def __init__(self, name: str) -> None:
        self.name = name
        self.x = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing has a gradient here."""

    def __str__(self) -> str:
        return self.name


def test_a_frame_has_the_code_that_it_runs() -> None:
    codes: list[Any] = []

    class Watched(Watcher):
        def look(self, frame: FrameType, num_rounds: int) -> float:
            codes.append(suspension.standing(frame)[-1].code)
            return 0.0

    book = harness.Notebook()
    book.cell("def f():\n    for x in 'ab':\n        change()\n")
    old = book.names["f"].__code__
    book.names["change"] = lambda: book.names.pop("f", None)
    book.start("f()", watcher=Watched()).wait(30)
    assert codes == [old, old]
