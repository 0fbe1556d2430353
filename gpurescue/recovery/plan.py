"""What a restart would do, worked out before anything is done."""

from __future__ import annotations

import ast
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gpurescue.errors import CannotResume, PatchRejected, UsageError
from gpurescue.protocols import GoingOn, Rollback, Skippable
from gpurescue.recovery import again, continuation, frames, loops
from gpurescue.recovery.continuation import Target
from gpurescue.recovery.suspension import HeldFrame, Suspension
from gpurescue.source import align, locate, remainder
from gpurescue.source import tree as trees
from gpurescue.source.align import Alignment
from gpurescue.source.cells import Definition
from gpurescue.source.locate import Site
from gpurescue.source.remainder import Path, Step
from gpurescue.source.tree import Held, Loop


class Action(enum.Enum):
    """The ways to go on, as in Lisp: the restarts."""

    RETRY = "retry"
    ITERATION = "iteration"
    SKIP_BATCH = "skip-batch"
    SKIP = "skip"
    RETURN = "return"
    RAISE = "raise"
    ABANDON = "abandon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """What the user asked for.

    Attributes:
        action: What to do.
        frame: Index of the frame to go on from; the innermost is 0.
        line: Go on at this line of the newest source, not where it failed.
        value: What the frame returns, for ``RETURN``.
        body: New version of the cell's body, if it was edited.
    """

    action: Action = Action.RETRY
    frame: int = 0
    line: int | None = None
    value: Any = None
    body: Definition | None = None


@dataclass(frozen=True, slots=True)
class _Skipped:
    """A ``Rollback`` when what failed is given up."""

    rollback: Skippable
    note = ""
    is_exact = True
    gives_again = False

    def apply(self) -> None:
        self.rollback.skip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A restart that can be carried out.

    Attributes:
        text: One line for the user, such as ``resumes at line 12: ...``.
        notes: What the user should know before it runs.
        rollbacks: What is taken back before it runs.
        asks: True to ask the library's iterator again that holds the run.
        aside: The skipped batch, for a look: variables of the loop by name.
    """

    restart: Restart
    frame: HeldFrame | None
    target: Target | None
    text: str
    notes: tuple[str, ...] = ()
    rollbacks: tuple[Rollback, ...] = ()
    asks: bool = False
    aside: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "; ".join((self.text, *self.notes))


Latest = Callable[[Definition], Definition]


def make(suspension: Suspension, restart: Restart, latest: Latest) -> Plan:
    """Work out a restart.

    Args:
        suspension: The parked run.
        restart: What the user asked for.
        latest: Gives the newest version of a definition.

    Raises:
        CannotResume: It would not be exact.
        PatchRejected: An edit does not fit.
        UsageError: There is no such frame or line.
    """
    if restart.action is Action.RAISE:
        error = type(suspension.error).__name__
        return Plan(restart=restart, frame=None, target=None, text=f"raises {error}")
    if restart.action is Action.ABANDON:
        return Plan(restart=restart, frame=None, target=None, text="abandons the run")
    held = frame_at(suspension, restart.frame)
    old, new = held.definition, latest(held.definition)
    if restart.body is not None and isinstance(old.scope, ast.Module):
        new = restart.body
    if restart.action is Action.RETURN:
        return _return(restart, held)
    if restart.line is not None:
        made = _at_line(restart, held, new, restart.line)
        exact = [r for r in suspension.rollbacks if r.is_exact]
        return _rolled_back(made, [r for r in exact if not isinstance(r, GoingOn)])
    aligned = align.align(old.scope.body, new.scope.body, held.path, name=_called(new))
    if restart.action is Action.SKIP:
        return _skip(restart, suspension, held, new, aligned)
    if _is_asked_again(suspension, held, aligned):
        made = _ask(restart, suspension, held, new, aligned)
    else:
        made = _retry(restart, suspension, held, new, aligned)
    return _rolled_back(made, suspension.rollbacks)


def _rolled_back(made: Plan, rollbacks: Sequence[Rollback]) -> Plan:
    """The plan, with what is taken back before it runs."""
    notes = tuple(rollback.note for rollback in rollbacks if rollback.note)
    return replace(made, rollbacks=tuple(rollbacks), notes=(*made.notes, *notes))


