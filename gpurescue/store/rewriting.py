"""Packs that are mostly dead, written again without what nobody needs.

A pack of 1.5 GB stays for as long as a single frozen layer in it is needed. What is
still needed of such a pack is copied to a new one, and then the manifests that name the
old one are written again, naming the new. Nothing else in them changes.

This is safe at any moment, because the old pack stays where it is. A manifest that was
not written again yet, one that another process has just written, and one that somebody
read a while ago: all of them name a pack that is there. It goes by a later ``gc``, as
any other that no manifest names, an hour after it was superseded at the earliest. A
crash leaves a new pack that nobody names, or that some manifests name: the next ``gc``
collects it, or goes on from there.

A manifest is written again only if the user's own signature is on it, for it has to be
signed again: whoever wrote an unsigned one into the store would have it signed. A pack
that such a one names is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gpurescue.store import packs
from gpurescue.store.files import Folder
from gpurescue.store.format import Chunk, Manifest
from gpurescue.store.layout import lay_out

_SPARSE = 0.3  # rewritten below this: what is written is at most half of what is freed
_WORTH = 2**20  # bytes to be freed; for less no manifests are written again
_BATCH = 2**28  # bytes of a new pack, and of the memory that is taken meanwhile


class Usage:
    """What checkpoints need of packs.

    Args:
        manifests: Of all checkpoints, and whether they were signed by oneself.

    Attributes:
        chunks: What is needed of each pack.
        users: The checkpoints that need something of it.
        foreign: Packs that a checkpoint needs that was not signed by oneself.
    """

    def __init__(self, manifests: Iterable[tuple[Manifest, bool]]) -> None:
        self.chunks: dict[str, set[Chunk]] = {}
        self.users: dict[str, set[str]] = {}
        self.foreign: set[str] = set()
        for manifest, is_signed in manifests:
            for chunk in manifest.chunks:
                self.chunks.setdefault(chunk.pack, set()).add(chunk)
                self.users.setdefault(chunk.pack, set()).add(manifest.id)
                if not is_signed:
                    self.foreign.add(chunk.pack)

    def sparse(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The packs that are worth to be rewritten, and how many bytes that frees.

        Args:
            sizes: Of the packs that may be.
        """
        found = {}
        for name in sorted(sizes.keys() & self.chunks.keys() - self.foreign):
            left = lay_out([chunk.nbytes for chunk in self.chunks[name]]).nbytes
            if left < _SPARSE * sizes[name] and sizes[name] - left >= _WORTH:
                found[name] = sizes[name] - left
        return found


def sizes(folder: Folder, before: float) -> dict[str, int]:
    """How large packs are that were written before a time, in seconds since 1970."""
    found = {}
    for name in folder.names():
        if name.endswith(packs.SUFFIX):  # others come and go while one looks
            about = folder.about(name)
            if about.st_mtime <= before:
                found[name.removesuffix(packs.SUFFIX)] = about.st_size
    return found


def copy(
    folder: Folder,
    chunks: Iterable[Chunk],
    names: Iterator[str],
    progress: packs.Progress = lambda _: None,
) -> dict[Chunk, Chunk]:
    """Copy chunks to new packs, which are durable and were read again.

    Args:
        folder: Of packs.
        chunks: All of one pack.
        names: For the new ones.
        progress: Called with the bytes of each chunk that is copied.

    Returns:
        Where each of them is now.

    Raises:
        Damaged: A chunk is not what was written, or the disk does not give back what
            it was given; then nothing should refer to the copies.
        NotWritten: The disk is full, or broken.
    """
    moved: dict[Chunk, Chunk] = {}
    for batch in _batches(sorted(chunks, key=lambda chunk: chunk.offset)):
        layout = lay_out([chunk.nbytes for chunk in batch])
        data = packs.buffer(layout.nbytes)
        old, name = packs.Pack(folder, batch[0].pack), next(names)
        for chunk, offset in zip(batch, layout.offsets, strict=True):
            data[offset : offset + chunk.nbytes] = old.read(chunk)
            moved[chunk] = Chunk(chunk.digest, chunk.nbytes, name, offset)
        packs.write(folder, name, packs.pieces(data))
        new = packs.Pack(folder, name)
        for chunk in batch:
            new.read(moved[chunk])
            progress(chunk.nbytes)
    return moved


def _batches(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    batch: list[Chunk] = []
    nbytes = 0
    for chunk in chunks:
        if batch and nbytes + chunk.nbytes > _BATCH:
            yield batch
            batch, nbytes = [], 0
        batch.append(chunk)
        nbytes += chunk.nbytes
    if batch:
        yield batch
