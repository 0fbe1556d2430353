"""The catalogue: never believed, and never what fails."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import saving
from test_hostile import written

from gpurescue.store import catalog
from gpurescue.store.catalog import NAME
from gpurescue.store.store import Store

KEY = b"k" * 32
LARGE = bytes(range(256)) * 1024
VALUES = {"large": LARGE, "small": b"abc", "other": LARGE[::-1]}


def packs(store: Store) -> list[str]:
    return sorted(path.name for path in (store.path / "packs").iterdir())


@contextlib.contextmanager
def database(store: Store):
    connection = sqlite3.connect(store.path / NAME)
    with connection:
        yield connection
    connection.close()


def known(store: Store) -> list[catalog.Row]:
    """What is new in a checkpoint that was lost is counted by what is there then."""
    return [dataclasses.replace(row, added=0) for row in store.rows()]


def assert_right(store: Store, rows: list[catalog.Row]) -> None:
    """All that is known is right, and what is saved from here on can be read."""
    for opened in (store, Store(store.path, key=KEY)):
        assert known(opened) == rows
        made = saving.save(opened, VALUES)
        assert saving.load(opened, made.id) == VALUES
        assert opened.verify() == {}
        rows = known(opened)
        assert rows[-1].id == made.id
    before = packs(store)
    saving.save(store, VALUES)
    assert packs(store) == before


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE chunks SET offset = offset + 4096",
        "UPDATE chunks SET offset = 'somewhere'",
        "UPDATE chunks SET offset = -1",
        "UPDATE chunks SET pack = '0123456789abcdef'",
        "UPDATE chunks SET pack = '../../x'",
        "UPDATE chunks SET pack = x'ff'",
        "UPDATE chunks SET nbytes = nbytes + 1",
        "UPDATE chunks SET seal = 7",
        "UPDATE chunks SET seal = CAST(seal AS TEXT)",
        "UPDATE chunks SET offset = 0, pack = (SELECT max(pack) FROM chunks)",
        "DELETE FROM chunks",
        "UPDATE checkpoints SET number = number + 1",
        "UPDATE checkpoints SET created = 1e10",
        "UPDATE checkpoints SET created = 'yesterday'",
        "UPDATE checkpoints SET run = 'ffffffffffffffff'",
        "UPDATE checkpoints SET id = 'ffffffffffffffff' WHERE number = 1",
        "UPDATE checkpoints SET id = x'ff' WHERE number = 1",
        "UPDATE checkpoints SET parent = 'ffffffffffffffff'",
        "UPDATE checkpoints SET nbytes = nbytes * 2",
        "UPDATE checkpoints SET num_tensors = 0",
        "UPDATE checkpoints SET added = -1",
        "UPDATE checkpoints SET place = CAST(x'ff' AS TEXT)",
        "UPDATE checkpoints SET metrics = '[]'",
        "UPDATE checkpoints SET seal = x''",
        "DELETE FROM checkpoints",
        "INSERT INTO checkpoints SELECT 'ffffffff' || substr(id, 9), run, number, "
        "parent, created, nbytes, added, num_tensors, place, metrics, seal "
        "FROM checkpoints",
        "DROP TABLE chunks",
        "DROP INDEX by_run",
        "PRAGMA user_version = 2",
        "PRAGMA journal_mode = WAL",
    ],
)
def test_what_it_says_wrongly_is_not_believed(store, change):
    saving.save(store, VALUES)
    saving.save(store, {"x": b"x", "small": b"abc"})
    rows = known(store)
    with database(store) as connection:
        connection.execute(change)
    assert_right(store, rows)


def test_names_of_columns_that_are_no_text(store):
    saving.save(store, VALUES)
    rows, path = known(store), store.path / NAME
    data = path.read_bytes()
    assert b"run TEXT" in data
    path.write_bytes(data.replace(b"run TEXT", b"r\x8an TEXT"))
    assert_right(store, rows)


@pytest.mark.parametrize("harm", ["lost", "empty", "garbage", "old", "a folder"])
def test_bytes_that_are_there_are_found_without_it(store, harm):
    path = store.path / NAME
    saving.save(store, {"first": b"first"})
    old = path.read_bytes()
    saving.save(store, VALUES)
    before, rows = packs(store), store.rows()
    path.unlink()
    if harm == "empty":
        path.touch()
    elif harm == "a folder":
        path.mkdir()
    elif harm != "lost":
        path.write_bytes(old if harm == "old" else b"no database" * 1000)
    for opened in (store, Store(store.path, key=KEY)):
        saving.save(opened, VALUES)
        assert packs(store) == before
        assert opened.rows()[:2] == rows
    assert store.verify() == {}


def test_a_pack_that_was_lost_is_written_again(store):
    first = saving.save(store, VALUES)
    for path in (store.path / "packs").iterdir():
        path.unlink()
    made = saving.save(store, VALUES)
    assert saving.load(store, made.id) == VALUES
    assert list(store.verify()) == [first.id]
    before = packs(store)
    saving.save(store, VALUES)
    assert packs(store) == before


def test_a_pack_that_was_cut_off_is_written_again(store):
    saving.save(store, VALUES)
    (path,) = (store.path / "packs").iterdir()
    path.write_bytes(path.read_bytes()[:4096])
    made = saving.save(store, VALUES)
    assert saving.load(store, made.id) == VALUES


def test_a_disk_with_no_room_for_it(store, monkeypatch):
    @contextlib.contextmanager
    def full(path: Path):
        with real(path) as found:
            found.execute("PRAGMA max_page_count = 1")  # it cannot grow
            yield found

    real = catalog.connected
    monkeypatch.setattr(catalog, "connected", full)
    values = {f"x{n}": b"%d" % n for n in range(300)}
    made = saving.save(store, values)
    assert [row.id for row in store.rows()] == [made.id]
    before = packs(store)
    saving.save(store, values)
    assert packs(store) == before
    monkeypatch.undo()
    assert len(Store(store.path, key=KEY).rows()) == 2


def test_where_bytes_are_is_not_believed_if_others_say_it(store):
    """By a catalogue that they have made, or a manifest that they have signed."""
    stranger = Store(store.path)
    saving.save(stranger, VALUES)
    before = packs(store)
    made = saving.save(store, VALUES)
    assert len(packs(store)) == len(before) + 1
    (own,) = {chunk.pack for chunk in made.chunks}
    with database(store) as connection:
        rows = connection.execute("SELECT digest, nbytes FROM chunks").fetchall()
        for digest, nbytes in rows:
            values = (digest, nbytes, before[0].partition(".")[0], 0)
            seal = catalog._seal(values)
            connection.execute(catalog._PUT_CHUNK, (*values, seal))
    again = saving.save(store, VALUES)
    assert before[0].partition(".")[0] not in {chunk.pack for chunk in again.chunks}
    assert own
    assert saving.load(store, again.id) == VALUES


def test_a_checkpoint_that_says_it_is_larger_than_all_disks(store):
    made = saving.save(store, VALUES)
    path = store.path / "checkpoints" / f"{made.id}.json"
    body = json.loads(path.read_bytes().split(b"\n")[1])
    body["id"] = "0123456789abcdef"
    body["chunks"] += [["0" * 32, 2**62, f"{n:08x}", 0] for n in range(9)]
    path.with_name("0123456789abcdef.json").write_bytes(written(body, key=None))
    assert {row.id for row in store.rows()} == {made.id, "0123456789abcdef"}
    assert saving.load(store, made.id) == VALUES


def journal(victim: Path) -> bytes:
    """One that SQLite would play back, and then remove the file that it names."""
    magic, name = bytes.fromhex("d9d505f920a163d7"), bytes(victim)
    head = magic + struct.pack(">IIIII", 0, 0, 3, 512, 4096)
    page = struct.pack(">I", 2**30 // 4096 + 1)
    tail = struct.pack(">II", len(name), sum(name)) + magic
    return head.ljust(512, b"\0") + page + name + tail


@pytest.mark.parametrize("kind", ["names a file", "a link", "a folder", "a pipe"])
def test_a_journal_that_would_do_harm(store, tmp_path, kind):
    made = saving.save(store, VALUES)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = store.path / f"{NAME}-journal"
    make: dict[str, Callable[[], object]] = {
        "names a file": lambda: path.write_bytes(journal(victim)),
        "a link": lambda: path.symlink_to(victim),
        "a folder": path.mkdir,
        "a pipe": lambda: os.mkfifo(path),
    }
    make[kind]()
    opened = Store(store.path, key=KEY)
    assert [row.id for row in opened.rows()] == [made.id]
    again = saving.save(opened, {"x": b"x"})
    assert saving.load(opened, again.id) == {"x": b"x"}
    assert victim.read_text() == "precious"


def test_the_journal_of_the_test_does_what_it_is_feared_for(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / NAME
    victim.write_text("precious")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    Path(f"{path}-journal").write_bytes(journal(victim))
    connection = sqlite3.connect(path)
    connection.execute("SELECT * FROM t")
    connection.close()
    assert not victim.exists()


def test_a_journal_of_our_own_is_played_back(store, tmp_path):
    """What a process leaves that dies while it writes."""
    made = saving.save(store, VALUES)
    copy = tmp_path / "copy"
    connection = sqlite3.connect(store.path / NAME, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")  # so that it is written early
    connection.execute("BEGIN")
    connection.execute("UPDATE chunks SET seal = zeroblob(20000)")
    shutil.copytree(store.path, copy)
    connection.execute("ROLLBACK")
    connection.close()
    assert (copy / f"{NAME}-journal").exists()
    opened = Store(copy, key=KEY)
    assert [row.id for row in opened.rows()] == [made.id]
    before = packs(opened)
    saving.save(opened, VALUES)
    assert packs(opened) == before
