"""The traceback from the cell down to the error, as text.

At the moment of interception the exception has unwound only the frames below the
guard, so its own traceback begins at the frame that is held. The user's frames further
out are still alive; they are put in front.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping

from gpurescue.recovery.suspension import HeldFrame, Suspension

MAX_TEXT = 20_000
MAX_OUTER = 15

_HEADER = "Traceback (most recent call last):\n"


def whole(suspension: Suspension, labels: Mapping[str, str]) -> str:
    """The traceback with the live frames further out, bounded in length.

    Args:
        suspension: The parked run.
        labels: What to call files, by file name.
    """
    text = _with_outer_frames(suspension)
    for filename, label in labels.items():
        text = text.replace(f'  File "{filename}", line ', f"  {label}, line ")
    return _without_middle(text)


def _with_outer_frames(suspension: Suspension) -> str:
    text = suspension.traceback_text
    # The text ends with the error's own part; what it was raised from comes before.
    own = "".join(traceback.format_exception(suspension.error, chain=False))
    if not text.endswith(own) or not own.startswith(_HEADER):
        return text
    start = len(text) - len(own) + len(_HEADER)
    return text[:start] + _outer(suspension.frames[1:]) + text[start:]


def _outer(found: tuple[HeldFrame, ...]) -> str:
    entries = [_entry(held) for held in found[-MAX_OUTER:]]
    num_more = len(found) - len(entries)
    if num_more:
        entries.insert(0, f"  [{num_more:,} more frames]\n")
    return "".join(reversed(entries))


def _entry(held: HeldFrame) -> str:
    code = held.definition.unit.line(held.line).strip()
    place = f'  File "{held.definition.unit.path}", line {held.line}'
    return f"{place}, in {held.definition.name}\n    {code}\n"


def _without_middle(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    start, end = text[: MAX_TEXT // 4], text[-(MAX_TEXT * 3 // 4) :]
    num_cut = len(text) - len(start) - len(end)
    return f"{start}\n... {num_cut:,} characters left out ...\n{end}"
