"""Runs in the records, written and asked for."""

from __future__ import annotations

import sqlite3
import time

import numpy as np
import pytest

from gpurescue.errors import Damaged, Locked, NotWritten, Refused, UsageError
from gpurescue.hindsight import journal, tables
from gpurescue.hindsight.journal import Journal, Origin
from gpurescue.hindsight.records import NAME, Records

A, B, C = "a1" * 8, "b2" * 8, "c3" * 8


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path, create=True)


def rows(name, values, places=()):
    places = places or [(("step", at),) for at in range(len(values))]
    return [
        (name, v, p, 0.1 * n)
        for n, (v, p) in enumerate(zip(values, places, strict=True))
    ]


def wrote(records, id, *given, arguments=None, state="finished", **origin):
    found = Journal(records, Origin(id=id, began=time.time(), **origin))
    for some in given:
        found.write(some, arguments or {}, [])
    found.end(state)
    return found


def test_values_come_back_where_they_were_logged(records):
    epochs = [(("epoch", e), ("step", s)) for e in range(2) for s in range(2)]
    ends = [(("epoch", e),) for e in range(2)]
    wrote(records, A, rows("loss", [4, 3, 2, 1], epochs), rows("end", "xy", ends))
    found = tables.logs(records)
    assert list(found.columns) == ["loss", "end"]
    assert list(found.index.names) == ["run", "version", "epoch", "step"]
    flat = found.reset_index().astype(object).where(found.reset_index().notna(), None)
    told = [tuple(row) for row in flat[["epoch", "step", "loss", "end"]].values]
    assert told[:4] == [
        (0, 0, 4, None),
        (0, 1, 3, None),
        (1, 0, 2, None),
        (1, 1, 1, None),
    ]
    assert told[4:] == [(0, None, None, "x"), (1, None, None, "y")]


def test_other_loops_have_columns_of_their_own_names(records):
    places = [
        (("fold", "a"), ("epoch", 1), ("i", 7), ("j", 3)),
        (("fold", "b"), ("epoch", 2), ("i", 8)),
    ]
    wrote(records, A, rows("x", [1, 2], places))
    found = tables.logs(records, ["x"]).reset_index()
    assert list(found["fold"]) == ["a", "b"]
    assert list(found["epoch"]) == [1, 2]
    assert list(found["step"]) == [3, 8]
    assert list(found["i"].fillna(-1)) == [7, -1]


def test_a_name_that_is_logged_twice_in_a_place_has_two_rows(records):
    wrote(records, A, rows("x", [1, 2], [(), ()]), rows("y", [3], [()]))
    found = tables.logs(records)
    assert list(found["x"]) == [1, 2]
    assert list(found["y"].fillna(0)) == [3, 0]


def test_a_run_that_goes_on_has_what_was_logged_before_it_and_no_more(records):
    wrote(records, A, rows("x", [0, 1, 2, 3]), arguments={"lr": "0.1"}, state="running")
    again = rows("x", [20, 30], [(("step", 2),), (("step", 3),)])
    wrote(records, B, again, parent=A, checkpoint="d4", num_before=2)
    assert list(tables.logs(records, ["x"], [B])["x"]) == [0, 1, 20, 30]
    assert list(tables.logs(records, ["x"], ["a1"])["x"]) == [0, 1, 2, 3]
    wrote(records, C, rows("x", [40]), parent=B, checkpoint="d5", num_before=1)
    assert list(tables.logs(records, ["x"], [C])["x"]) == [0, 1, 20, 40]
    assert list(tables.runs(records)["lr"]) == [0.1, 0.1, 0.1]


def test_runs_that_go_on_with_each_other_are_read_all_the_same(records):
    wrote(records, A, rows("x", [1]), parent=B, num_before=1)
    wrote(records, B, rows("x", [2]), parent=A, num_before=1)
    assert list(tables.logs(records, ["x"], [A])["x"]) == [2, 1]


def test_a_version_is_its_names_and_texts(records):
    wrote(records, A, sources={"run": "train()", "cell 1": "x"})
    wrote(records, B, sources={"cell 1": "x", "run": "train()"})
    wrote(records, C, sources={"run": "train()", "cell 1": "y"})
    versions = list(tables.runs(records)["version"])
    assert versions[0] == versions[1] != versions[2]
    query = "SELECT text FROM sources WHERE version = '{}' AND name = 'cell 1'"
    found = tables.sql(records, query.format(versions[2]))
    assert list(found["text"]) == ["y"]


def test_a_run_is_killed_if_nobody_is_it(records):
    Journal(records, Origin(id=A, began=time.time()))._life.close()
    alive = Journal(records, Origin(id=B, began=time.time()))
    assert list(tables.runs(records)["state"]) == ["killed", "running"]
    with pytest.raises(Locked):
        Journal(records, Origin(id=B, began=time.time()))
    alive.end("abandoned")
    assert list(tables.runs(records)["state"]) == ["killed", "abandoned"]


@pytest.mark.parametrize(("age", "state"), [(0, "running"), (3600, "killed")])
def test_a_run_of_another_machine_is_known_by_its_last_word(records, age, state):
    alive = Journal(records, Origin(id=A, began=time.time()))
    with records.writing() as found:
        found.execute("UPDATE _runs SET host = 'far', beat = ?", (time.time() - age,))
    assert list(tables.runs(records)["state"]) == [state]
    alive.end("finished")


