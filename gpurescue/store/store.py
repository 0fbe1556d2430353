"""A store of checkpoints: publish, look up, read, verify, collect what is of no use.

A checkpoint is there once its manifest is, and its manifest comes last: first the pack
with what is new, durable, then the manifest, durable, and then the catalogue. A crash
in between leaves files that nobody refers to, which ``gc`` removes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from gpurescue.errors import Refused, StoreError, UsageError
from gpurescue.store import format, held, manifests, packs, verifying
from gpurescue.store.catalog import Catalog, Row, row_of
from gpurescue.store.collecting import Collector
from gpurescue.store.files import Folder, write_all
from gpurescue.store.format import Chunk, Manifest, Signed
from gpurescue.store.layout import lay_out
from gpurescue.store.locks import ALONE, GC, SHARED, locked
from gpurescue.store.plans import Contents, Plan
from gpurescue.store.runs import Runs

_log = logging.getLogger(__name__)

MARKER = "FORMAT"
MARK = b"gpurescue store 1\n"
_PIN = ".pin"
_GRACE = 3600.0  # seconds for which files that nobody refers to may belong to a writer


class Store:
    """A folder of checkpoints.

    Args:
        path: Where it is.
        key: What it signs with; None to sign nothing, and to trust no objects.
        create: True to make it where it is not there.

    Attributes:
        runs: Those that it has checkpoints of.

    Raises:
        Refused: It is there, and no store that this version reads.
    """

    def __init__(
        self, path: Path | str, *, key: bytes | None = None, create: bool = False
    ) -> None:
        self.path = Path(path).resolve()  # a link to it is the user's own
        self._key = key
        self._root = Folder(self.path, create=create)
        if create and not self._root.has(MARKER):
            self._root.publish(MARKER, lambda file: write_all(file, MARK))
        if not (_is_marked(self._root) or _has_manifest(self._root, key)):
            raise Refused(f"{self.path} is no gpurescue store of version 1.")
        self._packs = Folder("packs", self._root, create=create)
        self._manifests = Folder("checkpoints", self._root, create=create)
        self._locks = Folder("locks", self._root, create=create)
        self.runs = Runs(self._root, self._locks, create=create)
        everything = functools.partial(manifests.everything, self._manifests, key)
        self._catalog = Catalog(self.path, key, everything)
        self._held = held.of(self.path)

    # -- writing

    @contextlib.contextmanager
    def writer(self, run: str) -> Iterator[None]:
        """Be the one that writes checkpoints of a run.

        Raises:
            Locked: Another process is.
        """
        with locked(self._locks, f"run-{_known(run)}", ALONE, f"Run {run}"):
            yield

    @contextlib.contextmanager
    def plan(self, keys: Sequence[tuple[str, int]]) -> Iterator[Plan]:
        """Say where chunks will be: nothing is collected inside of the block.

        Args:
            keys: The digest and number of bytes of each.

        Raises:
            Locked: Garbage is being collected.
        """
        with locked(self._locks, GC, SHARED, "The store"):
            yield self.planned(keys)

    def planned(self, keys: Sequence[tuple[str, int]]) -> Plan:
        """As ``plan``, for what is not published: others may collect meanwhile."""
        self._catch_up()
        there = self._places(keys)
        fresh = [n for n, key in enumerate(keys) if key not in there]
        first = {keys[n]: n for n in reversed(fresh)}
        fresh = sorted(first.values())
        layout = lay_out([keys[n][1] for n in fresh])
        pack = secrets.token_hex(16)
        for n, offset in zip(fresh, layout.offsets, strict=True):
            there[keys[n]] = Chunk(*keys[n], pack, offset)
        return Plan(tuple(there[key] for key in keys), tuple(fresh), layout, pack)

    def _places(self, keys: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Chunk]:
        """Where chunks are that are there, as far as one can tell without reading."""
        there = self._catalog.places(dict.fromkeys(keys))
        sizes = {name: self._size(name) for name in {c.pack for c in there.values()}}
        cut = {c.pack for c in there.values() if c.offset + c.nbytes > sizes[c.pack]}
        if cut:
            self._catalog.remove((), cut)
        return {key: chunk for key, chunk in there.items() if chunk.pack not in cut}

    def _size(self, pack: str) -> int:
        try:
            return self._packs.about(pack + packs.SUFFIX).st_size
        except FileNotFoundError:
            return -1

    def publish(
        self,
        plan: Plan,
        data: Iterable[memoryview],
        contents: Contents,
        progress: packs.Progress | None = None,
    ) -> Manifest:
        """Make a checkpoint durable.

        Args:
            plan: Where its chunks go.
            data: The new pack, as ``plan.layout`` says, in pieces.
            contents: What the chunks are.
            progress: Called with the bytes of each piece that is written.

        Raises:
            NotWritten: The disk is full, or broken; nothing was published.
            UsageError: The tensors do not fit the chunks, or what is written could not
                be read again; nothing was.
        """
        manifest = self._draft(plan, contents)
        text = self._encoded(plan.provisional(manifest))
        if plan.fresh:
            packs.write(self._packs, plan.pack, data, progress)
        if plan.digests:
            manifest = msgspec.structs.replace(manifest, chunks=plan.named())
            text = format.encode(manifest, self._key)
        self._manifests.publish(
            manifest.id + manifests.SUFFIX, lambda file: write_all(file, text)
        )
        try:
            self._catalog.add([(manifest, self._key is not None)])
        except StoreError:  # it is there all the same: ``rows`` looks for it
            _log.warning("The catalogue is behind the store.", exc_info=True)
        return manifest

    def _encoded(self, manifest: Manifest) -> bytes:
        try:
            return format.encode(manifest, self._key)
        except Refused as error:
            raise UsageError(f"Not a checkpoint: {error}.") from error

    def _draft(self, plan: Plan, contents: Contents) -> Manifest:
        newest = max((row.number for row in self.rows(contents.run)), default=0)
        return Manifest(
            id=secrets.token_hex(8),
            number=newest + 1,
            created=time.time(),
            chunks=plan.chunks,
            **{f.name: getattr(contents, f.name) for f in dataclasses.fields(contents)},
        )

    # -- reading

    def rows(self, run: str | None = None) -> list[Row]:
        """All checkpoints, or those of a run, oldest first.

        Those whose manifest cannot be read are left out; ``verify`` names them.
        """
        self._catch_up()
        return self._catalog.rows(run)

    def _catch_up(self) -> None:
        """Other processes write too, and one may have died before its last step."""
        there, known = set(manifests.ids(self._manifests)), self._catalog.ids()
        if there != known:
            self._catalog.remove(known - there, ())
            self._catalog.add(
                manifests.readable(self._manifests, self._key, there - known)
            )

    def manifest(self, id: str) -> Signed:
        """What a checkpoint consists of, and whether it was signed by oneself.

        Raises:
            Damaged: Its bytes are not those that were written, or it is missing.
            Refused: It is no manifest that this version reads.
        """
        unwritten = self._held.unwritten.get(id)
        if unwritten is not None:
            return unwritten, True
        return manifests.read(self._manifests, self._key, _known(id))

    def trust(self, id: str) -> None:
        """Sign a checkpoint that somebody else has written: its code may run here.

        Raises:
            UsageError: There is no key to sign it with.
            Damaged, Refused: As for ``manifest``.
            NotWritten: It cannot be written to; it is as it was.
        """
        manifest, is_signed = self.manifest(id)
        if is_signed:
            return
        if self._key is None:
            raise UsageError("There is no key to sign the checkpoint with.")
        text = self._encoded(manifest)
        self._manifests.publish(
            id + manifests.SUFFIX, lambda file: write_all(file, text), replaces=True
        )
        self._catalog.remove({id}, ())
        self._catch_up()

    def has(self, id: str) -> bool:
        """True if there is a checkpoint of that name, in whatever state."""
        is_written = self._manifests.has(_known(id) + manifests.SUFFIX)
        return is_written or id in self._held.unwritten

    def is_signed(self, id: str) -> bool | None:
        """True for a checkpoint that one has signed oneself; None without a key.

        Raises:
            Damaged: Its manifest is missing.
        """
        if self._key is None:
            return None
        if id in self._held.unwritten:
            return True
        data = self._manifests.read(_known(id) + manifests.SUFFIX, format.LIMIT)
        return format.is_signed(data, self._key)

    def pack(self, name: str) -> packs.Pack:
        """A pack to read chunks from."""
        return packs.Pack(self._packs, name)

    def keep(self, pack: str, data: memoryview) -> None:
        """Have a pack in memory, too; it may change, and is of no use then."""
        self._held.packs[pack] = data

    def keep_unwritten(self, plan: Plan, contents: Contents) -> Manifest:
        """Have a checkpoint in the memory of this process only, as its pack is.

        Raises:
            UsageError: The tensors do not fit the chunks.
        """
        manifest = self._draft(plan, contents)
        if plan.digests:
            manifest = msgspec.structs.replace(manifest, chunks=plan.named())
        self._encoded(manifest)
        self._held.unwritten[manifest.id] = manifest
        return manifest

    def forget(self, pack: str, id: str | None = None) -> None:
        """Have a pack on the disk only, and no checkpoint that needs it in memory."""
        self._held.packs.pop(pack, None)
        self._held.unwritten.pop(id or "", None)

    def unwritten(self) -> list[Row]:
        """Checkpoints that are in the memory of this process only, oldest first."""
        return [row_of(one) for one in list(self._held.unwritten.values())]

    def keeps(self, pack: str) -> bool:
        """True if a pack is in memory, or was."""
        return pack in self._held.packs

    def in_memory(self, chunk: Chunk) -> memoryview | None:
        """A copy of a chunk from a pack that is in memory; None if it is not."""
        data = self._held.packs.get(chunk.pack, memoryview(b""))
        found = memoryview(bytearray(data[chunk.offset : chunk.offset + chunk.nbytes]))
        is_whole = found.nbytes == chunk.nbytes
        return found if is_whole and packs.digest_of(found) == chunk.digest else None

    def pin(self, id: str, *, pinned: bool = True) -> None:
        """Have a checkpoint kept for good, or no longer."""
        name = _known(id) + _PIN
        if not pinned:
            self._manifests.remove(name)
        elif id not in self.pinned():
            self._manifests.publish(name, lambda file: None)

    def pinned(self) -> set[str]:
        """The checkpoints that are kept for good."""
        names = self._manifests.names()
        return {name.removesuffix(_PIN) for name in names if name.endswith(_PIN)}

    def verify(self, progress: packs.Progress = lambda _: None) -> dict[str, list[str]]:
        """Read everything; what is wrong, by checkpoint.

        Each chunk is read once, however many checkpoints have it. What is damaged is
        not referred to any more: the next checkpoint that has the same bytes writes
        them.

        Args:
            progress: Called with the bytes of each chunk that is read.
        """
        check = verifying.Check(self.manifest, self.pack, progress)
        found = {id: check.of(id) for id in manifests.ids(self._manifests)}
        if not _is_marked(self._root):
            found[MARKER] = [f"it should have {MARK!r} in it"]
        for pack in check.bad_packs():
            self.distrust(pack)
        # What is not there any more was removed meanwhile, and then its packs.
        return {
            id: wrong
            for id, wrong in found.items()
            if wrong and (id == MARKER or self.has(id))
        }

    def distrust(self, pack: str) -> None:
        """Have no checkpoint from here on refer to a pack: it is damaged."""
        with contextlib.suppress(StoreError):
            self._catalog.remove((), [pack])

    # -- removing

    def remove(self, ids: Sequence[str]) -> None:
        """Remove checkpoints; ``gc`` then removes what nobody else needs.

        Raises:
            UsageError: One is pinned.
        """
        pinned = sorted(self.pinned().intersection(ids))
        if pinned:
            raise UsageError(f"Checkpoint {pinned[0]} is pinned; unpin it first.")
        for id in ids:
            self._manifests.remove(_known(id) + manifests.SUFFIX)
        self._catalog.remove(ids, ())

    def gc(
        self,
        *,
        dry_run: bool = False,
        grace: float = _GRACE,
        progress: packs.Progress = lambda _: None,
    ) -> dict[str, int]:
        """Remove packs that no checkpoint needs, and what crashes have left.

        Packs of which little is needed are rewritten; see ``rewriting``.

        Args:
            dry_run: True to only say what would go.
            grace: Seconds for which what nobody refers to is left alone.
            progress: Called with the bytes of each manifest that is read, and of each
                chunk that is copied.

        Returns:
            The size in bytes of what goes, by name; of a pack that is rewritten, what
            there will be less when it goes, by the first ``gc`` after the grace.

        Raises:
            Damaged: A manifest cannot be read: what it needs is not known.
            Locked: A checkpoint is being written.
            NotWritten: The disk is too full to rewrite a pack; what goes has gone.
        """
        collector = Collector(
            root=self._root,
            packs=self._packs,
            manifests=self._manifests,
            locks=self._locks,
            catalog=self._catalog,
            key=self._key,
            progress=progress,
        )
        unwritten = list(self._held.unwritten.values())
        return collector.run(unwritten, dry_run=dry_run, grace=grace)


def _known(id: str) -> str:
    if not format.ID.fullmatch(id):
        raise UsageError(f"{id!r} is no id: ids have 8 to 32 digits of 0-9 and a-f.")
    return id


def _is_marked(root: Folder) -> bool:
    try:
        return root.read(MARKER, 100) == MARK
    except StoreError:
        return False


def _has_manifest(root: Folder, key: bytes | None) -> bool:
    """True for a store of ours all the same: its mark is lost, or damaged."""
    with contextlib.suppress(Refused):
        folder = Folder("checkpoints", root)
        return any(True for _ in manifests.everything(folder, key))
    return False
