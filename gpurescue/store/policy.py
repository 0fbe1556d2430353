"""When the next snapshot of a run is taken: as often as its cost allows, no oftener.

A snapshot costs the run more than the time for which it stands still. While the rest
is copied and written, the rounds of the loop are slower: on two busy cores that is 2 to
7 times the stall again. So what a snapshot has cost is measured on the rounds: how much
longer those that it overlapped with took than the rounds before and behind them.

How often follows from what it costs, as in CheckFreq (Mohan et al., FAST 2021). The run
puts ``budget`` seconds aside per second, and a snapshot is due once what is put aside
pays for it: ``cost / budget`` seconds apart. Nothing is taken on credit, so at no time
have snapshots cost more than their share; what is done once, such as touching the pages
of a staging buffer, is paid from the same purse.

Where it is known how often runs fail, there is an interval that loses the least time:
``sqrt(2 * cost * mtbf)`` (Young, CACM 17(9), 1974). If that is longer than the budget
asks for, then oftener is not worth it, and it is taken. If it is shorter, then the
budget binds: it is a promise. So the longer of the two holds. Daly's further terms
(FGCS 22(3), 2006) are left out: where Young's interval is the longer one, ``cost`` is
below ``2 * mtbf * budget**2``, and at a budget of 1 % they change it by less than 1 %.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

from gpurescue.errors import UsageError

_PRIOR = 4.0  # cost over stall, before it is known: 3 to 8 were measured
_NUM_PRIOR = 3  # a few measured ones outweigh it; a single odd one does not
_NUM_FACTORS = 15  # a round varies by as much as a snapshot costs: many are needed
_NUM_STALLS = 3  # these vary little, and say at once when a state has grown
_NUM_SPANS = 64
_PARTS = 8  # of a disturbed time; spans are as long, so 64 are 4 before and 4 behind it
_QUIET = 4  # how much longer than that rounds go undisturbed, to compare with
_GRAIN = 0.2
_SECONDS_PER_BYTE = 0.2e-9  # 0.3 s for 1.5 GB, on two busy cores


def guessed_cost(nbytes: int) -> float:
    """Seconds that a snapshot of so many bytes may cost a run, before one was taken."""
    return nbytes * _SECONDS_PER_BYTE


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How often snapshots are wanted.

    Attributes:
        budget: The part of the run's time that they may cost.
        mtbf: Mean seconds between failures, preemptions included; None if not known.
        min_interval: Seconds from one to the next, at least.
        max_interval: Seconds after which one is taken whatever it costs.

    Raises:
        UsageError: A value makes no sense.
    """

    budget: float = 0.01
    mtbf: float | None = None
    min_interval: float = 10.0
    max_interval: float = 3600.0

    def __post_init__(self) -> None:
        if not 0.0 < self.budget <= 1.0:
            raise UsageError(
                f"A budget of {self.budget!r} is no part of the run's time: give more "
                "than 0 and at most 1, such as 0.01 for 1 %."
            )
        if self.mtbf is not None and not self.mtbf > 0.0:
            raise UsageError(
                f"Failures cannot be {self.mtbf!r} seconds apart: give more than 0, or "
                "None if it is not known."
            )
        if not 0.0 <= self.min_interval <= self.max_interval:
            raise UsageError(
                f"Snapshots cannot be at least {self.min_interval!r} and at most "
                f"{self.max_interval!r} seconds apart: give a smaller number first."
            )


class _Pace:
    """How long rounds take while no snapshot is under way.

    Attributes:
        last: The time and number of rounds at the last look.
    """

    def __init__(self, now: float) -> None:
        self.last = (now, 0)
        self._spans: deque[tuple[float, int]] = deque(maxlen=_NUM_SPANS)
        self._from = self.last
        self._grain = _GRAIN

    def looked(self, now: float, num_rounds: int) -> None:
        """Note where the run is."""
        self.last = (now, num_rounds)
        seconds, rounds = now - self._from[0], num_rounds - self._from[1]
        if rounds > 0 and seconds >= self._grain:
            self._spans.append((seconds, rounds))
            self._from = self.last

    def go_on(self, now: float, num_rounds: int, disturbed: float) -> None:
        """Begin again behind a disturbed time of so many seconds."""
        self.last = self._from = (now, num_rounds)
        self._grain = max(_GRAIN, disturbed / _PARTS)

    def usual(self, num_rounds: int) -> float | None:
        """Seconds that so many rounds take; None if there were none yet.

        The median of stretches of as many rounds, and not so many times the median of
        a round: where a few rounds are long (an evaluation, a line that is printed),
        twenty of them take longer than twenty times the usual one.
        """
        found: list[float] = []
        seconds, rounds = 0.0, 0
        for more_seconds, more_rounds in self._spans:
            seconds, rounds = seconds + more_seconds, rounds + more_rounds
            if rounds >= num_rounds:
                found.append(seconds / rounds * num_rounds)
                seconds, rounds = 0.0, 0
        if rounds and not found:
            found = [seconds / rounds * num_rounds]
        return median(found) if found else None


@dataclass(slots=True)
class _Flight:
    """A snapshot, from its beginning until it is known what it has cost.

    Attributes:
        began: When.
        start: The time and number of rounds at the last look before.
        charged: What it was taken to cost.
        stall: Seconds for which the run stood still.
        ended: When its background work did; None if it has not.
        seconds: Of the rounds that it overlapped with, once they are over.
        num_rounds: How many those were.
        quiet_until: How long rounds go undisturbed behind them.
    """

    began: float
    start: tuple[float, int]
    charged: float
    stall: float = 0.0
    ended: float | None = None
    seconds: float = 0.0
    num_rounds: int = 0
    quiet_until: float = 0.0


