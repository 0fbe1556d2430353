"""How often snapshots are taken: simulated runs, in which the true cost is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from gpurescue.errors import UsageError
from gpurescue.store.policy import Policy, Settings, guessed_cost

HOUR = 3600.0


@dataclass
class Snapshots:
    """What a snapshot does to the run that it is of.

    Attributes:
        stall: Seconds for which the run stands still.
        busy: Seconds for which work goes on behind it.
        slowed: The part of those that the run loses.
    """

    stall: float = 0.045
    busy: float = 0.9
    slowed: float = 0.28

    @property
    def cost(self) -> float:
        return self.stall + self.busy * self.slowed


LARGE = Snapshots()  # 1.5 GB on two busy cores
SMALL = Snapshots(stall=0.004, busy=0.03, slowed=0.3)
IDLE_CORE = Snapshots(stall=0.08, busy=0.5, slowed=0.0)
SLOW_DISK = Snapshots(stall=0.05, busy=20.0, slowed=0.1)


def noisy(seconds: float, spread: float = 0.05) -> Callable[[random.Random], float]:
    return lambda draw: max(seconds / 2, draw.gauss(seconds, seconds * spread))


def uneven(draw: random.Random) -> float:
    """One round in ten is three times as long; one in 500 is an evaluation."""
    if draw.random() < 0.002:
        return 20.0
    return noisy(0.9 if draw.random() < 0.1 else 0.3)(draw)


@dataclass
class Run:
    """A run with a policy, on a clock of its own."""

    policy: Policy
    draw: random.Random
    now: float = 0.0
    num_rounds: int = 0
    lost: float = 0.0
    taken: list[float] = field(default_factory=list)
    busy_until: float = -1.0

    def go_on(
        self,
        seconds: float,
        rounds: Callable[[random.Random], float],
        snapshots: Snapshots,
    ) -> Run:
        until, looked = self.now + seconds, -math.inf
        while self.now < until:
            if self.policy.is_in_flight and self.now >= self.busy_until:
                self.policy.ended(self.busy_until)
            if self.now - looked >= 0.2:
                looked = self.now
                self.policy.looked(self.now, self.num_rounds)
                if self.policy.is_due(self.now):
                    self.snapshot(snapshots)
            self.round(rounds(self.draw), snapshots)
        return self

    def snapshot(self, snapshots: Snapshots) -> None:
        assert self.now >= self.busy_until  # never two
        self.taken.append(self.now)
        self.policy.began(self.now)
        stall = snapshots.stall * self.draw.uniform(0.8, 1.2)
        self.policy.stalled(stall)
        self.now += stall
        self.lost += stall
        self.busy_until = self.now + snapshots.busy

    def round(self, work: float, snapshots: Snapshots) -> None:
        slow = max(0.0, self.busy_until - self.now)
        if work > slow * (1 - snapshots.slowed):
            loss = slow * snapshots.slowed
        else:
            loss = work / (1 - snapshots.slowed) - work
        self.now += work + loss
        self.lost += loss
        self.num_rounds += 1

    @property
    def overhead(self) -> float:
        return self.lost / self.now

    def since(self, num_taken: int) -> float:
        """Mean seconds between the snapshots behind so many."""
        return (self.taken[-1] - self.taken[num_taken]) / (
            len(self.taken) - 1 - num_taken
        )


def run(seed: int = 0, expected: float = 0.0, **settings: float) -> Run:
    policy = Policy(Settings(**settings), 0.0, expected)
    return Run(policy, random.Random(seed))


ROUNDS = {
    "long": noisy(0.73),
    "short": noisy(0.1),
    "noisy": noisy(0.5, 0.2),
    "uneven": uneven,
    "longer than a snapshot": noisy(30.0),
}


@pytest.mark.parametrize("snapshots", [LARGE, SMALL, IDLE_CORE, SLOW_DISK], ids=str)
@pytest.mark.parametrize("rounds", ROUNDS.values(), ids=ROUNDS)
def test_all_that_snapshots_cost_stays_in_the_budget(rounds, snapshots):
    made = run().go_on(HOUR, rounds, snapshots)  # in which it learns what one costs
    lost, begun = made.lost, made.now
    made.go_on(2 * HOUR, rounds, snapshots)
    assert (made.lost - lost) / (made.now - begun) <= 0.01 * 1.1
    assert len(made.taken) > 10


@pytest.mark.parametrize("budget", [0.002, 0.01, 0.05])
def test_the_budget_is_made_use_of(budget):
    made = run(budget=budget, min_interval=1.0).go_on(3 * HOUR, noisy(0.73), LARGE)
    assert budget * 0.8 <= made.overhead <= budget * 1.1
    assert made.policy.cost == pytest.approx(LARGE.cost, rel=0.5)


def test_the_cost_is_more_than_the_stall_and_is_found_by_the_rounds():
    for snapshots in (LARGE, SLOW_DISK, IDLE_CORE):
        made = run().go_on(3 * HOUR, noisy(0.3, 0.02), snapshots)
        assert made.policy.cost == pytest.approx(snapshots.cost, rel=0.4)


def test_before_it_is_measured_the_cost_is_several_stalls():
    policy = Policy(Settings(), 0.0)
    policy.looked(20.0, 20)
    assert policy.is_due(20.0)
    policy.began(20.0)
    policy.stalled(0.1)
    assert policy.cost == pytest.approx(0.4)
    policy.stalled(0.1)  # taken again: one of its tensors had moved
    assert policy.cost == pytest.approx(0.8)
    policy.ended(21.0)
    assert policy.seconds_left(21.0) > 0.5 * policy.cost / 0.01


def test_before_it_is_measured_what_was_expected_counts_if_it_is_more():
    policy = Policy(Settings(), 0.0, 3.0)
    policy.began(400.0)
    policy.stalled(0.1)
    assert policy.cost == pytest.approx(3.0)


def test_rounds_that_are_quicker_beside_a_snapshot_are_noise():
    helpful = Snapshots(stall=0.05, busy=3.0, slowed=-0.5)
    made = run().go_on(HOUR, noisy(0.3), helpful)
    assert 0.04 <= made.policy.cost <= 0.06


@pytest.mark.parametrize(("before", "behind"), [(0.1, 2.0), (2.0, 0.1)])
def test_rounds_that_become_longer_or_shorter(before, behind):
    made = run().go_on(2 * HOUR, noisy(before), LARGE)
    count = len(made.taken)
    made.go_on(2 * HOUR, noisy(behind), LARGE)
    assert made.overhead <= 0.01 * 1.1
    assert made.since(count) == pytest.approx(LARGE.cost / 0.01, rel=0.5)


@pytest.mark.parametrize(("before", "behind"), [(0.3, 3.0), (3.0, 0.3)])
def test_rounds_that_become_longer_bit_by_bit(before, behind):
    made = run()
    for n in range(100):
        made.go_on(100.0, noisy(before + (behind - before) * n / 100), LARGE)
    assert 0.006 <= made.overhead <= 0.01 * 1.1


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_state_that_grows_or_shrinks(factor):
    other = Snapshots(LARGE.stall * factor, LARGE.busy * factor, LARGE.slowed)
    made = run(min_interval=1.0).go_on(HOUR, noisy(0.3), LARGE)
    count = len(made.taken)
    made.go_on(3 * HOUR, noisy(0.3), other)
    assert made.overhead <= 0.01 * 1.15
    assert made.since(count + 5) == pytest.approx(other.cost / 0.01, rel=0.4)


def test_intervals_grow_with_the_bytes_and_no_faster():
    spans = []
    for factor in (1, 4, 16):
        one = Snapshots(LARGE.stall * factor, LARGE.busy * factor, LARGE.slowed)
        made = run(expected=one.cost).go_on(6 * HOUR, noisy(0.3), one)
        spans.append(made.since(5) / factor)
    assert max(spans) <= 1.5 * min(spans)


def test_the_first_comes_as_soon_as_it_is_paid_for():
    nbytes = 1_500_000_000
    warm_up = 0.5
    policy = Policy(Settings(), 100.0, guessed_cost(nbytes))
    policy.charged(warm_up)
    paid = 100.0 + (guessed_cost(nbytes) + warm_up) / 0.01
    assert not policy.is_due(paid - 1.0)
    assert policy.is_due(paid + 0.001)
    assert Policy(Settings(), 0.0, guessed_cost(1000)).is_due(10.0)
    assert not Policy(Settings(), 0.0).is_due(9.9)


@pytest.mark.parametrize("length", [60.0, 300.0, 1200.0])
def test_a_short_run_keeps_to_the_budget_too(length):
    for seed in range(5):
        made = run(seed, expected=LARGE.cost).go_on(length, noisy(0.73), LARGE)
        assert made.overhead <= 0.01 * 1.25
        assert made.taken


def test_a_warm_up_is_paid_from_the_same_purse():
    made = run()
    made.policy.charged(3.0)
    made.lost = made.now = 3.0
    made.go_on(2 * HOUR, noisy(0.3), LARGE)
    assert made.taken[0] > 3.0 / 0.01
    assert made.overhead <= 0.01 * 1.1


def test_one_is_in_flight_at_most():
    policy = Policy(Settings(max_interval=60.0), 0.0)
    policy.began(20.0)
    policy.stalled(0.1)
    assert policy.is_in_flight
    assert not policy.is_due(10_000.0)
    policy.ended(10_000.0)
    assert not policy.is_in_flight
    assert policy.is_due(10_000.0)


def test_a_run_does_not_starve():
    huge = Snapshots(stall=60.0, busy=600.0, slowed=0.5)
    made = run().go_on(12 * HOUR, noisy(1.0), huge)
    assert len(made.taken) >= 11
    policy = Policy(Settings(), 0.0)
    policy.charged(1e9)
    assert not policy.is_due(HOUR - 1.0)
    assert policy.is_due(HOUR)


def test_a_night_in_which_the_run_was_suspended():
    made = run().go_on(HOUR, noisy(0.3), LARGE)
    count = len(made.taken)
    made.snapshot(LARGE)
    made.now += 12 * HOUR  # while one was in flight
    slept = made.now
    made.go_on(HOUR, noisy(0.3), LARGE)
    assert count + 60 <= len(made.taken)
    assert len([at for at in made.taken if slept <= at < slept + 20.0]) <= 2
    assert made.lost <= 0.01 * 1.2 * (made.now - 12 * HOUR)


def test_failures_that_are_seldom_make_it_seldom():
    made = run(mtbf=24 * HOUR).go_on(6 * HOUR, noisy(0.73), LARGE)
    young = math.sqrt(2 * LARGE.cost * 24 * HOUR)
    assert young > LARGE.cost / 0.01
    assert made.policy.interval == pytest.approx(young, rel=0.3)
    assert made.since(5) == pytest.approx(young, rel=0.3)


def test_failures_that_are_frequent_do_not_break_the_budget():
    made = run(mtbf=300.0).go_on(3 * HOUR, noisy(0.73), LARGE)
    assert math.sqrt(2 * LARGE.cost * 300.0) < LARGE.cost / 0.01
    assert made.policy.interval == pytest.approx(made.policy.cost / 0.01)
    assert made.overhead <= 0.01 * 1.1


def test_youngs_interval_loses_the_least_time():
    cost, mtbf = LARGE.cost, 24 * HOUR
    policy = Policy(Settings(mtbf=mtbf), 0.0, cost)

    def lost(interval: float) -> float:
        return cost / interval + interval / 2 / mtbf

    for factor in (0.5, 0.9, 1.1, 2.0):
        assert lost(policy.interval) < lost(policy.interval * factor)


def test_a_snapshot_that_failed_is_followed_by_another():
    policy = Policy(Settings(), 0.0)
    policy.looked(10.0, 100)
    policy.began(10.0)
    policy.ended(10.0)  # nothing could be captured
    policy.looked(10.5, 105)
    assert not policy.is_due(19.0)
    assert policy.is_due(20.0)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"budget": 0.0}, "0.0 is no part"),
        ({"budget": 1.5}, "1.5 is no part"),
        ({"budget": math.nan}, "nan is no part"),
        ({"mtbf": 0.0}, "0.0 seconds apart"),
        ({"min_interval": -1.0}, "-1.0"),
        ({"min_interval": 20.0, "max_interval": 10.0}, "at most 10.0"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(wrong, why):
    with pytest.raises(UsageError, match=why):
        Settings(**wrong)
