"""Packs of which little is needed are written again: safely, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import saving
from test_faults import CALLS, NUM_KILLS, Disk

from gpurescue.errors import NotWritten
from gpurescue.store import rewriting
from gpurescue.store.catalog import NAME as CATALOG
from gpurescue.store.files import UNFINISHED, Folder
from gpurescue.store.format import Manifest, encode
from gpurescue.store.reading import Reader
from gpurescue.store.store import Store

FROZEN = {"frozen": bytes(range(256)) * 400, "small": b"small", "empty": b""}
DEAD = {"dead": b"dead" * 2**19}


def mostly_dead(store: Store) -> list[Manifest]:
    """Two checkpoints that need 5 % of a pack of a third, which is removed."""
    first = saving.save(store, {**FROZEN, **DEAD})
    made = [saving.save(store, {**FROZEN, "own": b"%d" % n}) for n in range(2)]
    store.remove([first.id])
    return made


def packs(store: Store) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in (store.path / "packs").iterdir()}


def manifests(store: Store) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (store.path / "checkpoints").iterdir()}


def assert_whole(store: Store, made: list[Manifest]) -> None:
    assert store.verify() == {}
    for n, manifest in enumerate(made):
        assert saving.load(store, manifest.id) == {**FROZEN, "own": b"%d" % n}
        assert store.manifest(manifest.id)[1] is True


def collect(store: Store) -> None:
    """Once to rewrite, and once to remove what was rewritten."""
    store.gc(grace=0.0)
    store.gc(grace=0.0)


def test_what_is_needed_of_a_dead_pack_is_moved(store):
    made = mostly_dead(store)
    rows, before = store.rows(), packs(store)
    (old, size) = max(before.items(), key=lambda one: one[1])
    going = store.gc(dry_run=True, grace=0.0)
    assert packs(store) == before
    assert store.gc(grace=0.0) == going
    assert set(going) == {f"{store.path}/packs/{old}"}
    assert_whole(store, made)
    assert set(store.gc(grace=0.0)) == set(going)
    assert_whole(store, made)
    (new,) = packs(store).keys() - before.keys()
    assert size - packs(store)[new] == next(iter(going.values()))
    assert store.gc(grace=0.0) == {}
    assert store.rows() == rows


def test_collecting_says_how_far_it_is(store):
    made = mostly_dead(store)
    said: list[int] = []
    nbytes = sum(map(len, manifests(store).values()))
    store.gc(grace=0.0, progress=said.append)
    assert len(said) == len(made) + len(FROZEN)
    assert sum(said) == nbytes + sum(map(len, FROZEN.values()))


def test_what_was_moved_is_found_again(store):
    mostly_dead(store)
    collect(store)
    before = packs(store)
    saving.save(store, FROZEN)
    assert packs(store) == before
    (store.path / CATALOG).unlink()
    again = Store(store.path)
    assert len(again.rows()) == 3
    saving.save(again, FROZEN)
    assert packs(store) == before
    assert store.verify() == {}


def test_only_places_change_in_a_manifest(store):
    made = mostly_dead(store)
    collect(store)
    for old in made:
        new, _ = store.manifest(old.id)
        assert new.chunks != old.chunks
        for name in set(Manifest.__struct_fields__) - {"chunks"}:
            assert getattr(new, name) == getattr(old, name)
        both = zip(new.chunks, old.chunks, strict=True)
        assert all((a.digest, a.nbytes) == (b.digest, b.nbytes) for a, b in both)


def test_who_has_read_the_old_manifest_can_use_it(store):
    made = mostly_dead(store)
    readers = [Reader(store, manifest) for manifest in made]
    store.gc(grace=0.0)
    store.gc()  # within the grace
    for reader in readers:
        assert bytes(reader.bytes_of(0)) == FROZEN["frozen"]


@pytest.mark.parametrize("why", ["young", "no key", "unsigned", "half", "little"])
def test_packs_that_stay_as_they_are(store, why):
    if why == "unsigned":
        saving.save(store, {**FROZEN, **DEAD})
        saving.save(Store(store.path), FROZEN)
    if why == "half":
        first = saving.save(store, {"half": b"half" * 2**18, **DEAD})
        saving.save(store, {"half": b"half" * 2**18})
        store.remove([first.id])
    elif why == "little":
        first = saving.save(store, {"x": b"x", "dead": b"dead" * 2**17})
        saving.save(store, {"x": b"x"})
        store.remove([first.id])
    else:
        mostly_dead(store)
    before, texts = packs(store), manifests(store)
    collector = Store(store.path) if why == "no key" else store
    assert collector.gc(grace=3600.0 if why == "young" else 0.0) == {}
    assert packs(store) == before
    assert manifests(store) == texts


def test_a_pack_that_is_damaged_stays(store):
    made = mostly_dead(store)
    old = max(packs(store), key=packs(store).__getitem__)
    chunk = next(c for c in made[0].chunks if c.nbytes == len(FROZEN["frozen"]))
    with open(store.path / "packs" / old, "r+b") as file:
        file.seek(chunk.offset)
        file.write(b"!")
    texts = manifests(store)
    assert store.gc(grace=0.0) == {}
    assert manifests(store) == texts
    assert set(store.verify()) == {one.id for one in made}


def test_a_disk_that_lies_is_found_out(store, monkeypatch):
    made = mostly_dead(store)
    texts, real = manifests(store), os.pwrite

    def pwrite(file, data, at):
        flags = fcntl.fcntl(file, fcntl.F_GETFL)
        fcntl.fcntl(file, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        wrong = memoryview(data).tobytes().replace(bytes(range(9)), bytes(9))
        return real(file, wrong, at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        assert store.gc(grace=0.0) == {}
    assert manifests(store) == texts
    collect(store)
    assert_whole(store, made)


def test_many_chunks_go_to_several_packs(store, monkeypatch):
    monkeypatch.setattr(rewriting, "_BATCH", 300_000)
    frozen = {f"layer{n}": bytes([n]) * 100_000 for n in range(8)}
    first = saving.save(store, {**frozen, "dead": b"dead" * 2**20})
    made = saving.save(store, frozen)
    store.remove([first.id])
    collect(store)
    assert len(packs(store)) == 3
    assert saving.load(store, made.id) == frozen


@pytest.mark.parametrize("name", [*CALLS, "utime"])
def test_a_write_that_fails_while_a_pack_is_rewritten(store, monkeypatch, name):
    disk = Disk(monkeypatch, name)
    disk.error = errno.ENOSPC
    at, is_over = 0, False
    while not is_over:
        made = mostly_dead(store)
        before = {row.id for row in store.rows()}
        disk.num_calls, disk.fails_at = 0, at
        try:
            store.gc(grace=0.0)
            is_over = True
        except NotWritten:
            at += 1
        disk.fails_at = -1
        assert_whole(store, made)
        assert {row.id for row in store.rows()} == before
        collect(store)
        assert_whole(store, made)
        store.remove([one.id for one in made])
        collect(store)
        assert packs(store) == {}
    assert at > 0


def test_a_checkpoint_that_is_written_meanwhile(store, monkeypatch):
    made, real = mostly_dead(store), rewriting.copy
    other, late = Store(store.path, key=b"k" * 32), []

    def copy(*args):
        late.append(saving.save(other, DEAD))  # needs the pack that is given up
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rewriting, "copy", copy)
        store.gc(grace=0.0)
    for _ in range(3):
        assert_whole(store, made)
        assert saving.load(store, late[0].id) == DEAD
        store.gc(grace=0.0)


def test_a_file_that_is_finished_while_one_looks(store, monkeypatch):
    made, real = mostly_dead(store), Folder.names

    def names(folder):
        return [f"{UNFINISHED}0123", *real(folder)]

    monkeypatch.setattr(Folder, "names", names)
    assert store.gc(dry_run=True, grace=0.0) == store.gc(grace=0.0) != {}
    assert_whole(store, made)


@pytest.mark.parametrize("what", ["removed", "unsigned"])
def test_a_checkpoint_that_is_exchanged_meanwhile(store, monkeypatch, what):
    made, real = mostly_dead(store), rewriting.copy
    path = store.path / "checkpoints" / f"{made[0].id}.json"
    text = encode(made[0], None)

    def copy(*args):
        path.unlink() if what == "removed" else path.write_bytes(text)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rewriting, "copy", copy)
        store.gc(grace=0.0)
    if what == "removed":
        assert not path.exists()
    else:
        assert path.read_bytes() == text
    collect(store)
    assert store.verify() == {}


COLLECTOR = """
import sys
sys.path[:0] = sys.argv[2:]
import test_rewriting
from gpurescue.store.store import Store
store = Store(sys.argv[1], key=b"k" * 32)
print("ready", flush=True)
while True:
    made = test_rewriting.mostly_dead(store)
    print(*[one.id for one in made], flush=True)
    test_rewriting.collect(store)
"""


@pytest.mark.thorough
def test_a_process_that_is_killed_while_it_collects(store):
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    draw = random.Random(1)
    num_seen = 0
    for _ in range(NUM_KILLS):
        command = [sys.executable, "-c", COLLECTOR, str(store.path), *folders]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        said = process.stdout.readline().split()
        time.sleep(draw.uniform(0.0, 0.1))  # mostly while it collects
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read().split()
        process.stdout.close()
        process.wait()
        assert store.verify() == {}
        there = {row.id for row in store.rows()}
        for id in {one for one in said if len(one) == 16} & there:
            values = saving.load(store, id)
            assert {name: values[name] for name in FROZEN} == FROZEN
            num_seen += 1
        collect(store)
        assert store.verify() == {}
        assert {row.id for row in store.rows()} == there
    assert num_seen > NUM_KILLS
    assert not list(store.path.rglob(f"{UNFINISHED}*"))
