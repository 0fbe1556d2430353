"""The checkpoints of a store as a table: for pandas, or as text."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from gpurescue.errors import StoreError
from gpurescue.store.packs import Progress
from gpurescue.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

_AGES = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One checkpoint; for most of it see ``Row``.

    Attributes:
        pinned: True if it is kept for good.
        signed: True if it was signed by oneself; None without a key.
        unwritten: True if it is in the memory of this process only.
    """

    id: str
    run: str
    number: int
    created: float
    nbytes: int
    added: int
    num_tensors: int
    place: str
    metrics: dict[str, float]
    parent: str | None
    pinned: bool
    signed: bool | None
    unwritten: bool = False


def lines(store: Store, progress: Progress = lambda _: None) -> list[Line]:
    """What is to be said about each checkpoint, oldest first.

    Args:
        store: Where they are.
        progress: Called with 1 for each; their signatures are checked.
    """
    pinned, found = store.pinned(), []
    unwritten = store.unwritten()
    for row in (*store.rows(), *unwritten):
        line = Line(
            **dataclasses.asdict(row),
            pinned=row.id in pinned,
            signed=_is_signed(store, row.id),
            unwritten=row in unwritten,
        )
        found.append(line)
        progress(1)
    return sorted(found, key=lambda line: (line.created, line.number))


def _is_signed(store: Store, id: str) -> bool | None:
    with contextlib.suppress(StoreError):  # removed, or damaged: ``verify`` says so
        return store.is_signed(id)
    return False


def checkpoints(store: Store, progress: Progress = lambda _: None) -> pd.DataFrame:
    """The checkpoints of a store, oldest first.

    Args:
        store: Where they are.
        progress: Called with 1 for each.

    Returns:
        One row for each: ``created`` in UTC, ``age`` until now, ``nbytes`` of its
        tensors and objects, ``added`` of those that no earlier one had. ``signed`` is
        missing without a key.
    """
    import numpy as np
    import pandas as pd

    found = lines(store, progress)
    columns = [field.name for field in dataclasses.fields(Line)]
    table = pd.DataFrame([dataclasses.asdict(line) for line in found], columns=columns)
    # In microseconds: pandas' own unit ends in 2262, and a store may say anything.
    times = np.array([line.created * 1e6 for line in found], "int64")
    table["created"] = pd.Series(times.astype("datetime64[us]")).dt.tz_localize("UTC")
    ages = np.maximum(int(time.time() * 1e6) - times, 0).astype("timedelta64[us]")
    table.insert(columns.index("created") + 1, "age", ages)
    return table.astype({"pinned": bool, "signed": "boolean"})


def text(found: Sequence[Line]) -> str:
    """Checkpoints as a table of text, with times of this place."""
    now = time.time()
    head = ["id", "run", "no.", "created", "age", "size", "new", "tensors", "at", ""]
    cells = [head, *(_cells(line, now) for line in found)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )
    return "\n".join(row.rstrip() for row in rows)


def _cells(line: Line, now: float) -> list[str]:
    marks = {
        "pinned": line.pinned,
        "not signed": line.signed is False,
        "in memory only": line.unwritten,
    }
    return [
        line.id,
        line.run,
        str(line.number),
        datetime.fromtimestamp(line.created).isoformat(" ", "seconds"),
        age(now - line.created),
        size(line.nbytes),
        size(line.added),
        str(line.num_tensors),
        _where(line),
        ", ".join(mark for mark, holds in marks.items() if holds),
    ]


def _where(line: Line) -> str:
    values = [f"{name} {value:.4g}" for name, value in line.metrics.items()]
    return ", ".join([*([line.place] if line.place else []), *values])


def age(seconds: float) -> str:
    """A length of time, such as ``3 min``."""
    for unit, length in _AGES:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "now"


def size(nbytes: int) -> str:
    """A number of bytes, such as ``1.49 GB``."""
    number = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.4g} {unit}"
        number /= 1000
    return f"{number:.4g} TB"
