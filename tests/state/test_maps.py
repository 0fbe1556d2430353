"""Arrays of NumPy that are files, written down and mapped again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from gpurescue.errors import CannotResume
from gpurescue.state import graph, maps, rebuilding

Roots = dict[str, Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.arange(60_000, dtype=np.int32).tofile(tmp_path / "data")
    return tmp_path / "data"


def taken(roots: Roots) -> tuple[graph.Captured, list[bytes]]:
    """What is captured, with the memory as it is now."""
    found = graph.capture(roots)
    assert not found.lost
    return found, [bytes(buffer.raw()) for buffer in found.buffers]


def again(copy: tuple[graph.Captured, list[bytes]], *, goes_on: bool = True) -> Roots:
    found, buffers = copy
    parts = rebuilding.Parts({}.get, [bytearray(x) for x in buffers], {}.get)
    object.__setattr__(parts, "goes_on", goes_on)
    made = rebuilding.rebuild(found.data, parts)
    maps.go_on(parts.maps)
    return made


def test_one_that_is_only_read_is_not_copied(path: Path) -> None:
    data = np.memmap(path, np.int32, "r", offset=400, shape=(100, 200))
    copy = taken({"data": data, "rows": data[3:9:2, ::-1]})
    assert sum(map(len, copy[1])) == 0
    assert len(copy[0].data) < 2000
    for goes_on in (True, False):
        found = again(copy, goes_on=goes_on)
        assert type(found["data"]) is np.memmap
        assert np.array_equal(found["data"], data)
        assert np.array_equal(found["rows"], data[3:9:2, ::-1])
        assert found["rows"].base is found["data"].base
        assert not found["data"].flags.writeable


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("mode", ["r+", "w+"])
def test_what_was_written_is_in_the_file_again(
    path: Path, mode: Any, order: Any
) -> None:
    data = np.memmap(path, np.float32, mode, shape=(50, 4), order=order)
    data[:] = np.random.default_rng(0).random((50, 4))
    wanted = np.array(data)
    copy = taken({"data": data, "row": data[7]})
    data[:] = 0
    data.flush()
    looked = again(copy, goes_on=False)
    assert type(looked["data"]) is np.ndarray
    assert np.array_equal(looked["data"], wanted)
    assert np.array_equal(looked["row"], wanted[7])
    assert not np.array(data).any()  # nothing was written
    found = again(copy)
    assert np.array_equal(data, wanted)
    found["row"][:] = 5
    assert np.array_equal(data[7], [5] * 4)


def test_a_private_copy_stays_one(path: Path) -> None:
    data = np.memmap(path, np.int32, "c")
    data[0] = 7
    found = again(taken({"data": data}))["data"]
    assert found[0] == 7
    assert np.fromfile(path, np.int32)[0] == 0


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_file_that_is_another_one_is_refused(path: Path, mode: Any) -> None:
    data = np.memmap(path, np.int32, mode, shape=(5000,))
    copy = taken({"data": data})
    path.write_bytes(b"\1" * (path.stat().st_size - (mode != "r")))
    with pytest.raises(CannotResume, match=r"data.*is not what it was"):
        again(copy)
    path.unlink()
    with pytest.raises(CannotResume, match=r"data cannot be mapped again"):
        again(copy)
