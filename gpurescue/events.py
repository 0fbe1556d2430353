"""What happened to a run, as frozen records, and the bus that carries them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to the run with number ``run``."""

    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSuspended(Event):
    """The run was parked by an exception."""

    error: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchApplied(Event):
    """A function, class or cell body was redefined while the run was alive."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResumed(Event):
    """The run went on; ``plan`` is the line the user was shown."""

    plan: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded(Event):
    """The run is over: ``finished``, ``failed`` or ``abandoned``."""

    outcome: str


@dataclass(slots=True)
class Bus:
    """Calls each subscriber with each event; a failing one never stops a run."""

    _subscribers: list[Callable[[Event], None]] = field(default_factory=list)

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Add a subscriber; the result removes it again."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def publish(self, event: Event) -> None:
        """Hand ``event`` to every subscriber, in the order they came."""
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(event)
            except Exception:  # noqa: BLE001 - whatever a listener does wrong
                _log.exception("A subscriber failed on %r.", event)
