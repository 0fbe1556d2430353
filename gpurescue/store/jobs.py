"""What is taken of a program at a boundary, to be written in the background."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gpurescue.state.capture import Captured, State
from gpurescue.store.format import TRANSIENT, Storage, Tensor
from gpurescue.store.plans import Contents
from gpurescue.store.reading import described
from gpurescue.store.snapshot import Snapshot

GRAPH, STREAMS = "graph", "streams"  # objects of a checkpoint
SURROUNDINGS = "surroundings"
CODE, SOURCE = "code", "source "  # what code ran; each text by its SHA-256
BUFFERS = "num_buffers"  # note: so many of the last storages are memory of arrays
DEVICES = "devices"  # note: which storages were on one, and not on the CPU


@dataclass(frozen=True, slots=True)
class Job:
    """What the background needs, and nothing that keeps tensors alive.

    Attributes:
        snapshot: Of the memory.
        sources: Texts of the code that runs, by the name of each.
        settle: Called before it is written: what must last before it does.

    For the others see ``Manifest``.
    """

    snapshot: Snapshot
    objects: dict[str, int]
    seals: dict[str, str]
    tensors: dict[str, Tensor]
    lost: dict[str, str]
    notes: dict[str, Any]
    sources: Mapping[str, str]
    settle: Callable[[], None] = lambda: None

    def add(self, texts: Mapping[str, bytes]) -> None:
        """Add objects."""
        for name, text in texts.items():
            self.objects[name] = self.snapshot.add_text(text)
            self.seals[name] = hashlib.sha256(text).hexdigest()

    def add_sources(self) -> None:
        """Add the code as objects: to digest it takes time."""
        self.add(_code(self.sources))

    def contents(self, run: str, parent: str | None) -> Contents:
        """What is in the checkpoint.

        Args:
            run: That it is of.
            parent: The checkpoint that the run has gone on from.
        """
        snapshot = self.snapshot
        places = zip(snapshot.parts, snapshot.memory.sizes, strict=True)
        return Contents(
            run=run,
            storages=tuple(Storage(p.chunk, p.offset, size) for p, size in places),
            tensors=self.tensors,
            objects=self.objects,
            seals=self.seals,
            lost=self.lost,
            parent=parent,
            notes=self.notes,
        )


def job_of(
    captured: Captured,
    snapshot: Snapshot,
    notes: dict[str, Any],
    state: State,
) -> Job:
    """What is written of a captured program.

    Args:
        captured: What it consists of.
        snapshot: Of its memory.
        notes: Plain facts, for the manifest.
        state: What it was captured from.
    """
    numbers = captured.numbers
    where = snapshot.memory.whereabouts()  # a fact; the bytes are as on the CPU
    notes = {**notes, BUFFERS: len(captured.buffers)}
    if where:
        notes[DEVICES] = where
    if captured.transient:
        notes[TRANSIENT] = list(captured.transient)
    made = Job(
        snapshot=snapshot,
        objects={},
        seals={},
        tensors={n: described(t, numbers[n]) for n, t in captured.tensors.items()},
        lost=captured.lost,
        notes=notes,
        sources=dict(state.sources),
        settle=state.settle,
    )
    made.add({GRAPH: captured.objects, STREAMS: captured.streams})
    made.add({SURROUNDINGS: state.surroundings})
    return made


def _code(sources: Mapping[str, str]) -> dict[str, bytes]:
    """Each text once, by its SHA-256, and which source has which text."""
    texts = {name: source.encode() for name, source in sources.items()}
    digests = {n: hashlib.sha256(text).hexdigest() for n, text in texts.items()}
    found = {f"{SOURCE}{digests[name]}": text for name, text in texts.items()}
    if found:
        found[CODE] = json.dumps(digests).encode()
    return found
