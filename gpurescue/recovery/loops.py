"""The loop clock: how far a run has come in its two outermost loops.

Guarded loops ask ``loop_iterator`` for their iterator. Outside a run, and inside its
two outermost loops, the answer is plain ``iter``. Else the loop becomes a hand of the
clock: its iterator is wrapped to count the rounds (see ``hands``).
"""

from __future__ import annotations

import gc
import logging
import math
import operator
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from gpurescue.protocols import Watcher
from gpurescue.recovery import own
from gpurescue.recovery.hands import Hand, Rounds, Stand, hand_of, is_built_in, tells
from gpurescue.source.transform import GUARDS

_log = logging.getLogger(__name__)

MAX_HANDS = 2
NEVER = sys.maxsize
BUDGET = 0.0005  # of a round's time, for marking its top
PAUSE = 0.2  # seconds between two looks, of some 20 us each where caches are cold
NUM_TRIALS = 2  # of a run at each depth: the first one pays for what is done once
NUM_RETRIES = 6  # more of them, where a mark has cost less than NEARLY times the budget
NEARLY = 4

_clocks: dict[int, Clock] = {}
_open: set[Clock] = set()  # those with a hand that is not in use
_PATIENT = {enumerate, filter, map, zip}  # ask the first of theirs, and then change
_LENGTHS = ("__len__", "__length_hint__")
_NO_STANDS = (None,) * MAX_HANDS
_reiterable: set[type] = set()


def loop_iterator(iterable: Iterable[Any]) -> Iterator[Any]:
    """``iter``, except for the two outermost loops of an active run.

    A loop asks ``iter`` of what it gets once more, which an iterator of the user's
    without ``__iter__`` would not survive: such a one is wrapped.
    """
    iterator = iter(iterable)
    if _open and (clock := _clocks.get(threading.get_ident())) is not None:
        try:
            return clock.wrap(iterable, iterator)
        except Exception:  # noqa: BLE001
            own.failed("A loop is not counted.")
    return iterator if type(iterator) in _reiterable else reiterable(iterator)


