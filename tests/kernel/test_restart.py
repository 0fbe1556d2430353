"""The end of the kernel while a run is parked."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.kernel


# How long the manager waits before it kills a kernel that does not leave by itself,
# and what a kernel that leaves by itself never takes, on however busy a machine.
PATIENCE, PROMPT = 60.0, 20.0  # seconds


def test_restart_while_parked_is_quick(notebook):
    assert (
        notebook.run("%%resilient\nfor i in range(3):\n    1 / 0\n").error
        == "Suspended"
    )
    notebook.manager.shutdown_wait_time = PATIENCE
    began = time.monotonic()
    notebook.manager.restart_kernel(now=False)
    took = time.monotonic() - began
    notebook.client.wait_for_ready(timeout=30)
    assert took < PROMPT
    assert notebook.run("1 + 1").value == "2"
    assert notebook.run("%load_ext gpurescue").is_ok
    assert notebook.run("%resume").error == "UsageError"
