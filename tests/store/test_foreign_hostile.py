"""Files of other formats that somebody has made to do harm, or that are damaged."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata

from gpurescue.errors import Refused, StoreError
from gpurescue.store import inert
from gpurescue.store.importing import import_
from gpurescue.store.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is")
RUN = "fedcba9876543210"


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it ran"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of DCP with nothing wrong in it."""
    state = {"a": torch.ones(2, 3), "b": torch.zeros(50), "step": 3}
    dcp.save(state, checkpoint_id=tmp_path / "x", no_dist=True)
    return tmp_path / "x"


def refuses(store: Store, path: Path, match: str = ".") -> None:
    before = sorted(store.path.rglob("*"))
    with pytest.raises(Refused, match=match) as caught:
        import_(store, path, run=RUN)
    assert path.name in str(caught.value)
    assert sorted(store.path.rglob("*")) == before


# -- files of torch.save


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_bomb_in_a_file_of_torch(store, tmp_path, mark, is_zip):
    state = {"x": torch.ones(2), "bomb": Bomb(mark)}
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=is_zip)
    refuses(store, tmp_path / "x.pt", "not run|is neither")
    assert not mark.exists()
    torch.load(tmp_path / "x.pt", weights_only=False)  # it is one
    assert mark.exists()


def endless() -> Any:
    value: list[Any] = [torch.ones(1)]
    value.append(value)
    return value


def laughs() -> Any:
    value: list[Any] = [1]
    for _ in range(30):
        value = [value] * 10
    return value


STATES: dict[str, Any] = {
    "a list in itself": endless,
    "a billion laughs": laughs,
    "a sparse tensor": lambda: {"x": torch.eye(3).to_sparse()},
    "a tensor without memory": lambda: {"x": torch.ones(3, device="meta")},
    "two of one name": lambda: {"a.b": torch.ones(1), "a": {"b": torch.ones(1)}},
    "no tensors": lambda: {"step": 3},
    "a name that is no text": lambda: {"\ud800": torch.ones(1)},
    "a text that is none": lambda: {"x": torch.ones(1), "y": "\ud800"},
    "a class of its own": lambda: {"x": torch.nn.Linear(2, 2)},
    "too many dimensions": lambda: {"x": torch.ones([1] * 65)},
}


@pytest.mark.parametrize("name", list(STATES))
def test_a_file_of_torch_that_no_store_can_hold(store, tmp_path, name):
    torch.save(STATES[name](), tmp_path / "x.pt")
    start = time.monotonic()
    refuses(store, tmp_path / "x.pt")
    assert time.monotonic() - start < 60


def test_a_file_of_torch_that_is_compressed(store, tmp_path):
    torch.save({"x": torch.zeros(2**20)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as made,
    ):
        for name in plain.namelist():
            made.writestr(name, plain.read(name))
    import_(store, tmp_path / "plain.pt", run=RUN)
    refuses(store, tmp_path / "x.pt", "compressed")


# -- safetensors


def of_safetensors(header: object, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**values: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **values}}


HEADERS = {
    "nothing": b"",
    "nothing in it": of_safetensors({}),
    "a header that ends outside": struct.pack("<Q", 2**40) + b"{}",
    "an endless header": struct.pack("<Q", 2**64 - 1) + b"{}",
    "a shape that is too large": of_safetensors(entry(shape=[2**40])),
    "a shape that overflows": of_safetensors(entry(shape=[2**33, 2**33])),
    "an end outside": of_safetensors(entry(data_offsets=[0, 2**40], shape=[2**38])),
    "an end before its start": of_safetensors(entry(data_offsets=[8, 0])),
    "an unknown dtype": of_safetensors(entry(dtype="OBJECT")),
    "overlapping": of_safetensors({**entry(), "y": entry()["x"]}),
    "brackets without end": of_safetensors(b'{"x":' + b"[" * 10**6),
    "a dtype that no store knows": of_safetensors(
        entry(dtype="F4", shape=[16], data_offsets=[0, 8])
    ),
}


@pytest.mark.parametrize("name", list(HEADERS))
def test_a_file_of_safetensors_that_is_none(store, tmp_path, name):
    (tmp_path / "x.safetensors").write_bytes(HEADERS[name])
    refuses(store, tmp_path / "x.safetensors")


