"""A crash report as HTML: no script, nothing from outside, bounded in size.

It is still read as it should be where styles are stripped (GitHub, an untrusted
notebook): the order, the marks and the bold type are in the elements themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpurescue.diagnosis.excerpt import SourceLine
from gpurescue.diagnosis.hints import Hint
from gpurescue.diagnosis.panel.escape import markup, markup_line
from gpurescue.diagnosis.panel.highlight import highlight
from gpurescue.diagnosis.panel.style import STYLE
from gpurescue.diagnosis.report import CrashReport, FrameReport, VariableReport

MAX_SIZE = 190_000
MAX_FIRST_LINE = 600
MAX_MESSAGE = 2_000
MAX_TITLE_VARIABLES = 6

# A triangle, shown as text and not as an emoji.
_MARK = "&#9654;&#xFE0E;"
_TOO_LARGE = '<p class="gr-more">(too large to show here)</p>'


def html(report: CrashReport) -> str:
    """The panel of a suspended run."""
    inner = report.innermost
    used, others = _split(inner.variables)
    head = [
        _error(report),
        f'<p class="gr-state">Run {report.run_number} is alive, waiting '
        f"{_place(report)}.{_freed(report)}</p>",
        _source(inner.lines),
        _table(used),
    ]
    folded = [
        _locals(others, inner),
        _stack(report.frames, report.num_frames, is_open=False),
        _traceback(report),
    ]
    return _panel([*head, *folded], last=_next(report.hints))


def frames_html(report: CrashReport) -> str:
    """Every frame of a suspended run with its variables."""
    order = ", innermost first" if report.num_frames > 1 else ""
    title = f"<p><strong>{_num_frames(report.num_frames)}</strong>{order}</p>"
    frames = _frames(report.frames, report.num_frames, is_open=True)
    return _panel([title, *frames, _traceback(report)], style="gr-panel gr-done")


def resumed_html(report: CrashReport, plan: str) -> str:
    """What the panel becomes when the run goes on.

    Args:
        report: The suspension that is over.
        plan: What was done, such as ``resumes at line 12: ...``.
    """
    where = markup_line(f" {report.place}: ")
    text = f"<strong>{markup_line(report.error_type)}</strong>{where}"
    body = f'<p class="gr-state">{text}<code>{markup_line(plan)}</code></p>'
    return _panel([body], style="gr-panel gr-done")


def _panel(parts: Iterable[str], *, last: str = "", style: str = "gr-panel") -> str:
    """All parts that fit; one that does not is replaced by a word about it."""
    room = MAX_SIZE - len(STYLE) - len(last)
    kept: list[str] = []
    for part in filter(None, parts):
        fits = part if len(part) <= room else _TOO_LARGE
        kept.append(fits)
        room -= len(fits)
    inside = "\n".join([STYLE, *kept, last])
    return f'<div class="{style}">{inside}\n</div>'


def _folded(title: str, inside: str, *, is_open: bool = False) -> str:
    state = " open" if is_open else ""
    return f"<details{state}><summary>{title}</summary>\n{inside}\n</details>"


# -- the error -------------------------------------------------------------------


def _error(report: CrashReport) -> str:
    first, _, rest = report.message.strip().partition("\n")
    shown, over = first[:MAX_FIRST_LINE], first[MAX_FIRST_LINE:]
    colon = ": " if shown else ""
    bold = f"<strong>{markup_line(report.error_type)}{colon}</strong>"
    text = f'<p class="gr-error">{bold}{markup_line(shown)}</p>'
    rest = f"...{over}\n{rest}" if over else rest
    if not rest:
        return text
    text += f'\n<pre class="gr-text gr-message">{markup(rest[:MAX_MESSAGE])}</pre>'
    if len(rest) <= MAX_MESSAGE:
        return text
    more = f'<pre class="gr-text">{markup(rest[MAX_MESSAGE:])}</pre>'
    return text + "\n" + _folded("Rest of the message", more)


def _freed(report: CrashReport) -> str:
    text = f" The failed call has given back {report.freed}." if report.freed else ""
    return markup_line(text)


def _place(report: CrashReport) -> str:
    frame = report.innermost
    at = f"at <strong>{markup_line(report.where)}</strong>, " if report.where else ""
    return f"{at}in {_where(frame)}"


def _where(frame: FrameReport) -> str:
    title = markup_line(frame.title)
    name = title if frame.is_body else f"<code>{title}</code>"
    return f"{name} ({markup_line(frame.label)}, line {frame.line})"


# -- source ----------------------------------------------------------------------


def _source(lines: Sequence[SourceLine]) -> str:
    if not lines:
        return ""
    width = len(str(lines[-1].number))
    text = highlight("\n".join(line.text for line in lines))
    rows = [_row(line, code, width) for line, code in zip(lines, text, strict=True)]
    # Rows are blocks, so a newline between them would be an empty line; where styles
    # are stripped the newline inside a row still ends it.
    return f'<pre class="gr-source">{"".join(rows)}</pre>'


def _row(line: SourceLine, code: str, width: int) -> str:
    style = "gr-row"
    if line.is_failing:
        style += " gr-at"
    elif line.is_in_statement:
        style += " gr-in"
    mark = f'<span class="gr-mark">{_MARK}</span>' if line.is_failing else " "
    number = f'<span class="gr-no">{line.number:>{width}}</span>'
    return f'<span class="{style}">{mark} {number}  {code}\n</span>'


# -- variables and frames --------------------------------------------------------


def _split(
    variables: Sequence[VariableReport],
) -> tuple[list[VariableReport], list[VariableReport]]:
    """Those of the failing statement, for all to see, and the others."""
    used = [v for v in variables if v.is_used_in_failing_statement]
    used = used[:MAX_TITLE_VARIABLES]
    return used, list(variables[len(used) :])


def _table(variables: Sequence[VariableReport], num_more: int = 0) -> str:
    rows = [_variable(v) for v in variables]
    if num_more:
        rows.append(
            f'<tr class="gr-tr"><td colspan="2">and {num_more:,} more</td></tr>'
        )
    if not rows:
        return ""
    return f"<table><tbody>\n{''.join(rows)}</tbody></table>"


def _variable(variable: VariableReport) -> str:
    name = f"<code>{markup_line(variable.name)}</code>"
    if variable.is_used_in_failing_statement:
        name = f"<strong>{name}</strong>"
    value = markup_line(variable.summary.text)
    if variable.summary.warning:
        warning = markup_line(variable.summary.warning)
        value += f', <strong class="gr-warn">{warning}</strong>'
    return _cells("gr-name", name, f"<code>{value}</code>")


def _cells(style: str, name: str, text: str) -> str:
    # Said in the cell itself: JupyterLab aligns cells to the right, and an untrusted
    # notebook keeps this but not the style sheet.
    left = 'style="text-align:left"'
    cells = f'<td class="{style}" {left}>{name}</td><td {left}>{text}</td>'
    return f'<tr class="gr-tr">{cells}</tr>\n'


def _locals(others: Sequence[VariableReport], frame: FrameReport) -> str:
    count = len(others) + frame.num_more_variables
    if not count:
        return ""
    is_all = len(others) == len(frame.variables)
    words = "variable" if is_all else "other variable"
    words += "" if count == 1 else "s"
    title = f"{count:,} {words} of {markup_line(frame.title)}"
    return _folded(title, _table(others, frame.num_more_variables))


def _num_frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count:,} frames"


def _stack(frames: Sequence[FrameReport], count: int, *, is_open: bool) -> str:
    if count < 2:
        return ""
    inside = "\n".join(_frames(frames, count, is_open=is_open))
    return _folded(f"Stack: {_num_frames(count)}, innermost first", inside)


def _frames(frames: Sequence[FrameReport], count: int, *, is_open: bool) -> list[str]:
    found: list[str] = []
    room = MAX_SIZE // 2
    expected = frames[0].index if frames else 0
    for frame in frames:
        if frame.index > expected:
            found.append(_gap(frame.index - expected))
        expected = frame.index + 1
        text = _frame(frame, is_open=is_open)
        text = text if len(text) <= room else f"<p>{_frame_title(frame)}</p>"
        room -= len(text)
        found.append(text)
    if count > expected:
        found.append(_gap(count - expected))
    return found


def _gap(count: int) -> str:
    return f'<p class="gr-more">... {_num_frames(count)} more ...</p>'


def _frame_title(frame: FrameReport) -> str:
    return f"{frame.index}: {_where(frame)}"


def _frame(frame: FrameReport, *, is_open: bool) -> str:
    table = _table(frame.variables, frame.num_more_variables)
    inside = f"<div>{_source(frame.lines)}\n{table}</div>"
    return _folded(_frame_title(frame), inside, is_open=is_open)


def _traceback(report: CrashReport) -> str:
    if not report.traceback_text.strip():
        return ""
    text = f'<pre class="gr-text">{markup(report.traceback_text.rstrip())}</pre>'
    return _folded("Full traceback", text)


# -- what next -------------------------------------------------------------------


def _next(hints: Sequence[Hint]) -> str:
    rows = "".join(_cells("gr-do", _command(h), markup_line(h.purpose)) for h in hints)
    table = f"<table><tbody>\n{rows}</tbody></table>"
    return f'<div class="gr-next"><strong>What next</strong>\n{table}</div>'


def _command(hint: Hint) -> str:
    text = markup_line(hint.command)
    return text if hint.is_gesture else f"<code>{text}</code>"
