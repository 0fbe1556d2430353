"""The key that checkpoints are signed with."""

from __future__ import annotations

import threading

import pytest

from gpurescue.store.keys import key


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    return tmp_path / "jupyter"


def test_there_is_none_until_it_is_needed(home) -> None:
    assert key() is None
    assert not home.exists()


def test_it_is_made_once_and_for_its_owner_only(home) -> None:
    made = key(create=True)
    assert len(made) == 32
    assert key() == key(create=True) == made
    (path,) = home.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_that_make_one_have_the_same(home) -> None:
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(key(create=True)))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(list(home.iterdir())) == 1