class Policy:
    """Says when a snapshot of a run is due.

    Used by the run's thread alone, but for ``ended``. All times are from one clock, in
    seconds; of a run that is suspended the clock may stand still, and need not.

    Args:
        settings: How often snapshots are wanted.
        now: When the run begins.
        expected: Seconds that one probably costs, until it is measured.
    """

    def __init__(self, settings: Settings, now: float, expected: float = 0.0) -> None:
        self._settings = settings
        self._expected = expected
        self._purse, self._counted = 0.0, now
        self._began = now
        self._stalls: deque[float] = deque(maxlen=_NUM_STALLS)
        self._factors: deque[float] = deque(maxlen=_NUM_FACTORS)
        self._pace = _Pace(now)
        self._flight: _Flight | None = None

    # -- asked

    @property
    def cost(self) -> float:
        """Seconds that the next snapshot is going to cost the run."""
        if not self._stalls:
            return self._expected
        # Less than the stall is noise: so long the run does stand still.
        return median(self._stalls) * max(1.0, median(self._factors))

    @property
    def interval(self) -> float:
        """Seconds from one snapshot to the next, if all goes on as it does."""
        asked = max(self.cost / self._settings.budget, self._spacing)
        return min(asked, self._settings.max_interval)

    @property
    def is_in_flight(self) -> bool:
        """True from where a snapshot begins until its background work has ended."""
        return self._flight is not None and self._flight.ended is None

    def is_due(self, now: float) -> bool:
        """True if a snapshot should begin: never while another is in flight."""
        return not self.is_in_flight and self.seconds_left(now) <= 0.0

    def seconds_left(self, now: float) -> float:
        """Seconds until one is due, if none is in flight by then."""
        since, budget = now - self._began, self._settings.budget
        unpaid = self.cost - self._purse - budget * (now - self._counted)
        wait = max(unpaid / budget, self._spacing - since, self._quiet_for(now))
        return max(0.0, min(wait, self._settings.max_interval - since))

    def _quiet_for(self, now: float) -> float:
        """Seconds for which rounds are still needed to compare the last one with.

        Without them, one that is taken to be too cheap is followed by the next at once,
        and its cost is never found out. They are not needed where even the most that it
        can have cost, all of the time that it took, has been paid.
        """
        flight = self._flight
        if flight is None or flight.ended is None:
            return 0.0
        took = flight.ended - flight.began
        paid_at = flight.began + took / self._settings.budget
        return min(flight.quiet_until, paid_at) - now

    @property
    def _spacing(self) -> float:
        """Seconds by which snapshots are apart even if they cost nothing."""
        least, mtbf = self._settings.min_interval, self._settings.mtbf
        return least if mtbf is None else max(least, math.sqrt(2 * self.cost * mtbf))

    # -- told

    def looked(self, now: float, num_rounds: int) -> None:
        """The run stands at the top of a round.

        Called every 0.2 seconds or so, and just before ``is_due`` and ``began``.

        Args:
            now: When.
            num_rounds: Rounds that it has gone through since the policy was made.
        """
        flight = self._flight
        if flight is None:
            self._pace.looked(now, num_rounds)
        elif flight.num_rounds:
            self._pace.looked(now, num_rounds)
            if now >= flight.quiet_until:
                self._judge(flight)
        elif flight.ended is not None and now >= flight.ended:
            flight.num_rounds = num_rounds - flight.start[1]
            flight.seconds = now - flight.start[0]
            flight.quiet_until = now + _QUIET * flight.seconds
            if flight.num_rounds:
                self._pace.go_on(now, num_rounds, flight.seconds)

    def began(self, now: float) -> None:
        """A snapshot begins."""
        if self._flight is not None:
            self._judge(self._flight)
        self._purse += self._settings.budget * (now - self._counted)
        # A run that could take none for long does not take several at once then.
        self._purse = min(self._purse, self.cost) - self.cost
        self._began = self._counted = now
        self._flight = _Flight(now, self._pace.last, self.cost)

    def stalled(self, seconds: float) -> None:
        """The run has stood still for the snapshot in flight; may be said again."""
        if self._flight is None:
            self.charged(seconds)
        elif self._flight.stall:
            self._stalls[-1] += seconds
            self._flight.stall += seconds
        elif seconds > 0.0:
            if not self._stalls:
                prior = max(_PRIOR, self._expected / seconds)
                self._factors.extend([prior] * _NUM_PRIOR)
            self._stalls.append(seconds)
            self._flight.stall = seconds

    def ended(self, now: float) -> None:
        """The background work of a snapshot has ended, well or not; from any thread."""
        if self._flight is not None:
            self._flight.ended = now

    def charged(self, seconds: float) -> None:
        """The run has lost time to something that is done once, or now and then."""
        self._purse -= seconds

    def _judge(self, flight: _Flight) -> None:
        """Compare the rounds of a snapshot with those around it."""
        self._flight = None
        usual = self._pace.usual(flight.num_rounds) if flight.num_rounds else None
        if usual is not None and flight.stall and flight.ended is not None:
            # A loss longer than the snapshot took is not its doing.
            lost = min(flight.seconds - usual, flight.ended - flight.began)
            self._factors.append(lost / flight.stall)
        self._purse -= max(self.cost, flight.stall) - flight.charged
