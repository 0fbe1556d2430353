"""What a run consists of, seen from the top of a round."""

from __future__ import annotations

from types import FrameType
from typing import Any

import harness

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
        for name, (iterator, items) in held.loops.items()
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
