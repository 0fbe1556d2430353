"""Sample programs: the same with guards as without, and after a fault anywhere."""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import pytest

sys.path.insert(0, str(Path(__file__).parent / "generator"))

import edits

from gpurescue.errors import CannotResume
from gpurescue.recovery.engine import Run, State
from gpurescue.recovery.plan import Restart
from gpurescue.source import tree as trees

# What cannot go on exactly, by the number of the call that fails: see LIMITS.md.
LEFT = "has already (been )?left|already been left"
ITERATOR = "iterator of the loop .* itself failed"
STAR = "holds a `try` block that cannot be entered again"
END = "failed in the end of the `with` block"
TWICE = "would run .* a second time"
CHANGED = "may have been changed"
REFUSED = {
    "attributes": {2: TWICE, 6: TWICE},
    "containers": {2: TWICE, 8: TWICE},
    "enums": {10: TWICE},
    "globals_changed": {9: CHANGED},
    "properties": {13: TWICE, 18: TWICE, 22: TWICE},
    # Thrown, closed or unpacked into: C code between the two may handle it.
    "generators": {34: LEFT},
    "generator_methods": {19: LEFT, 20: LEFT},
    "loops_shared": {16: ITERATOR},
    "try_star_twice": {3: STAR, 4: STAR, 5: STAR, 6: STAR},
    "with_expressions": {13: END},
    "iterators_user": {25: TWICE, 26: TWICE, 28: LEFT, 29: LEFT},
}
NAMES = sorted(path.stem for path in harness.SAMPLES.glob("*.py"))


@pytest.fixture(autouse=True, scope="module")
def _freeze() -> Any:
    gc.freeze()  # carrying an edit over looks at all objects but these
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _forget() -> Any:
    yield
    harness.forget()


@pytest.mark.parametrize("name", NAMES)
def test_guards_change_nothing(name: str) -> None:
    cells = harness.load(name)
    trace, run, _ = harness.guarded(cells, None)
    assert run.state is State.FINISHED
    assert run.num_suspensions == 0
    assert trace == harness.plain(cells)


def plain_retry(book: harness.Notebook, run: Run) -> Restart:
    return Restart()


class RunsAgain(Exception):
    """What has its value is run again, as it should be: what made it was edited."""


def edited(book: harness.Notebook, run: Run) -> Restart:
    """Add statements to the failing function, and move all lines of its cell."""
    assert run.suspension is not None
    held = run.suspension.innermost
    unit = held.definition.unit
    scope = held.definition.scope
    own = edits.WHOLE if isinstance(scope, ast.Module) else edits.span(scope)
    source = edits.added(unit.source, 2, trees.span(held.statement), own)
    if run.suspension.frames[-1].definition.unit is unit:
        return _made(run, Restart(body=book.new_body(source)))
    book.redefine(run, _definitions(source))
    return _made(run, Restart())


def _made(run: Run, restart: Restart) -> Restart:
    if any("what it uses was edited" in note for note in run.plan(restart).notes):
        raise RunsAgain
    return restart


def _definitions(source: str) -> str:
    """The cell without the state that running it again would begin anew."""
    tree = ast.parse(source)
    kinds = trees.Function | ast.ClassDef | ast.Import | ast.ImportFrom
    lines = source.splitlines(keepends=True)
    for node in tree.body:
        if not isinstance(node, kinds):
            for i in range(node.lineno - 1, node.end_lineno or 0):
                lines[i] = "\n"
    return "".join(lines)


@pytest.mark.parametrize("edit", [plain_retry, edited])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_fault_at_any_call_leaves_no_trace(
    name: str, edit: Callable[[harness.Notebook, Run], Restart]
) -> None:
    cells = harness.load(name)
    expected = harness.plain(cells)
    num_calls = harness.guarded(cells, None)[2].num_calls
    for fail_at in range(1, num_calls + 1):
        reason = REFUSED.get(name, {}).get(fail_at)
        if reason is not None:
            with pytest.raises(CannotResume, match=reason):
                harness.guarded(cells, fail_at, edit)
            continue
        try:
            trace, run, probe = harness.guarded(cells, fail_at, edit)
        except RunsAgain:
            continue
        assert run.state is State.FINISHED, (fail_at, run.error)
        if run.num_suspensions == 0:  # the sample, or a __del__, has swallowed it
            assert trace == harness.plain(cells, fail_at), fail_at
            continue
        assert trace == expected, fail_at
        assert probe.num_calls == num_calls + 1, fail_at
