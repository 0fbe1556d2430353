"""The user's own key: what it has signed may be unpickled."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

_NAME = "gpurescue_key"
_NUM_BYTES = 32


def key(*, create: bool = False) -> bytes | None:
    """The key, which is kept where Jupyter keeps the one that it signs notebooks with.

    Args:
        create: True to make one where there is none.

    Returns:
        32 bytes; None if there is none.
    """
    from jupyter_core.paths import jupyter_data_dir  # 30 ms

    path = Path(jupyter_data_dir()) / _NAME
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    if not create:
        return None
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _make(path)
    return path.read_bytes()


def _make(path: Path) -> None:
    made = path.with_name(f".{_NAME}-{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(made, flags, 0o600), "wb") as file:
        file.write(secrets.token_bytes(_NUM_BYTES))
    try:
        with contextlib.suppress(FileExistsError):
            os.link(made, path)  # whole, and only if nobody else was quicker
    finally:
        made.unlink()
