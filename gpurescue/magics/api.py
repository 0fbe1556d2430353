"""What the magics do, as functions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpurescue.errors import UsageError
from gpurescue.magics import extension, kept, looking
from gpurescue.magics.rendering import in_one_sentence
from gpurescue.magics.session import Options, Skipped
from gpurescue.recovery.plan import Action, Plan, Restart
from gpurescue.recovery.suspension import HeldFrame, Suspension
from gpurescue.store.restore import Restored

if TYPE_CHECKING:
    import pandas as pd


def resilient(
    body: str,
    *,
    park: bool = False,
    fresh: bool = False,
    journal: bool = False,
    budget: float | None = None,
) -> None:
    """``%%resilient``: run the source of a cell, and wait until it is parked or over.

    Args:
        body: The source of the cell.
        park: Wait for a person in any client.
        fresh: Abandon the parked run first.
        journal: Keep what ``--iteration`` needs of every round, whatever it costs.
        budget: Percent of the run's time that checkpoints may cost; 0 to take none,
            None as configured.

    Raises:
        Suspended: It is parked.
    """
    with in_one_sentence():
        front = extension.current()
        options = Options(park=park, fresh=fresh, journal=journal, budget=budget)
        waiter = front.begin(textwrap.dedent(body), options)
        waiter.wait()
        front.settle(waiter.job)


def resume(
    *,
    line: int | None = None,
    frame: int = 0,
    action: str = "retry",
    value: Any = None,
    body: str | None = None,
) -> None:
    """``%resume``: go on with the parked run, and wait until it is parked or over.

    Args:
        line: Go on at this line.
        frame: Go on from this frame; the innermost is 0.
        action: ``retry``, ``iteration``, ``skip-batch``, ``skip``, ``return``,
            ``raise`` or ``abandon``.
        value: What the frame returns, for ``return``.
        body: New source of the ``%%resilient`` cell, if it was edited.

    Raises:
        Suspended: It is parked again.
        CannotResume, PatchRejected, UsageError: With the reason; it stays parked.
    """
    with in_one_sentence():
        front = extension.current()
        waiter = front.go_on(_restart(line, frame, action, value), body)
        waiter.wait()
        front.settle(waiter.job)


def plan(
    *,
    line: int | None = None,
    frame: int = 0,
    action: str = "retry",
    value: Any = None,
    body: str | None = None,
) -> Plan:
    """``%resume --dry-run``: what ``resume`` would do with the same arguments."""
    with in_one_sentence():
        front = extension.current()
        return front.plan(_restart(line, frame, action, value), body)


def _restart(line: int | None, frame: int, action: str, value: Any) -> Restart:
    known = {found.value for found in Action}
    if action not in known:
        raise UsageError(
            f"There is no action {action!r}; choose one of {', '.join(sorted(known))}."
        )
    return Restart(action=Action(action), frame=frame, line=line, value=value)


def suspension() -> Suspension:
    """What the parked run stands at.

    Raises:
        UsageError: No run is parked.
    """
    with in_one_sentence():
        return extension.current().session.suspension()


def frames() -> tuple[HeldFrame, ...]:
    """``%frames``: the suspended stack, innermost first."""
    return suspension().frames


def skipped() -> tuple[Skipped, ...]:
    """Batches that ``%resume --skip-batch`` has left out of the newest run."""
    job = extension.current().session.job
    return () if job is None else tuple(job.skipped)


def at(body: str, *, frame: int = 0) -> Any:
    """``%%at``: run code inside a suspended frame; the value of its last expression."""
    with in_one_sentence():
        front = extension.current()
        text = front.shell.keep(textwrap.dedent(body))
        return looking.evaluate(front, text, frame)


def fix(name: str | None = None) -> str:
    """``%fix``: the current source of what failed, or of what ``name`` means."""
    with in_one_sentence():
        return looking.source(extension.current(), name).text


def checkpoints() -> pd.DataFrame:
    """``%checkpoints``: the checkpoints of this notebook, oldest first.

    Returns:
        One row for each: ``id``, ``run``, ``number``, ``created``, ``age``, ``nbytes``,
        ``added`` (bytes that no earlier one had), ``num_tensors``, ``place`` (such as
        ``epoch 2, step 17``), ``parent``, ``pinned`` and ``signed``.

    Raises:
        UsageError: There are none yet.
    """
    with in_one_sentence():
        return kept.table(extension.current())


def restore(
    name: str = kept.NEWEST,
    *,
    into: Mapping[str, Any] | None = None,
    lazy: bool = True,
) -> Restored:
    """Put a checkpoint's tensors into live objects, and random streams back.

    Optimizers, schedulers and gradient scalers get their settings back, too, if the
    checkpoint was signed with your key. Other variables are left alone.

    Args:
        name: An id, how it begins, or ``newest``.
        into: Objects by the names that the checkpoint has for them, such as
            ``{"train.model": model}``; the notebook's variables of those names if None.
        lazy: Return before everything is read: large tensors are read, and checked,
            before they are first used.

    Raises:
        UsageError: There is no such checkpoint, what it has does not fit, or a run is
            alive; nothing was changed.
        Damaged: Its bytes are not those that were written; names the tensor.
    """
    with in_one_sentence():
        return kept.put_back(extension.current(), name, into, lazy=lazy)


def verify() -> dict[str, list[str]]:
    """Read all checkpoints of this notebook; what is wrong, by checkpoint.

    Raises:
        UsageError: There are none yet.
    """
    with in_one_sentence():
        return kept.verify(extension.current())


def rescue() -> str:
    """``%rescue``: what the run is doing, what was patched, and how to go on."""
    with in_one_sentence():
        return looking.state(extension.current())
