"""Publishing, reading, verifying, removing."""

from __future__ import annotations

import os
import socket
import stat

import pytest
import saving

from gpurescue.errors import Damaged, Locked, Refused, UsageError
from gpurescue.store import format
from gpurescue.store.catalog import NAME as CATALOG
from gpurescue.store.format import Storage, Tensor
from gpurescue.store.plans import Contents
from gpurescue.store.store import Store

LARGE = bytes(range(256)) * 1024
VALUES = {"large": LARGE, "small": b"abc", "empty": b"", "again": LARGE}


def one(**given) -> Tensor:
    known = {"dtype": "uint8", "shape": (15,), "stride": (1,), "storage": 0}
    return Tensor(**{**known, **given})


def files(store: Store) -> dict[str, int]:
    found = (p for p in store.path.rglob("*") if p.is_file())
    return {str(p.relative_to(store.path)): p.stat().st_size for p in found}


def test_what_is_saved_is_read(store):
    made = saving.save(store, VALUES, notes={"step": 3}, lost={"a.b": "socket"})
    assert saving.load(store, made.id) == VALUES
    found, is_signed = store.manifest(made.id)
    assert (found, is_signed) == (made, True)
    assert store.verify() == {}


def test_verify_says_how_far_it_is(store):
    saving.save(store, VALUES)
    saving.save(store, {**VALUES, "new": b"new"})
    said: list[int] = []
    assert store.verify(said.append) == {}
    assert sum(said) == sum(row.added for row in store.rows())


