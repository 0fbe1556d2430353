"""Generators as data: where each stands, and a new one that goes on from there.

A generator waits at a ``yield``, as an outer frame waits at a call. What is left of its
function becomes a generator function; it is brought to a bare ``yield`` in the place of
that one, so that what is sent, thrown or closed arrives where it would have arrived.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from types import CodeType, FrameType, GeneratorType
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.recovery import frames, points, revival
from gpurescue.recovery.continuation import Continuation
from gpurescue.recovery.hands import Rounds
from gpurescue.recovery.points import Point
from gpurescue.recovery.revival import Given
from gpurescue.recovery.suspension import HeldFrame, held_frames
from gpurescue.source import cells, hidden, remainder
from gpurescue.source import tree as trees
from gpurescue.source.locate import Site
from gpurescue.source.remainder import BOX, Step

INNER = "__gr_inner__"

Reduced = tuple[Any, ...]


def reduced(generator: GeneratorType[Any, Any, Any]) -> Reduced | None:
    """How a generator of the user's is pickled; None if it is not one.

    Raises:
        CannotResume: Nobody could go on from where it stands; says why.
    """
    state = inspect.getgeneratorstate(generator)
    if not frames.has_guards(generator.gi_code):
        return None
    if state == inspect.GEN_CLOSED:
        return ended, ()
    if state == inspect.GEN_RUNNING:
        raise CannotResume(f"{generator.__qualname__} is running")
    frame, inner = _standing(generator)
    if state == inspect.GEN_CREATED:
        point = _at_start(frame)
    else:
        point = _at_yield(frame, inner)
    standing = Standing(
        point=_bare(point),
        has_begun=state == inspect.GEN_SUSPENDED,
        delegates=inner is not None,
    )
    _assembled(point, standing)  # found out now that it can be done
    values = (
        point.values,
        point.slots,
        {n: rounds.iterator for n, rounds in point.rounds.items()},
        point.exits,
        inner.inner if isinstance(inner, Waiting) else inner,
    )
    return begin, (standing,), (standing, *values), None, None, fill


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a generator stands.

    Attributes:
        point: The point of its frame, without its values.
        has_begun: False of one that was never asked.
        delegates: True if it waits in a ``yield from``.
    """

    point: Point
    has_begun: bool
    delegates: bool


def _bare(point: Point) -> Point:
    return replace(
        point,
        values=dict.fromkeys(point.values),
        slots=dict.fromkeys(point.slots),
        rounds=dict.fromkeys(point.rounds, Rounds(iterator=None)),
        exits=(None,) * len(point.exits),
    )


def _standing(
    generator: GeneratorType[Any, Any, Any],
) -> tuple[FrameType, Any]:
    """The frame that a generator stands in by now, and what that waits for."""
    frame, inner = generator.gi_frame, generator.gi_yieldfrom
    assert frame is not None
    if isinstance(inner, GeneratorType) and inner.gi_frame is not None:
        box = frames.hidden(inner.gi_frame, BOX)
        if isinstance(box, Continuation) and box.live.frame is frame:
            return _standing(inner)
    return frame, inner


def _at_start(frame: FrameType) -> Point:
    definition = cells.definition(frame.f_code)
    if definition is None:
        raise CannotResume(f"the source of {frame.f_code.co_qualname} is gone")
    held = HeldFrame(
        index=0,
        frame=frame,
        definition=definition,
        path=(Step(0),),
        site=Site.STATEMENT,
        span=trees.span(definition.scope.body[0]),
    )
    point = points.point_of(held)
    box = frames.hidden(frame, BOX)  # one that was made here, and never asked
    return replace(point, values=box.variables()) if isinstance(box, Given) else point


def _at_yield(frame: FrameType, inner: Any) -> Point:
    held = held_frames(frame, None, None)
    if not held or held[0].frame is not frame:
        raise CannotResume(f"nobody knows where {frame.f_code.co_qualname} stands")
    kind = ast.Yield if inner is None else ast.YieldFrom
    return replace(points.point_of(held[0]), slots=points.slots(held[0], kind))


def _assembled(
    point: Point, standing: Standing, inner: Any = None
) -> tuple[CodeType, dict[str, Any]]:
    """What is left of its function, and the values that this takes."""
    found = {n: rounds.iterator for n, rounds in point.rounds.items()}
    iterators = revival.named(found)
    if not standing.has_begun:
        definition = revival.definition_of(point)
        first = remainder.statement(definition.scope.body, point.path)
        return revival.assemble(point, (trees.copied(first),), iterators)
    text = f"(yield from {INNER})" if standing.delegates else "(yield)"
    kind = ast.YieldFrom if standing.delegates else ast.Yield
    head, given = revival.rest_of(point, kind, hidden.expression(text))
    if standing.delegates:
        given[INNER] = Waiting(inner)
    return revival.assemble(point, head, iterators | given)


def begin(standing: Standing) -> Generator[Any, Any, Any]:
    """A generator without its variables; called by the pickle."""
    code, values = _assembled(standing.point, standing)
    go_on = revival.function(standing.point, code)
    made: Generator[Any, Any, Any] = go_on(Given(values))
    return made


def fill(generator: GeneratorType[Any, Any, Any], state: tuple[Any, ...]) -> None:
    """Give it its variables, and bring it to where it stood; called by the pickle."""
    standing, values, slots, iterators, exits, inner = state
    point = replace(
        standing.point,
        values=values,
        slots=slots,
        rounds={n: Rounds(iterator=found) for n, found in iterators.items()},
        exits=exits,
    )
    _, given = _assembled(point, standing, inner)
    assert generator.gi_frame is not None
    generator.gi_frame.f_locals[BOX].put(given)
    if standing.has_begun:
        next(generator)


def ended() -> Iterator[Any]:
    """A generator that is over; called by the pickle."""
    found = iter(_nothing())
    next(found, None)
    return found


def _nothing() -> Iterator[Any]:
    return
    yield


class Waiting:
    """What a generator delegates to, and has asked already.

    The first time that it is asked it gives nothing, for the generator to stand there.

    Attributes:
        inner: What it asks from then on.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._has_begun = False

    def __iter__(self) -> Waiting:
        return self

    def __next__(self) -> Any:
        if not self._has_begun:
            self._has_begun = True
            return None
        return next(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name in {"send", "throw", "close"}:
            return getattr(self.inner, name)
        raise AttributeError(name)
