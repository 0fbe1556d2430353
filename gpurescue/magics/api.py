"""What the magics do, as functions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from gpurescue.errors import UsageError
from gpurescue.hindsight import comparing, recorder, tables
from gpurescue.hindsight.comparing import Difference
from gpurescue.hindsight.records import Records
from gpurescue.magics import extension, kept, looking
from gpurescue.magics.rendering import in_one_sentence
from gpurescue.magics.session import Options, Skipped
from gpurescue.recovery.plan import Action, Plan, Restart
from gpurescue.recovery.suspension import HeldFrame, Suspension
from gpurescue.store.restore import Restored

if TYPE_CHECKING:
    import pandas as pd


class Given(TypedDict, total=False):
    """Options of a run, as ``Options`` has them."""

    park: bool
    fresh: bool
    journal: bool
    budget: float | None
    settings: Mapping[str, Any]


def resilient(body: str, **options: Unpack[Given]) -> None:
    """``%%resilient``: run the source of a cell, and wait until it is parked or over.

    Args:
        body: The source of the cell.
        options: ``park``: wait for a person in any client; ``fresh``: abandon the
            parked run first; ``journal``: keep what ``--iteration`` needs of every
            round, whatever it costs; ``budget``: percent of the run's time that
            checkpoints may cost, 0 to take none, None as configured; ``settings``:
            values of the run's arguments, by name (see ``gpurescue.arg``).

    Raises:
        Suspended: It is parked.
    """
    with in_one_sentence():
        front = extension.current()
        waiter = front.begin(textwrap.dedent(body), Options(**options))
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


def runs(folder: Path | str | None = None) -> pd.DataFrame:
    """All runs of this notebook, oldest first, with their arguments as columns.

    Args:
        folder: The store, such as ``.gpurescue`` of another notebook.

    Raises:
        UsageError: gpurescue is not loaded, and no folder is given.
        Refused: There are no records.
    """
    with in_one_sentence():
        return tables.runs(_records(folder))


def logs(
    *names: str,
    runs: Iterable[str] | None = None,
    folder: Path | str | None = None,
) -> pd.DataFrame:
    """What runs have logged, by run, version, epoch and step; a column for each name.

    Args:
        names: Of the values; all, if none are given.
        runs: Ids of runs, or how they begin; all, if None.
        folder: The store, such as ``.gpurescue`` of another notebook.

    Raises:
        UsageError: There is no such run, or nothing of such a name.
        Refused: There are no records.
    """
    with in_one_sentence():
        return tables.logs(_records(folder), names, runs)


def sql(query: str, folder: Path | str | None = None) -> pd.DataFrame:
    """The answer to a query in SQL; see FORMAT.md for what can be asked.

    Args:
        query: One ``SELECT``.
        folder: The store, such as ``.gpurescue`` of another notebook.

    Raises:
        UsageError: SQLite does not take it.
        Refused: There are no records.
    """
    with in_one_sentence():
        return tables.sql(_records(folder), query)


def diff(first: str, second: str, folder: Path | str | None = None) -> Difference:
    """What is not the same in two runs: code, arguments, environment.

    Args:
        first: The id of a run, or how it begins.
        second: That of the other one.
        folder: The store, such as ``.gpurescue`` of another notebook.

    Raises:
        UsageError: There is no such run, or there are several.
        Refused: There are no records.
    """
    with in_one_sentence():
        return comparing.diff(_records(folder), first, second)


def _records(folder: Path | str | None) -> Records:
    """Those of a folder, or of this notebook."""
    path = extension.current().keeper.path if folder is None else Path(folder)
    recorder.settle()
    return Records(path)
