"""Progress bars for what takes longer than a second."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gpurescue.store.packs import Progress

_DELAY = 1.0  # seconds before one is shown


@contextlib.contextmanager
def bar(
    title: str, total: int | None, unit: str = "B", *, in_notebook: bool = False
) -> Iterator[Progress]:
    """A progress bar on standard error, which is gone when all is done.

    Args:
        title: What is done.
        total: How much there is to do; None if that is not known ahead.
        unit: Of that; bytes are shown as MB and GB.
        in_notebook: True to show it though standard error is no terminal.
    """
    from tqdm import tqdm

    with tqdm(
        desc=title,
        total=total,
        unit=unit,
        unit_scale=unit == "B",
        delay=_DELAY,
        disable=False if in_notebook else None,
        leave=False,
    ) as shown:
        yield shown.update