def frame_at(suspension: Suspension, index: int) -> HeldFrame:
    """The held frame with that index.

    Raises:
        UsageError: There is none.
    """
    if not 0 <= index < len(suspension.frames):
        last = len(suspension.frames) - 1
        raise UsageError(
            f"There is no frame {index}; choose one of 0 to {last} (see %frames)."
        )
    return suspension.frames[index]


def _called(definition: Definition) -> str:
    return "cell" if isinstance(definition.scope, ast.Module) else definition.name


def _is_asked_again(
    suspension: Suspension, held: HeldFrame, aligned: Alignment
) -> bool:
    """True if the iterator that holds the run is asked before anything else runs."""
    if suspension.iterator is None or held.index:
        return False
    runs_first = aligned.first or aligned.path != aligned.failing
    return not (runs_first and held.site is Site.NEXT and _passes_on(suspension, held))


def _ask(
    restart: Restart,
    suspension: Suspension,
    held: HeldFrame,
    new: Definition,
    aligned: Alignment,
) -> Plan:
    """Ask the library's iterator again, right where it failed."""
    node = remainder.statement(new.scope.body, aligned.failing)
    for rollback in suspension.rollbacks:
        if not rollback.is_exact:
            raise CannotResume(f"{rollback.note}; {_ways_round(held)}")
    if not any(rollback.gives_again for rollback in suspension.rollbacks):
        raise CannotResume(_refusal(held))
    notes = aligned.notes
    if not align.is_same_header(held.statement, node):
        if held.site is not Site.NEXT:
            raise CannotResume(
                f"Line {held.line} waits for an iterator that can only be asked again "
                f"for the line as it was; %resume --at {node.lineno} runs the new one "
                "from its beginning."
            )
        notes += align.takes_effect_when_reached(node)
    block = _block(new, aligned.failing)
    first, last = aligned.path[-1].at, aligned.failing[-1].at
    notes += align.takes_effect_next_time([*aligned.first, *block[first:last]])
    text = f"resumes at {_place(node)}"
    return Plan(
        restart=restart, frame=held, target=None, text=text, notes=notes, asks=True
    )


def _retry(
    restart: Restart,
    suspension: Suspension,
    held: HeldFrame,
    new: Definition,
    aligned: Alignment,
) -> Plan:
    node = remainder.statement(new.scope.body, aligned.path)
    asks_again = held.site is Site.NEXT and _gives_again(suspension, held)
    failing = remainder.statement(new.scope.body, aligned.failing)
    if held.site is not Site.STATEMENT and not (asks_again or _is_new(held, failing)):
        raise CannotResume(_refusal(held))
    for rollback in suspension.rollbacks:
        if not rollback.is_exact or (held.index and isinstance(rollback, GoingOn)):
            again = f"%resume --at {node.lineno} runs line {held.line} all the same."
            raise CannotResume(f"{rollback.note}; {again}")
    if suspension.unwound and held.index == 0:
        raise CannotResume(
            f"{suspension.unwound[-1]} has already been left by the exception, so line "
            f"{held.line} would run it from its beginning, which is not exact; "
            f"%resume --at {node.lineno} does so all the same."
        )
    head, values, notes = _head(suspension, held, new, aligned)
    head = (*(trees.copied(node) for node in aligned.first), *head)
    made = _plan(restart, held, new, aligned.failing, head)
    text = f"resumes at {_place(node)}"
    target = replace(_target(made), values=values)
    return replace(
        made,
        target=target,
        text=_in_frame(text, held),
        notes=(*aligned.notes, *notes),
    )


def _head(
    suspension: Suspension, held: HeldFrame, new: Definition, aligned: Alignment
) -> tuple[tuple[ast.stmt, ...], dict[str, Any], tuple[str, ...]]:
    """What runs up to the failing statement, which takes the values that are ready."""
    block = _block(new, aligned.failing)
    first, last = aligned.path[-1].at, aligned.failing[-1].at
    before = [trees.copied(node) for node in block[first:last]]
    failing = block[last]
    if held.site is Site.NEXT and isinstance(failing, Loop):
        return (*before, remainder.reenter(failing)), {}, ()
    if held.site is not Site.STATEMENT:
        return (*before, trees.copied(block[last])), {}, ()
    made = again.head(suspension, held, new, failing, before)
    return (*before, *made.nodes), made.values, made.notes


def _block(definition: Definition, path: Path) -> list[ast.stmt]:
    """The statement list that the last step of ``path`` is in."""
    block = list(definition.scope.body)
    for step in path[:-1]:
        block = trees.child_block(block[step.at], step.field, step.handler)
    return block


