"""Continuations: code that goes on in a live frame's variables.

A guard that was told to go on gets one of these and runs it in the place of what is
left of its block. For the body of a function that is the rest of the call. For the
body of a ``with`` or ``try`` it is the rest of the block only: then the variables are
written back, the live block ends as it always does, and ``leave`` carries the run to
the next guard further out, which goes on behind the block in the same way. So a
context manager is entered and left by the interpreter, once, whatever was edited.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any

from gpurescue.errors import CannotResume, PatchRejected
from gpurescue.recovery import frames, own
from gpurescue.recovery.hotswap import defaults_of
from gpurescue.source import hidden, operands, splice, transform
from gpurescue.source import remainder as remainders
from gpurescue.source import tree as trees
from gpurescue.source.cells import Definition
from gpurescue.source.remainder import Path, Step
from gpurescue.source.splice import Variables
from gpurescue.source.tree import Block, Held

RESULT = "__gr_result__"


class Leave(BaseException):
    """Leaves the statement whose block a continuation has finished. Never seen."""

    def __init__(self, continuation: Continuation) -> None:
        super().__init__()
        self.continuation = continuation


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A guarded block in a frame that is held."""

    frame: FrameType
    definition: Definition
    block: Block
    cells: dict[str, CellType] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()

    @property
    def path(self) -> Path:
        """The way from the function's own statements to the block."""
        return path_to_block(self.definition, self.block)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A statement of a (perhaps newer) definition, and what runs in its place."""

    definition: Definition
    path: Path
    head: tuple[ast.stmt, ...]
    loops: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def path_to_block(definition: Definition, block: Block) -> Path:
    """The steps from a definition's statements into one of its guarded blocks."""
    if not isinstance(block.owner, Held):
        return ()
    path = path_to(definition.scope.body, block.owner)
    last = Step(path[-1].at, block.field, block.handler)
    return (*path[:-1], last)


def path_to(body: Sequence[ast.stmt], node: ast.stmt) -> Path:
    """The steps from ``body`` to a statement in it.

    Raises:
        LookupError: It is not there.
    """
    for i, found in enumerate(body):
        if found is node:
            return (Step(i),)
        for name, handler, block in trees.child_blocks(found):
            try:
                return (Step(i, name, handler), *path_to(block, node))
            except LookupError:
                continue
    raise LookupError(f"No {type(node).__name__} at line {node.lineno}.")


def split(definition: Definition, path: Path) -> tuple[Block, Path]:
    """The innermost guarded block on a path, and the rest of the path in it."""
    block, start = definition.layout.blocks[0], 0
    for i, node in enumerate(remainders.walk(definition.scope.body, path)):
        step = path[i]
        if isinstance(node, Held) and step.field and trees.has_guard(step.field, node):
            child = trees.child_block(node, step.field, step.handler)
            found = definition.layout.block_of(child)
            if found is None:
                raise CannotResume(f"Line {node.lineno} holds no guarded block.")
            block, start = found, i + 1
    return block, path[start:]


