"""The loop clock: how far a run has come in its two outermost loops.

Guarded loops ask ``loop_iterator`` for their iterator. Outside a run, and inside its
two outermost loops, the answer is plain ``iter``. Else the loop becomes a hand of the
clock: its iterator is wrapped to count the rounds. Of most rounds no Python code is
told, only iterators written in C: 0.02 us each, against 0.1 for a ``__next__`` of ours.
"""

from __future__ import annotations

import gc
import itertools
import logging
import math
import operator
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType, GeneratorType
from typing import Any, Protocol

from gpurescue.recovery import own
from gpurescue.source.transform import GUARDS

_log = logging.getLogger(__name__)

MAX_HANDS = 2
NEVER = sys.maxsize
BUDGET = 0.0005  # of a round's time, for marking its top
PAUSE = 0.05  # seconds between two looks, of some microseconds each
NUM_TRIALS = 2  # of a run at each depth: the first one pays for what is done once

_clocks: dict[int, Clock] = {}
_listening = False
_IS_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE
_PATIENT = {enumerate, filter, map, zip}  # ask the first of theirs, and then change
_reiterable: set[type] = set()
_Chain = itertools.chain
_NONES = (None,) * 4096
_second = {}.get  # type: ignore[var-annotated]  # of None and an item: the item


def loop_iterator(iterable: Iterable[Any]) -> Iterator[Any]:
    """``iter``, except for the two outermost loops of an active run.

    A loop asks ``iter`` of what it gets once more, which an iterator of the user's
    without ``__iter__`` would not survive: such a one is wrapped.
    """
    iterator = iter(iterable)
    if _listening and (clock := _clocks.get(threading.get_ident())) is not None:
        with own.harmless("A loop is not counted."):
            return clock.wrap(iterable, iterator)
    return iterator if type(iterator) in _reiterable else reiterable(iterator)


def passes_on(iterator: object, wanted: object) -> bool:
    """True if ``wanted``, asked through ``iterator``, may fail and be asked again.

    So it is where nobody in between loses an item, or ends, when the question fails:
    not behind a generator, nor ``islice``, nor as the second of what ``zip`` joins.
    """
    while iterator is not wanted:
        if (hand := hand_of(iterator)) is not None:
            iterator = hand.asks
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
    """Counts the rounds of one loop; over when the loop lets go of it.

    What the loop gets is ``chain`` over ``segments``: by turns this object, for rounds
    that are looked at, and a ``map`` for the many that are not.

    Attributes:
        due: The next round to look at.
        looked: The last round that was looked at, and when.
        round: What was kept of its top, if it was marked.
    """

    __slots__ = (
        "__weakref__",
        "_advance",
        "_before",
        "_clock",
        "_is_over",
        "_num_segment",
        "_passed",
        "_quick",
        "asks",
        "depth",
        "due",
        "looked",
        "round",
        "start",
        "total",
    )

    def __init__(self, clock: Clock, iterator: Iterator[Any], depth: int) -> None:
        self._clock = clock
        self.asks = iterator
        self._advance = iterator.__next__
        self._quick = _safely_asked(iterator)
        self._before = 0  # rounds of the segments that are over
        self._passed: Iterator[None] | None = None  # one item for a round of this one
        self._num_segment = 0
        self._is_over = False
        self.depth = depth
        self.total: int | None = None
        self.start = time.monotonic()
        self.due = clock.first_due(depth)
        self.looked = (0, time.perf_counter())
        self.round: Any = None

    def segments(self) -> Iterator[Iterator[Any]]:
        """Iterators that give the loop's items, each some of them."""
        while True:
            yield self
            if self._is_over:
                return
            is_over = unseen = None
            with own.harmless("A loop is not counted."):
                unseen = self._unseen()
            if unseen is not None:
                yield unseen
                with own.harmless("A loop is not counted."):
                    is_over = not self._has_passed()
            if is_over is None:  # a failure of ours: the rest, as it is
                yield self._quick
            if is_over is not False:
                return

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._before + 1 < self.due:
            raise StopIteration
        self._before += 1
        try:
            item = self._advance()
        except StopIteration:
            self._before, self._is_over = self._before - 1, True
            raise
        with own.harmless("A round is not marked."):
            self._clock.mark(self, item, sys._getframe(1))
        return item

    def _unseen(self) -> Iterator[Any]:
        """The items of all rounds before the one that is due."""
        num = self._num_segment = min(self.due - 1 - self._before, len(_NONES))
        self._passed = passed = iter(_NONES)
        passed.__setstate__(len(_NONES) - num)  # type: ignore[attr-defined]
        return map(_second, passed, self._quick)

    def _has_passed(self) -> bool:
        """The segment is over: False if that is because there are no more items."""
        passed, self._passed = self._passed, None
        assert passed is not None
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
        with own.harmless("The clock may be wrong."):
            self._clock.ended(self)

    @property
    def label(self) -> str:
        """What to call the round, such as ``round 12/100``."""
        of = "" if self.total is None else f"/{self.total}"
        return f"round {self.count}{of}"

    def stand(self) -> _Stand:
        """How far the loop has come by now."""
        return _Stand(self.count, self.total, time.monotonic() - self.start)