def test_a_quiet_run_says_now_and_then_that_it_goes_on(records, monkeypatch):
    found = Journal(records, Origin(id=A, began=time.time()))
    beat = "SELECT beat FROM runs"
    first = tables.sql(records, beat)["beat"][0]
    found.write([], {}, [])
    assert tables.sql(records, beat)["beat"][0] == first
    monkeypatch.setattr(journal, "BEAT", 0.0)
    found.write([], {}, [])
    assert tables.sql(records, beat)["beat"][0] > first
    found.end("finished")


def test_what_cannot_be_asked_is_said(records, tmp_path):
    wrote(records, A, rows("loss", [1]))
    wrote(records, "a1" + B[2:], rows("loss", [1]))
    with pytest.raises(
        UsageError, match="Nothing called 'los' was logged; there is loss"
    ):
        tables.logs(records, ["los"])
    with pytest.raises(UsageError, match="There is no run whose id begins with 'ff'"):
        tables.logs(records, ["loss"], ["ff"])
    with pytest.raises(UsageError, match="There are 2 runs whose id"):
        tables.logs(records, ["loss"], ["a1"])
    with pytest.raises(UsageError, match="SQLite does not answer: "):
        tables.sql(records, "SELECT * FROM nothing")
    elsewhere = tmp_path / "elsewhere"
    for text in (
        "DELETE FROM _logs",
        f"ATTACH '{elsewhere}' AS x",
        "PRAGMA query_only = OFF",
        "SELECT load_extension('x')",
    ):
        with pytest.raises(UsageError):
            tables.sql(records, text)
    assert len(tables.logs(records)) == 2
    assert not elsewhere.exists()


def test_nothing_is_asked_where_there_are_no_records(tmp_path):
    with pytest.raises(Refused, match="There are no records of runs"):
        Records(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TRIGGER t AFTER INSERT ON _logs BEGIN DELETE FROM _runs; END",
        "DROP VIEW logs",
        "PRAGMA user_version = 7",
    ],
)
def test_what_we_do_not_make_is_refused_and_left(records, tmp_path, text):
    connection = sqlite3.connect(tmp_path / NAME)
    connection.execute(text)
    connection.commit()
    connection.close()
    before = (tmp_path / NAME).read_bytes()
    for create in (False, True):
        with pytest.raises(Refused, match="is not as gpurescue makes it"):
            Records(tmp_path, create=create)
    assert (tmp_path / NAME).read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no database at all", bytes(5000)])
def test_what_is_no_database_is_refused(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(Refused):
        Records(tmp_path, create=True)
    assert (tmp_path / NAME).read_bytes() == content


def test_a_file_that_has_rotted_is_said(records, tmp_path):
    wrote(records, A, rows("x", range(2000)))
    data = bytearray((tmp_path / NAME).read_bytes())
    data[4096 * 20 :] = b"\x55" * len(data[4096 * 20 :])
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises((Damaged, Refused), match="cannot be read"):
        tables.logs(Records(tmp_path))


def test_a_link_is_not_followed(records, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / NAME).symlink_to(tmp_path / NAME)
    with pytest.raises(Refused):
        Records(tmp_path / "other", create=True)


def test_nobody_else_may_read_them(records, tmp_path):
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_all_of_a_write_is_there_or_nothing(records, monkeypatch):
    found = Journal(records, Origin(id=A, began=time.time()))
    found.write(rows("x", [1]), {}, [])
    monkeypatch.setattr(journal, "_put_arguments", full)
    with pytest.raises(NotWritten, match="full"):
        found.write(rows("x", [2, 3]), {}, [])
    monkeypatch.undo()
    found.write(rows("x", [2, 3]), {}, [])
    found.end("finished")
    assert list(tables.logs(records, ["x"])["x"]) == [1, 2, 3]


def full(*_):
    raise sqlite3.OperationalError("database or disk is full")


def test_two_processes_write_side_by_side(records, tmp_path):
    first = Journal(records, Origin(id=A, began=time.time()))
    second = Journal(Records(tmp_path), Origin(id=B, began=time.time()))
    for n in range(5):
        first.write(rows("x", [n]), {}, [])
        second.write(rows("x", [10 * n]), {}, [])
    first.end("finished")
    second.end("finished")
    assert sum(tables.logs(records, ["x"], [B])["x"]) == 100


def test_arrays_are_values_of_the_table(records):
    wrote(records, A, rows("w", [np.ones(3), np.zeros(2)]))
    assert [x.tolist() for x in tables.logs(records, ["w"])["w"]] == [[1, 1, 1], [0, 0]]


def test_rows_are_in_the_order_in_which_they_were_logged_and_columns_as_asked(records):
    mixed = []
    for epoch in range(2):
        for step in range(2):
            mixed += rows("loss", [1.0], [(("epoch", epoch), ("step", step))])
        mixed += rows("end", [2.0], [(("epoch", epoch),)])
    wrote(records, A, mixed)
    found = tables.logs(records, ["end", "loss"]).reset_index()
    assert list(found.columns[-2:]) == ["end", "loss"]
    assert list(found["epoch"]) == [0, 0, 0, 1, 1, 1]
    assert list(found["step"].fillna(-1)) == [0, 1, -1, 0, 1, -1]
