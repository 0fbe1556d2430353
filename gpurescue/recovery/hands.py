"""One loop of a run, and how its rounds are counted.

Of most rounds no Python code is told, only iterators written in C: 0.02 us each,
against 0.1 for a ``__next__`` of ours. How far a ``range`` has come it says itself.
"""

from __future__ import annotations

import gc
import itertools
import operator
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType, GeneratorType
from typing import Any, NamedTuple, Protocol

from gpurescue.recovery import own

_Chain = itertools.chain
_OfRange = type(iter(range(0)))  # a longer one than 2**63 has another type
_NONES = (None,) * 4096
_second = {}.get  # type: ignore[var-annotated]  # of None and an item: the item
_NOT_COUNTED = "A loop is not counted."
_IS_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE


def tells(iterable: object, iterator: object) -> bool:
    """True of the iterator of a range, and not of what was made from one before."""
    return type(iterable) is range and type(iterator) is _OfRange


def is_built_in(kind: type) -> bool:
    """True if nobody can change what instances do, as of types written in C."""
    return bool(kind.__flags__ & _IS_IMMUTABLE)


class Stand(NamedTuple):
    """How far one loop has come."""

    rounds: int
    total: int | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """A loop that a frame is in.

    Attributes:
        iterator: What it asks for items.
        items: The one that it was given and has not begun with, if there is one.
        count: Rounds begun, the one of ``items`` included; 0 of a loop that is not
            counted.
        total: Rounds that there will be, if that is known.
        tells: True if the iterator says itself how far it has come.
    """

    iterator: Any
    items: tuple[Any, ...] = ()
    count: int = 0
    total: int | None = None
    tells: bool = False


class Counting(Protocol):
    """The clock that a hand belongs to."""

    def first_due(self, depth: int) -> int:
        """The first round to look at of a loop that begins."""
        ...

    def mark(self, hand: Hand, item: Any, frame: FrameType) -> None:
        """A round is due to be looked at."""
        ...

    def ended(self, hand: Hand) -> None:
        """A loop is over."""
        ...


