"""Which checkpoints stay: what holds for every history."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import saving
from hypothesis import given, settings
from hypothesis import strategies as st

from gpurescue.errors import UsageError
from gpurescue.store.retention import Kept, Rules, to_remove

RUN = "a" * 16
OTHER = "b" * 16


def made(number: int, run: str = RUN, **further) -> Kept:
    id = f"{run[0]}{number:015x}"
    return Kept(id=id, run=run, number=number, created=float(number), **further)


def numbers(there: list[Kept], rules: Rules) -> list[int]:
    going = set(to_remove(there, {RUN: rules}))
    return [one.number for one in there if one.id not in going]


def in_steps(count: int, rules: Rules) -> list[int]:
    there: list[Kept] = []
    for number in range(1, count + 1):
        there.append(made(number))
        going = set(to_remove(there, {RUN: rules}))
        there = [one for one in there if one.id not in going]
    return [one.number for one in there]


RULES = st.builds(
    Rules,
    last=st.integers(1, 6),
    spread=st.sampled_from([1, 2, 5, 16]),
    best=st.integers(0, 3),
    metric=st.sampled_from([None, "loss"]),
    is_better_high=st.booleans(),
)
METRICS = st.one_of(
    st.just({}),
    st.builds(lambda x: {"loss": x}, st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan])),
    st.builds(lambda x: {"loss": x}, st.floats()),
)
CHECKPOINTS = st.lists(st.tuples(METRICS, st.integers(0, 9)), min_size=1, max_size=120)


def history(drawn: list[tuple[dict[str, float], int]]) -> list[Kept]:
    return [
        made(n, metrics=metrics, is_pinned=pin == 0)
        for n, (metrics, pin) in enumerate(drawn, 1)
    ]


@given(CHECKPOINTS, RULES, st.sets(st.integers(1, 120)))
def test_it_does_not_matter_when_they_are_gone_by(drawn, rules, whens):
    everything = history(drawn)
    there: list[Kept] = []
    for one in everything:
        there.append(one)
        if one.number in whens:
            going = set(to_remove(there, {RUN: rules}))
            there = [kept for kept in there if kept.id not in going]
    assert numbers(there, rules) == numbers(everything, rules)


@given(CHECKPOINTS, RULES)
def test_what_is_pinned_the_newest_and_the_best_stay(drawn, rules):
    there = history(drawn)
    kept = set(numbers(there, rules))
    assert {one.number for one in there if one.is_pinned} <= kept
    assert {one.number for one in there[-rules.last :]} <= kept
    values = [
        x for one in there if not math.isnan(x := one.metrics.get("loss", math.nan))
    ]
    if rules.metric and rules.best and values:
        best = max(values) if rules.is_better_high else min(values)
        assert best in {one.metrics.get("loss") for one in there if one.number in kept}


@pytest.mark.parametrize("count", [1, 2, 3, 10, 31, 32, 33, 100, 777, 1000])
@pytest.mark.parametrize("spread", [1, 4, 16])
def test_a_replay_can_begin_near_any_place(count, spread):
    rules = Rules(last=1, spread=spread)
    kept = in_steps(count, rules)
    assert kept[0] == 1
    assert kept[-1] == count
    ages = [count - number for number in kept]
    for j in range((count - 1).bit_length()):
        assert any(2**j <= age < 2 ** (j + 1) for age in ages)
    gaps = [b - a for a, b in itertools.pairwise(kept)]
    assert max(gaps, default=0) <= max(1, 2 * count / spread)


@settings(max_examples=30)
@given(st.integers(1, 3000), RULES)
def test_few_stay(count, rules):
    kept = numbers([made(n) for n in range(1, count + 1)], rules)
    assert len(kept) <= math.log2(count) + 2 + rules.spread + rules.last


def test_ten_times_as_many_are_a_few_more():
    few, more, most = (len(in_steps(10**n, Rules())) for n in (1, 2, 3))
    assert few <= more <= most <= more + 2 * math.log2(10)


def test_the_best_stay():
    losses = [5.0, 1.0, 4.0, 1.0, math.nan, 3.0, 2.0, 9.0, 8.0]
    there = [made(n, metrics={"loss": x}) for n, x in enumerate(losses * 9, 1)]
    rules = Rules(last=1, spread=1, best=2, metric="loss")
    without = set(numbers(there, dataclasses.replace(rules, metric=None)))
    assert set(numbers(there, rules)) - without == {2, 4}
    high = dataclasses.replace(rules, is_better_high=True)
    assert set(numbers(there, high)) - without == {8, 17} - without
    other = dataclasses.replace(rules, metric="accuracy")
    assert set(numbers(there, other)) == without


def test_each_run_has_its_rules():
    there = [made(n, run) for n in range(1, 41) for run in (RUN, OTHER)]
    going = to_remove(there, {RUN: Rules(last=1, spread=1)})
    assert going
    assert {id[0] for id in going} == {"a"}
    both = to_remove(there, {RUN: Rules(spread=1), OTHER: Rules(last=7, spread=1)})
    left = {one.id for one in there} - set(both)
    assert {f"b{n:015x}" for n in range(34, 41)} <= left
    assert f"a{34:015x}" not in left


SIZES = st.lists(st.integers(0, 30), min_size=0, max_size=6)
SOME = st.lists(
    st.tuples(st.sampled_from([RUN, OTHER]), SIZES, st.integers(0, 9)),
    min_size=1,
    max_size=40,
)


def together(chunks: dict[str, list[tuple[str, int]]], ids: set[str]) -> int:
    return sum(nbytes for _, nbytes in {key for id in ids for key in chunks[id]})


@given(SOME, st.integers(0, 400))
def test_a_limit_is_kept_by_what_may_go(drawn, limit):
    chunks, there = {}, []
    for number, (run, sizes, pin) in enumerate(drawn, 1):
        keys = [(f"{size:032x}", size) for size in sizes]
        nbytes = sum(size for _, size in set(keys))
        there.append(made(number, run, nbytes=nbytes, is_pinned=pin == 0))
        chunks[there[-1].id] = keys
    rules = {RUN: Rules(last=2, spread=2), OTHER: Rules(last=2, spread=2)}
    unlimited = {one.id for one in there} - set(to_remove(there, rules))
    kept = {one.id for one in there} - set(
        to_remove(there, rules, limit, chunks.__getitem__)
    )
    held = {one.id for one in there if one.is_pinned}
    held |= {max(one.id for one in there if one.run == run) for run, *_ in drawn}
    assert held <= kept <= unlimited
    assert together(chunks, kept) <= max(limit, together(chunks, held))
    for id in unlimited - kept:  # none of them would have had room
        assert together(chunks, kept | {id}) > limit


def test_bytes_that_are_shared_are_counted_once():
    frozen = ("f" * 32, 1000)
    there = [made(n, nbytes=1010) for n in range(1, 11)]
    rules = {RUN: Rules(last=2, spread=16)}

    def chunks_of(id: str) -> list[tuple[str, int]]:
        return [frozen, (id * 2, 10)]

    assert to_remove(there, rules, 1100, chunks_of) == []
    going = to_remove(there, rules, 1059, chunks_of)
    assert going == [one.id for one in there[:5]]
    tight = to_remove(there, rules, 10, chunks_of)
    assert tight == [one.id for one in there[:-1]]


def test_log_spaced_ones_go_before_the_last_and_those_before_the_best():
    there = [made(n, nbytes=10, metrics={"loss": n}) for n in range(1, 11)]
    rules = {RUN: Rules(last=2, best=1, metric="loss")}
    for limit, kept in ((100, 10), (50, 5), (30, 3), (20, 2), (10, 1), (0, 1)):
        going = to_remove(there, rules, limit, lambda id: [(id, 10)])
        left = [one.number for one in there if one.id not in going]
        wanted = [10, 1, 9, 8, 7, 6, 5, 4, 3, 2]
        assert left == sorted(wanted[:kept])


def test_a_run_that_is_over_keeps_its_last():
    there = [made(n, run, nbytes=5) for run in (OTHER, RUN) for n in range(1, 9)]
    going = to_remove(there, {RUN: Rules()}, 1, lambda id: [(id, 5)])
    assert {one.id for one in there} - set(going) == {f"a{8:015x}", f"b{8:015x}"}


def test_chunks_are_looked_at_only_where_they_matter():
    there = [made(n, nbytes=100) for n in range(1, 1001)]
    rules, asked = {RUN: Rules()}, []

    def chunks_of(id: str) -> list[tuple[str, int]]:
        asked.append(id)
        return [(id, 100)]

    going = to_remove(there, rules, 100_000, chunks_of)
    assert asked == []
    num_kept = len(there) - len(going)
    limited = to_remove(there, rules, 500, chunks_of)
    assert len(there) - len(limited) == 5
    assert len(asked) == num_kept < 40
    with pytest.raises(UsageError, match="chunks"):
        to_remove(there, rules, 500)


def test_a_store_is_thinned_out(store):
    same = bytes(100_000)
    for n in range(12):
        saving.save(store, {"same": same, "new": bytes([n]) * 70_000})

    def there() -> list[Kept]:
        pinned = store.pinned()
        return [
            Kept(
                id=row.id, run=row.run, number=row.number, created=row.created,
                nbytes=row.nbytes, is_pinned=row.id in pinned,
            )
            for row in store.rows()
        ]  # fmt: skip

    def chunks_of(id: str) -> list[tuple[str, int]]:
        return [(c.digest, c.nbytes) for c in store.manifest(id)[0].chunks]

    store.pin(there()[4].id)
    limit = 100_000 + 4 * 70_000
    store.remove(to_remove(there(), {saving.RUN: Rules()}, limit, chunks_of))
    assert [one.number for one in there()] == [5, 10, 11, 12]
    store.gc(grace=0.0)
    assert store.verify() == {}


@pytest.mark.parametrize("wrong", [{"last": 0}, {"spread": 0}, {"best": -1}], ids=str)
def test_rules_that_make_no_sense(wrong):
    with pytest.raises(UsageError, match="give at least"):
        Rules(**wrong)