class Continuation:
    """The rest of a guarded block, ready to run; used up by running."""

    def __init__(
        self, live: Live, target: Target, code: CodeType, values: dict[str, Any]
    ) -> None:
        self.live = live
        self.target = replace(target, values={})  # taken over: must not live here
        self.code = code
        self.outcome = "next"
        self.value: Any = None
        self.parent: Continuation | None = frames.hidden(live.frame, remainders.BOX)
        self.on_returned: Callable[[FrameType], None] | None = None
        self.origin: BaseException | None = None  # raised if going on fails
        self._values = values
        self._ended: FrameType | None = None
        self._is_body = frames.is_body(live.frame)

    @property
    def run(self) -> Callable[[], Any]:
        """Called (or awaited, or delegated to) by the guard."""
        if not self._is_body:
            with own.handing_back(self.origin):
                return self._function()
        is_async = bool(self.code.co_flags & 0x80)
        return self._run_body_async if is_async else self._run_body

    def take(self) -> tuple[Any, ...]:
        """Hand over the values, so that nothing else keeps them alive."""
        values, self._values = tuple(self._values.values()), {}
        return values

    def end(self, outcome: str, value: Any) -> None:
        """Note how the block was left; called where it was."""
        self.outcome, self.value = outcome, value
        self._ended = sys._getframe(1)

    def returned(self, value: Any) -> Any:
        """The function's result, on its way to the caller."""
        with own.handing_back(self.origin):
            if self._ended is not None and self.parent is not None:
                self._report_to(self.parent)
        with own.harmless("Edited callers keep their old code."):
            if self.on_returned is not None:
                self.on_returned(self.live.frame)
        if self.origin is not None:
            self.origin.__traceback__ = None  # or all its frames stay, and tensors
        return value

    def _report_to(self, parent: Continuation) -> None:
        """This was the rest of the rest of a block: tell whoever waits for its end."""
        parent.outcome, parent.value = self.outcome, self.value
        parent.target, parent._ended = self.target, self._ended

    def left(self, _: object, earlier: Continuation | None) -> Continuation:
        """The block is done: its variables go back into the live frame.

        Args:
            earlier: What an earlier block of the same statement has left: how that
                was left still holds once its ``finally`` is done.
        """
        with own.handing_back(self.origin):
            if self._is_body:
                found = self.live.frame.f_globals.pop(remainders.OUTCOME, "next")
                self.outcome = str(found)
            elif self._ended is not None:
                self.write_back(self._ended)
                self._ended = None
        return earlier or self

    def write_back(self, frame: FrameType) -> None:
        """Copy the variables of the frame that ran the block into the live one.

        The rest of a whole function has nobody to give them to.
        """
        if not isinstance(self.live.block.owner, Held):
            return
        values = frames.read(frame)
        names = self.live.frame.f_code.co_varnames
        self.live.extra.clear()
        self.live.extra.update(
            {
                k: v
                for k, v in values.items()
                if k not in names and k not in self.live.cells
            }
        )
        frames.write(self.live.frame, values)

    def leave(self) -> None:
        """Go on behind the statement whose block is done."""
        with own.handing_back(self.origin):
            raise Leave(self)

    def _function(self) -> Callable[[], Any]:
        closure = tuple(self._cell(name) for name in self.code.co_freevars)
        function = FunctionType(
            self.code, self.live.frame.f_globals, self.code.co_name, None, closure
        )
        # A partial has no frame: nothing of ours stands between the user's frames.
        return functools.partial(function, self)

    def _cell(self, name: str) -> CellType:
        try:
            return self.live.cells[name]
        except KeyError:
            raise PatchRejected(
                f"The new {self.target.definition.name} uses the outer variable "
                f"{name!r}, which the running call has no access to; pass it some "
                "other way, or go on from an outer frame with %resume --frame N."
            ) from None

    def _run_body(self) -> None:
        with own.handing_back(self.origin):
            names = self._namespace()
        current: Continuation | None = self
        while current is not None:
            exec(current.code, names)
            current = self._next(names)

    async def _run_body_async(self) -> None:
        with own.handing_back(self.origin):
            names = self._namespace()
        current: Continuation | None = self
        while current is not None:
            await eval(current.code, names)
            current = self._next(names)

    def _namespace(self) -> dict[str, Any]:
        """The cell's variables, and ours among them."""
        names = self.live.frame.f_globals
        slots = [name for name in list(names) if name.startswith(operands.SLOT)]
        names.update(dict.fromkeys(slots, operands.EMPTY))
        names.update(self._values)
        self._values = {}
        return names

    def _next(self, names: dict[str, Any]) -> Continuation | None:
        with own.handing_back(self.origin):
            following = take_following(names)
            if following is not None:
                self.target = following.target
                following._namespace()
        return following


class HandBack(Continuation):
    """In the place of a continuation that could not be made: the user's exception."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    @property
    def run(self) -> Callable[[], Any]:
        """Raises it."""
        raise self.error


def take_following(names: dict[str, Any]) -> Continuation | None:
    """The continuation that the guard of a cell's body has left for its runner."""
    found = names.pop(transform.RESUME, None)
    return found if isinstance(found, Continuation) else None


