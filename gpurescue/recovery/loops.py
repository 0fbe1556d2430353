"""The loop clock: how far a run has come in its two outermost loops.

Guarded loops ask ``loop_iterator`` for their iterator. Outside a run, and inside its
two outermost loops, the answer is plain ``iter``. Else the loop becomes a hand of the
clock: its iterator is wrapped to count the rounds (about 0.1 us each).
"""

from __future__ import annotations

import operator
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

MAX_HANDS = 2

_clocks: dict[int, Clock] = {}
_listening = False
_IS_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE
_reiterable: set[type] = set()


def loop_iterator(iterable: Iterable[Any]) -> Iterator[Any]:
    """``iter``, except for the two outermost loops of an active run.

    A loop asks ``iter`` of what it gets once more, which an iterator of the user's
    without ``__iter__`` would not survive: such a one is wrapped.
    """
    if _listening and (clock := _clocks.get(threading.get_ident())) is not None:
        return clock.wrap(iterable)
    iterator = iter(iterable)
    return iterator if type(iterator) in _reiterable else reiterable(iterator)


def reiterable(iterator: Iterator[Any]) -> Iterator[Any]:
    """The iterator itself, or one around it that ``iter`` accepts."""
    kind = type(iterator)
    if hasattr(kind, "__next__") and not hasattr(kind, "__iter__"):
        return iter(iterator.__next__, object())
    if kind.__flags__ & _IS_IMMUTABLE:  # built in: others may lose their __iter__
        _reiterable.add(kind)
    return iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One hand of the clock.

    Attributes:
        name: ``epoch`` or ``step``.
        count: Rounds begun.
        total: Rounds that there will be, if that is known.
        seconds: Time since the loop began.
    """

    name: str
    count: int
    total: int | None
    seconds: float

    def is_same_round(self, other: Reading) -> bool:
        """Tell whether both are of the same round of one loop."""
        return (self.name, self.count, self.total) == (
            other.name,
            other.count,
            other.total,
        )

    def __str__(self) -> str:
        of = "" if self.total is None else f"/{self.total}"
        return f"{self.name} {self.count}{of}"


class Hand:
    """Counts the rounds of one loop."""

    __slots__ = (
        "__weakref__", "_advance", "_clock", "count", "has_inner", "started", "total",
    )  # fmt: skip

    def __init__(
        self, clock: Clock, iterator: Iterator[Any], total: int | None
    ) -> None:
        self._clock = clock
        self._advance = iterator.__next__
        self.total = total
        self.count = 0
        self.has_inner = False
        self.started = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = self._advance()
        self.count += 1
        return item

    def __del__(self) -> None:
        self._clock.ended(self)


class Clock:
    """The one or two loops that a run is in, outermost first."""

    def __init__(self) -> None:
        self._hands: list[weakref.ref[Hand]] = []
        self._last: tuple[Reading, ...] = ()
        self._thread = 0

    def start(self) -> None:
        """Listen to the loops of the calling thread."""
        self._thread = threading.get_ident()
        _clocks[self._thread] = self
        _listen()

    def stop(self) -> None:
        """Stop listening; the last reading stays."""
        self._last = self.read()
        if _clocks.get(self._thread) is self:
            del _clocks[self._thread]
        _listen()

    @property
    def is_full(self) -> bool:
        """True when both hands are in use."""
        return len(self._hands) >= MAX_HANDS

    def wrap(self, iterable: Iterable[Any]) -> Iterator[Any]:
        """The iterator of a loop that may be one of the two outermost."""
        iterator = iter(iterable)
        if self.is_full:
            return reiterable(iterator)
        hand = Hand(self, iterator, length(iterable))
        for outer in filter(None, (ref() for ref in self._hands)):
            outer.has_inner = True
        self._hands.append(weakref.ref(hand))
        _listen()
        return hand

    def ended(self, hand: Hand) -> None:
        """A loop is over: its hand was let go of."""
        last = self._readings(hand)
        if not (last and self._last and last[0].is_same_round(self._last[0])):
            self._last = last  # else its inner loop has ended before it: both stand
        # A weak reference still answers inside __del__ (not so for cyclic garbage).
        left = [ref for ref in self._hands if ref() not in (None, hand)]
        self._hands = left
        _listen()

    def read(self) -> tuple[Reading, ...]:
        """Both hands as they stand; after the loops, as they last stood."""
        return self._readings() or self._last

    def _readings(self, ending: Hand | None = None) -> tuple[Reading, ...]:
        hands = [hand for ref in self._hands if (hand := ref()) is not None]
        if ending is not None and ending not in hands:
            hands.append(ending)
        is_nested = len(hands) > 1 or any(hand.has_inner for hand in hands)
        names = ("epoch", "step") if is_nested else ("step",)
        now = time.monotonic()
        return tuple(
            Reading(
                name=name,
                count=hand.count,
                total=hand.total,
                seconds=now - hand.started,
            )
            for name, hand in zip(names, hands, strict=False)
        )

    def __str__(self) -> str:
        return ", ".join(map(str, self.read()))


def length(iterable: object) -> int | None:
    """How many items there will be; None if that cannot be told for free.

    Looks through ``enumerate``, whose ``__reduce__`` names the iterator inside.
    """
    if isinstance(iterable, enumerate):
        iterable = iterable.__reduce__()[1][0]
    try:
        hint = operator.length_hint(iterable, -1)
    except Exception:  # noqa: BLE001 - a user's own __len__ may raise anything
        return None
    return hint if hint >= 0 else None


def _listen() -> None:
    global _listening
    _listening = any(not clock.is_full for clock in _clocks.values())
