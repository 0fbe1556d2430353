"""A suspension as plain data: everything that is shown about it, and nothing live."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gpurescue.diagnosis import excerpt as excerpts
from gpurescue.diagnosis import hints, reflection, tracebacks
from gpurescue.diagnosis.excerpt import SourceLine
from gpurescue.diagnosis.hints import Hint
from gpurescue.diagnosis.result import Budget, Summary, cut
from gpurescue.diagnosis.summary import is_definition, summarise
from gpurescue.recovery import frames as live_frames
from gpurescue.recovery.suspension import HeldFrame, Suspension
from gpurescue.source.cells import Unit

_log = logging.getLogger(__name__)

MAX_MESSAGE = 20_000
MAX_VARIABLES = 30
MAX_INNER, MAX_OUTER = 10, 5
MAX_LABEL = 200
_MIN_FREED = 2**20

_KERNEL_FILE = re.compile(r"ipykernel_\d+[/\\]|^<")

LabelOf = Callable[[str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableReport:
    """One variable of a frame."""

    name: str
    summary: Summary
    is_used_in_failing_statement: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameReport:
    """One of the user's frames; the innermost has index 0.

    Attributes:
        index: What ``%%at`` and ``--frame`` call it.
        name: Qualified name of the function; ``<module>`` for a cell's body.
        label: Which cell or file it is in.
        line: Where it stands.
        lines: Source around that line.
        variables: Those of the failing statement first.
        num_more_variables: How many were left out.
    """

    index: int
    name: str
    label: str
    line: int
    lines: tuple[SourceLine, ...] = ()
    variables: tuple[VariableReport, ...] = ()
    num_more_variables: int = 0

    @property
    def is_body(self) -> bool:
        """True for a cell's own statements."""
        return self.name == "<module>"

    @property
    def title(self) -> str:
        """What to call the frame in a sentence."""
        return "the cell's own code" if self.is_body else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashReport:
    """A suspended run.

    Attributes:
        run_number: The run's number.
        error_type: Class of the exception; ``Paused`` if there is none.
        message: Its text.
        where: Reading of the loop clock, such as ``epoch 2, step 17``.
        frames: The user's frames, innermost first; the middle of a deep stack is left
            out.
        num_frames: How many frames there are.
        traceback_text: The whole traceback.
        hints: What to type next.
        freed: What letting go of the failed call has freed, in words.
    """

    run_number: int
    error_type: str
    message: str
    where: str
    frames: tuple[FrameReport, ...]
    num_frames: int
    traceback_text: str
    hints: tuple[Hint, ...]
    freed: str = ""

    @property
    def innermost(self) -> FrameReport:
        """The frame that failed."""
        return self.frames[0]

    @property
    def place(self) -> str:
        """Where the run waits, in words."""
        frame = self.innermost
        at = f"at {self.where}, " if self.where else ""
        return f"{at}in {frame.title} ({frame.label}, line {frame.line})"


def report(
    suspension: Suspension, *, run_number: int, label_of: LabelOf | None = None
) -> CrashReport:
    """Describe a suspended run.

    Args:
        suspension: The parked run, which is only read.
        run_number: The run's number.
        label_of: What to call a file, such as ``Cell In[4]``; None for the usual.
    """
    reader = _Reader(label_of=label_of)
    frames = tuple(map(reader.frame, _shown(suspension.frames)))
    kind, message = _what(suspension)
    return CrashReport(
        run_number=run_number,
        error_type=kind,
        message=message,
        where=suspension.where,
        frames=frames,
        num_frames=len(suspension.frames),
        traceback_text=tracebacks.whole(suspension, reader.labels),
        hints=hints.hints(suspension, frames[0].label),
        freed=_freed(suspension.freed),
    )


def _what(suspension: Suspension) -> tuple[str, str]:
    """What stopped the run: the kind, and the message."""
    if suspension.is_paused:
        return "Paused", f"before line {suspension.innermost.line}"
    error = suspension.error
    return reflection.type_name(error), _message(error)


def _freed(freed: dict[str, int]) -> str:
    """Such as ``1.2 GB on cuda:0``; empty if it is nothing to speak of."""
    shown = [
        f"{_size(count)} on {'the host' if name == 'host' else name}"
        for name, count in freed.items()
        if count >= _MIN_FREED
    ]
    return " and ".join(shown)


def _size(count: int) -> str:
    gigabytes = count / 1e9
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{count / 1e6:.0f} MB"


def _message(error: BaseException) -> str:
    """``str(error)`` as Python itself would print it."""
    try:
        text = str.__getitem__(str(error), slice(0, MAX_MESSAGE + 1))
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return "(its message cannot be read: its __str__ failed)"
    return cut(text, MAX_MESSAGE)


def _shown(found: tuple[HeldFrame, ...]) -> tuple[HeldFrame, ...]:
    if len(found) <= MAX_INNER + MAX_OUTER:
        return found
    return found[:MAX_INNER] + found[-MAX_OUTER:]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Describes frames; what several frames share is looked at once."""

    label_of: LabelOf | None
    labels: dict[str, str] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    known: dict[int, Summary] = field(default_factory=dict)

    def frame(self, held: HeldFrame) -> FrameReport:
        """Describe a frame, at least by its name and its line."""
        label = self._label(held.definition.unit)
        bare = FrameReport(
            index=held.index,
            name=cut(held.name, MAX_LABEL),
            label=label,
            line=held.line,
        )
        try:
            shown, num_more = self._variables(held)
            lines = excerpts.excerpt(held)
        except Exception:  # noqa: BLE001 - a report with a gap is better than none
            _log.exception("Frame %d cannot be described in full.", held.index)
            return bare
        return replace(bare, lines=lines, variables=shown, num_more_variables=num_more)

    def _label(self, unit: Unit) -> str:
        label = "" if self.label_of is None else self.label_of(unit.filename)
        if not label:
            is_cell = _KERNEL_FILE.search(unit.path)
            label = "cell" if is_cell else re.split(r"[/\\]", unit.path)[-1]
        self.labels[unit.path] = cut(label, MAX_LABEL)
        return self.labels[unit.path]

    def _variables(self, held: HeldFrame) -> tuple[tuple[VariableReport, ...], int]:
        found = held.variables()
        if live_frames.is_body(held.frame):
            found = {k: v for k, v in found.items() if _is_data(k, v)}
        names = excerpts.names_in_statement(held)
        used = {name: None for name in names if name in found}
        order = used | dict.fromkeys(found)
        shown = tuple(
            VariableReport(
                name=cut(name, reflection.MAX_NAME),
                summary=self._summary(found[name]),
                is_used_in_failing_statement=name in used,
            )
            for name in itertools.islice(order, MAX_VARIABLES)
        )
        return shown, len(order) - len(shown)

    def _summary(self, value: object) -> Summary:
        key = id(value)  # the frames keep the values alive
        if key not in self.known:
            self.known[key] = summarise(value, budget=self.budget)
        return self.known[key]


def _is_data(name: str, value: object) -> bool:
    is_special = name.startswith("__") and name.endswith("__")
    return not is_special and not is_definition(value)
