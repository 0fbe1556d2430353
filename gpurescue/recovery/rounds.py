"""Tops of rounds: what a round of the training loop began with.

The clock marks the top of a round of its innermost loop (``recovery/loops.py``). A
mark has the item, the variables that the round takes over from the one before, and
what the device library's journal has read. With it ``%resume --iteration`` runs the
round again, and ``--skip-batch`` leaves it out as if the batch had not been there.
"""

from __future__ import annotations

import ast
import collections
import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from gpurescue.protocols import Journal, RoundMark
from gpurescue.recovery import frames
from gpurescue.recovery.hands import Hand, hand_of
from gpurescue.recovery.loops import BUDGET
from gpurescue.source import cells, liveness
from gpurescue.source import tree as trees
from gpurescue.source.cells import Definition
from gpurescue.source.liveness import Carried

ForLoop = ast.For | ast.AsyncFor

_MISSING = object()
_MAX_COPIED = 1_000
_KINDS = (list, dict, set, collections.deque, collections.Counter)
_NOTHING = Carried(names=frozenset(), attributes=frozenset(), containers=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The top of one round of a loop.

    Attributes:
        count: Which round, from 1.
        item: What the loop's iterator gave.
        variables: Those that the round takes over, as they were.
        attributes: (object, attribute, value) that the round may assign.
        containers: Built-in containers that the round may change, with copies.
        journal: What the device library had.
    """

    count: int
    item: Any
    variables: dict[str, Any]
    attributes: tuple[tuple[Any, str, Any], ...] = ()
    containers: tuple[tuple[Any, Any], ...] = ()
    journal: RoundMark | None = None

    def apply(self) -> None:
        """Put back all but the variables, which the continuation brings along."""
        for owner, name, value in self.attributes:
            if value is _MISSING:
                vars(owner).pop(name, None)
            else:
                setattr(owner, name, value)
        for container, before in self.containers:
            _fill(container, before)
        if self.journal is not None:
            self.journal.apply()


@dataclass(slots=True)
class Marker:
    """Marks rounds for one run.

    Args:
        journal: Reads what belongs to the device library.
        namespace: Variables of the run's cell.
    """

    journal: Journal
    namespace: Mapping[str, Any]
    _loops: dict[int, tuple[float, Carried]] = field(default_factory=dict)
    _find_again_at: float = 0.0

    def __call__(self, hand: Hand, item: Any, frame: FrameType) -> Round:
        """Mark the round that ``hand`` has just begun in ``frame``."""
        values = collections.ChainMap(frame.f_locals, frame.f_globals)
        known = self._loops.get(hand.depth)
        if known is None or known[0] != hand.start:
            known = hand.start, _carried(frame, hand)
            self._loops[hand.depth] = known
            self._find(frame)
        carried = known[1]
        return Round(
            count=hand.count,
            item=item,
            variables={n: values[n] for n in carried.names if n in values},
            attributes=tuple(_attributes(carried, values)),
            containers=tuple(_containers(carried, values)),
            journal=self.journal.mark(),
        )

    def _find(self, frame: FrameType) -> None:
        """Look for training state, unless that was done a short time ago.

        What has come since is seen when a round is to be taken back, and refused.
        """
        begun = time.monotonic()
        if begun >= self._find_again_at:
            self.journal.find(roots(frame.f_locals, self.namespace))
            done = time.monotonic()
            self._find_again_at = done + (done - begun) / BUDGET

    def rest(self) -> None:
        """No round is marked for a while."""
        self.journal.rest()


def roots(values: Mapping[str, Any], namespace: Mapping[str, Any]) -> list[Any]:
    """The variables of a frame and of the cell, without ours."""
    return [
        value
        for names in (values, namespace)
        for name, value in list(names.items())
        if not trees.is_hidden(name)
    ]


def _carried(frame: FrameType, hand: Hand) -> Carried:
    definition = cells.definition(frame.f_code)
    loop = None if definition is None else loop_of(definition, frame, hand)
    return _NOTHING if loop is None else liveness.carried(loop)


def loop_of(definition: Definition, frame: FrameType, hand: Hand) -> ForLoop | None:
    """The loop of a frame that ``hand`` counts."""
    for loop in definition.layout.loops:
        if isinstance(loop, ForLoop):
            found = frames.hidden(frame, trees.iterator_name(loop))
            if hand_of(found) is hand:
                return loop
    return None


def _attributes(
    carried: Carried, values: Mapping[str, Any]
) -> Iterable[tuple[Any, str, Any]]:
    for owner, name in carried.attributes:
        if owner in values and hasattr(values[owner], "__dict__"):
            found = vars(values[owner])
            yield values[owner], name, found.get(name, _MISSING)


def _containers(
    carried: Carried, values: Mapping[str, Any]
) -> Iterable[tuple[Any, Any]]:
    for name in carried.containers:
        owner, _, attribute = name.partition(".")
        found = values.get(owner)
        if attribute:
            found = getattr(found, "__dict__", {}).get(attribute)
        if found is None or type(found) not in _KINDS:
            continue
        if len(found) <= _MAX_COPIED:
            yield found, copy.copy(found)
        elif type(found) is list:
            yield found, len(found)


def _fill(container: Any, before: Any) -> None:
    """Make a container what it was; of a long list only what came behind goes."""
    if isinstance(before, int):
        del container[before:]
    elif isinstance(container, list):
        container[:] = before
    else:
        container.clear()
        more = container.extend if isinstance(before, collections.deque) else None
        (more or container.update)(before)
