"""A crash report as text, for a terminal and for wherever HTML is not shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpurescue.diagnosis.excerpt import SourceLine
from gpurescue.diagnosis.hints import Hint
from gpurescue.diagnosis.panel.escape import one_line, plain
from gpurescue.diagnosis.report import CrashReport, FrameReport, VariableReport

MAX_MESSAGE = 2_000
MAX_PANEL_VARIABLES = 12
MAX_NAME_WIDTH = 24


@dataclass(frozen=True, slots=True)
class _Ink:
    """Bold type, where the terminal has it."""

    color: bool

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.color else text


def text(report: CrashReport, *, color: bool) -> str:
    """The panel of a suspended run.

    Args:
        report: What happened.
        color: True to print bold type with ANSI sequences.
    """
    ink, inner = _Ink(color), report.innermost
    parts = [
        [_error(report, ink), _state(report)],
        _source(inner.lines, ink),
        _variables(inner, MAX_PANEL_VARIABLES),
        _stack(report, ink),
        _next(report.hints, ink),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def frames_text(report: CrashReport, *, color: bool) -> str:
    """Every frame of a suspended run with its variables, and the full traceback.

    Args:
        report: What happened.
        color: True to print bold type with ANSI sequences.
    """
    ink = _Ink(color)
    parts: list[str] = []
    for gap, frame in _with_gaps(report):
        if gap:
            parts.append(f"... {gap:,} more frames ...")
        source = [ink.bold(_title(frame)), *_source(frame.lines, ink)]
        parts.append("\n".join(source))
        parts.append("\n".join(_variables(frame, len(frame.variables))))
    if report.traceback_text.strip():
        parts.append(plain(report.traceback_text.rstrip()))
    return "\n\n".join(filter(None, parts))


def resumed_text(report: CrashReport, plan: str) -> str:
    """What the panel becomes when the run goes on.

    Args:
        report: The suspension that is over.
        plan: What was done, such as ``resumes at line 12: ...``.
    """
    return one_line(f"{report.error_type} {report.place}: {plan}")


def _error(report: CrashReport, ink: _Ink) -> str:
    name, message = ink.bold(one_line(report.error_type)), report.message.strip()
    if len(message) > MAX_MESSAGE:
        more = len(message) - MAX_MESSAGE
        message = f"{message[:MAX_MESSAGE]}... ({more:,} more characters)"
    return f"{name}: {plain(message)}" if message else name


def _state(report: CrashReport) -> str:
    place = one_line(report.place)
    freed = f" The failed call has given back {report.freed}." if report.freed else ""
    return f"Run {report.run_number} is alive, waiting {place}.{freed}"


def _source(lines: Sequence[SourceLine], ink: _Ink) -> list[str]:
    width = len(str(lines[-1].number)) if lines else 0
    found = []
    for line in lines:
        mark = "-->" if line.is_failing else "   "
        code = plain(line.text.expandtabs(4))
        row = f"{mark} {line.number:>{width}}  {code}".rstrip()
        found.append(ink.bold(row) if line.is_failing else row)
    return found


def _variables(frame: FrameReport, limit: int) -> list[str]:
    shown: Sequence[VariableReport] = frame.variables[:limit]
    names = [one_line(variable.name) for variable in shown]
    width = min(MAX_NAME_WIDTH, max(map(len, names), default=0))
    rows = [
        f"    {name:<{width}}  {one_line(str(variable.summary))}"
        for name, variable in zip(names, shown, strict=True)
    ]
    num_more = len(frame.variables) - len(shown) + frame.num_more_variables
    return [*rows, f"    and {num_more:,} more"] if num_more else rows


def _with_gaps(report: CrashReport) -> Iterable[tuple[int, FrameReport]]:
    expected = report.innermost.index
    for frame in report.frames:
        yield frame.index - expected, frame
        expected = frame.index + 1


def _title(frame: FrameReport) -> str:
    label = one_line(frame.label)
    return f"{frame.index}: {one_line(frame.title)} ({label}, line {frame.line})"


def _stack(report: CrashReport, ink: _Ink) -> list[str]:
    if report.num_frames < 2:
        return []
    rows = [ink.bold("Stack, innermost first")]
    for gap, frame in _with_gaps(report):
        if gap:
            rows.append(f"    ... {gap:,} more frames ...")
        rows.append(f"    {_title(frame)}")
    return rows


def _next(hints: Sequence[Hint], ink: _Ink) -> list[str]:
    commands = [one_line(hint.command) for hint in hints]
    width = max(map(len, commands), default=0)
    rows = [
        f"    {command:<{width}}  {one_line(hint.purpose)}"
        for command, hint in zip(commands, hints, strict=True)
    ]
    return [ink.bold("What next"), *rows]
