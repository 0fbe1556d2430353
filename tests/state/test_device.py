"""Torch's thread-local modes, carried into another thread."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gpurescue.state.device import TorchRuntime  # noqa: E402


def modes() -> tuple[Any, ...]:
    a = torch.ones(2, 2)
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        str(torch.get_default_device()),
        str(a.device),
        (a @ a).dtype,
    )


def in_a_thread() -> tuple[Any, ...]:
    apply = TorchRuntime().capture_modes()
    found: list[tuple[Any, ...]] = []

    def work() -> None:
        apply()
        found.append(modes())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(
    "enter",
    [
        contextlib.nullcontext,
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False),
        lambda: torch.device("meta"),
    ],
    ids=["plain", "no_grad", "inference", "autocast", "device"],
)
def test_modes_of_a_block_are_taken_over(enter):
    with enter():
        assert in_a_thread() == modes()
    assert in_a_thread() == modes()


def test_default_device_is_taken_over():
    torch.set_default_device("meta")
    try:
        assert in_a_thread() == modes()
    finally:
        torch.set_default_device(None)


def test_without_torch_nothing_is_done(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    TorchRuntime().capture_modes()()


def test_mode_that_is_not_there_is_no_failure(monkeypatch, caplog):
    with monkeypatch.context() as patched:
        patched.setattr(torch, "get_autocast_dtype", None)
        apply = TorchRuntime().capture_modes()
    apply()
    assert "was not carried over" in caplog.text


def test_memory_grows_with_what_is_allocated() -> None:
    gc.collect()  # what others have left must not be given back meanwhile
    before = TorchRuntime().memory()["host"]
    kept = torch.ones(20_000_000)
    assert TorchRuntime().memory()["host"] - before > 70_000_000
    del kept
