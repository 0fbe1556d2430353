"""Memory that runs out, of a machine or of a container."""

from __future__ import annotations

import pytest

from gpurescue.store import pressure

GB = 2**30


def group(folder, limit, used, inactive):
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")
    return folder


def machine(folder, total, free):
    path = folder / "meminfo"
    path.write_text(f"MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {free} kB\n")
    return path


@pytest.mark.parametrize(
    ("free", "is_high"), [(1000, True), (49_000, True), (51_000, False)]
)
def test_of_a_machine(tmp_path, free, is_high):
    found = pressure.is_high(machine(tmp_path, 1_000_000, free), tmp_path / "none")
    assert found is is_high


@pytest.mark.parametrize(
    ("limit", "used", "inactive", "is_high"),
    [
        (10 * GB, 9.8 * GB, 0, True),
        (10 * GB, 9.8 * GB, 2 * GB, False),
        (10 * GB, 5 * GB, 0, False),
        ("max", 5 * GB, 0, False),
    ],
)
def test_of_a_container(tmp_path, limit, used, inactive, is_high):
    plenty = machine(tmp_path, 1_000_000, 900_000)
    found = pressure.is_high(plenty, group(tmp_path, limit, int(used), inactive))
    assert found is is_high


def test_where_nothing_says(tmp_path):
    assert not pressure.is_high(tmp_path / "none", tmp_path / "none")
