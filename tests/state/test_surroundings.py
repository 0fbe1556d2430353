"""What a program has changed around itself, and that another process changes too."""

from __future__ import annotations

import json
import os
import sys

import pytest

from gpurescue.state import surroundings
from gpurescue.state.surroundings import Surroundings


@pytest.fixture(autouse=True)
def _as_before(monkeypatch, tmp_path):
    monkeypatch.setenv("GONE", "x")
    monkeypatch.setenv("SAME", "x")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


def test_what_was_changed_is_changed_again(monkeypatch, tmp_path):
    before = Surroundings()
    (tmp_path / "inner").mkdir()
    monkeypatch.setenv("NEW", "1")
    monkeypatch.delenv("GONE")
    sys.path.append("/somewhere")
    os.chdir("inner")
    found = before.read()
    monkeypatch.delenv("NEW")
    monkeypatch.setenv("GONE", "x")
    sys.path.remove("/somewhere")
    os.chdir(tmp_path)
    surroundings.enter(found)
    assert os.environ["NEW"] == "1"
    assert "GONE" not in os.environ
    assert sys.path[-1] == "/somewhere"
    assert os.getcwd() == str(tmp_path / "inner")


def test_what_was_not_changed_is_not_written_down():
    found = json.loads(Surroundings().read())
    assert found["set"] == {}
    assert found["unset"] == []
    assert found["path"] == []


def test_a_folder_that_is_gone_is_left_out(tmp_path):
    facts = {"folder": str(tmp_path / "none"), "path": ["/a"], "set": {}, "unset": []}
    surroundings.enter(json.dumps(facts).encode())
    assert os.getcwd() == str(tmp_path)
    assert sys.path[-1] == "/a"


def test_nothing_is_known_of_older_checkpoints():
    before = dict(os.environ)
    surroundings.enter(b"{}")
    assert dict(os.environ) == before
