"""Commands that look at a parked run, or change its variables, and leave it parked."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable
from typing import Any

from gpurescue.errors import UsageError
from gpurescue.magics import at, fix, rendering
from gpurescue.magics.front import Front
from gpurescue.magics.scripts import Text, ends_in_semicolon
from gpurescue.magics.session import Job
from gpurescue.recovery import frames
from gpurescue.recovery.engine import State
from gpurescue.recovery.plan import frame_at
from gpurescue.recovery.suspension import HeldFrame, Suspension
from gpurescue.source import names

_HOW = {
    State.RUNNING: "It is running.",
    State.SUSPENDED: (
        "Look with %frames, change variables with %%at, edit with %fix, "
        "go on with %resume, or give up with %resume --abandon."
    ),
    State.FINISHED: "It has finished.",
    State.FAILED: "It has failed.",
    State.ABANDONED: "It was abandoned.",
}


def show_frames(front: Front, index: int | None = None) -> None:
    """``%frames [N]``: the suspended stack, or one frame of it."""
    front.session.suspension()
    front.panels.show_frames(front.session.parked(), index)


def offer_source(front: Front, name: str | None = None) -> None:
    """``%fix [FUNCTION]``: put its current source into a new cell below.

    Or say where it is, if that is in a file.
    """
    found = source(front, name)
    if not found.file:
        front.shell.offer(found.text)
        return
    place = f"line {found.line} of {front.label(found.file)}"
    going_on = ", then go on with %resume" if front.session.alive else ""
    front.shell.say(f"Edit {place} and save it{going_on}.")


def source(front: Front, name: str | None = None) -> fix.Source:
    """The current source of what failed, or of what ``name`` means."""
    if name is None:
        held = front.session.suspension()
        return fix.of_failing(front.session.parked(), held)
    shell = front.shell
    return fix.of_named(front.session.alive, name, shell.names, shell.files())


def run_at(front: Front, body: str, index: int = 0) -> None:
    """``%%at [FRAME]``: run the cell inside a suspended frame."""
    frame_at(front.session.suspension(), index)
    text = front.shell.keep(body)
    value = evaluate(front, text, index)
    if not ends_in_semicolon(text.source):
        front.shell.display(value)


def evaluate(front: Front, text: Text, index: int = 0) -> Any:
    """Run code inside a suspended frame; the value of its last expression.

    Raises:
        SyntaxError: As the cell itself would.
        BaseException: What the code raised, with the user's frames only.
    """
    held = front.session.suspension()
    frame = frame_at(held, index)
    tree = compile(
        text.source, text.filename, "exec", front.shell.flags | ast.PyCF_ONLY_AST, True
    )
    held.changed |= names.changed(tree.body)
    if frames.is_body(frame.frame):
        return _clean(front, lambda: _run_in_namespace(front, frame, tree, text))
    scope = at.FrameScope(held, frame)
    code = at.compile_at(tree, scope, text.filename, flags=front.shell.flags)
    return _clean(front, lambda: scope.run(code))


def _run_in_namespace(
    front: Front, frame: HeldFrame, tree: ast.Module, text: Text
) -> Any:
    """A cell's own frame: its variables are the notebook's."""
    names, flags = frame.frame.f_globals, front.shell.flags
    tree = front.shell.transform(tree)
    last = tree.body[-1] if tree.body else None
    value = ast.Expression(last.value) if isinstance(last, ast.Expr) else None
    if value is not None:
        tree.body.pop()
    exec(compile(tree, text.filename, "exec", flags, dont_inherit=True), names)
    if value is None:
        return None
    return eval(compile(value, text.filename, "eval", flags, True), names)


def _clean(front: Front, run: Callable[[], Any]) -> Any:
    failed: BaseException
    try:
        return run()
    except BaseException as error:  # noqa: BLE001 - shown as in any other cell
        error.__traceback__ = frames.without_ours(error.__traceback__)
        failed = error
    raise rendering.as_in_a_cell(front.shell.ip, failed)


def value_of(front: Front, expression: str, index: int = 0) -> Any:
    """The value of an expression in a suspended frame, for ``--return``.

    Raises:
        UsageError: It is no expression.
    """
    try:
        compile(expression, "<--return>", "eval", dont_inherit=True)
    except SyntaxError as error:
        raise UsageError(
            f"{expression!r} is not a Python expression ({error.msg}); give "
            "--return one that can be evaluated in the frame."
        ) from None
    return evaluate(front, front.shell.keep(expression), index)


def state(front: Front) -> str:
    """``%rescue``: what the run is doing, what was patched, and how to go on."""
    job = front.session.job
    if job is None:
        return "No run yet; start one with %%resilient."
    problem = front.files.problem()
    return "\n".join([_summary(job), *filter(None, [problem]), *_history(job)])


def _summary(job: Job) -> str:
    run = job.run
    where = f" at {run.clock}" if str(run.clock) else ""
    times = "once" if run.num_suspensions == 1 else f"{run.num_suspensions} times"
    held = run.suspension
    why = f" ({_reason(held)})" if held is not None else ""
    return (
        f"Run {run.number}: {run.state.value}{where}{why}; suspended {times}, "
        f"{len(job.patches)} redefinition{'' if len(job.patches) == 1 else 's'}. "
        f"{_HOW.get(run.state, '')}"
    ).rstrip()


def _reason(held: Suspension) -> str:
    return "paused" if held.is_paused else rendering.error_line(held.error)


def _history(job: Job) -> list[str]:
    found: list[str] = []
    for number, patch in enumerate(job.patches, 1):
        name = "the cell" if patch.name == "<module>" else patch.name
        found += ["", f"Patch {number}: {name}"]
        found += difflib.unified_diff(
            patch.before.strip("\n").splitlines(),
            patch.after.strip("\n").splitlines(),
            "before",
            "after",
            lineterm="",
            n=2,
        )
    return found