def _is_new(held: HeldFrame, node: ast.stmt) -> bool:
    """True if the run goes on at another statement than the one that failed."""
    return type(node) is not type(held.statement)


def _gives_again(suspension: Suspension, held: HeldFrame) -> bool:
    """True if the loop's iterator, asked again, gives the item that failed."""
    gives = any(rollback.gives_again for rollback in suspension.rollbacks)
    return held.index == 0 and gives and _passes_on(suspension, held)


def _passes_on(suspension: Suspension, held: HeldFrame) -> bool:
    """True if nothing between the loop and the iterator that failed is lost by it."""
    loop = held.statement
    if suspension.iterator is None or not isinstance(loop, ast.For):
        return False
    iterator = frames.hidden(held.frame, trees.iterator_name(loop))
    return loops.passes_on(iterator, suspension.iterator)


def _refusal(held: HeldFrame) -> str:
    line = held.line
    if held.site is Site.NEXT:
        return (
            f"The iterator of the loop in line {line} itself failed, and asking it "
            f"again might lose an item; {_ways_round(held)}"
        )
    return (
        f"It failed in {held.site.value} in line {line}, which cannot be run again "
        "by itself; use %resume --at LINE, --return EXPR or --raise."
    )


def _ways_round(held: HeldFrame) -> str:
    if held.site is Site.NEXT:
        return "use %resume --skip to go on with its next item, or %resume --at LINE."
    return f"%resume --at {held.line} runs line {held.line} from its beginning."


def _skip(
    restart: Restart,
    suspension: Suspension,
    held: HeldFrame,
    new: Definition,
    aligned: Alignment,
) -> Plan:
    node = remainder.statement(new.scope.body, aligned.failing)
    text = _in_frame(f"skips {_place(node)}", held)
    if suspension.iterator is not None and not held.index and held.site is Site.NEXT:
        told = tuple(r.note for r in suspension.rollbacks if not r.is_exact)
        return Plan(
            restart=restart,
            frame=held,
            target=None,
            text=text,
            notes=(*aligned.notes, *told),
            rollbacks=tuple(
                _Skipped(r) for r in suspension.rollbacks if isinstance(r, Skippable)
            ),
            asks=True,
        )
    head: tuple[ast.stmt, ...] = ()
    if held.site is Site.NEXT:
        if not isinstance(node, Loop):
            raise CannotResume(_refusal(held))
        head = (remainder.reenter(node),)
    made = _plan(restart, held, new, aligned.failing, head)
    return replace(made, text=text, notes=(*aligned.notes, *_half_done(suspension)))


def _half_done(suspension: Suspension) -> tuple[str, ...]:
    """Say that a call which is left out had done a part of its work."""
    begun = any(r.note and not r.gives_again for r in suspension.rollbacks)
    return ("what had begun stays half done",) if begun else ()


def _return(restart: Restart, held: HeldFrame) -> Plan:
    definition = held.definition
    if isinstance(definition.scope, ast.Module):
        raise UsageError(
            "A cell cannot return a value; use %resume --skip, --raise or --abandon."
        )
    head, values = continuation.return_head(restart.value)
    target = Target(definition=definition, path=held.path, head=head, values=values)
    text = f"returns {_short(restart.value)} from {definition.name}"
    return Plan(restart=restart, frame=held, target=target, text=text)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _at_line(restart: Restart, held: HeldFrame, new: Definition, line: int) -> Plan:
    path = locate.find_line(new.scope.body, line)
    if path is None:
        raise UsageError(
            f"No statement of {_called(new)} begins on line {line}; "
            f"its source is in lines {_lines(new)}."
        )
    live = align.enclosing(held.definition.scope.body, new.scope.body, held.path)
    _check_reachable(held, new, path, live)
    head = (trees.copied(remainder.statement(new.scope.body, path)),)
    return _plan(restart, held, new, path, head)


def _lines(definition: Definition) -> str:
    body = definition.scope.body
    return f"{body[0].lineno} to {body[-1].end_lineno}"


