"""Making text from a user's program harmless to show.

Messages, names and values may hold anything: HTML, sequences that drive a terminal,
or controls that turn the reading direction around.
"""

from __future__ import annotations

import re

# Colours are dropped; everything else that is invisible is written out.
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROL = re.compile(
    "["
    r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    r"\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f"
    "]"
)
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})


def plain(text: str) -> str:
    """``text`` with its invisible characters written out; newlines and tabs stay."""
    without_colour = _COLOUR.sub("", text.replace("\r\n", "\n"))
    return _CONTROL.sub(_written_out, without_colour)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str) -> str:
    """``text`` made harmless, on a single line."""
    return plain(text).replace("\n", "\\n").replace("\t", " ")


def markup(text: str) -> str:
    """``text`` made harmless and ready to stand in HTML, also in an attribute."""
    return plain(text).translate(_HTML)


def markup_line(text: str) -> str:
    """``text`` ready to stand in HTML, on a single line."""
    return one_line(text).translate(_HTML)
