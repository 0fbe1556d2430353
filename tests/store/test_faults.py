"""Disks that are full, broken or read-only, and processes that are killed."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import saving

from gpurescue.errors import NotWritten
from gpurescue.store.files import UNFINISHED
from gpurescue.store.packs import PIECE
from gpurescue.store.store import Store

CALLS = ("pwrite", "fsync", "rename", "open")
NUM_KILLS = 500 if os.environ.get("GPURESCUE_LONG") else 12
OLD, NEW = {"old": b"old" * 30_000}, {"new": b"new" * 40_000, "old": b"old" * 30_000}


class Disk:
    """Counts system calls, and has one of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.num_calls = 0
        self.fails_at = -1
        self.error = errno.EIO
        self._real = getattr(os, name)
        self._is_open = name == "open"
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args, **kwargs):
        if self._is_open and not args[1] & os.O_CREAT:
            return self._real(*args, **kwargs)
        self.num_calls += 1
        if self.num_calls - 1 == self.fails_at:
            raise OSError(self.error, os.strerror(self.error))
        return self._real(*args, **kwargs)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("name", CALLS)
def test_a_write_that_fails_publishes_nothing(store, monkeypatch, name, error):
    first = saving.save(store, OLD)
    disk = Disk(monkeypatch, name)
    saving.save(Store(store.path), {"count": b"count"})
    num_calls, disk.error = disk.num_calls, error
    assert num_calls > 1
    for at in range(num_calls):
        disk.num_calls, disk.fails_at = 0, at
        before = {row.id for row in store.rows()}
        with pytest.raises(NotWritten, match=os.strerror(error)):
            saving.save(store, {"count": b"%d" % at})
        disk.fails_at = -1
        assert store.verify() == {}
        assert saving.load(store, first.id) == OLD
        assert {row.id for row in Store(store.path).rows()} == before
        assert not list(store.path.rglob(f"{UNFINISHED}*"))
    again = saving.save(store, NEW)
    assert saving.load(store, again.id) == NEW


def test_a_short_write_is_gone_on_with(store, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda f, data, at: real(f, data[:4096], at))
    made = saving.save(store, NEW)
    assert saving.load(store, made.id) == NEW


def test_a_disk_that_takes_nothing_is_given_up(store, monkeypatch):
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(NotWritten):
        saving.save(store, NEW)


def test_a_file_system_that_cannot_write_directly(store, monkeypatch):
    import fcntl

    real = os.pwrite

    def pwrite(file, data, at):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not aligned")
        return real(file, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    large = {"x": os.urandom(PIECE + 5)}
    made = saving.save(store, large)
    assert saving.load(store, made.id) == large


@pytest.mark.skipif(os.getuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written(store):
    made = saving.save(store, OLD)
    (store.path / "packs").chmod(0o500)
    with pytest.raises(NotWritten, match="Permission"):
        saving.save(store, NEW)
    assert saving.load(store, made.id) == OLD


WRITER = """
import os, random, sys
sys.path[:0] = sys.argv[2:]
import saving
from gpurescue.store.store import Store
store = Store(sys.argv[1], key=b"k" * 32)
draw = random.Random(os.getpid())
print("ready", flush=True)
while True:
    made = saving.save(store, {"n": draw.randbytes(200_000), "same": bytes(100_000)})
    print(made.id, flush=True)
"""


def test_a_process_that_is_killed_leaves_a_store(store):
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    draw = random.Random(1)
    said: list[str] = []
    for _ in range(NUM_KILLS):
        command = [sys.executable, "-c", WRITER, str(store.path), *folders]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0.0, 0.05))
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.read().split()
        writer.stdout.close()
        writer.wait()
        assert store.verify() == {}
    there = {row.id for row in store.rows()}
    assert {id for id in said if len(id) == 16} <= there
    assert len(there) > NUM_KILLS / 4
    store.gc(grace=0.0)
    assert store.verify() == {}
    assert {row.id for row in store.rows()} == there
    assert not list(store.path.rglob(f"{UNFINISHED}*"))
