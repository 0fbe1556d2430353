"""The loop clock: how far a run has come in its two outermost loops.

Guarded loops ask ``loop_iterator`` for their iterator. Outside a run, and inside its
two outermost loops, the answer is plain ``iter``. Else the loop becomes a hand of the
clock: its iterator is wrapped to count the rounds (about 0.1 us each).
"""

from __future__ import annotations

import gc
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
_PATIENT = {enumerate, filter, map, zip}  # ask the first of theirs, and then change
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


def passes_on(iterator: object, wanted: object) -> bool:
    """True if ``wanted``, asked through ``iterator``, may fail and be asked again.

    So it is where nobody in between loses an item, or ends, when the question fails:
    not behind a generator, nor ``islice``, nor as the second of what ``zip`` joins.
    """
    while iterator is not wanted:
        if isinstance(iterator, Hand):
            iterator = iterator.asks
        elif type(iterator) in _PATIENT:
            (inner, *_) = gc.get_referents(iterator)
            iterator = inner[0] if type(inner) is tuple and inner else inner
        else:
            return False
    return True


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

    def __str__(self) -> str:
        of = "" if self.total is None else f"/{self.total}"
        return f"{self.name} {self.count}{of}"


@dataclass(frozen=True, slots=True)
class _Stand:
    """How far one loop has come."""

    count: int
    total: int | None
    seconds: float


class Hand:
    """Counts the rounds of one loop; over when the loop lets go of it."""

    __slots__ = (
        "__weakref__",
        "_advance",
        "_clock",
        "count",
        "depth",
        "start",
        "total",
    )

    def __init__(self, clock: Clock, iterator: Iterator[Any], depth: int) -> None:
        self._clock = clock
        self._advance = iterator.__next__
        self.depth = depth
        self.count = 0
        self.total: int | None = None
        self.start = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = self._advance()
        self.count += 1
        return item

    def __del__(self) -> None:
        self._clock.ended(self)

    @property
    def asks(self) -> object:
        """The iterator that is counted."""
        return getattr(self._advance, "__self__", None)

    def stand(self) -> _Stand:
        """How far the loop has come by now."""
        return _Stand(self.count, self.total, time.monotonic() - self.start)


class Clock:
    """The one or two loops that a run is in, outermost first.

    Loops are held weakly: an iterator must die when its loop ends, and not later.
    """

    def __init__(self) -> None:
        self._live: list[weakref.ref[Hand]] = []
        self._past: list[_Stand | None] = [None] * MAX_HANDS
        self._thread = 0

    def start(self) -> None:
        """Listen to the loops of the calling thread."""
        self._thread = threading.get_ident()
        _clocks[self._thread] = self
        _listen()

    def stop(self) -> None:
        """Stop listening; the last reading stays."""
        if _clocks.get(self._thread) is self:
            del _clocks[self._thread]
        _listen()

    @property
    def is_full(self) -> bool:
        """True when both hands are in use."""
        return len(self._live) >= MAX_HANDS

    def wrap(self, iterable: Iterable[Any]) -> Iterator[Any]:
        """The iterator of a loop that may be one of the two outermost."""
        iterator = iter(iterable)
        depth = len(self._live)
        if depth >= MAX_HANDS:
            return reiterable(iterator)
        hand = Hand(self, iterator, depth)
        hand.total = length(iterable)
        self._past[depth:] = [None] * (MAX_HANDS - depth)
        self._live.append(weakref.ref(hand))
        if self.is_full:
            _listen()
        return hand

    def ended(self, hand: Hand) -> None:
        """A loop is over."""
        was_full = self.is_full
        self._past[hand.depth] = hand.stand()
        # A weak reference still answers inside __del__ (not so for cyclic garbage).
        self._live = [ref for ref in self._live if ref() not in (None, hand)]
        if was_full:
            _listen()

    def read(self) -> tuple[Reading, ...]:
        """Both hands as they stand; of a loop that is over, as it last stood."""
        stands = list(self._past)
        for ref in self._live:
            if (hand := ref()) is not None:
                stands[hand.depth] = hand.stand()
        found = [stand for stand in stands if stand is not None]
        names = ("epoch", "step") if len(found) > 1 else ("step",)
        return tuple(
            Reading(name=name, count=s.count, total=s.total, seconds=s.seconds)
            for name, s in zip(names, found, strict=False)
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
