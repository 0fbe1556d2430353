"""A store of checkpoints: publish, look up, read, verify, collect what is of no use.

A checkpoint is there once its manifest is, and its manifest comes last: first the pack
with what is new, durable, then the manifest, durable, and then the catalogue. A crash
in between leaves files that nobody refers to, which ``gc`` removes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import logging
import os
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gpurescue.errors import Damaged, Locked, Refused, StoreError, UsageError
from gpurescue.store import format, held, packs, rewriting
from gpurescue.store.catalog import Catalog, Row, row_of
from gpurescue.store.files import UNFINISHED, Folder, write_all, writing
from gpurescue.store.format import Chunk, Manifest, Signed, Storage, Tensor
from gpurescue.store.layout import Layout, lay_out
from gpurescue.store.rewriting import Usage

_log = logging.getLogger(__name__)

MARKER = "FORMAT"
MARK = b"gpurescue store 1\n"
_MANIFEST, _PIN = ".json", ".pin"
_GRACE = 3600.0  # seconds for which files that nobody refers to may belong to a writer


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How chunks are going to be stored.

    Attributes:
        chunks: Where each of them is, or will be.
        fresh: Numbers of those that are not in the store yet.
        layout: Where in the new pack those go.
        pack: Name of the new pack.
        digests: By what stood for it when the plan was made, where a digest was not
            known yet; to be filled in before the last byte of the pack is.
    """

    chunks: tuple[Chunk, ...]
    fresh: tuple[int, ...]
    layout: Layout
    pack: str
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def provisional(self, manifest: Manifest) -> Manifest:
        """A manifest of these chunks, to be checked before all digests are known."""
        known = [format.DIGEST.fullmatch(chunk.digest) for chunk in self.chunks]
        if all(known):
            return manifest
        chunks = tuple(
            chunk if is_known else msgspec.structs.replace(chunk, digest="0" * 32)
            for chunk, is_known in zip(self.chunks, known, strict=True)
        )
        return msgspec.structs.replace(manifest, chunks=chunks)

    def named(self) -> tuple[Chunk, ...]:
        """The chunks by their digests, which are known by now."""
        found = self.digests
        return tuple(
            msgspec.structs.replace(chunk, digest=found.get(chunk.digest, chunk.digest))
            for chunk in self.chunks
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is in a checkpoint; see ``Manifest``."""

    run: str
    storages: tuple[Storage, ...]
    tensors: dict[str, Tensor]
    objects: dict[str, int] = dataclasses.field(default_factory=dict)
    seals: dict[str, str] = dataclasses.field(default_factory=dict)
    lost: dict[str, str] = dataclasses.field(default_factory=dict)
    parent: str | None = None
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)


class Store:
    """A folder of checkpoints.

    Args:
        path: Where it is.
        key: What it signs with; None to sign nothing, and to trust no objects.
        create: True to make it where it is not there.

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
        everything = functools.partial(_everything, self._manifests, key)
        self._catalog = Catalog(self.path, key, everything)
        self._held = held.of(self.path)

    # -- writing

    @contextlib.contextmanager
    def writer(self, run: str) -> Iterator[None]:
        """Be the one that writes checkpoints of a run.

        Raises:
            Locked: Another process is.
        """
        with self._locked(f"run-{_known(run)}", fcntl.LOCK_EX, f"Run {run}"):
            yield

    @contextlib.contextmanager
    def plan(self, keys: Sequence[tuple[str, int]]) -> Iterator[Plan]:
        """Say where chunks will be: nothing is collected inside of the block.

        Args:
            keys: The digest and number of bytes of each.

        Raises:
            Locked: Garbage is being collected.
        """
        with self._locked("gc", fcntl.LOCK_SH, "The store"):
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
            manifest.id + _MANIFEST, lambda file: write_all(file, text)
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
        there, known = set(_ids(self._manifests)), self._catalog.ids()
        if there != known:
            self._catalog.remove(known - there, ())
            self._catalog.add(_readable(self._manifests, self._key, there - known))

    def manifest(self, id: str) -> Signed:
        """What a checkpoint consists of, and whether it was signed by oneself.

        Raises:
            Damaged: Its bytes are not those that were written, or it is missing.
            Refused: It is no manifest that this version reads.
        """
        unwritten = self._held.unwritten.get(id)
        if unwritten is not None:
            return unwritten, True
        return _manifest(self._manifests, self._key, _known(id))

    def has(self, id: str) -> bool:
        """True if there is a checkpoint of that name, in whatever state."""
        is_written = self._manifests.has(_known(id) + _MANIFEST)
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
        data = self._manifests.read(_known(id) + _MANIFEST, format.LIMIT)
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

    def verify(self, progress: packs.Progress | None = None) -> dict[str, list[str]]:
        """Read everything; what is wrong, by checkpoint.

        Each chunk is read once, however many checkpoints have it. What is damaged is
        not referred to any more: the next checkpoint that has the same bytes writes
        them.

        Args:
            progress: Called with the bytes of each chunk that is read.
        """
        known: dict[Chunk, str | None] = {}
        found = {id: self._wrong(id, known, progress) for id in _ids(self._manifests)}
        if not _is_marked(self._root):
            found[MARKER] = [f"it should have {MARK!r} in it"]
        for pack in {chunk.pack for chunk, wrong in known.items() if wrong}:
            self.distrust(pack)
        return {id: wrong for id, wrong in found.items() if wrong}

    def distrust(self, pack: str) -> None:
        """Have no checkpoint from here on refer to a pack: it is damaged."""
        with contextlib.suppress(StoreError):
            self._catalog.remove((), [pack])

    def _wrong(
        self,
        id: str,
        known: dict[Chunk, str | None],
        progress: packs.Progress | None,
    ) -> list[str]:
        try:
            manifest, _ = self.manifest(id)
        except StoreError as error:
            return [str(error)]
        opened: dict[str, packs.Pack | str] = {}
        for chunk in sorted(manifest.chunks, key=lambda c: (c.pack, c.offset)):
            if chunk not in known:
                known[chunk] = self._problem(chunk, opened)
                if progress is not None:
                    progress(chunk.nbytes)
        bad = {n: p for n, c in enumerate(manifest.chunks) if (p := known[c])}
        if bad and not self.has(id):  # removed meanwhile, and then its packs
            return []
        users = [
            (name, manifest.storages[tensor.storage].chunk)
            for name, tensor in manifest.tensors.items()
        ]
        users += list(manifest.objects.items())
        found = [f"{name}: {bad[n]}" for name, n in users if n in bad]
        return found or list(bad.values())

    def _problem(self, chunk: Chunk, opened: dict[str, packs.Pack | str]) -> str | None:
        if chunk.pack not in opened:
            try:
                opened[chunk.pack] = self.pack(chunk.pack)
            except StoreError as error:
                opened[chunk.pack] = str(error)
        pack = opened[chunk.pack]
        if isinstance(pack, str):
            return pack
        try:
            pack.read(chunk)
        except Damaged as error:
            return str(error)
        return None

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
            self._manifests.remove(_known(id) + _MANIFEST)
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
        before = time.time() - grace
        kind = fcntl.LOCK_SH if dry_run else fcntl.LOCK_EX
        with self._locked("gc", kind, "The store"):
            usage = Usage(self._counted(progress))
            going = dict(self._garbage(usage.chunks.keys(), before))
            if not dry_run:
                names = [name.removesuffix(packs.SUFFIX) for _, name in going]
                self._catalog.remove((), names)
                for folder, name in going:
                    folder.remove(name)
        found = {
            f"{folder.name}/{name}": size for (folder, name), size in going.items()
        }
        # Nothing is removed from here on: others may write while this takes its time.
        with self._locked("gc", fcntl.LOCK_SH, "The store"):
            sizes = rewriting.sizes(self._packs, before) if self._key else {}
            for name, nbytes in usage.sparse(sizes).items():
                if dry_run or self._rewrite(name, usage, progress):
                    found[f"{self._packs.name}/{name}{packs.SUFFIX}"] = nbytes
        return found

    def _counted(self, progress: packs.Progress) -> Iterator[Signed]:
        for id in _ids(self._manifests):
            yield self.manifest(id)
            with contextlib.suppress(FileNotFoundError):
                progress(self._manifests.about(id + _MANIFEST).st_size)

    def _rewrite(self, pack: str, usage: Usage, progress: packs.Progress) -> bool:
        """Copy what is needed of a pack; False if it is damaged, and stays."""
        names = iter(lambda: secrets.token_hex(16), "")
        try:
            moved = rewriting.copy(self._packs, usage.chunks[pack], names, progress)
        except Damaged:
            _log.warning("A pack could not be rewritten.", exc_info=True)
            return False
        self._packs.touch(pack + packs.SUFFIX)  # its grace begins
        for id in sorted(usage.users[pack]):
            with contextlib.suppress(Damaged):  # removed meanwhile
                self._point_to(id, moved)
        self._catalog.move(pack, moved.values())
        return True

    def _point_to(self, id: str, moved: dict[Chunk, Chunk]) -> None:
        """Write a manifest again whose chunks are somewhere else now.

        One that another process removes in this moment may come back, whole.
        """
        manifest, is_signed = self.manifest(id)
        if not is_signed:  # exchanged meanwhile; it names the old pack, which stays
            return
        chunks = tuple(moved.get(chunk, chunk) for chunk in manifest.chunks)
        manifest = msgspec.structs.replace(manifest, chunks=chunks)
        text = format.encode(manifest, self._key)
        self._manifests.publish(
            id + _MANIFEST, lambda file: write_all(file, text), replaces=True
        )

    def _garbage(
        self, needed: Collection[str], before: float
    ) -> Iterator[tuple[tuple[Folder, str], int]]:
        for folder in (self._packs, self._manifests, self._root):
            for name in folder.names():
                is_pack = folder is self._packs and name.endswith(packs.SUFFIX)
                is_needed = name.removesuffix(packs.SUFFIX) in needed
                if not (name.startswith(UNFINISHED) or (is_pack and not is_needed)):
                    continue
                try:
                    found = folder.about(name)
                except FileNotFoundError:  # of a writer, and finished meanwhile
                    continue
                if found.st_mtime <= before:
                    yield (folder, name), found.st_size

    @contextlib.contextmanager
    def _locked(self, name: str, kind: int, what: str) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with writing(f"{self._locks.name}/{name}"):
            file = os.open(name, flags, 0o600, dir_fd=self._locks.descriptor)
        try:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Locked(f"{what} is being written by another process.") from None
            yield
        finally:
            os.close(file)


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
        manifests = Folder("checkpoints", root)
        return any(True for _ in _everything(manifests, key))
    return False


def _ids(folder: Folder) -> list[str]:
    names = [name for name in folder.names() if name.endswith(_MANIFEST)]
    ids = [name.removesuffix(_MANIFEST) for name in names]
    return [id for id in ids if format.ID.fullmatch(id)]


def _manifest(folder: Folder, key: bytes | None, id: str) -> Signed:
    data = folder.read(id + _MANIFEST, format.LIMIT)
    try:
        found, is_signed = format.decode(data, key)
    except StoreError as error:
        raise type(error)(f"Checkpoint {id}: {error}.") from error
    if found.id != id:
        raise Refused(f"Checkpoint {id}: its manifest says that it is {found.id}.")
    return found, is_signed


def _readable(
    folder: Folder, key: bytes | None, ids: Iterable[str]
) -> Iterator[Signed]:
    for id in ids:
        with contextlib.suppress(StoreError):
            yield _manifest(folder, key, id)


def _everything(folder: Folder, key: bytes | None) -> Iterator[Signed]:
    return _readable(folder, key, _ids(folder))
