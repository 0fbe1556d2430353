"""The line that shows how far a run has come, in the cell that waits for it."""

from __future__ import annotations

import html
import itertools
import time
from collections.abc import Sequence

from gpurescue.magics.shell import Shell
from gpurescue.recovery.loops import Reading

_AFTER = 1.0  # nothing is shown of runs shorter than this
_EVERY = 0.25
_names = itertools.count(1)


class ProgressLine:
    """Shown and changed from the thread that waits, never from the run's."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._name = f"gpurescue-progress-{next(_names)}"
        self._is_shown = False
        self._next = time.monotonic() + _AFTER

    def update(self, readings: Sequence[Reading]) -> None:
        """Show where the run is, if it is time for that."""
        if time.monotonic() >= self._next and readings:
            self._next = time.monotonic() + _EVERY
            self._draw(readings, "")

    def finish(self, readings: Sequence[Reading], state: str) -> None:
        """Show where the run stopped, if it was shown at all."""
        if self._is_shown and readings:
            self._draw(readings, state)
            if not self._shell.is_kernel:
                self._shell.say("")

    def _draw(self, readings: Sequence[Reading], state: str) -> None:
        text = as_text(readings, state)
        if self._shell.is_kernel:
            self._shell.show(
                as_html(readings, state), text, name=self._name, again=self._is_shown
            )
        else:
            self._shell.write(f"\r{text:<79}")
        self._is_shown = True


def fraction(readings: Sequence[Reading]) -> float | None:
    """How much of the run is done; None if its length is not known.

    A round that has begun counts by what its own inner loop has done.
    """
    done = 0.0
    for reading in reversed(readings):
        if not reading.total:
            return None
        done = (max(reading.count - 1, 0) + done) / reading.total
    return min(done, 1.0)


def remaining(readings: Sequence[Reading]) -> float | None:
    """Seconds that the rest will take at the pace so far."""
    done = fraction(readings)
    if not done or not readings:
        return None
    return readings[0].seconds * (1 - done) / done


def as_text(readings: Sequence[Reading], state: str) -> str:
    """One line for a terminal: ``epoch 2/3, step 17/40 | 41 % | 0:12 left``."""
    parts = [", ".join(map(str, readings))]
    if state:
        return " | ".join([*parts, state])
    done, left = fraction(readings), remaining(readings)
    if done is not None:
        parts.append(f"{100 * done:.0f} %")
    if left is not None:
        parts.append(f"{duration(left)} left")
    return " | ".join(parts)


def as_html(readings: Sequence[Reading], state: str) -> str:
    """The same with a bar, for a notebook."""
    done = fraction(readings)
    if state == "done":
        done = 1.0
    bar = ""
    if done is not None:
        bar = (
            f'<progress max="1" value="{done:.4f}" '
            'style="width:14em;vertical-align:middle"></progress> '
        )
    line = html.escape(as_text(readings, state))
    return f'<div class="gr-progress" style="font-size:90%">{bar}{line}</div>'


def duration(seconds: float) -> str:
    """``0:12``, ``3:04:05``."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{whole % 60:02d}"
    return f"{minutes}:{whole % 60:02d}"
