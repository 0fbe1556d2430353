"""Colours for a piece of Python source, which may begin or end anywhere."""

from __future__ import annotations

import builtins
import keyword
import re

from gpurescue.diagnosis.panel.escape import markup

_CONSTANTS = {"True", "False", "None"}
_KEYWORDS = {*keyword.kwlist} - _CONSTANTS
_BUILTINS = {name for name in dir(builtins) if name[:1].islower()}

_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
  | (?P<string>(?i:\b[rbuft]{1,2})?(?:
        \"\"\"(?:\\.|[^\\])*?(?:\"\"\"|\Z) | '''(?:\\.|[^\\])*?(?:'''|\Z)
      | \"(?:\\.|[^\"\\\n])*\"? | '(?:\\.|[^'\\\n])*'?))
  | (?P<defined>(?<=\bdef\s)\w+ | (?<=\bclass\s)\w+)
  | (?P<decorator>(?m:^[ \t]*@[\w.]+))
  | (?P<number>(?<![\w.])(?:
        0[xXoObB][\da-fA-F_]+ | \d[\d_]*\.?[\d_]*(?:[eE][+-]?\d+)?j?))
  | (?P<attribute>\.\s*[^\W\d]\w*)
  | (?P<name>[^\W\d]\w*)
    """,
    re.VERBOSE | re.DOTALL,
)


def highlight(source: str) -> list[str]:
    """The lines of ``source`` as HTML, each with its own balanced spans."""
    parts: list[str] = []
    end = 0
    for match in _TOKEN.finditer(source):
        parts.append(markup(source[end : match.start()]))
        parts.append(_coloured(match.group(), _style(match)))
        end = match.end()
    parts.append(markup(source[end:]))
    return "".join(parts).split("\n")


def _style(match: re.Match[str]) -> str:
    kind = match.lastgroup or ""
    if kind != "name":
        return {"comment": "c", "string": "s", "number": "n"}.get(
            kind, "d" if kind in {"defined", "decorator"} else ""
        )
    word = match.group()
    if word in _KEYWORDS:
        return "k"
    if word in _CONSTANTS:
        return "n"
    return "b" if word in _BUILTINS else ""


def _coloured(text: str, style: str) -> str:
    escaped = markup(text)
    if not style:
        return escaped
    lines = escaped.split("\n")
    return "\n".join(f'<span class="gr-{style}">{line}</span>' for line in lines)
