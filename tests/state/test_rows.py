"""Readers and writers of csv that go on in another program."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from gpurescue.errors import CannotResume
from gpurescue.state import capture, rebuilding, reopening
from gpurescue.state.iterators import Loop


def again(captured):
    parts = rebuilding.Parts(lambda number: None, [], lambda name: None)
    found = capture.rebuilt(captured.objects, captured.streams, parts)
    reopening.go_on(found[capture.FILES])
    return found


ROW = {"a": 1, "b": 'x;"y"'}
WRITERS = {
    "plain": lambda file: csv.writer(file).writerow,
    "another dialect": lambda file: (
        csv.writer(
            file, delimiter=";", quoting=csv.QUOTE_ALL, lineterminator="\n"
        ).writerow
    ),
    "by name": lambda file: csv.DictWriter(file, ["b", "a"], dialect="unix").writerow,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("is_on_disk", [True, False])
def test_a_writer_goes_on(name, is_on_disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def content(file):
        if not is_on_disk:
            return file.getvalue()
        file.close()
        return Path("log.csv").read_bytes()

    file = open("log.csv", "w", newline="") if is_on_disk else io.StringIO()
    write = WRITERS[name](file)
    given = ROW if name == "by name" else list(ROW.values())
    write(given)
    captured = capture.capture({"file": file, "write": write}, [])
    write(given)
    wanted = content(file)
    assert captured.lost == {}
    found = again(captured)
    found["write"](given)
    assert content(found["file"]) == wanted


def test_a_writer_of_a_file_that_is_not_opened_says_so():
    file = open("/proc/self/comm", "w")
    captured = capture.capture({"writer": csv.writer(file), "file": file}, [])
    file.close()
    assert list(captured.lost) == ["file"]
    with pytest.raises(CannotResume, match=r"TextIOWrapper\.write is called"):
        again(captured)["writer"].writerow([1])


LINES = ["a,b", '1,"x', 'y"', "2,z", "3,"]


@pytest.mark.parametrize("make", [csv.reader, csv.DictReader])
@pytest.mark.parametrize("num_taken", [0, 1, 2, 9])
def test_a_reader_goes_on(make, num_taken):
    reader = make(LINES)
    for _ in range(num_taken):
        next(reader, None)
    captured = capture.capture({"reader": reader}, [])
    assert captured.lost == {}
    found = again(captured)["reader"]
    twice = again(capture.capture({"reader": found}, []))["reader"]
    wanted = [(row, reader.line_num) for row in reader]
    assert [(row, found.line_num) for row in found] == wanted
    assert [(row, twice.line_num) for row in twice] == wanted


@pytest.mark.parametrize("make", [csv.reader, csv.DictReader])
def test_a_loop_over_a_reader_of_a_file_cannot_be_gone_on_with(make, tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("\n".join(LINES))
    with path.open() as file:
        reader = make(file)
        next(reader)
        roots = {"file": file, "reader": reader, "<loop 0>": Loop(enumerate(reader))}
        captured = capture.capture(roots, [])
    why = capture.missed(captured.lost)
    assert why is not None
    assert "line by line" in why
