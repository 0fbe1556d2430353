"""Exception groups and ``except*``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpurescue.recovery.handlers.abstract import (
    NONE,
    UNKNOWN,
    Known,
    Listed,
    Made,
    Value,
)
from gpurescue.recovery.handlers.objects import (
    alternatives,
    class_of,
    inherits,
    is_exception_class,
    matches,
)
from gpurescue.recovery.handlers.paths import Undecided

_MEMBERS = BaseExceptionGroup.__dict__["exceptions"].__get__


def is_group(thrown: Value) -> bool:
    """Whether ``thrown`` is an exception group."""
    cls = class_of(thrown)
    return cls is not None and inherits(cls, BaseExceptionGroup)


def split(thrown: Value, test: Value) -> tuple[Value, Value]:
    """What ``except* test`` leaves over, and what it takes (CHECK_EG_MATCH).

    A group of which only a part matches cannot be decided: some of it is handled.

    Raises:
        LookupError: ``test`` is or has a group, which is a TypeError.
    """
    if thrown == NONE:
        return NONE, NONE
    _check(test)
    answers = {_match(leaf, test) for leaf in _leaves(thrown)}
    if answers == {True}:
        # A lone exception is wrapped in a group for the clause.
        return NONE, thrown if is_group(thrown) else Made(ExceptionGroup)
    if answers == {False}:
        return thrown, NONE
    raise Undecided("except* takes a part of the group")


def _check(test: Value) -> None:
    for option in alternatives(test) or []:
        if option is UNKNOWN:
            continue
        if not is_exception_class(option) or inherits(option, BaseExceptionGroup):
            raise LookupError(f"{option!r} cannot be taken by except*")


def _match(leaf: Value, test: Value) -> bool | None:
    return matches(leaf, test)


def _leaves(thrown: Value) -> Iterator[Value]:
    if not is_group(thrown):
        yield thrown
    elif isinstance(thrown, Known):
        yield from map(Known, _members(thrown.value))
    else:
        yield UNKNOWN


def _members(group: Any) -> Iterator[Any]:
    for member in _MEMBERS(group):
        if inherits(type(member), BaseExceptionGroup):
            yield from _members(member)
        else:
            yield member


def rest(thrown: Value, raised: Value) -> Value:
    """What goes on behind the last ``except*`` clause (PREP_RERAISE_STAR)."""
    if not isinstance(raised, Listed):
        raise Undecided("the rest of an except* is unknown")
    left = [value for value in raised.items if value != NONE]
    if not left:
        return NONE
    if len(left) == 1 and (left[0] == thrown or not is_group(thrown)):
        return left[0]
    raise Undecided("except* raises a new group")
