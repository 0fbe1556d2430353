"""Sample programs: the same with guards as without, and after a fault anywhere."""

from __future__ import annotations

import harness
import pytest

from gpurescue.errors import CannotResume
from gpurescue.recovery.engine import State

# A generator that fails while it is closed: who closes it cannot always be told, so
# the exception passes to the caller, where the close itself cannot be run again.
REFUSED = {("generators", 34): "numbers has already been left by the exception"}
NAMES = sorted(path.stem for path in harness.SAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_guards_change_nothing(name: str) -> None:
    cells = harness.load(name)
    trace, run, _ = harness.guarded(cells, None)
    assert run.state is State.FINISHED
    assert run.num_suspensions == 0
    assert trace == harness.plain(cells)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_fault_at_any_call_leaves_no_trace(name: str) -> None:
    cells = harness.load(name)
    expected = harness.plain(cells)
    num_calls = harness.guarded(cells, None)[2].num_calls
    for fail_at in range(1, num_calls + 1):
        if (name, fail_at) in REFUSED:
            with pytest.raises(CannotResume, match=REFUSED[name, fail_at]):
                harness.guarded(cells, fail_at)
            continue
        trace, run, probe = harness.guarded(cells, fail_at)
        if run.num_suspensions == 0:  # Python itself has swallowed it: a __del__
            assert expected[fail_at - 1] == "close"
            continue
        assert run.state is State.FINISHED, (fail_at, run.error)
        assert trace == expected, fail_at
        assert probe.num_calls == num_calls + 1, fail_at
