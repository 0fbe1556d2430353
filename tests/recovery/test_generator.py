"""Random programs: a fault anywhere, mended, leaves no trace.

``python tests/recovery/generator/run.py --programs 20000`` tries more of them.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent / "generator"))

import harness
import minimise
import programs
import properties

pytestmark = pytest.mark.thorough

NUM_PROGRAMS = 25


def seeds(part: int) -> st.SearchStrategy[int]:
    """Numbers of programs; other ones for each part of the work."""
    return st.integers(0, 2**40).map(lambda number: 4 * number + part)


@pytest.mark.parametrize("part", range(4))
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_fault_anywhere_in_a_random_program_leaves_no_trace(part: int) -> None:
    @settings(
        max_examples=NUM_PROGRAMS,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(seeds(part))
    def try_program(seed: int) -> None:
        rng = random.Random(seed)
        parts = programs.make(rng).cells
        case = properties.draw(parts, rng)
        for tried in (properties.Case(), case) if case is not None else ():
            verdict = properties.check(parts, tried)
            if verdict.problem:
                shows = properties.showing(tried, verdict)
                small = minimise.minimise(parts, shows, seconds=60.0)
                text = "\n# %%\n".join(small)
                pytest.fail(f"{tried}: {verdict.problem}\n{text}")

    try_program()
    harness.forget()


def test_the_command_for_a_longer_budget_ends_with_figures():
    command = [
        sys.executable,
        Path(__file__).parent / "generator" / "run.py",
        "--programs",
        "3",
    ]
    done = subprocess.run(
        [*command, "--workers", "1"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["programs"] == 3
