"""The end of the kernel while a run is parked."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.kernel


def test_restart_while_parked_is_quick(notebook):
    assert (
        notebook.run("%%resilient\nfor i in range(3):\n    1 / 0\n").error
        == "Suspended"
    )
    began = time.monotonic()
    notebook.manager.restart_kernel(now=False)
    took = time.monotonic() - began
    notebook.client.wait_for_ready(timeout=30)
    assert took < 2.0
    assert notebook.run("1 + 1").value == "2"
    assert notebook.run("%load_ext gpurescue").is_ok
    assert notebook.run("%resume").error == "UsageError"
