"""What shares memory in a checkpoint has to share it here, and the other way round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gpurescue.store.format import DTYPES, Manifest, Tensor


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor of a checkpoint, and the one that gets its values.

    Attributes:
        name: Of both.
        saved: How the checkpoint describes it.
        live: A ``torch.Tensor`` of the same shape and dtype.
    """

    name: str
    saved: Tensor
    live: Any


@dataclass(frozen=True, slots=True)
class _Span:
    name: str
    memory: object
    start: int
    nbytes: int
    place: tuple[object, int]  # of the same element on the other side


def apart(manifest: Manifest, pairs: list[Pair], *, strict: bool) -> Iterator[str]:
    """Tensors that share memory on one side only.

    Args:
        manifest: Of the checkpoint.
        pairs: All that are restored.
        strict: True if it matters what shares memory in the checkpoint only.

    Returns:
        What is wrong with each of them, as the part of a sentence.
    """
    for one, other in _torn(_span_here(manifest, pair) for pair in pairs):
        yield f"{one} and {other} share memory here, and not there"
    if strict:
        for one, other in _torn(_span_there(pair) for pair in pairs):
            yield f"{one} and {other} share memory there, and not here"


def _torn(spans: Iterable[_Span]) -> Iterator[tuple[str, str]]:
    ordered = sorted(
        (span for span in spans if span.nbytes),
        key=lambda span: (str(span.memory), span.start, -span.nbytes),
    )
    furthest = None
    for span in ordered:
        if furthest is None or span.memory != furthest.memory:
            furthest = span
            continue
        step = span.start - furthest.start
        expected = furthest.place[0], furthest.place[1] + step
        if step < furthest.nbytes and span.place != expected:
            yield furthest.name, span.name
        if step + span.nbytes > furthest.nbytes:
            furthest = span


def _nbytes(saved: Tensor) -> int:
    if 0 in saved.shape:
        return 0
    return (saved.num_reached - saved.offset) * DTYPES[saved.dtype]


def _span_here(manifest: Manifest, pair: Pair) -> _Span:
    live, saved = pair.live, pair.saved
    storage = manifest.storages[saved.storage]
    chunk = manifest.chunks[storage.chunk]
    offset = saved.offset * live.itemsize
    reached = sum((n - 1) * s for n, s in zip(live.shape, live.stride(), strict=True))
    return _Span(
        name=pair.name,
        memory=live.device,
        start=live.data_ptr(),
        nbytes=(1 + reached) * live.itemsize if live.numel() else 0,
        place=(chunk.pack, chunk.offset + storage.offset + offset),
    )


def _span_there(pair: Pair) -> _Span:
    start = pair.saved.offset * DTYPES[pair.saved.dtype]
    place = (pair.live.device, pair.live.data_ptr())
    return _Span(pair.name, pair.saved.storage, start, _nbytes(pair.saved), place)
