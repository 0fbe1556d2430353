"""What is going to be stored, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from gpurescue.store import format
from gpurescue.store.format import Chunk, Manifest, Storage, Tensor
from gpurescue.store.layout import Layout


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