def test_tied_names_that_lead_nowhere_are_no_tensors(store, tmp_path):
    header = {**entry(), "__metadata__": {"y": "z", "x": "x", "format": "pt"}}
    (tmp_path / "x").write_bytes(of_safetensors(header))
    assert list(import_(store, tmp_path / "x", run=RUN).tensors) == ["x"]


# -- the .metadata of DCP


def pickled_with(value: object) -> bytes:
    return pickle.dumps(Metadata({"a": value}))  # type: ignore[dict-item]


class Called:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def deep(num: int) -> bytes:
    tuples = pickle.EMPTY_TUPLE + pickle.TUPLE1 * num
    return b"\x80\x04" + pickle.EMPTY_DICT + tuples + pickle.NONE + b"s."


PICKLES = {
    "nothing": b"",
    "no pickle": b"PK\x03\x04",
    "a call of a function": pickled_with(Called(eval, ("1/0",))),
    "a call of what is in a module": pickled_with(Called(torch.load, ("/x",))),
    "a class of another module": pickled_with(io.BytesIO(b"")),
    "a function by a path": b"\x80\x04\x8c\x05torch\x8c\x08load.eva\x93.",
    "an old way to name": b"cos\nsystem\n(S'true'\ntR.",
    "an old way to make": b"(S'true'\nios\nsystem\n.",
    "an object of an old kind": b"(cos\nsystem\no.",
    "an extension": b"\x80\x02\x82\x01.",
    "something kept elsewhere": b"\x80\x04K\x01Q.",
    "a place at the end of memory": b"\x80\x04Nr\xff\xff\xff\xff.",
    "bytes without end": b"\x80\x05\x8e" + b"\xff" * 7 + b"\x7f.",
    "room without end": b"\x80\x05\x96" + b"\xff" * 5 + b"\0\0\0.",
    "a text without end": b"\x80\x04X\xff\xff\xff\xff.",
    "a million tuples as a key": deep(10**6),
    "a key that is a list": b"\x80\x04}]Ns.",
    "a dict where there is none": b"\x80\x04NNNs.",
    "a state of nothing": b"\x80\x04NNb.",
    "a call of a text": b"\x80\x04\x8c\x01x)R.",
    "too little on the stack": b"\x80\x04R.",
    "no end": pickle.dumps(Metadata({}))[:-1],
    "a text": pickle.dumps("metadata"),
    "another class": pickle.dumps(ChunkStorageMetadata(torch.Size(), torch.Size())),
    "tensors in a list": pickle.dumps(Metadata([])),  # type: ignore[arg-type]
    "no tensors": pickle.dumps(Metadata({})),
}


@pytest.mark.parametrize("name", list(PICKLES))
def test_a_metadata_that_is_none(store, folder, name):
    (folder / ".metadata").write_bytes(PICKLES[name])
    start = time.monotonic()
    refuses(store, folder)
    assert time.monotonic() - start < 60


def test_a_bomb_in_a_metadata(store, folder, mark):
    (folder / ".metadata").write_bytes(pickled_with(Bomb(mark)))
    refuses(store, folder, "nothing is run")
    assert not mark.exists()
    pickle.loads((folder / ".metadata").read_bytes())  # it is one
    assert mark.exists()


def place(**values: Any):
    def change(found: Metadata) -> None:
        for index, info in found.storage_data.items():
            if index.fqn == "a":
                for name, value in values.items():
                    setattr(info, name, value)

    return change


def about(**values: Any):
    def change(found: Metadata) -> None:
        for name, value in values.items():
            setattr(found.state_dict_metadata["a"], name, value)

    return change


def chunk(offsets: tuple[int, ...], sizes: tuple[int, ...]) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


def dtype(value: object):
    def change(found: Metadata) -> None:
        found.state_dict_metadata["a"].properties.dtype = value

    return change


def same_bytes(found: Metadata) -> None:
    infos = list(found.storage_data.values())
    largest = max(infos, key=lambda info: info.length)
    for info in infos:
        info.offset, info.length = largest.offset, largest.length