def test_only_the_owner_can_look(store):
    saving.save(store, VALUES)
    for path in [store.path, *store.path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_bytes_that_are_there_are_not_written_again(store):
    saving.save(store, VALUES)
    before = files(store)
    second = saving.save(store, {"other name": LARGE, "new": b"new"})
    (pack,) = {n: s for n, s in files(store).items() if n not in before and "pack" in n}
    assert files(store)[pack] == 4096
    assert saving.load(store, second.id) == {"other name": LARGE, "new": b"new"}
    third = saving.save(store, {"new": b"new"})
    assert len([n for n in files(store) if n.endswith(".pack")]) == 2
    assert [row.added for row in store.rows()] == [len(LARGE) + 3, 3, 0]
    assert [row.number for row in store.rows(saving.RUN)] == [1, 2, 3]
    assert saving.load(store, third.id) == {"new": b"new"}


def test_several_stores_on_one_folder(store):
    other = Store(store.path)
    made = saving.save(other, VALUES)
    assert saving.load(store, made.id) == VALUES
    assert store.manifest(made.id)[1] is False  # not signed
    assert [row.id for row in store.rows()] == [made.id]


def test_a_run_has_one_writer(store):
    other = Store(store.path)
    with store.writer(saving.RUN):
        with pytest.raises(Locked, match=saving.RUN), other.writer(saving.RUN):
            pass
        with other.writer("ffffffffffffffff"):
            pass
    with other.writer(saving.RUN):
        pass


@pytest.mark.parametrize("harm", ["lost", "damaged", "with a trigger", "a link"])
def test_a_catalogue_is_made_again(store, harm, tmp_path):
    made = [saving.save(store, VALUES), saving.save(store, {"x": b"x"})]
    rows = store.rows()
    path = store.path / CATALOG
    if harm == "with a trigger":
        import sqlite3

        connection = sqlite3.connect(path)
        connection.execute(
            "CREATE TRIGGER t AFTER INSERT ON chunks BEGIN DELETE FROM chunks; END"
        )
        connection.commit()
        connection.close()
    elif harm == "damaged":
        path.write_bytes(b"no database" * 1000)
    else:
        path.unlink()
    if harm == "a link":
        (tmp_path / "elsewhere").write_bytes(b"untouched")
        path.symlink_to(tmp_path / "elsewhere")
    again = Store(store.path)
    assert again.rows() == rows
    assert saving.load(again, made[0].id) == VALUES
    if harm == "a link":
        assert (tmp_path / "elsewhere").read_bytes() == b"untouched"


def test_gc_removes_what_nobody_needs(store):
    first = saving.save(store, VALUES)
    second = saving.save(store, {"small": b"abc", "own": b"own" * 100})
    third = saving.save(store, {"third": b"third"})
    store.remove([second.id, third.id])
    assert store.gc(grace=3600.0) == {}
    going = store.gc(dry_run=True, grace=0.0)
    assert len(going) == 2
    before = files(store)
    assert store.gc(grace=0.0) == going
    assert {*before} - {*files(store)} == {
        os.path.relpath(name, store.path) for name in going
    }
    assert saving.load(store, first.id) == VALUES
    again = saving.save(store, {"own": b"own" * 100})  # is not taken to be there
    assert saving.load(store, again.id) == {"own": b"own" * 100}
    assert store.verify() == {}


def test_gc_leaves_alone_what_is_being_written(store):
    first = saving.save(store, VALUES)
    store.remove([first.id])
    other = Store(store.path)
    with store.plan([]), pytest.raises(Locked):
        other.gc(grace=0.0)
    assert other.gc(grace=0.0) != {}


def test_gc_does_not_guess(store):
    first = saving.save(store, VALUES)
    second = saving.save(store, {"x": b"x"})
    path = store.path / "checkpoints" / f"{first.id}.json"
    path.write_bytes(path.read_bytes()[:-5])
    before = files(store)
    with pytest.raises(Damaged, match=first.id):
        store.gc(grace=0.0)
    assert files(store) == before
    assert saving.load(store, second.id) == {"x": b"x"}


def test_a_pinned_checkpoint_is_not_removed(store):
    made = saving.save(store, VALUES)
    store.pin(made.id)
    store.pin(made.id)
    with pytest.raises(UsageError, match="pinned"):
        store.remove([made.id])
    assert Store(store.path).pinned() == {made.id}
    store.pin(made.id, pinned=False)
    store.remove([made.id])
    assert store.rows() == []


@pytest.mark.parametrize("id", ["../../etc", "", "a" * 33, "ABCDEF01", "0123456\n"])
def test_an_id_is_an_id(store, id):
    for use in (store.manifest, store.pin, lambda id: store.remove([id])):
        with pytest.raises(UsageError, match="no id"):
            use(id)


def test_tensors_that_do_not_fit_are_not_published(store):
    before = files(store)
    wrong = {"x": Tensor(dtype="float32", shape=(4,), stride=(1,), storage=0)}
    data = memoryview(bytearray(4096))
    storages = (Storage(0, 0, 15),)
    contents = Contents(run=saving.RUN, storages=storages, tensors=wrong)
    with store.plan([("0" * 32, 15)]) as plan, pytest.raises(UsageError, match="'x'"):
        store.publish(plan, [data], contents)
    assert {n for n in files(store) if "locks" not in n} == {*before}


def nested(depth: int) -> list:
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


UNREADABLE = {
    "65 dimensions": {"tensors": {"x": one(shape=(1,) * 65, stride=(1,) * 65)}},
    "an endless stride": {"tensors": {"x": one(shape=(1,), stride=(2**63 - 1,))}},
    "an endless shape": {"tensors": {"x": one(shape=(0, 2**62 + 1), stride=(1, 1))}},
    "an unknown dtype": {"tensors": {"x": one(dtype="quint8")}},
    "a name that is no text": {"tensors": {"x\ud800": one()}},
    "a run that is no id": {"run": "a run"},
    "a parent that is no id": {"parent": "its parent"},
    "an object nowhere": {"objects": {"graph": 7}},
    "a seal that is none": {"seals": {"graph": "none"}},
    "a type of what was lost": {"lost": {"x": socket.socket}},
    "a note that is an object": {"notes": {"x": socket.socket}},
    "a note without a bottom": {"notes": {"x": nested(5_000)}},
    "a note that is no text": {"notes": {"x": "\udfff"}},
    "a note that is too long": {"notes": {"x": "long" * 2**12}},
}


@pytest.mark.parametrize("name", list(UNREADABLE))
def test_what_could_not_be_read_again_is_not_written(store, monkeypatch, name):
    monkeypatch.setattr(format, "LIMIT", 2**13)
    before = files(store)
    data = memoryview(bytearray(4096))
    plain = {"run": saving.RUN, "storages": (Storage(0, 0, 15),), "tensors": {}}
    given = Contents(**(plain | UNREADABLE[name]))
    with store.plan([("0" * 32, 15)]) as plan, pytest.raises(UsageError):
        store.publish(plan, data, given)
    assert {n for n in files(store) if "locks" not in n} == {*before}


def test_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(Refused, match="no folder"):
        Store(tmp_path / "none")
    (tmp_path / "plain").mkdir()
    with pytest.raises(Refused, match="no gpurescue store"):
        Store(tmp_path / "plain")
    Store(tmp_path / "real", create=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    Store(tmp_path / "link")  # a user's, to another disk
    (tmp_path / "real" / "packs").rename(tmp_path / "packs")
    (tmp_path / "real" / "packs").symlink_to(tmp_path / "packs")
    with pytest.raises(Refused, match="packs"):
        Store(tmp_path / "real")


def test_stores_that_nobody_has_any_more_hold_no_files_open(tmp_path):
    import gc

    Store(tmp_path / "s", create=True)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        saving.save(Store(tmp_path / "s"), {"x": os.urandom(9)})
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
