"""Runs of a store: which have ended, and which were killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest
import xxhash

from gpurescue.store import runs
from gpurescue.store.runs import MOST, RUNNING, SILENT, Pulse
from gpurescue.store.store import Store

RUN, OTHER = "ab" * 8, "cd" * 8


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "kept", key=b"k" * 32, create=True)


def path(store, run=RUN):
    return store.path / "runs" / f"{run}.json"


def signed(text: str) -> bytes:
    said = text.encode("latin-1")
    return said + b"\n" + xxhash.xxh3_128_hexdigest(said).encode() + b"\n"


def test_nothing_is_known_of_an_empty_store(store):
    assert store.runs.last() is None


def test_a_run_that_goes_on_is_alive(store):
    with store.writer(RUN):
        store.runs.begin(RUN)
        found = store.runs.last()
    assert found is not None
    assert found.is_alive
    assert not found.was_killed


def test_a_run_that_has_ended_says_how(store):
    with store.writer(RUN):
        record = store.runs.begin(RUN, parent=OTHER)
    store.runs.end(record, "finished")
    found = store.runs.last()
    assert found is not None
    assert (found.record.state, found.record.parent) == ("finished", OTHER)
    assert not found.was_killed


def test_a_process_that_is_killed_leaves_its_run_as_killed(store):
    code = (
        "import os, sys\n"
        "from gpurescue.store.store import Store\n"
        "store = Store(sys.argv[1], key=b'k' * 32)\n"
        "with store.writer(sys.argv[2]):\n"
        "    store.runs.begin(sys.argv[2])\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    store.runs.begin(OTHER)
    subprocess.run([sys.executable, "-c", code, str(store.path), RUN], check=False)
    found = store.runs.last()
    assert found is not None
    assert found.record.run == RUN
    assert found.was_killed


def test_a_beat_tells_when_a_run_was_alive_last(store):
    record = store.runs.begin(RUN)
    os.utime(path(store), (1000.0, 1000.0))
    before = store.runs.last()
    store.runs.beat(record, "epoch 1/2, \u00e9\n" + 300 * "x")
    after = store.runs.last()
    assert before is not None
    assert after is not None
    assert before.beat == 1000.0
    assert time.time() - after.beat < 100
    assert after.record.where.startswith("epoch 1/2, ??xxx")
    assert store.runs.of(RUN) == after
    assert store.runs.of(OTHER) is None


def test_a_pulse_beats_until_it_says_how_the_run_has_ended(store, monkeypatch):
    monkeypatch.setattr(runs, "BEAT", 0.01)
    said = iter(["first", "second"])
    heard = threading.Event()

    def where():
        found = next(said, None)
        if found is None:
            heard.set()
            raise ValueError("A beat that is not written.")
        return found

    pulse = Pulse(store.runs, RUN, OTHER, where)
    assert heard.wait(20)
    going_on = store.runs.of(RUN)
    pulse.end("finished")
    over = store.runs.of(RUN)
    assert going_on is not None
    assert (going_on.record.where, going_on.record.parent) == ("second", OTHER)
    assert over is not None
    assert over.record.state == "finished"
    assert not [t for t in threading.enumerate() if t.name.endswith(RUN)]


def test_the_oldest_of_many_are_forgotten(store):
    for number in range(MOST + 5):
        store.runs.begin(f"{number:016x}")
        os.utime(path(store, f"{number:016x}"), (number, number))
    assert store.runs.of(f"{4:016x}") is None
    assert store.runs.of(f"{5:016x}") is not None
    assert len(list(path(store).parent.iterdir())) == MOST


@pytest.mark.parametrize(("age", "is_alive"), [(0, True), (SILENT * 2, False)])
def test_of_a_run_on_another_machine_only_the_beat_is_known(store, age, is_alive):
    store.runs.begin(RUN)
    facts = json.loads(path(store).read_text().splitlines()[0])
    path(store).write_bytes(signed(json.dumps(facts | {"host": "elsewhere"})))
    then = time.time() - age
    os.utime(path(store), (then, then))
    found = store.runs.last()
    assert found is not None
    assert found.record.state == RUNNING
    assert found.is_alive is is_alive


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "\xff",
        '{"run": "../x"}',
        json.dumps({"run": OTHER, "began": 1.0, "host": "h", "process": 1}),
        json.dumps({"run": RUN, "began": 1e400, "host": "h", "process": 1}),
        json.dumps({"run": RUN, "began": 1.0, "host": "\x1b[2J", "process": 1}),
        json.dumps({"run": RUN, "began": 1.0, "host": "h", "process": 1, "x": 0}),
        " " * 100_000,
    ],
)
def test_a_file_that_says_no_run_is_passed_over(store, text):
    store.runs.begin(RUN)
    path(store).write_bytes(signed(text))
    assert store.runs.last() is None


def test_a_link_is_not_followed(store, tmp_path):
    store.runs.begin(RUN)
    (tmp_path / "outside.json").write_bytes(path(store).read_bytes())
    path(store).unlink()
    path(store).symlink_to(tmp_path / "outside.json")
    assert store.runs.last() is None


def test_a_store_without_a_folder_of_runs_is_read_all_the_same(store):
    (store.path / "runs").rmdir()
    again = Store(store.path, key=b"k" * 32)
    assert again.runs.last() is None
    again.runs.begin(RUN)
    assert again.runs.last() is None
