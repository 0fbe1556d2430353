"""Files that are open when a program is captured, and that go on in another one."""

from __future__ import annotations

import gzip
import io
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpurescue.errors import CannotResume
from gpurescue.state import capture, graph, rebuilding, reopening


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def taken(roots, others=()):
    return capture.capture(roots, [], graph.Program(others=others))


def brought(captured):
    parts = rebuilding.Parts(lambda number: None, [], lambda name: None)
    return capture.rebuilt(captured.objects, captured.streams, parts)


def again(captured):
    """As a run has it that goes on."""
    found = brought(captured)
    reopening.go_on(found[capture.FILES])
    return found


@dataclass(frozen=True)
class Way:
    """A way to open a file, and how a program uses it."""

    mode: str
    options: tuple[tuple[str, Any], ...] = ()
    steps: Callable[[Any, int], object] = lambda file, step: file.write(
        f"{step} and \n\u00e9\n"
    )

    def open(self, path):
        return open(path, self.mode, **dict(self.options))


def in_bytes(file, step):
    return file.write(b"%d\n" % step * 3000)


def reading(file, step):
    return file.read(7), file.readline(), file.tell()


def both(file, step):
    file.write("x" * step)
    file.seek(0)
    found = file.read(step)
    file.seek(0, os.SEEK_END)
    return found


WAYS = {
    "w": Way("w"),
    "x": Way("x"),
    "a": Way("a"),
    "r+": Way("r+", steps=both),
    "w+": Way("w+", steps=both),
    "a+": Way("a+", steps=both),
    "w, its own ends of lines": Way("w", (("newline", "\r\n"),)),
    "w, ends of lines as they are": Way("w", (("newline", ""),)),
    "w, line by line": Way("w", (("buffering", 1),)),
    "w, with a mark": Way("w", (("encoding", "utf-16"),)),
    "w, with a signature": Way("w", (("encoding", "utf-8-sig"),)),
    "w, errors": Way("w", (("encoding", "ascii"), ("errors", "backslashreplace"))),
    "wb": Way("wb", steps=in_bytes),
    "ab": Way("ab", steps=in_bytes),
    "wb, no buffer": Way("wb", (("buffering", 0),), steps=in_bytes),
    "wb, a small buffer": Way("wb", (("buffering", 16),), steps=in_bytes),
    "r": Way("r", steps=reading),
    "r, ends of lines as they are": Way("r", (("newline", ""),), steps=reading),
    "r, its own ends of lines": Way("r", (("newline", "\r\n"),), steps=reading),
    "rb": Way("rb", steps=reading),
    "rb, no buffer": Way("rb", (("buffering", 0),), steps=reading),
}
NUM_STEPS = 6


@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("name", WAYS)
def test_a_file_goes_on_where_it_stood(name, at, tmp_path):
    way, path = WAYS[name], tmp_path / "log.txt"
    if way.mode not in {"x"}:
        path.write_text("before\r\nand\n\u00e4nd\n" * 20, encoding="utf-8", newline="")
    with way.open("log.txt") as file:
        for step in range(at):
            way.steps(file, step)
        captured = taken({"file": file})
        wanted = [way.steps(file, step) for step in range(at, NUM_STEPS)]
    assert captured.lost == {}
    content = path.read_bytes()
    found = again(captured)["file"]
    with found:
        assert [way.steps(found, step) for step in range(at, NUM_STEPS)] == wanted
        for fact in ("name", "mode", "encoding", "errors", "line_buffering"):
            assert getattr(found, fact, None) == getattr(file, fact, None)
        assert (found.readable(), found.writable()) == way_of(way)
    assert path.read_bytes() == content


def way_of(way):
    return "r" in way.mode or "+" in way.mode, "r" not in way.mode or "+" in way.mode


def test_what_the_killed_run_wrote_is_cut_only_when_the_run_goes_on(tmp_path):
    with open("log.txt", "w") as file:
        file.write("kept\n")
        captured = taken({"file": file, "write": file.write})
        file.write("written again\n")
    before = Path("log.txt").read_text()
    looked = rebuilding.rebuild(
        captured.objects, rebuilding.Parts(lambda n: None, [], lambda name: None)
    )
    assert "log.txt' that is opened where its run goes on" in repr(looked["file"])
    with pytest.raises(CannotResume, match=r"log\.txt'\.write is called"):
        looked["write"]("x")
    found = brought(captured)
    assert Path("log.txt").read_text() == before
    reopening.go_on(found[capture.FILES])
    assert Path("log.txt").read_text() == "kept\n"
    found["file"].close()


def test_objects_over_one_file_stay_one():
    with open("log.txt", "w") as file:
        file.write("abc")
        roots = {"raw": file.buffer.raw, "buffer": file.buffer, "file": file}
        captured = taken({**roots, "parts": [file, {"same": file}]})
        file.write("lost")
    found = again(captured)
    with found["file"] as file:
        assert found["buffer"] is file.buffer
        assert found["raw"] is file.buffer.raw
        assert found["parts"] == [file, {"same": file}]
        assert file.tell() == 3


def test_another_folder_does_not_matter(tmp_path, monkeypatch):
    with open("log.txt", "w") as file:
        file.write("abc")
        (tmp_path / "inner").mkdir()
        monkeypatch.chdir("inner")
        captured = taken({"file": file})
    with again(captured)["file"] as found:
        assert found.name == "log.txt"
        found.write("def")
    assert (tmp_path / "log.txt").read_text() == "abcdef"


