"""The newest checkpoints of a run, in memory; some that no disk has taken."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

from gpurescue.errors import StoreError
from gpurescue.store import packs
from gpurescue.store.format import Manifest
from gpurescue.store.plans import Contents, Plan
from gpurescue.store.staging import Staging
from gpurescue.store.store import Store

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    """Where a pack stays in memory."""

    staging: Staging
    pack: str | None = None
    unwritten: _Unwritten | None = None


@dataclass(frozen=True, slots=True)
class _Unwritten:
    """A checkpoint that no disk has taken."""

    manifest: Manifest
    plan: Plan
    contents: Contents


class Newest:
    """Memory for the newest packs of a run, used in turn.

    Args:
        store: Where they go.
        count: How many there are; at least 1.
    """

    def __init__(self, store: Store, count: int) -> None:
        self._store = store
        self._kept = deque(_Kept(Staging()) for _ in range(count))  # oldest first

    @property
    def next(self) -> Staging:
        """Memory for the next one: that of the oldest."""
        return self._kept[0].staging

    def drop_oldest(self) -> None:
        """Forget what is in the memory for the next one."""
        self._let_go(self._kept[0])

    def keep(self, plan: Plan) -> None:
        """Have the memory for the next one hold a pack that is whole."""
        self._kept.rotate(-1)
        kept = self._kept[-1]
        kept.pack = plan.pack
        self._store.keep(plan.pack, kept.staging.data[: plan.layout.nbytes])

    def keep_unwritten(self, plan: Plan, contents: Contents) -> None:
        """As ``keep``, of a checkpoint that is nowhere else."""
        self.keep(plan)
        manifest = self._store.keep_unwritten(plan, contents)
        self._kept[-1].unwritten = _Unwritten(manifest, plan, contents)

    def write_last(self) -> bool:
        """Try once more to write the newest one; True if it was not, and is now."""
        last = self._kept[-1]
        if last.unwritten is None:
            return False
        data = last.staging.data[: last.unwritten.plan.layout.nbytes]
        try:
            return self._write(last.unwritten, data)
        except StoreError:
            _log.warning("The last checkpoint could not be written.", exc_info=True)
            return False

    def _write(self, last: _Unwritten, data: memoryview) -> bool:
        """Write one, unless it is out of date, or what it refers to was collected."""
        rows = self._store.rows(last.contents.run)
        if any(row.created > last.manifest.created for row in rows):
            return False
        chunks = last.manifest.chunks
        old = {chunk for chunk in chunks if chunk.pack != last.plan.pack}
        with self._store.plan([(c.digest, c.nbytes) for c in chunks]) as again:
            if not old <= set(again.chunks):
                return False
            self._store.publish(last.plan, packs.pieces(data), last.contents)
        return True

    def close(self) -> None:
        """Forget all of them."""
        for kept in self._kept:
            self._let_go(kept)

    def _let_go(self, kept: _Kept) -> None:
        if kept.pack is not None:
            last = kept.unwritten
            self._store.forget(kept.pack, None if last is None else last.manifest.id)
            kept.pack = kept.unwritten = None