def current() -> Clock | None:
    """The clock of the run that the calling thread is of; None outside of runs."""
    return _clocks.get(threading.get_ident())


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
    if is_built_in(kind):  # others may lose their __iter__
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
        on_first: Called once, when a round is looked at for the first time.
        watcher: Sees the run at tops of rounds, as often as it wants; None for nobody.
    """

    def __init__(self) -> None:
        self.marker: Marker | None = None
        self.marks_all = False
        self.watcher: Watcher | None = None
        self.on_first: Callable[[], None] | None = None
        self._cost = math.inf
        self._gaps = [1] * MAX_HANDS
        self._seconds = [0.0] * MAX_HANDS  # of a round, when last looked at
        self._num_trials = [0] * MAX_HANDS
        self._live: list[weakref.ref[Hand]] = []
        self._past: list[Stand | None] = [None] * MAX_HANDS
        self._num_over = [0] * MAX_HANDS  # rounds of loops that are over
        self._thread = 0

    def start(self) -> None:
        """Listen to the loops of the calling thread."""
        self._thread = threading.get_ident()
        _clocks[self._thread] = self
        if len(self._live) < MAX_HANDS:
            _open.add(self)

    def stop(self) -> None:
        """Stop listening; the last reading stays."""
        if _clocks.get(self._thread) is self:
            del _clocks[self._thread]
        _open.discard(self)

    def wrap(self, iterable: Iterable[Any], iterator: Iterator[Any]) -> Iterator[Any]:
        """The iterator of a loop that may be one of the two outermost."""
        depth = len(self._live)
        if depth >= MAX_HANDS:
            return reiterable(iterator)
        hand = Hand(self, iterator, depth, tells=tells(iterable, iterator))
        hand.total = length(iterable)
        self._past[depth:] = _NO_STANDS[depth:]
        return self._begun(hand)

    def rejoin(self, rounds: Rounds) -> Iterator[Any]:
        """The iterator of a loop that was begun in another process, outermost first."""
        hand = Hand(self, rounds.iterator, len(self._live), tells=rounds.tells)
        hand.go_on(rounds.count, rounds.items)
        hand.total = rounds.total
        return self._begun(hand)

    def _begun(self, hand: Hand) -> Iterator[Any]:
        self._live.append(weakref.ref(hand))
        if hand.depth == MAX_HANDS - 1:
            _open.discard(self)
        return hand.iterator()

    def mark(self, hand: Hand, item: Any, frame: FrameType) -> None:
        """A round is due to be looked at; it is marked if that is worth it."""
        if self.on_first is not None:
            first, self.on_first = self.on_first, None
            first()
        self._mark(hand, item, frame)
        if self.watcher is not None:
            self._show(self.watcher, hand, frame)

    def _show(self, watcher: Watcher, hand: Hand, frame: FrameType) -> None:
        """Let somebody see the run; look again as soon as they want to."""
        try:
            left = watcher.look(frame, self.num_rounds)
        except Exception:  # noqa: BLE001 - the run goes on, unseen
            _log.warning("Nobody watches this run any more.", exc_info=True)
            self.watcher = None
            return
        if math.isinf(left):  # it has seen enough
            self.watcher = None
            return
        seconds = self._seconds[hand.depth]
        gap = max(1, math.ceil(left / seconds) if seconds else hand.count)
        self._gaps[hand.depth] = min(self._gaps[hand.depth], gap)
        hand.due = min(hand.due, hand.count + gap)
        hand.looked = (hand.count, time.perf_counter())

    @property
    def num_rounds(self) -> int:
        """Rounds that the run has gone through, of the inner loops if there are any."""
        counts = list(self._num_over)
        for ref in self._live:
            if (hand := ref()) is not None:
                counts[hand.depth] += hand.count
        return next((count for count in reversed(counts) if count), 0)

    def _mark(self, hand: Hand, item: Any, frame: FrameType) -> None:
        begun, count = time.perf_counter(), hand.count
        self._look(hand, count, begun)
        is_worth = self._is_worth(hand.depth)
        if self.marker is None or not (is_worth or self._may_be_worth(hand.depth)):
            self._wait(hand, count, begun)
            return
        self._num_trials[hand.depth] += 1
        try:
            hand.round = self.marker(hand, item, frame)
        except Exception:  # noqa: BLE001 - the run goes on, without marks
            _log.warning("The top of a round could not be marked.", exc_info=True)
            hand.round, hand.due = None, NEVER
            return
        done = time.perf_counter()
        self._cost = min(self._cost, done - begun)
        if is_worth or self._is_worth(hand.depth):
            hand.due, hand.looked = count + 1, (count, done)
        else:
            self._wait(hand, count, done)

    def _look(self, hand: Hand, count: int, now: float) -> None:
        """Measure the rounds since the last look."""
        before, when = hand.looked
        if count > before and (before or count > 1):
            self._seconds[hand.depth] = (now - when) / (count - before)

    def _is_worth(self, depth: int) -> bool:
        """Every round is marked, or none: a fresh mark is what a person needs.

        What marking costs is found by doing it, a few times in a run.
        """
        if self.marks_all or self._num_trials[depth] < NUM_TRIALS:
            return True
        return self._cost <= BUDGET * self._seconds[depth]

    def _may_be_worth(self, depth: int) -> bool:
        """What it has cost so far may have been a busy machine's doing: try again."""
        if self._num_trials[depth] >= NUM_TRIALS + NUM_RETRIES:
            return False
        return self._cost <= NEARLY * BUDGET * self._seconds[depth]

    def _wait(self, hand: Hand, count: int, now: float) -> None:
        """Look again after twice as many rounds, and not too soon."""
        seconds = self._seconds[hand.depth]
        enough = math.ceil(PAUSE / seconds) if seconds else 1
        gap = self._gaps[hand.depth] = max(count, enough)
        hand.due, hand.looked = count + gap, (count, now)
        if hand.round is not None and self.marker is not None:
            hand.round = None  # it would keep a batch alive for many rounds
            self.marker.rest()

    def first_due(self, depth: int) -> int:
        """The first round to look at of a loop that begins."""
        if self.marker is None:
            return NEVER if self.watcher is None else self._gaps[depth]
        return 1 if self._is_worth(depth) else self._gaps[depth]

    def innermost(self) -> Hand | None:
        """The hand of the loop that the run is in, or None outside of loops."""
        live = [hand for ref in self._live if (hand := ref()) is not None]
        return live[-1] if live else None

    def ended(self, hand: Hand) -> None:
        """A loop is over."""
        self._past[hand.depth] = stand = hand.stand()
        self._num_over[hand.depth] += stand.rounds
        # A weak reference still answers inside __del__ (not so for cyclic garbage).
        if self._live and self._live[-1]() is hand:
            self._live.pop()
        else:
            self._live = [ref for ref in self._live if ref() not in (None, hand)]
        if len(self._live) < MAX_HANDS and _clocks.get(self._thread) is self:
            _open.add(self)

    def read(self) -> tuple[Reading, ...]:
        """Both hands as they stand; of a loop that is over, as it last stood."""
        stands = list(self._past)
        for ref in self._live:
            if (hand := ref()) is not None:
                stands[hand.depth] = hand.stand()
        found = [stand for stand in stands if stand is not None]
        names = ("epoch", "step") if len(found) > 1 else ("step",)
        return tuple(
            Reading(name=name, count=s.rounds, total=s.total, seconds=s.seconds)
            for name, s in zip(names, found, strict=False)
        )

    def __str__(self) -> str:
        return ", ".join(map(str, self.read()))


def length(iterable: object) -> int | None:
    """How many items there will be; None if that cannot be told for free.

    Looks through ``enumerate``, whose ``__reduce__`` names the iterator inside. What
    the user has written is not asked: it would be seen to run.
    """
    kind = type(iterable)
    if kind is enumerate:
        iterable = iterable.__reduce__()[1][0]
        kind = type(iterable)
    if not is_built_in(kind) and any(_is_users(kind, name) for name in _LENGTHS):
        return None
    try:
        hint = operator.length_hint(iterable, -1)
    except Exception:  # noqa: BLE001 - a user's own __len__ may raise anything
        return None
    return hint if hint >= 0 else None


def _is_users(kind: type, name: str) -> bool:
    code = getattr(getattr(kind, name, None), "__code__", None)
    return code is not None and GUARDS in code.co_consts