def _safely_asked(iterator: Iterator[Any]) -> Iterator[Any]:
    """``iterator``, or one around it of which ``iter`` may be asked again.

    A user's ``__iter__`` may begin anew, or be missing.
    """
    if type(iterator).__flags__ & _IS_IMMUTABLE:  # built in
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


class Marker(Protocol):
    """Marks the top of a round: what it gives is kept until the round is over."""

    def __call__(self, hand: Hand, item: Any, frame: FrameType) -> Any:
        """Mark the round that has just begun."""
        ...

    def rest(self) -> None:
        """No round is marked for a while."""
        ...


class Clock:
    """The one or two loops that a run is in, outermost first.

    Loops are held weakly: an iterator must die when its loop ends, and not later.

    Attributes:
        marker: Marks tops of rounds: all of a loop where this costs less than
            ``BUDGET`` of a round's time; None to mark none.
        marks_all: True to mark them whatever it costs.
    """

    def __init__(self) -> None:
        self.marker: Marker | None = None
        self.marks_all = False
        self._cost = math.inf
        self._gaps = [1] * MAX_HANDS
        self._seconds = [0.0] * MAX_HANDS  # of a round, when last looked at
        self._num_trials = [0] * MAX_HANDS
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

    def wrap(self, iterable: Iterable[Any], iterator: Iterator[Any]) -> Iterator[Any]:
        """The iterator of a loop that may be one of the two outermost."""
        depth = len(self._live)
        if depth >= MAX_HANDS:
            return reiterable(iterator)
        hand = Hand(self, iterator, depth)
        hand.total = length(iterable)
        self._past[depth:] = [None] * (MAX_HANDS - depth)
        self._live.append(weakref.ref(hand))
        if self.is_full:
            _listen()
        return _Chain.from_iterable(hand.segments())

    def mark(self, hand: Hand, item: Any, frame: FrameType) -> None:
        """A round is due to be looked at; it is marked if that is worth it."""
        begun = time.perf_counter()
        self._look(hand, begun)
        if not self._is_worth(hand.depth):
            self._wait(hand, begun)
            return
        self._num_trials[hand.depth] += 1
        try:
            hand.round = self.marker and self.marker(hand, item, frame)
        except Exception:  # noqa: BLE001 - the run goes on, without marks
            _log.warning("The top of a round could not be marked.", exc_info=True)
            hand.round, hand.due = None, NEVER
            return
        done = time.perf_counter()
        self._cost = min(self._cost, done - begun)
        hand.due, hand.looked = hand.count + 1, (hand.count, done)

    def _look(self, hand: Hand, now: float) -> None:
        """Measure the rounds since the last look."""
        count, when = hand.looked
        if hand.count > count and (count or hand.count > 1):
            self._seconds[hand.depth] = (now - when) / (hand.count - count)

    def _is_worth(self, depth: int) -> bool:
        """Every round is marked, or none: a fresh mark is what a person needs.

        What marking costs is found by doing it, a few times in a run.
        """
        if self.marks_all or self._num_trials[depth] < NUM_TRIALS:
            return True
        return self._cost <= BUDGET * self._seconds[depth]

    def _wait(self, hand: Hand, now: float) -> None:
        """Look again after twice as many rounds, and not too soon."""
        seconds = self._seconds[hand.depth]
        enough = math.ceil(PAUSE / seconds) if seconds else 1
        gap = self._gaps[hand.depth] = max(hand.count, enough)
        hand.due, hand.looked = hand.count + gap, (hand.count, now)
        if hand.round is not None and self.marker is not None:
            hand.round = None  # it would keep a batch alive for many rounds
            self.marker.rest()

    def first_due(self, depth: int) -> int:
        """The first round to look at of a loop that begins."""
        if self.marker is None:
            return NEVER
        return 1 if self._is_worth(depth) else self._gaps[depth]

    def innermost(self) -> Hand | None:
        """The hand of the loop that the run is in, or None outside of loops."""
        live = [hand for ref in self._live if (hand := ref()) is not None]
        return live[-1] if live else None

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

    Looks through ``enumerate``, whose ``__reduce__`` names the iterator inside. What
    the user has written is not asked: it would be seen to run.
    """
    if isinstance(iterable, enumerate):
        iterable = iterable.__reduce__()[1][0]
    if any(_is_users(type(iterable), name) for name in ("__len__", "__length_hint__")):
        return None
    try:
        hint = operator.length_hint(iterable, -1)
    except Exception:  # noqa: BLE001 - a user's own __len__ may raise anything
        return None
    return hint if hint >= 0 else None


def _is_users(kind: type, name: str) -> bool:
    code = getattr(getattr(kind, name, None), "__code__", None)
    return code is not None and GUARDS in code.co_consts


def _listen() -> None:
    global _listening
    _listening = any(not clock.is_full for clock in _clocks.values())
