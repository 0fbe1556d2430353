"""Files that a program appends to and closes: cut back to where a checkpoint was."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gpurescue.state import written


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def test_what_was_appended_since_is_cut_off_and_kept(folder: Path) -> None:
    for name in ("log", "inner/log", "same", "anew", "gone"):
        (folder / name).write_text("before\n")
    found = written.read(0.0)
    for name in ("log", "inner/log"):
        with open(folder / name, "a") as file:
            file.write("after\n")
    (folder / "anew").write_text("after, and longer\n")
    (folder / "gone").unlink()
    (folder / "made").write_text("after\n")
    appended, touched = written.appended(found, time.time())
    assert not touched
    assert {x.path for x in appended} == {
        str(folder / "log"),
        str(folder / "inner/log"),
    }
    others, _ = written.appended(found, time.time(), {str(folder / "log")})
    assert len(others) == 1
    aside = folder.parent / "aside"
    written.cut(appended, aside)
    texts = {name: (folder / name).read_text() for name in ("log", "inner/log")}
    assert set(texts.values()) == {"before\n"}
    assert sorted(x.name for x in aside.iterdir()) == ["log.1", "log.2"]
    assert {x.read_text() for x in aside.iterdir()} == {"after\n"}
    assert (folder / "anew").read_text() == "after, and longer\n"
    assert written.appended(found, time.time()) == ((), ())


def test_what_somebody_appends_behind_the_end_of_a_run_stays(folder: Path) -> None:
    (folder / "log").write_text("before\n")
    found = written.read(0.0)
    with open("log", "a") as file:
        file.write("by hand\n")
    appended, touched = written.appended(found, time.time() - 3600)
    assert not appended
    assert [x.path for x in touched] == [str(folder / "log")]


def test_only_files_that_were_written_to_since_the_beginning_are_read(
    folder: Path,
) -> None:
    for name in ("old", "new", ".hidden"):
        (folder / name).write_text("text")
    os.utime(folder / "old", (1000.0, 1000.0))
    (folder / "link").symlink_to(folder / "new")
    found = written.read(time.time() - 3600)
    assert [os.path.basename(x.path) for x in found.files] == ["new"]


def test_a_folder_with_very_many_files_is_looked_at_in_part(folder: Path) -> None:
    for number in range(2100):
        (folder / "inner" / f"{number:05}").touch()
    (folder / "log").touch()
    names = {os.path.basename(x.path) for x in written.read(0.0).files}
    assert len(names) < 2100
    assert "log" in names
