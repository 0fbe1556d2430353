"""Reads everything that checkpoints consist of, and says what is damaged."""

from __future__ import annotations

from collections.abc import Callable

from gpurescue.errors import Damaged, StoreError
from gpurescue.store.format import Chunk, Signed
from gpurescue.store.packs import Pack, Progress


class Check:
    """Checks one checkpoint after the other; each chunk is read once.

    Args:
        manifest: Gives that of a checkpoint.
        pack: Gives one by its name.
        progress: Called with the bytes of each chunk that is read.
    """

    def __init__(
        self,
        manifest: Callable[[str], Signed],
        pack: Callable[[str], Pack],
        progress: Progress,
    ) -> None:
        self._manifest, self._pack, self._progress = manifest, pack, progress
        self._known: dict[Chunk, str | None] = {}

    def of(self, id: str) -> list[str]:
        """What is wrong with a checkpoint."""
        try:
            manifest, _ = self._manifest(id)
        except StoreError as error:
            return [str(error)]
        self._read(manifest.chunks)
        chunks = enumerate(manifest.chunks)
        bad = {n: why for n, chunk in chunks if (why := self._known[chunk])}
        users = [
            (name, manifest.storages[tensor.storage].chunk)
            for name, tensor in manifest.tensors.items()
        ]
        users += list(manifest.objects.items())
        found = [f"{name}: {bad[n]}" for name, n in users if n in bad]
        return found or list(bad.values())

    def bad_packs(self) -> set[str]:
        """Those of which something is damaged."""
        return {chunk.pack for chunk, why in self._known.items() if why}

    def _read(self, chunks: tuple[Chunk, ...]) -> None:
        opened: dict[str, Pack | str] = {}
        for chunk in sorted(chunks, key=lambda c: (c.pack, c.offset)):
            if chunk not in self._known:
                self._known[chunk] = self._problem(chunk, opened)
                self._progress(chunk.nbytes)

    def _problem(self, chunk: Chunk, opened: dict[str, Pack | str]) -> str | None:
        if chunk.pack not in opened:
            try:
                opened[chunk.pack] = self._pack(chunk.pack)
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