class Hand:
    """Counts the rounds of one loop; over when the loop lets go of it.

    What the loop gets is ``chain`` over ``segments``: by turns this object, for rounds
    that are looked at, and a ``map`` for the many that are not.

    Args:
        clock: It belongs to.
        iterator: Gives the items.
        depth: 0 of the outermost loop.
        tells: True if the iterator says itself how far it has come, and nobody else
            asks it: that of a range, and not of what was made from one.

    Attributes:
        due: The next round to look at.
        looked: The last round that was looked at, and when.
        round: What was kept of its top, if it was marked.
        item: What the round that is looked at has been given; the loop does not have
            it yet.
    """

    __slots__ = (
        "__weakref__",
        "_advance",
        "_before",
        "_clock",
        "_given",
        "_is_over",
        "_num_segment",
        "_passed",
        "_quick",
        "asks",
        "depth",
        "due",
        "item",
        "looked",
        "round",
        "start",
        "tells",
        "total",
    )

    def __init__(
        self,
        clock: Counting,
        iterator: Iterator[Any],
        depth: int,
        *,
        tells: bool = False,
    ) -> None:
        self._clock = clock
        self.asks = iterator
        self.tells = tells
        self._advance = iterator.__next__
        self._quick = iterator if tells else _safely_asked(iterator)
        self._before = 0  # rounds of the segments that are over
        self._given: tuple[Any, ...] = ()
        self._passed: Iterator[Any] | None = None  # has one item for each round of it
        self._num_segment = 0
        self._is_over = False
        self.depth = depth
        self.total: int | None = None
        self.start = time.perf_counter()
        self.due = clock.first_due(depth)
        self.looked = (0, self.start)
        self.round: Any = None
        self.item: tuple[Any, ...] = ()

    def go_on(self, count: int, items: tuple[Any, ...]) -> None:
        """Take up a loop that was begun in another process.

        Args:
            count: Rounds that were begun there, the one of ``items`` included.
            items: What the next round gets, before the iterator is asked.
        """
        self._before, self._given = count - len(items), items
        if items:
            self.due = count

    def segments(self) -> Iterator[Iterator[Any]]:
        """Iterators that give the loop's items, each some of them."""
        while True:
            if self._before + 1 >= self.due:
                yield self
                if self._is_over:
                    return
            is_over = unseen = None
            try:
                unseen = self._unseen()
            except Exception:  # noqa: BLE001
                own.failed(_NOT_COUNTED)
            if unseen is not None:
                yield unseen
                try:
                    is_over = not self._has_passed()
                except Exception:  # noqa: BLE001
                    own.failed(_NOT_COUNTED)
            if is_over is None:  # a failure of ours: the rest, as it is
                yield self._quick
            if is_over is not False:
                return

    def iterator(self) -> Iterator[Any]:
        """What the loop gets."""
        return _Chain.from_iterable(self.segments())

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._before + 1 < self.due:
            raise StopIteration
        self._before += 1
        try:
            item = self._given[0] if self._given else self._advance()
        except StopIteration:
            self._before, self._is_over = self._before - 1, True
            raise
        self.item, self._given = (item,), ()
        try:
            self._clock.mark(self, item, sys._getframe(1))
        except Exception:  # noqa: BLE001
            own.failed("A round is not marked.")
        self.item = ()
        return item

    def _unseen(self) -> Iterator[Any]:
        """The items of all rounds before the one that is due."""
        num = self.due - 1 - self._before
        if self.tells:
            self._passed = self.asks
            self._num_segment = operator.length_hint(self.asks)
            return itertools.islice(self.asks, num)
        num = self._num_segment = min(num, len(_NONES))
        self._passed = passed = iter(_NONES)
        passed.__setstate__(len(_NONES) - num)  # type: ignore[attr-defined]
        return map(_second, passed, self._quick)

    def _has_passed(self) -> bool:
        """The segment is over: False if that is because there are no more items."""
        passed, self._passed = self._passed, None
        assert passed is not None
        if self.tells:
            left = operator.length_hint(passed)
            self._before += self._num_segment - left
            return left > 0
        # Then it was asked for one more than it has; its __reduce__ tells.
        is_asked: bool = len(passed.__reduce__()) == 2
        left = operator.length_hint(passed)
        self._before += self._num_segment - left - (0 if is_asked else 1)
        return is_asked

    @property
    def count(self) -> int:
        """Rounds begun, with one whose item is being fetched."""
        if self._passed is None:
            return self._before
        return self._before + self._num_segment - operator.length_hint(self._passed)

    def take_back(self) -> None:
        """The iterator has raised: the last round has not begun."""
        self._before -= 1

    def __del__(self) -> None:
        try:
            self._clock.ended(self)
        except Exception:  # noqa: BLE001
            own.failed("The clock may be wrong.")

    @property
    def label(self) -> str:
        """What to call the round, such as ``round 12/100``."""
        of = "" if self.total is None else f"/{self.total}"
        return f"round {self.count}{of}"

    def stand(self) -> Stand:
        """How far the loop has come by now."""
        return Stand(self.count, self.total, time.perf_counter() - self.start)


def _safely_asked(iterator: Iterator[Any]) -> Iterator[Any]:
    """``iterator``, or one around it of which ``iter`` may be asked again.

    A user's ``__iter__`` may begin anew, or be missing.
    """
    if is_built_in(type(iterator)):
        return iterator
    return map(operator.call, itertools.repeat(iterator.__next__))


def hand_of(iterator: object) -> Hand | None:
    """The hand that counts a loop, by the iterator that the loop holds."""
    for source in gc.get_referents(iterator) if type(iterator) is _Chain else ():
        if isinstance(source, GeneratorType) and source.gi_code is _SEGMENTS:
            frame = source.gi_frame
            return None if frame is None else frame.f_locals["self"]
    return None


_SEGMENTS = Hand.segments.__code__
