"""What all tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [
    str(Path(__file__).parent / name)
    for name in ("recovery", "scenarios", "kernel", "state", "state/halfway")
]


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under test our own failures are raised, not hidden behind the user's."""
    from gpurescue.recovery import guards, own
    from gpurescue.recovery.handlers import walk

    monkeypatch.setattr(guards, "STRICT", True)
    monkeypatch.setattr(own, "STRICT", True)
    monkeypatch.setattr(walk, "STRICT", True)
