"""Checkpoints that a run takes by itself."""

from __future__ import annotations

import errno
import os
import sys
import time

import pytest
import saving
import torch

from gpurescue.state.capture import State
from gpurescue.store.checkpointer import Checkpointer
from gpurescue.store.policy import Settings
from gpurescue.store.reading import Reader
from gpurescue.store.regular import Regular
from gpurescue.store.store import Store

OFTEN = Settings(budget=1.0, min_interval=0.0)


def regular(path, settings, variables):
    def opened(report):
        return Checkpointer(Store(path, create=True), saving.RUN, on_done=report)

    return Regular(opened, settings, lambda frame, anyway: State(variables=variables))


def looked(found: Regular, until) -> None:
    """Go round a loop until something is so."""
    deadline = time.monotonic() + 60
    num_rounds = 0
    while not until():
        assert time.monotonic() < deadline
        num_rounds += 1
        assert found.look(sys._getframe(), num_rounds) > 0
        time.sleep(0.001)


def test_checkpoints_are_taken_without_being_asked_for(tmp_path) -> None:
    net = torch.nn.Linear(200, 200)
    found = regular(tmp_path / "s", OFTEN, {"net": net})

    def are_there() -> bool:
        return (
            found.checkpointer is not None and found.checkpointer.counts.published > 2
        )

    looked(found, are_there)
    found.close()
    store = Store(tmp_path / "s")
    assert not store.verify()
    manifest, _ = store.manifest(store.rows()[-1].id)
    assert torch.equal(Reader(store, manifest).tensor("net.weight"), net.weight)


def test_a_run_that_is_over_soon_leaves_nothing_behind(tmp_path) -> None:
    found = regular(tmp_path / "s", Settings(), {})
    for number in range(50):
        found.look(sys._getframe(), number)
    found.close()
    assert not (tmp_path / "s").exists()


def test_one_that_is_wanted_is_taken_at_once(tmp_path) -> None:
    found = regular(tmp_path / "s", Settings(), {"x": torch.ones(3)})
    found.want()
    looked(found, lambda: found.checkpointer and found.checkpointer.counts.published)
    assert not found.is_wanted
    found.close()


@pytest.mark.parametrize("at", ["open", "write"])
def test_a_disk_that_takes_nothing_is_told_once(tmp_path, monkeypatch, at) -> None:
    told = []
    found = regular(tmp_path / "s", OFTEN, {"x": torch.ones(3)})
    found.on_problem = told.append
    if at == "open":
        (tmp_path / "s").write_text("in the way")
        looked(found, lambda: told)
    else:

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        looked(found, lambda: found.checkpointer)
        monkeypatch.setattr(os, "pwrite", full)
        looked(found, lambda: found.checkpointer.counts.failed > 3)
        assert "No space left on device" in told[0]
    assert len(told) == 1
    found.close()


def test_a_state_that_cannot_be_captured_is_told_once(tmp_path) -> None:
    class Odd(dict):
        def __reduce__(self):
            return dict, (), None, None, map(int, ["none"])

    told: list[str] = []
    found = regular(tmp_path / "s", OFTEN, {"x": Odd()})
    found.on_problem = told.append
    looked(found, lambda: told)
    for number in range(1000, 1010):
        found.look(sys._getframe(), number)
    found.close()
    (why,) = told
    assert "could not be captured: ValueError: invalid literal" in why