def build(live: Live, target: Target) -> Continuation:
    """Make the continuation of ``live`` from ``target`` on.

    Raises:
        CannotResume: The place cannot be gone on from.
        PatchRejected: The new source does not fit the live frame.
    """
    block, path = split(target.definition, target.path)
    body = remainders.remainder(block.body, path, target.head)
    is_inner = isinstance(block.owner, Held)
    if is_inner != isinstance(live.block.owner, Held):
        raise CannotResume(
            f"{target.definition.name} is held by the guard of another block; go on "
            "from an outer frame with %resume --frame N."
        )
    if is_inner and block.is_protected_exit and remainders.leaves_early(body):
        raise CannotResume(
            f"Line {block.owner.lineno if isinstance(block.owner, Held) else 0} has a "
            "`finally` block that is left by return, break or continue; go on from an "
            "outer frame with %resume --frame N."
        )
    is_body = frames.is_body(live.frame)
    if is_inner:
        body = remainders.reporting(body, is_module=is_body)
    builder = _build_body if is_body else _build_function
    try:
        return builder(live, target, block, body)
    except SyntaxError as error:
        raise PatchRejected(
            f"What is left of {target.definition.name} cannot be compiled by itself "
            f"({error.msg}); go on from an outer frame with %resume --frame N."
        ) from error


def _build_body(
    live: Live, target: Target, block: Block, body: list[ast.stmt]
) -> Continuation:
    names = live.frame.f_globals
    moved = {new: names[old] for old, new in target.loops.items() if old in names}
    code = splice.compile_module(
        body, target.definition, block=block.index, like=live.frame.f_code
    )
    return Continuation(live, target, code, moved | target.values)


def _build_function(
    live: Live, target: Target, block: Block, body: list[ast.stmt]
) -> Continuation:
    definition = target.definition
    plain = definition.unit.plain_code(definition)
    if plain is None:
        raise PatchRejected(f"The source of {definition.name} cannot be compiled.")
    values = _values(live, target)
    cells = tuple(live.cells)
    local = (*plain.co_varnames, *plain.co_cellvars)
    unbound = tuple(n for n in local if n not in values and n not in cells)
    code = splice.compile_function(
        remainders.without_declarations(body),
        definition,
        Variables(bound=tuple(values), unbound=unbound, cells=cells),
        block=block.index,
        like=live.frame.f_code,
    )
    made = Continuation(live, target, code, values)
    made._function()  # refuses an edit that needs a cell the frame does not have
    return made


def _values(live: Live, target: Target) -> dict[str, Any]:
    """What the continuation starts with: plain locals and live iterators."""
    scope = target.definition.scope
    declared = (
        remainders.declared_globals(scope)
        if isinstance(scope, trees.Function)
        else set()
    )
    skipped = declared | set(live.cells) | live.gone
    found = {**frames.read(live.frame), **live.extra}
    values = {k: v for k, v in found.items() if k not in skipped}
    values |= _new_parameters(live, target.definition, {*found, *skipped})
    for old, new in target.loops.items():
        values[new] = frames.hidden(live.frame, old)
    return values | target.values


def _new_parameters(
    live: Live, definition: Definition, known: set[str]
) -> dict[str, Any]:
    """Parameters that an edit has added have their defaults: no caller gave them."""
    scope = definition.scope
    if definition is live.definition or not isinstance(scope, trees.Function):
        return {}
    arguments = [*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs]
    missing = {a.arg for a in arguments if a.arg not in known} - live.gone
    old = live.definition.scope
    if isinstance(old, trees.Function):  # not one that the call itself has deleted
        own = (*old.args.posonlyargs, *old.args.args, *old.args.kwonlyargs)
        missing -= {a.arg for a in own}
    if not missing:
        return {}
    return {k: v for k, v in defaults_of(definition).items() if k in missing}


def release(ready: Continuation) -> None:
    """Let go of what the live frame holds and the continuation has taken over.

    Iterators of loops around an inner block stay: that block's end needs them.
    """
    live = ready.live
    if frames.is_body(live.frame):
        return
    taken = set(frames.read(live.frame)) | set(ready.target.loops)
    slots = {n for n in live.frame.f_code.co_varnames if n.startswith(operands.SLOT)}
    frames.write(live.frame, dict.fromkeys((taken | slots) - set(live.cells)))


def return_head(value: Any) -> tuple[tuple[ast.stmt, ...], dict[str, Any]]:
    """A head that returns ``value``, and the hidden variable that it needs."""
    return tuple(hidden.statements(f"return {RESULT}")), {RESULT: value}


def exit_head(leaving: Leave) -> tuple[tuple[ast.stmt, ...], dict[str, Any]]:
    """What runs in the place of a statement whose block is done."""
    done = leaving.continuation
    if done.outcome == "return":
        return return_head(done.value)
    if done.outcome in {"break", "continue"}:
        return tuple(hidden.statements(done.outcome)), {}
    return (), {}
