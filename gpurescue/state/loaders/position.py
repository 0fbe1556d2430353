"""Where the iterator of a DataLoader stands, as plain values.

Written down are the DataLoader's settings, how many batches were given, where the
streams of the sampler stood before the epoch, and what each worker has to begin with.
An iterator in another process that goes on from there gives the next batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.state.loaders import single, streams
from gpurescue.state.loaders.crew import CREW, Crew
from gpurescue.state.loaders.drawn import DRAWN, Drawn
from gpurescue.state.loaders.watching import MODULE
from gpurescue.state.loaders.worker import Start

POSITION = "_gr_position"

_UNSEEN = "it was made before the run began"
_OPTIONS = {
    "dataset": "_dataset",
    "_dataset_kind": "_dataset_kind",
    "_IterableDataset_len_called": "_IterableDataset_len_called",
    "_auto_collation": "_auto_collation",
    "drop_last": "_drop_last",
    "_index_sampler": "_index_sampler",
    "num_workers": "_num_workers",
    "pin_memory": "_pin_memory",
    "timeout": "_timeout",
    "collate_fn": "_collate_fn",
    "persistent_workers": "_persistent_workers",
}

Mark = tuple[Any, bytes, bytes]
"""A stream, by its name or what draws from it, as ``Beginning`` has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How far a sampler has come in an epoch.

    Attributes:
        number: Indices that it has given.
        proof: A checksum of them.
        is_over: True if it has no more.
        marks: Where its streams stood before the epoch.
        num_random: How many of them are random.
    """

    number: int
    proof: int
    is_over: bool
    marks: Sequence[Mark]
    num_random: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Staff:
    """The workers of an iterator.

    Attributes:
        epoch: Which one of theirs they are in.
        base_seed: What they were seeded from.
        first: The number of the batch that new ones have to begin with.
        starts: What each begins with.
        names: Own streams of the dataset, and what the workers call them.
    """

    epoch: int
    base_seed: int
    first: int
    starts: dict[int, Start]
    names: Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where an iterator stands.

    Attributes:
        loader: The DataLoader; None if nobody has it any more.
        options: What the iterator has taken from it.
        num_given: Batches that were given in this epoch.
        order: How far the sampler has come.
        staff: The workers, if there are any.
        items: Of an iterable-style dataset without workers: its iterator, and whether
            that is over.
    """

    loader: Any
    options: dict[str, Any]
    num_given: int
    order: Order
    staff: Staff | None = None
    items: tuple[Any, bool] | None = None


def is_loaders(value: object) -> bool:
    """True for the iterators of DataLoaders."""
    module = sys.modules.get(MODULE)
    return module is not None and isinstance(value, module._BaseDataLoaderIter)


def is_done(iterator: Any) -> bool:
    """True of one with workers that has given all, and let them go."""
    has_ended = bool(getattr(iterator, "_shutdown", False))
    return has_ended and not iterator._persistent_workers


def of(iterator: Any) -> Position:
    """Where an iterator stands.

    Args:
        iterator: A DataLoader's; the program stands still.

    Raises:
        CannotResume: That cannot be said; says why.
    """
    before = vars(iterator).get(POSITION)
    if isinstance(before, Position):
        return before  # it has not gone on since
    module = sys.modules[MODULE]
    data = sys.modules["torch.utils.data"]
    if isinstance(iterator._dataset, data.IterDataPipe | data.MapDataPipe):
        raise CannotResume("its dataset is a DataPipe")
    if type(iterator) is module._SingleProcessDataLoaderIter:
        return _of_single(iterator)
    if type(iterator) is module._MultiProcessingDataLoaderIter:
        return _of_workers(iterator)
    raise CannotResume("it is of a kind of its own")


def _of_single(iterator: Any) -> Position:
    found = vars(iterator).get(DRAWN)
    if not isinstance(found, Drawn):
        raise CannotResume(_UNSEEN)
    fetcher = iterator._dataset_fetcher
    items = None
    if hasattr(fetcher, "dataset_iter"):
        items = fetcher.dataset_iter, bool(fetcher.ended)
    return Position(
        loader=single.loader_of(iterator),
        options={name: getattr(iterator, own) for name, own in _OPTIONS.items()},
        num_given=iterator._num_yielded,
        order=_order(found),
        items=items,
    )


def _order(found: Drawn) -> Order:
    start = found.beginning
    asked = start.asked or start.made
    marks = zip(start.streams, start.made, asked, strict=True)
    return Order(
        number=found.number,
        proof=found.proof,
        is_over=found.is_over,
        num_random=start.num_random,
        marks=[(_key(s), a, a if a == b else b) for s, a, b in marks],
    )


def _key(stream: streams.Stream) -> Any:
    return stream.name if stream.thing is None else stream.thing


def _of_workers(iterator: Any) -> Position:
    crew = vars(iterator).get(CREW)
    if not isinstance(crew, Crew):
        raise CannotResume(_UNSEEN)
    if not crew.has_indices:
        raise CannotResume(
            "its dataset is iterable-style, and workers cannot be sent into it"
        )
    if not crew.is_ordered:
        raise CannotResume("it gives batches out of order (in_order=False)")
    if crew.drawn is None or crew.drawn.number != iterator._send_idx:
        raise CannotResume("how far its sampler has come is not known")
    names = ("pin_memory", "collate_fn")
    own = {name: getattr(iterator, _OPTIONS[name]) for name in names}
    return Position(
        loader=crew.loader(),
        options=crew.options | own,
        num_given=iterator._rcvd_idx,
        order=_order(crew.drawn),
        staff=_staff(iterator, crew),
    )


def _staff(iterator: Any, crew: Crew) -> Staff:
    """New workers do the last batch of each again: then their streams are as now."""
    num_workers, options = crew.num_workers, crew.options
    first = max(0, iterator._rcvd_idx - num_workers)
    found = streams.streams(options["dataset"], options["collate_fn"])
    own = [(stream.name, stream.thing) for stream in found if stream.thing is not None]
    starts = {}
    for worker in range(num_workers):
        start = crew.start(worker, first)
        if start is None and (crew.epoch or own):
            raise CannotResume(f"worker {worker} has not begun yet")
        starts[worker] = start or Start()
    return Staff(
        epoch=crew.epoch,
        base_seed=iterator._base_seed,
        first=first,
        starts=starts,
        names=own,
    )
