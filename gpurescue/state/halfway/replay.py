"""A step that failed is run again, and what it had done is left out.

Up to the place where it failed, operations that write to tensors from before do
nothing: they were done. From there on everything is done. The two runs meet exactly
where the dead frames stood.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.state.halfway.ledger import Ledger, place, tensors
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


class Changed(CannotResume):
    """Something is not what it was: it may be put back."""


class Before:
    """What an optimizer had when its step failed.

    Args:
        optimizer: The optimizer.

    Attributes:
        are_apart: True if no two parameters share their storage.
    """

    def __init__(self, optimizer: Any) -> None:
        self._groups = list(optimizer.param_groups)
        self._settings = [_settings(group) for group in self._groups]
        self._group: Any = None
        owned = [p for group in self._groups for p in group["params"]]
        self._parameters = _numbered(owned)
        self._states = _numbered(tensors([optimizer.state.get(p) for p in owned]))
        self.are_apart = len(self._parameters) == len(owned)
        self._versions: dict[int, tuple[Any, int]] = {}
        self.note(_all_of(optimizer))

    def note(self, found: Any) -> None:
        """Note how tensors are now."""
        for tensor in tensors(found):
            self._versions[place(tensor)] = tensor, _version(tensor)

    def round(self, value: Any) -> object:
        """What a loop's variable says of its round; None if nothing."""
        if isinstance(value, bool | int):
            return value
        if isinstance(value, dict):
            same = [i for i, group in enumerate(self._groups) if group is value]
            return ("group", *same) if same else None
        found = [place(tensor) for tensor in tensors(value)]
        for known in (self._parameters, self._states):
            numbers = tuple(known[there] for there in found if there in known)
            if numbers:
                return numbers
        return None

    def within(self, group: Any) -> Before:
        """The same, while operations of one group are left out."""
        self._group = group
        return self

    def __enter__(self) -> Before:
        return self

    def __exit__(self, *_: object) -> None:
        self._group = None

    def check(self, tensor: Any) -> None:
        """Check that what a left-out operation had read is what it was.

        Raises:
            Changed: It is not.
        """
        _, version = self._versions.get(place(tensor), (None, None))
        if version is None or version != _version(tensor):
            raise Changed("what it had worked with is not what it was")
        for known, settings in zip(self._groups, self._settings, strict=True):
            if known is self._group and _settings(known) != settings:
                raise Changed("its settings are not what they were")


def _numbered(found: Iterable[Any]) -> dict[int, int]:
    return {place(tensor): number for number, tensor in enumerate(found)}


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in group.items()
        if key != "params" and not any(True for _ in tensors(value))
    }


def _all_of(optimizer: Any) -> list[Any]:
    """Every tensor that a step may work with."""
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    states = [optimizer.state[p] for p in owned if p in optimizer.state]
    groups = [list(group.values()) for group in optimizer.param_groups]
    is_tensor = sys.modules["torch"].is_tensor
    others = [value for value in vars(optimizer).values() if is_tensor(value)]
    return [groups, [p.grad for p in owned], states, others]


def _version(tensor: Any) -> int:
    return -1 if tensor.is_inference() else int(tensor._version)


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
