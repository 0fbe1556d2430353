"""Checkpoints as a table."""

from __future__ import annotations

import sqlite3
import time

import pandas as pd
import pytest
import saving

from gpurescue.store import catalog, tables
from gpurescue.store.store import Store

VALUES = {"a": bytes(70_000), "b": b"b"}


def test_a_table_of_checkpoints(store):
    before = time.time()
    first = saving.save(store, VALUES)
    second = saving.save(store, {**VALUES, "c": b"cc"}, parent=first.id)
    store.pin(second.id)
    found = tables.checkpoints(store)
    assert list(found["id"]) == [first.id, second.id]
    assert list(found["run"]) == [saving.RUN] * 2
    assert list(found["number"]) == [1, 2]
    assert list(found["nbytes"]) == [70_001, 70_003]
    assert list(found["added"]) == [70_001, 2]
    assert list(found["num_tensors"]) == [2, 3]
    assert list(found["pinned"]) == [False, True]
    assert list(found["signed"]) == [True, True]
    assert found["parent"][1] == first.id
    assert pd.isna(found["parent"][0])
    start = pd.Timestamp(before, unit="s", tz="UTC").floor("us")
    assert found["created"].between(start, pd.Timestamp.now("UTC")).all()
    assert (found["age"] >= pd.Timedelta(0)).all()
    assert (found["created"] + found["age"] <= pd.Timestamp.now("UTC")).all()


def test_who_has_signed(store):
    saving.save(store, VALUES)
    saving.save(Store(store.path, key=b"other" * 8), VALUES)
    assert list(tables.checkpoints(store)["signed"]) == [True, False]
    assert tables.text(tables.lines(store)).count("not signed") == 1
    unknown = Store(store.path)
    assert tables.checkpoints(unknown)["signed"].isna().all()
    assert "signed" not in tables.text(tables.lines(unknown))


def test_no_checkpoints(store):
    full = Store(store.path.parent / "other", create=True)
    saving.save(full, VALUES)
    found = tables.checkpoints(store)
    assert len(found) == 0
    assert list(found.columns) == list(tables.checkpoints(full).columns)
    assert str(found["created"].dtype) == "datetime64[us, UTC]"
    assert str(found["age"].dtype) == "timedelta64[us]"


@pytest.mark.parametrize("created", [0.0, 1e11])
def test_a_time_that_is_far_away(store, created):
    made = saving.save(store, VALUES)
    change(store, "created", created)
    assert len(tables.checkpoints(store)) == 1
    assert tables.text(tables.lines(store)).splitlines()[1].startswith(made.id)


def change(store: Store, column: str, value: object) -> None:
    connection = sqlite3.connect(store.path / catalog.NAME)
    with connection:
        connection.execute(f"UPDATE checkpoints SET {column} = ?", (value,))
    connection.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("run", "\x1b[2J"),
        ("parent", "../../x"),
        ("created", "now"),
        ("created", 1e300),
        ("nbytes", -1),
        ("num_tensors", b"\xff"),
        ("place", "\x1b[2J"),
    ],
)
def test_a_catalogue_that_says_what_it_should_not_is_made_again(store, column, value):
    made = saving.save(store, VALUES)
    rows = store.rows()
    change(store, column, value)
    assert store.rows() == rows
    assert [row.id for row in Store(store.path).rows(saving.RUN)] == [made.id]


def test_text_is_aligned(store):
    saving.save(store, VALUES)
    saving.save(store, {"x": b"x"})
    head, *rows = tables.text(tables.lines(store)).splitlines()
    for name in ("run", "created", "size", "tensors"):
        at = head.index(name)
        assert all(row[at - 1] == " " and row[at] != " " for row in rows)


@pytest.mark.parametrize(
    ("nbytes", "said"),
    [(0, "0 B"), (999, "999 B"), (1_493_000_000, "1.493 GB"), (2**62, "4.612e+06 TB")],
)
def test_sizes_are_readable(nbytes, said):
    assert tables.size(nbytes) == said


@pytest.mark.parametrize(
    ("note", "place"),
    [
        ("epoch 2, step 17", "epoch 2, step 17"),
        ("\x1b[2J", ""),
        (5, ""),
        ("x" * 999, ""),
    ],
)
def test_the_place_is_shown_if_it_is_one(store, note, place):
    saving.save(store, VALUES, notes={"where": note})
    assert list(tables.checkpoints(store)["place"]) == [place]
    text = tables.text(tables.lines(store))
    assert "\x1b" not in text
    assert place in text
