"""Which files are the user's own."""

from __future__ import annotations

import os
import sysconfig

import pytest

import gpurescue
from gpurescue.source import cells
from gpurescue.source.folders import Folders, is_left_out


def test_only_what_lies_below_the_folder(tmp_path):
    (tmp_path / "nb" / "src").mkdir(parents=True)
    folders = Folders([tmp_path / "nb", tmp_path / "nowhere"])
    assert folders.holds(str(tmp_path / "nb" / "a.py"))
    assert folders.holds(str(tmp_path / "nb" / "src" / "a.py"))
    assert not folders.holds(str(tmp_path / "a.py"))
    assert not folders.holds(str(tmp_path / "nb" / ".." / "a.py"))
    assert not folders.holds(str(tmp_path / "nb2" / "a.py"))
    assert folders.label(str(tmp_path / "nb" / "src" / "a.py")) == os.path.join(
        "src", "a.py"
    )
    assert folders.label("elsewhere.py") == "elsewhere.py"


def test_a_relative_name_counts_from_where_we_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = Folders(["."])
    assert folders.holds("a.py")
    monkeypatch.chdir("/")
    assert folders.holds(str(tmp_path / "a.py"))


def test_neither_libraries_nor_gpurescue_itself():
    folders = Folders(["/"])
    assert not folders.holds(os.__file__)
    assert not folders.holds(pytest.__file__)
    assert not folders.holds(gpurescue.__file__)
    assert not folders.holds(cells.__file__)
    assert folders.holds(__file__)
    scripts = os.path.join(sysconfig.get_paths()["stdlib"], "json", "tool.py")
    assert not folders.holds(scripts)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"x = 1\n  # gpurescue: off  \r\ny = 2\n", True),
        (b"#gpurescue:off", True),
        (b"x = 1  # gpurescue: off\n", False),
        (b"# gpurescue: offline\n", False),
        (b"", False),
    ],
)
def test_the_line_that_leaves_a_file_out(content, expected):
    assert is_left_out(content) is expected
