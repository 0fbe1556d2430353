"""The iterator of a DataLoader again, in another process, where it was written down.

The sampler is asked for its indices once more, from the random streams as they stood
before the epoch; no data is loaded for that. Then those streams are put back: nobody
sees that anything was drawn.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.state.loaders import drawn, single, streams, watching
from gpurescue.state.loaders.crew import CREW, Crew, new_ring
from gpurescue.state.loaders.drawn import DRAWN, Beginning, Drawn
from gpurescue.state.loaders.position import POSITION, Order, Position, Staff
from gpurescue.state.loaders.remake import remake
from gpurescue.state.loaders.streams import Stream
from gpurescue.state.loaders.worker import Start


def bare(has_workers: bool) -> Any:
    """An iterator that is none yet; ``go_on`` makes it one."""
    module = importlib.import_module(watching.MODULE)
    kind = "MultiProcessing" if has_workers else "SingleProcess"
    made: Any = object.__new__(getattr(module, f"_{kind}DataLoaderIter"))
    if has_workers:
        made._shutdown = True  # they are not there yet, and need not be ended
    return made


def stand(iterator: Any, position: Position) -> None:
    """Say where a bare iterator stands; what that consists of need not be there yet."""
    setattr(iterator, POSITION, position)


def go_on(iterator: Any) -> None:
    """Make a bare iterator one that gives the next batch.

    Called when all objects are there and all random streams stand where they should:
    they stand there afterwards, too.

    Raises:
        CannotResume: The sampler, asked again, gives other indices than before.
    """
    position: Position = vars(iterator)[POSITION]
    with watching.watched():
        if position.staff is None:
            _go_on_alone(iterator, position)
        else:
            _go_on_with_workers(iterator, position, position.staff)
    delattr(iterator, POSITION)


# -- the sampler


def _asked_again(position: Position, first: int) -> tuple[Drawn, list[Any]]:
    """The sampler's iterator where it was, and its indices from a number on."""
    order, sampler = position.order, position.options["_index_sampler"]
    found = _streams(order)
    start = Beginning(found, order.num_random, [made for _, made, _ in order.marks])
    with _unchanged(found):
        streams.write(found, start.made)
        again = Drawn(iter(sampler), start)
        if order.number or order.is_over:
            streams.write(found, [asked for *_, asked in order.marks])
        indices = list(itertools.islice(again, order.number))
        if order.is_over:  # the end may draw, too
            next(again, None)
    _check(again, order, sampler)
    return again, indices[first:]


def _check(again: Drawn, order: Order, sampler: Any) -> None:
    if (again.number, again.proof) == (order.number, order.proof):
        return
    inner = drawn.chain(sampler)[-1:] or [sampler]
    raise CannotResume(
        f"{type(inner[0]).__name__} was asked again for the {order.number} indices "
        "that it had given in this epoch, and gave other ones: what it draws from is "
        "used by others between two of them, or is kept where it is not found. Go on "
        "with the epoch after this one, or give the sampler a generator of its own."
    )


def _streams(order: Order) -> list[Stream]:
    found = [_random(key) for key, *_ in order.marks[: order.num_random]]
    return found + [drawn.attributes_of(key) for key, *_ in order.marks[len(found) :]]


def _random(key: Any) -> Stream:
    if not isinstance(key, str):
        own = streams.stream_of(key, type(key).__name__)
        assert own is not None
        return own
    if key == "numpy":
        importlib.import_module("numpy.random")
    known = {stream.name: stream for stream in streams.streams()}
    if key not in known:
        raise CannotResume(f"There is no random stream {key!r} in this process.")
    return known[key]


@contextmanager
def _unchanged(found: Sequence[Stream]) -> Iterator[None]:
    """Whatever is drawn within, streams stand as before."""
    own = [stream for stream in found if stream.thing is not None]
    kept = [*streams.streams(), *own]
    before = streams.read(kept)
    try:
        yield
    finally:
        streams.write(kept, before)


# -- without workers


class _StandIn:
    """What an iterator takes for its DataLoader; it draws from nobody's stream."""

    def __init__(self, options: dict[str, Any]) -> None:
        vars(self).update(options)
        self.dataset: Any = options["dataset"]
        self.generator = sys.modules["torch"].Generator()
        self._index_sampler = ()
        self.pin_memory_device = ""


def _go_on_alone(iterator: Any, position: Position) -> None:
    options = position.options
    again, _ = _asked_again(position, 0)
    loader = _StandIn(options)
    if position.items is not None:
        loader.dataset = ()  # it has begun, and need not begin again
    with _unchanged(()):
        type(iterator).__init__(iterator, loader)
    iterator._index_sampler = options["_index_sampler"]
    iterator._sampler_iter = again
    iterator._num_yielded = position.num_given
    setattr(iterator, DRAWN, again)
    if position.loader is not None:
        single.belongs(iterator, position.loader)
    if position.items is not None:
        fetcher = iterator._dataset_fetcher
        fetcher.dataset = iterator._dataset = options["dataset"]
        fetcher.dataset_iter, fetcher.ended = position.items


# -- with workers


def _go_on_with_workers(iterator: Any, position: Position, staff: Staff) -> None:
    options = position.options
    again, ahead = _asked_again(position, staff.first)
    crew = Crew(
        run=watching.current(),
        options=options,
        loader=weakref.ref(position.loader or _StandIn(options)),
        ring=new_ring(options),
        epoch=staff.epoch,
        drawn=again,
    )
    setattr(iterator, CREW, crew)
    crew.begin_at(_starts(staff, options))
    iterator._base_seed = staff.base_seed
    iterator._num_yielded = position.num_given
    iterator._index_sampler = options["_index_sampler"]
    iterator._IterableDataset_len_called = options["_IterableDataset_len_called"]
    iterator._pin_memory = options["pin_memory"]
    indices = itertools.chain(ahead, again)
    with _unchanged(()):
        remake(iterator, crew, staff.first, crew.remembering(indices, staff.first))
    for _ in range(position.num_given - staff.first):
        iterator._next_data()  # it was given before: only its worker draws for it again


def _starts(staff: Staff, options: dict[str, Any]) -> dict[int, Start]:
    """How workers begin; the dataset's own streams may have other names by now."""
    found = streams.streams(options["dataset"], options["collate_fn"])
    here = {id(s.thing): s.name for s in found if s.thing is not None}
    names = {name: here.get(id(thing)) for name, thing in staff.names}
    if None in names.values():
        raise CannotResume(
            "The random generators of the dataset are not found any more: "
            f"{len(names)} were there, and {len(here)} are now."
        )
    return {
        worker: Start(
            start.epoch,
            start.number,
            start.stand and [(names.get(n) or n, state) for n, state in start.stand],
        )
        for worker, start in staff.starts.items()
    }
