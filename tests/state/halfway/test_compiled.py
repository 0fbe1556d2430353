"""The first ``torch.compile`` of a process wraps parts of all optimizers, for good."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

HERE = Path(__file__).parent


@pytest.mark.thorough
def test_steps_are_done_once_or_refused_after_something_was_compiled():
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-p", "no:randomly", str(HERE / "test_steps.py")],
        env=os.environ | {"GPURESCUE_TEST_COMPILED": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