CHANGES = {
    "a file outside": place(relative_path="../secret"),
    "an absolute file": place(relative_path="/etc/passwd"),
    "a file in a folder": place(relative_path="inner/secret"),
    "the folder above": place(relative_path=".."),
    "a file with a zero": place(relative_path="x\0y"),
    "a file that is not there": place(relative_path="none"),
    "a file that is a number": place(relative_path=3),
    "a link": place(relative_path="link"),
    "a pipe": place(relative_path="pipe"),
    "a folder": place(relative_path="inner"),
    "an offset below zero": place(offset=-1),
    "an offset outside": place(offset=2**40),
    "a length outside": place(length=2**40),
    "a length beyond all numbers": place(length=2**80),
    "a length that is true": place(length=True),
    "nothing of it": place(length=0),
    "the middle of something": place(offset=100),
    "something compressed": place(transform_descriptors=["zip"]),
    "the same bytes for all": same_bytes,
    "a size that is too large": about(
        size=torch.Size([2**40, 3]), chunks=[chunk((0, 0), (2**40, 3))]
    ),
    "a size that overflows": about(
        size=torch.Size([2**61, 2**61]), chunks=[chunk((0, 0), (2**61, 2**61))]
    ),
    "nothing, of a size that overflows": about(
        size=torch.Size([0, 2**61, 2**61]), chunks=[]
    ),
    "more dimensions than there are": about(size=torch.Size([1] * 65)),
    "a chunk that is missing": about(size=torch.Size([2, 4])),
    "no chunks": about(chunks=[]),
    "chunks that are none": about(chunks=7),
    "a chunk outside": about(chunks=[chunk((1, 0), (2, 3))]),
    "a chunk of other dimensions": about(chunks=[chunk((0,), (6,))]),
    "a chunk twice": about(size=torch.Size([4, 3]), chunks=[chunk((0, 0), (2, 3))] * 2),
    "a size that is a list": about(size=[2, 3]),
    "another shape than the bytes have": about(
        size=torch.Size([3, 2]), chunks=[chunk((0, 0), (3, 2))]
    ),
    "another dtype than the bytes have": dtype(torch.int32),
    "a dtype that no store knows": dtype(torch.quint8),
    "no dtype": dtype(None),
    "no places": lambda found: found.storage_data.clear(),
    "a place for no name": lambda found: found.storage_data.update({"a": 3}),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_metadata_that_says_what_it_should_not(store, folder, name):
    real = next(path for path in folder.iterdir() if path.suffix == ".distcp")
    (folder.parent / "secret").write_bytes(real.read_bytes())
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "inner").mkdir()
    (folder / "inner" / "secret").write_bytes(real.read_bytes())
    os.mkfifo(folder / "pipe")
    path = folder / ".metadata"
    found = pickle.loads(path.read_bytes())
    CHANGES[name](found)
    path.write_bytes(pickle.dumps(found))
    refuses(store, folder)


def test_a_bomb_in_the_bytes_of_a_tensor(store, folder, mark):
    found = pickle.loads((folder / ".metadata").read_bytes())
    file = io.BytesIO()
    torch.save(Bomb(mark), file)
    (folder / "bomb").write_bytes(file.getvalue())
    place(relative_path="bomb", offset=0, length=len(file.getvalue()))(found)
    (folder / ".metadata").write_bytes(pickle.dumps(found))
    refuses(store, folder, "not run")
    assert not mark.exists()


def test_a_bomb_in_a_value_is_noted_and_left_alone(store, tmp_path, mark):
    state = {"a": torch.ones(2), "bomb": Bomb(mark), "step": 3}
    dcp.save(state, checkpoint_id=tmp_path / "x", no_dist=True)
    made = import_(store, tmp_path / "x", run=RUN)
    assert made.lost == {"bomb": "pickled object"}
    assert made.notes["values"] == {"step": 3}
    assert not mark.exists()


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_run(data):
    try:
        inert.read(b"\x80\x04" + data + b".")
    except Refused:
        pass


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["torch", "safetensors", "dcp"])
def test_a_flipped_bit_is_an_error_or_a_sound_checkpoint(
    tmp_path_factory, folder, kind
):
    from safetensors.torch import save

    state = {"a": torch.ones(2, 3), "b": torch.zeros(50)}
    file = io.BytesIO()
    torch.save(state, file)
    data = {
        "torch": file.getvalue(),
        "safetensors": save(state),
        "dcp": (folder / ".metadata").read_bytes(),
    }[kind]
    path = folder / ".metadata" if kind == "dcp" else folder.parent / "file"
    store = Store(tmp_path_factory.mktemp("flipped") / "store", create=True)
    for at in range(0, len(data) * 8, max(1, len(data) * 8 // 300)):
        path.write_bytes(
            data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]
        )
        try:
            made = import_(store, folder if kind == "dcp" else path, run=RUN)
        except StoreError:
            continue
        assert made.tensors
    assert not store.verify()