def test_a_reader_and_a_writer_of_one_file():
    with open("log.txt", "w") as file, open("log.txt") as reader:
        file.write("first\nsecond\n")
        file.flush()
        assert reader.readline() == "first\n"
        captured = taken({"reader": reader, "file": file})
        file.write("written again\n")
    found = again(captured)
    with found["file"] as file, found["reader"] as reader:
        file.write("third\n")
        file.flush()
        assert reader.read() == "second\nthird\n"


def test_two_that_append_to_one_file_and_keep_nothing_in_memory():
    with open("log.txt", "a") as one, open("log.txt", "a") as two:
        for file in (one, two, one):
            file.write("line\n")
            file.flush()
        captured = taken({"one": one, "two": two})
        two.write("written again\n")
    found = again(captured)
    with found["one"] as one, found["two"] as two:
        assert captured.lost == {}
        assert os.path.getsize("log.txt") == 15


def test_two_that_write_to_one_file_from_memory_are_named():
    with open("log.txt", "a") as one, open("log.txt", "a") as two:
        one.write("line\n")
        two.write("line\n")
        captured = taken({"one": one, "two": two})
    assert captured.lost["one"].startswith("TextIOWrapper: is open twice")
    with pytest.raises(CannotResume, match=r"log\.txt is open twice"):
        brought(captured)


CHANGES = {
    "cannot be opened again": lambda path: path.unlink(),
    "has 3 bytes, and had": lambda path: path.write_text("abc"),
    "is not what it was": lambda path: path.write_text("other " * 100),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_a_file_that_is_not_what_it_was_is_refused_before_any_is_cut(reason):
    names = ["a.txt", "b.txt", "c.txt"]
    files = [open(name, "w") for name in names]
    for file in files:
        file.write("x" * 200)
    captured = taken(dict(zip("abc", files, strict=True)))
    for file in files:
        file.write("written again")
        file.close()
    CHANGES[reason](Path("b.txt"))
    before = [Path(n).read_text() for n in ("a.txt", "c.txt")]
    with pytest.raises(CannotResume, match=rf"b\.txt {reason}"):
        again(captured)
    assert [Path(n).read_text() for n in ("a.txt", "c.txt")] == before


def test_what_was_written_over_is_found_behind_the_position():
    Path("table").write_bytes(b"." * 1_000_000)
    with open("table", "r+b") as file:
        file.seek(500_000)
        captured = taken({"file": file})
        file.write(b"x")
    with pytest.raises(CannotResume, match="is not what it was"):
        brought(captured)


def test_a_file_that_was_read_must_be_as_long_as_it_was():
    Path("data").write_text("abc\n" * 10)
    with open("data") as file:
        file.readline()
        captured = taken({"file": file})
    with open("data", "a") as file:
        file.write("more")
    with pytest.raises(CannotResume, match="which the run was reading, has 44 bytes"):
        brought(captured)


def test_a_file_that_only_other_cells_use_is_not_cut():
    with open("notes", "a") as notes, open("gone", "w") as gone:
        notes.write("one\n")
        captured = taken({"notes": notes, "gone": gone}, others={"notes", "gone"})
        notes.write("two\n")
    os.remove("gone")
    found = again(captured)
    with found["notes"] as notes:
        notes.write("three\n")
    assert Path("notes").read_text() == "one\ntwo\nthree\n"
    assert "that cannot be opened: No such file" in repr(found["gone"])


def _iterated():
    Path("lines").write_text("a\nb\n")
    file = open("lines")
    next(file)
    return file


def _replaced():
    file = open("log", "w")
    os.replace(_new("other"), "log")
    return file


def _new(name):
    Path(name).write_text("")
    return name


LOST = {
    "line by line": _iterated,
    "a temporary file": tempfile.NamedTemporaryFile,
    "was removed, or another": tempfile.TemporaryFile,
    "another one is in its place": _replaced,
    "belongs to the process": lambda: open("/proc/self/status"),
    "no plain file": lambda: os.fdopen(os.pipe()[1], "w"),
    "text in utf-7": lambda: open("log", "w", encoding="utf-7"),
    "something that is used as one": lambda: io.TextIOWrapper(io.BytesIO(b"x")),
    "GzipFile": lambda: gzip.open("log.gz", "w"),
}


@pytest.mark.parametrize("reason", LOST)
def test_what_cannot_be_opened_again_is_named_with_the_reason(reason):
    if reason == "no plain file":
        read, write = os.pipe()
        os.close(read)
        file = os.fdopen(write, "w")
    else:
        file = LOST[reason]()
    with file:
        captured = taken({"file": file, "n": 3})
    (why,) = captured.lost.values()
    assert reason in why
    found = again(captured)
    assert found["n"] == 3
    assert "that could not be kept" in repr(found["file"])


def test_the_streams_of_a_process_are_those_of_the_next_one(monkeypatch):
    captured = taken({"out": sys.stdout, "err": sys.stderr, "write": sys.stdout.write})
    assert captured.lost == {}
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    found = again(captured)
    assert found["out"] is sys.stdout
    assert found["err"] is sys.stderr
    found["write"]("text")
    assert sys.stdout.getvalue() == "text"


@pytest.mark.parametrize("mode", ["w", "r+", "rb", "ab+", "x"])
@pytest.mark.parametrize("buffering", [-1, 0])
def test_a_closed_file_is_a_closed_file(mode, buffering):
    if mode != "x":
        _new("log")
    if "b" not in mode and not buffering:
        mode = f"{mode}b"
    with open("log", mode, buffering=buffering) as file:
        pass
    os.remove("log")
    captured = taken({"file": file})
    assert captured.lost == {}
    found = again(captured)["file"]
    assert found.closed
    assert type(found) is type(file)
    assert (found.name, found.mode) == (file.name, file.mode)
