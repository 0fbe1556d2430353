"""Bytes that change by themselves: found, named, and no matter to other checkpoints."""

from __future__ import annotations

import gc
import os
import random
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saving
import torch

from gpurescue.errors import Damaged, StoreError
from gpurescue.state.capture import State
from gpurescue.state.named import named
from gpurescue.store import restore as restoring
from gpurescue.store.catalog import NAME as CATALOG
from gpurescue.store.checkpointer import Checkpointer
from gpurescue.store.format import Manifest
from gpurescue.store.reading import Reader
from gpurescue.store.restore import restore
from gpurescue.store.store import MARKER, Store

KEY = b"k" * 32
IS_LONG = os.environ.get("GPURESCUE_LONG") == "1"
SMALL = 2**17  # of files up to this size the long form changes all that is not 0


class Training:
    """Some of it is frozen, some is small, some is no tensor."""

    def __init__(self) -> None:
        self.frozen = torch.nn.Linear(200, 128).requires_grad_(False)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(128, 160), torch.nn.BatchNorm1d(160)
        )
        self.optimizer = torch.optim.Adam(self.net.parameters())
        self.arrays = [np.arange(9_000.0), np.arange(9)]

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.net(self.frozen(torch.randn(8, 200))).square().sum().backward()
        self.optimizer.step()


@dataclass(frozen=True)
class Content:
    """What a checkpoint has."""

    manifest: Manifest
    tensors: dict[str, bytes]
    storages: list[bytes]
    objects: dict[str, bytes]


def raw(tensor: Any) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def content(store: Store, id: str) -> Content:
    manifest, _ = store.manifest(id)
    reader = Reader(store, manifest)
    return Content(
        manifest=manifest,
        tensors={name: raw(reader.tensor(name)) for name in manifest.tensors},
        storages=[bytes(reader.bytes_of(n)) for n in range(len(manifest.storages))],
        objects={name: bytes(reader.object(name)) for name in manifest.objects},
    )


