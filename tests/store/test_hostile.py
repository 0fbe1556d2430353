"""Stores that somebody has made to do harm: a clear error, and nothing is touched."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import saving
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from gpurescue.errors import Refused, StoreError
from gpurescue.store import format
from gpurescue.store.store import Store

KEY = b"k" * 32
VALUES = {"a": b"a" * 5000, "b": b"b" * 70_000}

Body = dict[str, Any]


def written(body: Body | bytes, key: bytes | None = KEY, **head: Any) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    mac = None if key is None else hmac.digest(key, text, hashlib.sha256).hex()
    made = {
        "format": "gpurescue-checkpoint",
        "version": 1,
        "digest": xxhash.xxh3_128_hexdigest(text),
        "signature": mac,
    }
    return json.dumps(made | head).encode() + b"\n" + text


def chunk(place: int, value: Any) -> Callable[[Body], None]:
    def change(body: Body) -> None:
        body["chunks"][0][place] = value

    return change


def tensor(**values: Any) -> Callable[[Body], None]:
    return lambda body: body["tensors"]["a"].update(values)


def field(**values: Any) -> Callable[[Body], None]:
    return lambda body: body.update(values)


def without(name: str) -> Callable[[Body], None]:
    return lambda body: body.pop(name)


def overlap(body: Body) -> None:
    body["chunks"][0][2:] = body["chunks"][1][2:]


BODIES = {
    "a pack outside": chunk(2, "../../../../etc/passwd"),
    "an absolute pack": chunk(2, "/etc/passwd"),
    "a pack with a zero": chunk(2, "00000000\x00"),
    "a pack with a newline": chunk(2, "00000000\n"),
    "a pack that is a number": chunk(2, 7),
    "a pack that is not there": chunk(2, "0123456789abcdef"),
    "an offset below zero": chunk(3, -4096),
    "an offset far outside": chunk(3, 2**61),
    "an offset beyond all numbers": chunk(3, 2**80),
    "an offset that is a float": chunk(3, 0.5),
    "a size below zero": chunk(1, -1),
    "a size beyond the pack": chunk(1, 2**50),
    "a digest that is none": chunk(0, "zz"),
    "another digest": chunk(0, "0" * 32),
    "a chunk with more in it": lambda body: body["chunks"][0].append(1),
    "chunks that overlap": overlap,
    "an unknown dtype": tensor(dtype="object"),
    "a dtype that is code": tensor(dtype="__import__('os').system('x')"),
    "a wider dtype": tensor(dtype="float64"),
    "a shape that is too large": tensor(shape=[2**40]),
    "a shape below zero": tensor(shape=[-1]),
    "a shape that overflows": tensor(shape=[2**60, 2**60], stride=[2**60, 1]),
    "a shape with 10,000 sizes": tensor(shape=[1] * 10_000, stride=[1] * 10_000),
    "a stride below zero": tensor(stride=[-1]),
    "strides that are missing": tensor(stride=[]),
    "an offset of a tensor outside": tensor(offset=5000),
    "a storage that is not there": tensor(storage=9),
    "a storage in no chunk": field(storages=[[9, 0, 5000], [1, 0, 70_000]]),
    "a storage outside": field(storages=[[0, 1, 5000], [1, 0, 70_000]]),
    "a storage below zero": field(storages=[[0, -1, 5000], [1, 0, 70_000]]),
    "a shard outside": tensor(whole=[10], start=[6]),
    "a shard of other dimensions": tensor(whole=[10_000, 2], start=[0, 0]),
    "a shard nowhere": tensor(whole=[10]),
    "an unknown field of a tensor": tensor(load="os.system"),
    "an object that is not there": field(objects={"graph": 99}),
    "an unknown field": field(hook="os.system"),
    "another id": field(id="ffffffffffffffff"),
    "an id that is a path": field(id="../../x"),
    "a run that is a path": field(run="../../x"),
    "a time that is a text": field(created="now"),
    "an endless time": field(created=1e300),
    "tensors in a list": field(tensors=[]),
    "no chunks": without("chunks"),
    "no tensors": without("tensors"),
}
FILES: dict[str, Callable[[bytes, Body], bytes]] = {
    "nothing in it": lambda data, body: b"",
    "only its first line": lambda data, body: data.split(b"\n")[0],
    "a second line cut off": lambda data, body: data[:-9],
    "a flipped bit": lambda data, body: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "a pickle": lambda data, body: b"\x80\x04cos\nsystem\n(S'touch /x'\ntR.\n",
    "another format": lambda data, body: written(body, format="zip"),
    "a later version": lambda data, body: written(body, version=2),
    "another digest": lambda data, body: written(body, digest="0" * 32),
    "brackets without end": lambda data, body: written(b"[" * 10**6),
    "brackets in the notes": lambda data, body: written(
        json.dumps(body)[:-1].encode() + b', "notes": {"x": ' + b"[" * 10**5
    ),
    "brackets in the first line": lambda data, body: b"[" * 10**6 + b"\n{}",
    "a number of a million digits": lambda data, body: written(
        json.dumps(body)[:-1].encode() + b', "number": ' + b"9" * 10**6 + b"}"
    ),
    "not a number": lambda data, body: written(
        json.dumps(body | {"created": float("nan")}).encode()
    ),
    "no text": lambda data, body: written(b'{"id": "\xff\xfe"}'),
    "a text": lambda data, body: written(b'"manifest"'),
}


def path_of(store: Store, id: str) -> Path:
    return store.path / "checkpoints" / f"{id}.json"


def refuses(store: Store, id: str) -> str:
    """What using a checkpoint is answered with, by all ways to use it."""
    opened = Store(store.path, key=KEY)
    said = opened.verify()
    assert list(said) == [id], said
    with pytest.raises(StoreError) as caught:
        saving.load(opened, id)
    assert id in str(caught.value) or "pack" in str(caught.value)
    opened.rows()
    return str(caught.value)


@pytest.mark.parametrize("name", list(BODIES))
def test_a_manifest_that_says_what_it_should_not(store, name):
    made = saving.save(store, VALUES)
    path = path_of(store, made.id)
    body = json.loads(path.read_bytes().split(b"\n")[1])
    BODIES[name](body)
    path.write_bytes(written(body))
    refuses(store, made.id)


@pytest.mark.parametrize("name", list(FILES))
def test_a_manifest_that_is_none(store, name):
    made = saving.save(store, VALUES)
    path = path_of(store, made.id)
    data = path.read_bytes()
    path.write_bytes(FILES[name](data, json.loads(data.split(b"\n")[1])))
    start = time.monotonic()
    refuses(store, made.id)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("what", ["manifest", "pack"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "cut off", "huge"])
def test_a_file_that_is_none(store, tmp_path, what, kind):
    made = saving.save(store, VALUES)
    (pack,) = (store.path / "packs").iterdir()
    path = pack if what == "pack" else path_of(store, made.id)
    secret = tmp_path / "secret"
    secret.write_bytes(path.read_bytes())
    path.unlink()
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(path)  # to open it to read would wait for ever
    elif kind == "folder":
        path.mkdir()
    elif kind == "cut off":
        path.write_bytes(secret.read_bytes()[:4096] if what == "pack" else b"{")
    elif what == "pack":
        with open(path, "wb") as file:
            file.truncate(2**40)  # a hole
    else:
        with open(path, "wb") as file:
            file.truncate(format.LIMIT + 1)
    refuses(store, made.id)


@pytest.mark.parametrize("name", ["packs", "checkpoints", "locks"])
def test_a_folder_that_is_a_link(store, tmp_path, name):
    saving.save(store, VALUES)
    (store.path / name).rename(tmp_path / "elsewhere")
    (store.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match=name):
        Store(store.path)


def test_only_ones_own_signature_counts(store):
    made = saving.save(store, VALUES)
    assert store.manifest(made.id)[1] is True
    assert Store(store.path).manifest(made.id)[1] is False
    assert Store(store.path, key=b"other" * 8).manifest(made.id)[1] is False
    path = path_of(store, made.id)
    body = path.read_bytes().split(b"\n")[1]
    for forged in (written(body, key=None), written(body, signature="0" * 64)):
        path.write_bytes(forged)
        assert store.manifest(made.id)[1] is False


def test_names_that_are_no_checkpoints(store):
    made = saving.save(store, VALUES)
    for name in ("x.json", "...json", "0123.json", "0123456789.json.json", ".json"):
        (store.path / "checkpoints" / name).write_bytes(b"{}")
    assert store.verify() == {}
    assert [row.id for row in store.rows()] == [made.id]


def test_a_flipped_byte_names_the_tensor(store):
    made = saving.save(store, VALUES)
    other = saving.save(store, {"other": b"other"})
    manifest, _ = store.manifest(made.id)
    for name, one in manifest.tensors.items():
        found = manifest.chunks[manifest.storages[one.storage].chunk]
        path = store.path / "packs" / f"{found.pack}.pack"
        data = bytearray(path.read_bytes())
        data[found.offset + found.nbytes // 2] ^= 1
        path.write_bytes(data)
        (said,) = store.verify()[made.id]
        assert said.startswith(f"{name}: ")
        assert saving.load(store, other.id) == {"other": b"other"}
        data[found.offset + found.nbytes // 2] ^= 1
        path.write_bytes(data)
    assert store.verify() == {}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_are_a_manifest(data, has_head):
    try:
        format.decode(written(data) if has_head else data, KEY)
    except StoreError:
        return
    raise AssertionError("It was read.")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
)
BODY: Body = {
    "id": "0123456789abcdef",
    "run": "0123456789abcdef",
    "number": 1,
    "created": 1.0,
    "chunks": [["0" * 32, 16, "0123456789abcdef", 0]],
    "storages": [[0, 0, 16]],
    "tensors": {"x": {"dtype": "float32", "shape": [4], "stride": [1], "storage": 0}},
    "objects": {"graph": 0},
    "lost": {},
    "parent": None,
    "notes": {},
}


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_manifest_with_anything_in_it_is_checked(data):
    body = json.loads(json.dumps(BODY))
    place = data.draw(st.sampled_from([*body, "chunk", "storage", "tensor"]))
    value = data.draw(PLAIN)
    if place == "chunk":
        body["chunks"][0][data.draw(st.integers(0, 3))] = value
    elif place == "storage":
        body["storages"][0][data.draw(st.integers(0, 2))] = value
    elif place == "tensor":
        one = body["tensors"]["x"]
        one[data.draw(st.sampled_from([*one, "offset", "whole", "start"]))] = value
    else:
        body[place] = value
    try:
        text = json.dumps(body).encode()
        found, _ = format.decode(written(text), KEY)
    except StoreError:
        return
    for one in found.tensors.values():  # whatever was let in can be looked at safely
        needed = one.num_reached * format.DTYPES[one.dtype]
        storage = found.storages[one.storage]
        assert 0 <= needed <= storage.nbytes
        assert storage.offset + storage.nbytes <= found.chunks[storage.chunk].nbytes
    assert sys.getsizeof(found) > 0
