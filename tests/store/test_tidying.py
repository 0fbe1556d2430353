"""What is removed of a real store."""

from __future__ import annotations

import os

import saving

from gpurescue.store.retention import Rules
from gpurescue.store.tidying import default_limit, tidy

SMALL = Rules(last=2, spread=1)


def test_pinned_ones_and_other_runs_stay(store) -> None:
    made = [saving.save(store, {"x": os.urandom(5_000)}) for _ in range(12)]
    store.pin(made[4].id)
    gone = tidy(store, saving.RUN, SMALL)
    left = {row.id for row in store.rows()}
    assert left == {m.id for m in made} - set(gone)
    assert {made[4].id, made[0].id, made[-1].id, made[-2].id} <= left
    assert tidy(store, "f" * 16, SMALL) == []
    assert not store.verify()


def test_a_limit_leaves_the_newest(store) -> None:
    made = [saving.save(store, {"x": os.urandom(5_000)}) for _ in range(6)]
    tidy(store, saving.RUN, Rules(), limit=6_000)
    assert [row.id for row in store.rows()] == [made[-1].id]


def test_what_is_shared_costs_nothing(store) -> None:
    same = os.urandom(50_000)
    made = [saving.save(store, {"x": same, "y": b"%d" % n}) for n in range(3)]
    tidy(store, saving.RUN, Rules(), limit=60_000)
    assert [row.id for row in store.rows()] == [m.id for m in made]


def test_the_limit_grows_with_what_is_there(store) -> None:
    before = default_limit(store)
    saving.save(store, {"x": os.urandom(1_000_000)})
    assert before > 0
    assert default_limit(store) > 0
