"""Removing checkpoints that nobody needs any more, as new ones come."""

from __future__ import annotations

import shutil

from gpurescue.store import retention
from gpurescue.store.packs import SUFFIX
from gpurescue.store.retention import Kept, Rules
from gpurescue.store.store import Store

SHARE = 0.1  # of the disk that is free, or taken by the store already


def tidy(store: Store, run: str, rules: Rules, limit: int | None = None) -> list[str]:
    """Remove what the rules of a run do not ask for, or what there is no room for.

    Args:
        store: Where checkpoints are.
        run: Whose rules they are; other runs only have to keep the limit.
        rules: What stays.
        limit: Bytes for all of the store; a share of the disk if None.

    Returns:
        The ids of what was removed.

    Raises:
        Locked: Another process collects garbage; try again later.
        NotWritten: The disk is broken.
    """
    pinned = store.pinned()
    there = [
        Kept(
            id=row.id, run=row.run, number=row.number, created=row.created,
            nbytes=row.nbytes, metrics=row.metrics, is_pinned=row.id in pinned,
        )
        for row in store.rows()
    ]  # fmt: skip
    room = default_limit(store) if limit is None else limit
    going = retention.to_remove(
        there, {run: rules}, room, lambda id: _chunks(store, id)
    )
    if going:
        store.remove(going)
        store.gc()
    return going


def default_limit(store: Store) -> int:
    """Bytes that a store may take."""
    packs = (store.path / "packs").glob(f"*{SUFFIX}")
    taken = sum(path.stat().st_size for path in packs)
    return int(SHARE * (shutil.disk_usage(store.path).free + taken))


def _chunks(store: Store, id: str) -> list[tuple[str, int]]:
    return [(chunk.digest, chunk.nbytes) for chunk in store.manifest(id)[0].chunks]