def write(path: Path, data: bytes) -> None:
    """Another file of that name: who reads the old one still may."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


@dataclass(frozen=True)
class Whole:
    """A store that is as it was written.

    Attributes:
        path: Where it is.
        contents: What its checkpoints have, by id.
        files: All that is in it.
    """

    path: Path
    contents: dict[str, Content]
    files: dict[str, bytes]

    def put_back(self) -> None:
        """Undo whatever was done to it."""
        for path in list(self.path.rglob("*")):
            name = str(path.relative_to(self.path))
            if path.is_file() and name not in self.files:
                path.unlink()
        for name, data in self.files.items():
            path = self.path / name
            if not path.is_file() or path.read_bytes() != data:
                write(path, data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Whole:
    """Checkpoints that share bytes; one was superseded, and its pack rewritten."""
    path = tmp_path_factory.mktemp("rot") / "store"
    store, training = Store(path, key=KEY, create=True), Training()
    made: list[Manifest] = []
    checkpointer = Checkpointer(store, saving.RUN, on_done=made.append)
    for dead in (torch.randn(2**19), 0, 0, 0):
        training.step()
        while not checkpointer.take(
            State(variables={**vars(training), "dead": dead}, notes={"where": "x"})
        ):
            assert checkpointer.wait(30)
        assert checkpointer.wait(30)
    checkpointer.close()
    store.remove([made[0].id])
    store.pin(made[1].id)
    for _ in range(2):  # to rewrite, and to remove what was rewritten
        assert store.gc(grace=0.0)
    contents = {one.id: content(store, one.id) for one in made[1:]}
    shared = [{c.digest for c in one.manifest.chunks} for one in contents.values()]
    assert set.intersection(*shared)
    assert len({c.pack for one in contents.values() for c in one.manifest.chunks}) == 4
    files = {
        str(path.relative_to(store.path)): path.read_bytes()
        for path in store.path.rglob("*")
        if path.is_file()
    }
    return Whole(path, contents, files)


@pytest.fixture(autouse=True)
def tidy(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(restoring, "_LARGE", 256)  # small tensors are mapped too
    yield
    whole.put_back()
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "gpurescue-restore":
            thread.join(30)
    steps = sys.modules["torch.optim.optimizer"]._global_optimizer_pre_hooks
    for name in [name for name in steps if str(name).startswith("gpurescue-restore")]:
        del steps[name]  # of restores that failed: the last one alone goes by itself


def names(whole: Whole, kind: str) -> list[str]:
    return [name for name in whole.files if name.startswith(kind) and whole.files[name]]


def places(whole: Whole, name: str, count: int) -> list[int]:
    """Which bytes of a file are changed: its ends, and some in between, or all."""
    data, size = whole.files[name], len(whole.files[name])
    if IS_LONG and size <= SMALL:  # most of a catalogue is room for more
        return [at for at in range(size) if data[at] or at % 16 == 0]
    ends = {*range(min(size, 4)), *range(max(0, size - 4), size)}
    drawn = random.Random(name).choices(range(size), k=count * 40 if IS_LONG else count)
    return sorted(ends.union(drawn))


def flipped(whole: Whole, name: str, at: int) -> bytes:
    data = bytearray(whole.files[name])
    data[at] ^= 0xFF if at % 3 == 0 else 1 << (at % 8)
    return bytes(data)


def refused(get: Callable[[], bytes], expected: bytes, says: str) -> list[str]:
    """Why something is not given, if it is not what it was."""
    try:
        found = get()
    except Damaged as error:
        why = str(error)
    else:
        assert found == expected
        return []
    assert says in why
    return [why]


def read(whole: Whole, store: Store, id: str) -> list[str]:
    """Read all of a checkpoint; gives what was refused, all else is as it was."""
    expected = whole.contents[id]
    try:
        manifest, _ = store.manifest(id)
    except StoreError as error:
        return [str(error)]
    assert manifest == expected.manifest
    reader, found = Reader(store, manifest), []
    for name, data in expected.tensors.items():
        found += refused(partial(tensor, reader, name), data, f"{name}: ")
    for name, data in expected.objects.items():
        found += refused(partial(part, reader.object, name), data, f"{name}: ")
    for number, data in enumerate(expected.storages):
        found += refused(partial(part, reader.bytes_of, number), data, "pack ")
    return found


def tensor(reader: Reader, name: str) -> bytes:
    return raw(reader.tensor(name))


def part(get: Callable[[Any], memoryview], of: Any) -> bytes:
    return bytes(get(of))


def check(whole: Whole) -> set[str]:
    """Read a store in which something was changed.

    Returns:
        What is damaged: ``verify`` says the same as who reads.
    """
    store = Store(whole.path, key=KEY)
    wrong = store.verify()
    there = {id for id in whole.contents if store.has(id)}
    for id in there:
        found = read(whole, store, id)
        assert bool(found) == (id in wrong), (found, wrong)
        assert set(wrong.get(id, ())) <= set(found)
        assert all(id in why for why in found if "pack" not in why)
    rows = {row.id: row for row in store.rows()}
    assert there - wrong.keys() <= rows.keys() <= there
    for id, row in rows.items():
        of = whole.contents[id].manifest
        facts = (row.run, row.number, row.created, row.num_tensors, row.place)
        assert facts == (of.run, of.number, of.created, len(of.tensors), "x")
    return set(wrong)


def check_restores(whole: Whole, id: str, *, lazy: bool) -> bool:
    """True if a checkpoint was restored, whole; else its damage was named."""
    expected, training = whole.contents[id].tensors, Training()
    live = {name: vars(training)[name] for name in ("frozen", "net", "optimizer")}
    store = Store(whole.path, key=KEY)
    try:
        done = restore(Reader(store, store.manifest(id)[0]), live, lazy=lazy)
        done.wait()
    except StoreError as error:
        why = str(error)
    else:
        assert (done._residence is not None) is lazy
        assert all(raw(x) == expected[name] for name, x in named(live).items())
        assert len(done.names) == len(expected)
        return True
    assert why.startswith(tuple(f"{x}: " for x in (*expected, f"Checkpoint {id}"))), why
    return False


def users(whole: Whole, pack: str, at: int) -> set[str]:
    """The checkpoints that have a byte of a pack."""
    return {
        id
        for id, of in whole.contents.items()
        for chunk in of.manifest.chunks
        if f"packs/{chunk.pack}.pack" == pack
        and chunk.offset <= at < chunk.offset + chunk.nbytes
    }


def test_nothing_is_damaged(whole):
    assert check(whole) == set()
    assert all(check_restores(whole, id, lazy=True) for id in whole.contents)


def test_a_changed_byte_of_a_pack(whole):
    """It is seen if, and only if, it is a byte of something."""
    seen = 0
    for name in names(whole, "packs/"):
        for at in places(whole, name, 40):
            write(whole.path / name, flipped(whole, name, at))
            assert check(whole) == users(whole, name, at)
            seen += bool(users(whole, name, at))
        whole.put_back()
    assert seen


def test_a_changed_byte_of_a_manifest(whole):
    """It is seen, but in the signature: then nobody takes its objects for signed."""
    for name in names(whole, "checkpoints/"):
        for at in places(whole, name, 60):
            write(whole.path / name, flipped(whole, name, at))
            id = Path(name).stem
            if not check(whole):
                assert Store(whole.path, key=KEY).is_signed(id) is False
        whole.put_back()


def test_a_changed_byte_of_the_catalogue(whole):
    """What is saved with its help can be read, and refers to what is there."""
    for at in places(whole, CATALOG, 30):
        write(whole.path / CATALOG, flipped(whole, CATALOG, at))
        assert check(whole) == set()
        store = Store(whole.path, key=KEY)
        storages = whole.contents[next(iter(whole.contents))].storages
        values = {f"x{n}": data for n, data in enumerate(storages)} | {"y": b"new"}
        made = saving.save(store, values)
        assert saving.load(store, made.id) == values
        assert store.verify() == {}
        whole.put_back()


def test_a_changed_byte_of_the_mark(whole):
    for at in range(len(whole.files[MARKER])):
        write(whole.path / MARKER, flipped(whole, MARKER, at))
        assert check(whole) == {MARKER}


@pytest.mark.parametrize("lazy", [True, False])
def test_a_changed_byte_is_not_restored(whole, lazy):
    for name in (*names(whole, "packs/"), *names(whole, "checkpoints/")):
        for at in places(whole, name, 5)[:: 11 if IS_LONG else 3]:
            write(whole.path / name, flipped(whole, name, at))
            damaged = check(whole)
            for id in whole.contents:
                is_restored = check_restores(whole, id, lazy=lazy)
                assert is_restored or id in damaged
        whole.put_back()


def harmed(harm: str, name: str, data: bytes) -> bytes:
    if harm == "garbage":
        return random.Random(name).randbytes(len(data))
    known = {"empty": b"", "cut off": data[: len(data) // 2]}
    return known.get(harm, data + bytes(4096))


@pytest.mark.parametrize("harm", ["lost", "empty", "cut off", "garbage", "longer"])
def test_a_file_that_is_not_what_it_was(whole, harm):
    """All that is damaged is what needs it."""
    for name, data in whole.files.items():
        path = whole.path / name
        path.unlink()
        if harm != "lost":
            path.write_bytes(harmed(harm, name, data))
        needs: set[str] = set()
        if name == MARKER:
            needs = {MARKER}
        elif name.startswith("packs/") and harm != "longer":
            cut = len(data) // 2 if harm == "cut off" else 0
            needs = set().union(
                *(users(whole, name, n) for n in range(cut, len(data), 64))
            )
        elif re.match(r"checkpoints/.*json", name) and harm != "lost":
            needs = {path.stem}
        assert check(whole) == needs, name
        whole.put_back()


def test_a_changed_byte_of_a_run(whole):
    """It says nothing then: whether the run has ended is not known."""
    assert Store(whole.path, key=KEY).runs.last() is not None
    for name in names(whole, "runs/"):
        for at in range(len(whole.files[name])):
            write(whole.path / name, flipped(whole, name, at))
            assert Store(whole.path, key=KEY).runs.last() is None
        assert check(whole) == set()
        whole.put_back()


def test_what_is_damaged_is_written_again(whole):
    """By the next checkpoint that has the same bytes, once somebody has seen it."""
    id, of = next(iter(whole.contents.items()))
    values = dict(of.tensors)
    chunk = max(of.manifest.chunks, key=lambda chunk: chunk.nbytes)
    name = f"packs/{chunk.pack}.pack"
    for see in ("verify", "read"):
        write(whole.path / name, flipped(whole, name, chunk.offset))
        store = Store(whole.path, key=KEY)
        if see == "verify":
            assert id in store.verify()
        else:
            read(whole, store, id)
        made = saving.save(store, values)
        assert saving.load(store, made.id) == values
        whole.put_back()
