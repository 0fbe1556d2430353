"""The failing statement as it runs again: what has its value keeps it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.recovery import frames, reach, twice
from gpurescue.recovery.suspension import HeldFrame, Suspension
from gpurescue.source import names, operands, residual
from gpurescue.source.cells import Definition
from gpurescue.source.operands import Operand
from gpurescue.source.residual import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What runs in the place of the failing statement.

    Attributes:
        nodes: Statements.
        values: The hidden variables that they need.
        notes: What the user should know.
    """

    nodes: tuple[ast.stmt, ...]
    values: dict[str, Any]
    notes: tuple[str, ...]


def head(
    suspension: Suspension,
    held: HeldFrame,
    new: Definition,
    node: ast.stmt,
    before: Sequence[ast.stmt],
) -> Head:
    """What is left of the failing statement.

    Args:
        suspension: The parked run.
        held: The frame that goes on.
        new: The newest version of its function.
        node: The statement of ``new`` that stands for the failing one.
        before: Statements of ``new`` that run first.

    Raises:
        CannotResume: It would not be exact.
    """
    failed = _failure(suspension, held)
    changed = suspension.changed | names.changed(before)
    usable = [
        operand
        for operand in failed.done
        if not names.mentioned(operand.node) & changed
        and not _is_affected(operand, suspension, held)
    ]
    if len(usable) == len(failed.done):
        _check(held, failed, node)
    left = residual.rest(node, failed, usable, new.unit.rebound)
    notes = _again(failed.done, usable, left.unused)
    notes += _begun(suspension, held, node)
    return Head(nodes=left.nodes, values=left.given, notes=notes)


def _failure(suspension: Suspension, held: HeldFrame) -> Failure:
    node, unstable = held.statement, held.definition.unit.rebound
    if suspension.is_paused and held.index == 0:  # it has yet to begin
        return Failure(node=node, at=None, done=(), values={})
    kept = operands.operands(node, unstable)
    values = {
        operand.slot: frames.hidden(
            held.frame, operands.slot_name(operand.slot), operands.EMPTY
        )
        for operand in kept
    }
    failed = residual.failure(node, held.span, values, kept)
    if failed.at is None:
        return failed
    done = [o for o in failed.done if not twice.is_got_again(held.frame, failed, o)]
    return replace(failed, done=tuple(done))


def _check(held: HeldFrame, failed: Failure, node: ast.stmt) -> None:
    found = twice.reason(held, failed, node)
    if found is not None:
        raise CannotResume(
            f"Line {held.line} cannot go on half-way: {found}; %resume --at "
            f"{node.lineno} runs it from its beginning all the same."
        )


def _is_affected(operand: Operand, suspension: Suspension, held: HeldFrame) -> bool:
    """True if a function that was edited may have had a part in the value."""
    known = {**held.frame.f_globals, **held.frame.f_locals}
    mentioned = names.mentioned(operand.node)
    roots = [known[name] for name in mentioned if name in known]
    return reach.reaches(roots, suspension.edited)


def _again(
    done: Sequence[Operand], usable: Sequence[Operand], unused: Sequence[Operand]
) -> tuple[str, ...]:
    """Say which parts of the statement run twice, or have run for nothing."""
    notes: tuple[str, ...] = ()
    again = [ast.unparse(o.node) for o in done if o not in usable]
    if again:
        notes += ("runs again, since what it uses was edited: " + _quoted(again),)
    if unused:
        notes += ("had already run: " + _quoted([ast.unparse(o.node) for o in unused]),)
    return notes


def _begun(suspension: Suspension, held: HeldFrame, new: ast.stmt) -> tuple[str, ...]:
    """Say which part of the statement had begun elsewhere, and begins again."""
    part = residual.failing_part(held.statement, held.span)
    if held.index or part is None or suspension.rollbacks:
        return ()
    if not any(ast.dump(n) == ast.dump(part) for n in ast.walk(new)):
        return ()
    text = f"runs again from its beginning: {_quoted([ast.unparse(part)])}"
    if residual.has_begun_by_itself(part):
        return (text,)
    where = ", ".join(suspension.failed_inside)
    return (f"{text} ({where})",) if where else ()


def _quoted(texts: Sequence[str]) -> str:
    return ", ".join(f"`{text[:60]}`" for text in texts)
