"""A process that dies while it takes a checkpoint loses no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMES = 500 if os.environ.get("GPURESCUE_LONG") == "1" else 25


@pytest.mark.thorough
def test_every_published_checkpoint_outlives_a_kill(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killing.py")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "store"), str(TIMES), "1"],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"] == TIMES
    assert found["published"] > TIMES / 10
