"""A step that failed is run again, and what it had done is left out.

Up to the place where it failed, operations that write to tensors from before do
nothing: they were done. From there on everything is done. The two runs meet exactly
where the dead frames stood.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.state.halfway.before import Before
from gpurescue.state.halfway.frames import is_passing_on
from gpurescue.state.halfway.ledger import Ledger
from gpurescue.state.halfway.places import Order, Place, Unclear


class Replay:
    """One more run of a step that failed.

    Args:
        optimizer: Whose step.
        places: Where the dead frames of the step stood, outermost first.
        before: What the optimizer had when it failed.
    """

    def __init__(self, optimizer: Any, places: Sequence[Place], before: Before) -> None:
        self.has_arrived = False
        self._optimizer = optimizer
        self._places = places
        self._before = before
        self._ledger = Ledger(before.check)
        before.begin()
        for loop in (loop for stood in places for loop in stood.loops):
            loop.is_seen = False

    def run(self, step: Callable[[], Any]) -> Any:
        """Run it.

        Raises:
            CannotResume: It would not be exact.
        """
        try:
            with _mode_class()(self):
                found = step()
        finally:  # to leave an operation out counts as a change
            self._before.note(list(self._ledger.left_out.values()))
        if not self.has_arrived:
            raise CannotResume("where it failed was not reached again")
        return found

    def operation(self, function: Any, arguments: Any, keywords: Any) -> Any:
        """Run an operation, or leave it out."""
        if self.has_arrived:
            self._ledger.read((arguments, keywords))
            return function(*arguments, **keywords)
        frames = self._frames(sys._getframe(1))
        if not frames:
            return function(*arguments, **keywords)
        order = self._order(frames)
        if order in {Order.HERE, Order.BEHIND}:
            self.has_arrived = True
            return self.operation(function, arguments, keywords)
        group = frames[0].f_locals.get("group")
        with self._before.within(group):
            tells = order is Order.BEFORE
            return self._ledger.run(function, arguments, keywords, tells=tells)

    def _frames(self, frame: FrameType | None) -> list[FrameType]:
        """The frames of the step that is running, outermost first."""
        found: list[FrameType] = []
        while frame is not None:
            if not is_passing_on(frame):
                found.append(frame)
            if frame.f_code is self._places[0].code:
                is_own = frame.f_locals.get("self") is self._optimizer
                return found[::-1] if is_own else []
            frame = frame.f_back
        return []

    def _order(self, frames: list[FrameType]) -> Order:
        """Where the operation is, seen from the place where the step failed."""
        for there, frame in zip(self._places, frames, strict=False):
            if there.code is not frame.f_code:
                raise CannotResume("it goes another way than when it failed")
            try:
                order = there.order(frame, self._before.round)
            except Unclear as error:
                raise CannotResume(f"it cannot be told {error}") from error
            if order is not Order.HERE:
                return order
        return Order.HERE


@functools.cache
def _mode_class() -> Any:
    base: Any = sys.modules["torch"].utils._python_dispatch.TorchDispatchMode

    class Mode(base):  # type: ignore[misc]
        def __init__(self, replay: Replay) -> None:
            super().__init__()
            self.replay = replay

        def __torch_dispatch__(
            self, function: Any, _: Any, arguments: Any = (), keywords: Any = None
        ) -> Any:
            return self.replay.operation(function, arguments, keywords or {})

    return Mode
