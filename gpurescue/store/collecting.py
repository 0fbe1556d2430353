"""Removes packs that no checkpoint needs, and what crashes have left."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from gpurescue.errors import Damaged
from gpurescue.store import format, manifests, rewriting
from gpurescue.store.catalog import Catalog
from gpurescue.store.files import UNFINISHED, Folder, write_all
from gpurescue.store.format import Chunk, Manifest, Signed
from gpurescue.store.locks import ALONE, GC, SHARED, locked
from gpurescue.store.packs import SUFFIX, Progress
from gpurescue.store.rewriting import Usage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """What ``Store.gc`` does.

    Attributes:
        root: The folder of the store; those in it follow.
        packs: Of packs.
        manifests: Of manifests.
        locks: Of locks.
        catalog: Of the store.
        key: What one signs with oneself.
        progress: See ``Store.gc``.
    """

    root: Folder
    packs: Folder
    manifests: Folder
    locks: Folder
    catalog: Catalog
    key: bytes | None
    progress: Progress

    def run(
        self, unwritten: Iterable[Manifest], *, dry_run: bool, grace: float
    ) -> dict[str, int]:
        """Collect; see ``Store.gc``.

        Args:
            unwritten: Checkpoints that are in memory: what they need stays as it is.
            dry_run: True to only say what would go.
            grace: Seconds for which what nobody refers to is left alone.
        """
        before = time.time() - grace
        with self._locked(SHARED if dry_run else ALONE):
            usage = Usage((*self._read(), *((one, False) for one in unwritten)))
            going = dict(self._garbage(usage.chunks.keys(), before))
            if not dry_run:
                self._remove(going)
        found = {f"{at.name}/{name}": size for (at, name), size in going.items()}
        # Nothing is removed from here on: others may write while this takes its time.
        with self._locked(SHARED):
            sizes = rewriting.sizes(self.packs, before) if self.key else {}
            for name, nbytes in usage.sparse(sizes).items():
                if dry_run or self._rewrite(name, usage):
                    found[f"{self.packs.name}/{name}{SUFFIX}"] = nbytes
        return found

    def _locked(self, kind: int) -> contextlib.AbstractContextManager[None]:
        return locked(self.locks, GC, kind, "The store")

    def _read(self) -> Iterator[Signed]:
        for id in manifests.ids(self.manifests):
            yield manifests.read(self.manifests, self.key, id)
            with contextlib.suppress(FileNotFoundError):
                name = id + manifests.SUFFIX
                self.progress(self.manifests.about(name).st_size)

    def _garbage(
        self, needed: Collection[str], before: float
    ) -> Iterator[tuple[tuple[Folder, str], int]]:
        for folder in (self.packs, self.manifests, self.root):
            for name in folder.names():
                is_pack = folder is self.packs and name.endswith(SUFFIX)
                is_needed = name.removesuffix(SUFFIX) in needed
                if not (name.startswith(UNFINISHED) or (is_pack and not is_needed)):
                    continue
                try:
                    found = folder.about(name)
                except FileNotFoundError:  # of a writer, and finished meanwhile
                    continue
                if found.st_mtime <= before:
                    yield (folder, name), found.st_size

    def _remove(self, going: Iterable[tuple[Folder, str]]) -> None:
        names = [name.removesuffix(SUFFIX) for _, name in going]
        self.catalog.remove((), names)
        for folder, name in going:
            folder.remove(name)

    def _rewrite(self, pack: str, usage: Usage) -> bool:
        """Copy what is needed of a pack; False if it is damaged, and stays."""
        names = iter(lambda: secrets.token_hex(16), "")
        try:
            chunks = usage.chunks[pack]
            moved = rewriting.copy(self.packs, chunks, names, self.progress)
        except Damaged:
            _log.warning("A pack could not be rewritten.", exc_info=True)
            return False
        self.packs.touch(pack + SUFFIX)  # its grace begins
        for id in sorted(usage.users[pack]):
            with contextlib.suppress(Damaged):  # removed meanwhile
                self._point_to(id, moved)
        self.catalog.move(pack, moved.values())
        return True

    def _point_to(self, id: str, moved: dict[Chunk, Chunk]) -> None:
        """Write a manifest again whose chunks are somewhere else now.

        One that another process removes in this moment may come back, whole.
        """
        manifest, is_signed = manifests.read(self.manifests, self.key, id)
        if not is_signed:  # exchanged meanwhile; it names the old pack, which stays
            return
        chunks = tuple(moved.get(chunk, chunk) for chunk in manifest.chunks)
        manifest = msgspec.structs.replace(manifest, chunks=chunks)
        text = format.encode(manifest, self.key)
        name = id + manifests.SUFFIX
        self.manifests.publish(name, lambda file: write_all(file, text), replaces=True)
