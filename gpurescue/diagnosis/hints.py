"""What to type next."""

from __future__ import annotations

from dataclasses import dataclass

from gpurescue.recovery import frames
from gpurescue.recovery.suspension import HeldFrame, Suspension
from gpurescue.source.locate import Site

_LOCALS = ".<locals>."


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """One thing that the user can do.

    Attributes:
        command: What to type; for ``is_gesture``, what to do.
        purpose: What it does.
        is_gesture: True if ``command`` is a sentence and not a magic.
    """

    command: str
    purpose: str
    is_gesture: bool = False


_STACK = "see every frame with its variables"
_NEW_KERNEL = Hint(
    command="Restart the kernel, then %load_ext gpurescue and %restore",
    purpose="the device takes no more commands of this process",
    is_gesture=True,
)
_STOP = Hint(command="%resume --raise", purpose="stop it with a KeyboardInterrupt")


def hints(suspension: Suspension, label: str = "") -> tuple[Hint, ...]:
    """What to do about a run that is held there.

    Args:
        suspension: The run.
        label: What to call the cell or file that it is in.
    """
    held = suspension.innermost
    if suspension.lost:
        return _NEW_KERNEL, Hint(command="%frames", purpose=_STACK)
    edit = _edit_cell() if frames.is_body(held.frame) else _edit_function(held)
    if held.definition.unit.is_file:
        edit = (_edit_file(held, label), edit[-1])
    stack = Hint(command="%frames", purpose=_STACK)
    last = (stack, _STOP) if suspension.is_paused else (stack,)
    return (*edit, _resume(suspension), *last)


def _edit_cell() -> tuple[Hint, ...]:
    return (
        Hint(
            command="Edit this cell and run it again",
            purpose="the run goes on in the new code",
            is_gesture=True,
        ),
        Hint(
            command="Use any other cell",
            purpose="to see and set variables, or to redefine functions",
            is_gesture=True,
        ),
    )


def _edit_file(held: HeldFrame, label: str) -> Hint:
    place = f"line {held.line} of {label or held.definition.unit.path}"
    return Hint(
        command=f"Edit {place} and save it",
        purpose="the run goes on in the new code",
        is_gesture=True,
    )


def _edit_function(held: HeldFrame) -> tuple[Hint, ...]:
    # A nested function is redefined by running the function around it.
    name = held.name.partition(_LOCALS)[0]
    return (
        Hint(
            command=f"%fix {name}",
            purpose="get its code in a new cell, edit and run it",
        ),
        Hint(
            command="%%at",
            purpose="run a cell inside this frame, see and set its variables",
        ),
    )


def _resume(suspension: Suspension) -> Hint:
    held, unwound = suspension.innermost, suspension.unwound
    gives_again = any(rollback.gives_again for rollback in suspension.rollbacks)
    if suspension.iterator is not None and gives_again:
        purpose = f"ask for the same item again, for line {held.line}"
        return Hint(command="%resume", purpose=purpose)
    if unwound:
        purpose = f"run line {held.line}, and {unwound[-1]} in it, from its beginning"
        return Hint(command=f"%resume --at {held.statement.lineno}", purpose=purpose)
    if held.site is Site.STATEMENT:
        purpose = f"go on from line {held.line}, in this same iteration"
        return Hint(command="%resume", purpose=purpose)
    if held.site is Site.NEXT:
        purpose = f"go on with the next item of the loop in line {held.line}"
        return Hint(command="%resume --skip", purpose=purpose)
    purpose = f"go on from another line: {held.site.value} cannot be run again"
    return Hint(command="%resume --at LINE", purpose=purpose)
