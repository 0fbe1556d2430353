"""Restarts of a whole round of the training loop: run it again, or skip its batch."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpurescue.errors import CannotResume, UsageError
from gpurescue.recovery import frames, plan, rounds, switch
from gpurescue.recovery.continuation import Target
from gpurescue.recovery.hands import Hand, hand_of
from gpurescue.recovery.plan import Action, Latest, Plan, Restart
from gpurescue.recovery.rounds import ForLoop, Round
from gpurescue.recovery.suspension import HeldFrame, Suspension
from gpurescue.source import align, hidden, remainder
from gpurescue.source import tree as trees
from gpurescue.source.cells import Definition
from gpurescue.source.locate import Site
from gpurescue.source.remainder import Path, Step

ITEM = "__gr_item__"


@dataclass(frozen=True, slots=True)
class _Here:
    """The round that the run stands in."""

    held: HeldFrame
    loop: ForLoop
    path: Path
    hand: Hand

    @property
    def round(self) -> Round | None:
        """Its top, if that was marked."""
        found = self.hand.round
        return found if found is not None and found.count == self.hand.count else None


@dataclass(frozen=True, slots=True)
class _RoundRollback:
    """A ``Rollback`` to the top of a round."""

    top: Round
    note: str
    is_exact: bool = True
    gives_again: bool = False

    def apply(self) -> None:
        self.top.apply()


def make(
    suspension: Suspension,
    restart: Restart,
    latest: Latest,
    namespace: Mapping[str, Any],
) -> Plan:
    """Work out ``ITERATION`` or ``SKIP_BATCH``.

    Raises:
        CannotResume: It would not be exact.
        PatchRejected: An edit does not fit.
        UsageError: The run stands in no loop.
    """
    held = suspension.innermost
    if held.site is Site.NEXT and _hand(held, held.statement) is not None:
        return _at_next(suspension, restart, latest)
    here = _here(suspension)
    new = latest(here.held.definition)
    if restart.body is not None and frames.is_body(here.held.frame):
        new = restart.body
    problem = _problem(here, namespace)
    if restart.action is Action.SKIP_BATCH:
        return _skip_batch(restart, here, new, problem)
    if problem is not None or here.round is None:
        raise CannotResume(f"The round cannot be run again: {problem}.")
    return _again(restart, here, new, here.round)


def _at_next(suspension: Suspension, restart: Restart, latest: Latest) -> Plan:
    """The loop's iterator failed: the round has no batch yet."""
    if restart.action is Action.ITERATION:
        raise CannotResume(
            "The round has not begun, since its batch could not be fetched; go on "
            "with %resume, or leave the batch out with %resume --skip-batch."
        )
    return plan.make(suspension, replace(restart, action=Action.SKIP), latest)


def _here(suspension: Suspension) -> _Here:
    for held in suspension.frames:
        nodes = remainder.walk(held.definition.scope.body, held.path)
        for i in reversed(range(len(nodes))):
            loop, step = nodes[i], held.path[i]
            hand = _hand(held, loop)
            if isinstance(loop, ForLoop) and hand is not None and step.field == "body":
                inside = (*held.path[:i], Step(step.at, "body"), Step(0))
                return _Here(held, loop, inside, hand)
    raise UsageError(
        "The run stands in none of its two outermost `for` loops, so there is no "
        "round to go back to; go on with %resume."
    )


def _hand(held: HeldFrame, loop: ast.stmt) -> Hand | None:
    if not isinstance(loop, ForLoop):
        return None
    return hand_of(frames.hidden(held.frame, trees.iterator_name(loop)))


def _problem(here: _Here, namespace: Mapping[str, Any]) -> str | None:
    """Why the round cannot be taken back."""
    top = here.round
    if top is None:
        return (
            "its top was not marked, which would have cost more than "
            "0.05 % of its time; %%resilient --journal marks every round"
        )
    if top.journal is None:
        return None
    return top.journal.problem(rounds.roots(here.held.frame.f_locals, namespace))


def _again(restart: Restart, here: _Here, new: Definition, top: Round) -> Plan:
    path, names = _in_new(here, new)
    loop = remainder.walk(new.scope.body, path)[-2]
    assert isinstance(loop, ForLoop)
    value = ast.copy_location(ast.Name(id=ITEM, ctx=ast.Load()), loop.iter)
    bind = ast.Assign(targets=[trees.copied(loop.target)], value=value)
    first = trees.copied(loop.body[0])
    head = (ast.copy_location(bind, loop.target), first)
    return Plan(
        restart=restart,
        frame=replace(here.held, path=here.path),
        target=Target(
            definition=new,
            path=path,
            head=head,
            loops=names,
            values=top.variables | {ITEM: top.item},
        ),
        text=f"runs {here.hand.label} again from line {first.lineno}",
        notes=(_note(top),),
        rollbacks=(_RoundRollback(top, _note(top)),),
    )


def _skip_batch(
    restart: Restart, here: _Here, new: Definition, problem: str | None
) -> Plan:
    path, names = _in_new(here, new)
    top = here.round if problem is None else None
    made = Plan(
        restart=restart,
        frame=replace(here.held, path=here.path),
        target=Target(
            definition=new,
            path=path,
            head=tuple(hidden.statements("continue")),
            loops=names,
            values={} if top is None else dict(top.variables),
        ),
        text=f"skips the batch of {here.hand.label}, which gpurescue.skipped() keeps",
        aside=_batch(here),
    )
    if top is None:
        return replace(made, notes=(f"what the round has done stays: {problem}",))
    rollback = _RoundRollback(top, _note(top))
    return replace(made, notes=(rollback.note,), rollbacks=(rollback,))


def _in_new(here: _Here, new: Definition) -> tuple[Path, dict[str, str]]:
    """The top of the loop's body in the newest version, and the live iterators."""
    old = here.held.definition
    path = switch.next_path(old, new, here.path)
    around = align.enclosing(old.scope.body, new.scope.body, here.path)
    return path, plan.loop_names(new, path, around)


def _note(top: Round) -> str:
    names = sorted(top.variables)
    names += [f"{type(owner).__name__}.{name}" for owner, name, _ in top.attributes]
    more = f", and {', '.join(names)}" if names else ""
    return (
        "as at the top of the round: random streams, gradients, parameters, "
        f"buffers{more}"
    )


def _batch(here: _Here) -> dict[str, Any]:
    """The values of the loop's variables."""
    values = here.held.frame.f_locals
    targets = (n for n in ast.walk(here.loop.target) if isinstance(n, ast.Name))
    return {node.id: values[node.id] for node in targets if node.id in values}