def _check_reachable(
    held: HeldFrame, new: Definition, path: Path, live: dict[int, ast.stmt]
) -> None:
    """Refuse to jump into a loop or block that is not running, or out of a block."""
    nodes = remainder.walk(new.scope.body, path)
    for node, step in zip(nodes, path, strict=True):
        is_open = isinstance(node, Held | ast.For | ast.AsyncFor) and step.field
        if is_open and step.field != "orelse" and id(node) not in live:
            raise CannotResume(
                f"Line {nodes[-1].lineno} is inside the `{remainder.kind(node)}` of "
                f"line {node.lineno}, which is not running; choose a line outside it."
            )
    old_block, _ = continuation.split(held.definition, held.path)
    new_block, _ = continuation.split(new, path)
    owner = new_block.owner
    partner = live.get(id(owner)) if isinstance(owner, Held) else None
    same = (
        partner is old_block.owner
        if isinstance(owner, Held)
        else not isinstance(old_block.owner, Held)
    )
    if not same:
        raise CannotResume(
            f"Line {nodes[-1].lineno} is outside the `with` or `try` block that the "
            "run stands in; choose a line inside it."
        )


def _plan(
    restart: Restart,
    held: HeldFrame,
    new: Definition,
    path: Path,
    head: tuple[ast.stmt, ...],
) -> Plan:
    live = align.enclosing(held.definition.scope.body, new.scope.body, held.path)
    node = remainder.statement(new.scope.body, path)
    live.setdefault(id(node), held.statement)
    loops = loop_names(new, path, live)
    target = Target(definition=new, path=path, head=head, loops=loops)
    text = _in_frame(f"resumes at {_place(node)}", held)
    return Plan(restart=restart, frame=held, target=target, text=text)


def _place(node: ast.stmt) -> str:
    return f"line {node.lineno}: `{align.first_line(node)}`"


def _in_frame(text: str, held: HeldFrame) -> str:
    return f"{text} in {held.name}" if held.index else text


def _target(made: Plan) -> Target:
    if made.target is None:
        raise CannotResume(f"Nothing to go on from: {made.text}.")
    return made.target


def loop_names(
    new: Definition, path: Path, live: dict[int, ast.stmt]
) -> dict[str, str]:
    """Hidden iterators to hand over: name in the live frame -> name in the new code."""
    _, inside = continuation.split(new, path)
    nodes = remainder.walk(new.scope.body, path)[len(path) - len(inside) :]
    found: dict[str, str] = {}
    for node in nodes:
        partner = live.get(id(node))
        if isinstance(node, ast.For | ast.AsyncFor) and isinstance(
            partner, ast.For | ast.AsyncFor
        ):
            found[trees.iterator_name(partner)] = trees.iterator_name(node)
    return found


def at(
    old: Definition,
    new: Definition,
    path: Path,
    around: dict[int, ast.stmt] | None = None,
) -> Target:
    """The target that goes on with the statement at ``path`` of ``new``.

    Its last index may lie behind the last statement of a block.
    """
    if around is None:
        around = align.enclosing(old.scope.body, new.scope.body, path)
    block = _block(new, path)
    last = path[-1].at
    head: tuple[ast.stmt, ...] = ()
    if last < len(block):
        head = (trees.copied(block[last]),)
    else:  # behind the last one: nothing of it runs, and what follows it
        path = (*path[:-1], path[-1]._replace(at=len(block) - 1))
    loops = loop_names(new, path, around)
    return Target(definition=new, path=path, head=head, loops=loops)


def behind(old: Definition, new: Definition, done: continuation.Continuation) -> Target:
    """Where to go on when a block is done: behind the statement that it belongs to."""
    block, _ = continuation.split(new, done.target.path)
    owner, old_owner = block.owner, done.live.block.owner
    if not isinstance(owner, Held) or not isinstance(old_owner, Held):
        raise PatchRejected("A finished block belongs to no statement.")
    path = continuation.path_to(new.scope.body, owner)
    old_path = continuation.path_to(old.scope.body, old_owner)
    is_body = done.live.block.field == "body"
    clause = getattr(owner, "orelse", ())
    live = dict(
        zip(
            map(id, remainder.walk(new.scope.body, path)),
            remainder.walk(old.scope.body, old_path),
            strict=True,
        )
    )
    head, values = continuation.exit_head(continuation.Leave(done))
    if is_body and clause and done.outcome == "next":
        path = (*path[:-1], Step(path[-1].at, "orelse"), Step(0))
        head = (trees.copied(clause[0]),)
    return Target(
        definition=new,
        path=path,
        head=head,
        loops=loop_names(new, path, live),
        values=values,
    )
