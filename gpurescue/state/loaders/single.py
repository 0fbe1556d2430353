"""A DataLoader without workers that fails: what it had drawn, and taking it back.

The indices of the batch are in a dead frame of its iterator, and so are the items that
an iterable-style dataset had given.
"""

from __future__ import annotations

import inspect
import itertools
import weakref
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from gpurescue.state.again import Again, Refused
from gpurescue.state.dead import names_of
from gpurescue.state.loaders import streams
from gpurescue.state.loaders.drawn import DRAWN, Beginning, Drawn
from gpurescue.state.loaders.watch import Watch

_WATCH = "_gr_watch"
_LOADER = "_gr_loader"


def begun(iterator: Any, loader: Any, beginning: Beginning) -> None:
    """Called when an iterator has been made, and nothing was asked of it yet."""
    belongs(iterator, loader)
    iterator._sampler_iter = Drawn(iterator._sampler_iter, beginning)
    setattr(iterator, DRAWN, iterator._sampler_iter)
    fetcher = iterator._dataset_fetcher
    # The items of an iterable-style dataset are not made again: only collated.
    name = "collate_fn" if _is_iterable(fetcher) else "fetch"
    found = streams.streams(iterator._dataset, iterator._collate_fn)
    setattr(fetcher, _WATCH, Watch(fetcher, name, found, loader))


def belongs(iterator: Any, loader: Any) -> None:
    """Note the DataLoader of an iterator, which does not keep it alive."""
    setattr(iterator, _LOADER, weakref.ref(loader))


def loader_of(iterator: Any) -> Any:
    """The DataLoader of an iterator; None if nobody has it any more."""
    return getattr(iterator, _LOADER, lambda: None)()


def rollback(frame: FrameType, inner: dict[CodeType, FrameType]) -> Again | Refused:
    """What to take back of a failed ``_next_data``.

    Args:
        frame: Its dead frame.
        inner: The dead frames of what it had called, by their code.
    """
    names = names_of(frame)
    iterator = names["self"]
    if "index" not in names:
        return _of_sampler(iterator)
    if "data" in names:
        return Refused("the batch was lost when its memory was pinned")
    if _is_iterable(iterator._dataset_fetcher):
        return _of_iterable(iterator, names["index"], inner)
    return _again(iterator, names["index"], lambda: None)


def _is_iterable(fetcher: Any) -> bool:
    return hasattr(fetcher, "dataset_iter")


def _of_sampler(iterator: Any) -> Again | Refused:
    drawn, sampler = iterator._sampler_iter, iterator._index_sampler
    if isinstance(drawn, Drawn) and not drawn.number and _is_torchs(sampler):
        note = f"{_name(sampler)} begins again: it had given nothing yet"
        return Again(note, lambda: drawn.begin_again(sampler))
    return Refused(
        f"{_name(sampler)}, which says what comes next, has ended with the failure"
    )


def _is_torchs(sampler: Any) -> bool:
    """True of samplers that a new start of gives the same, inner ones included."""
    while type(sampler).__module__.startswith("torch.utils.data"):
        inner = getattr(sampler, "sampler", None)
        if inner is None:
            return True
        sampler = inner
    return False


def _of_iterable(
    iterator: Any, index: Any, inner: dict[CodeType, FrameType]
) -> Again | Refused:
    fetcher = iterator._dataset_fetcher
    names = names_of(inner[type(fetcher).fetch.__code__])
    items = _items(fetcher, names)
    if items is None:
        return Refused(_why_over(fetcher.dataset_iter))
    rest = iter(()) if fetcher.ended else fetcher.dataset_iter

    def give_back() -> None:
        fetcher.dataset_iter = itertools.chain(items, rest)
        fetcher.ended = False

    return _again(iterator, index, give_back)


def _items(fetcher: Any, names: dict[str, Any]) -> list[Any] | None:
    """What the dataset gave for the batch; None if it was the dataset that failed."""
    if "data" not in names:
        return None
    if not fetcher.auto_collation:
        return [names["data"]]
    items = list(names["data"])
    is_all = fetcher.ended or len(items) == len(names["possibly_batched_index"])
    return items if is_all else None


def _why_over(items: Any) -> str:
    name = getattr(items, "__qualname__", type(items).__qualname__)
    if inspect.isgenerator(items):
        return f"the generator {name}, which gave the items, has ended with the failure"
    return f"the {name} that gave the items may have moved on when it failed"


def _again(iterator: Any, index: Any, give_back: Callable[[], None]) -> Again:
    is_iterable = _is_iterable(iterator._dataset_fetcher)
    verb = "collates" if is_iterable else "fetches"
    num = len(index) if iterator._auto_collation else 1
    watch = vars(iterator._dataset_fetcher).get(_WATCH)
    samples = f"the same {num} samples" if num > 1 else "the same sample"
    note = f"DataLoader {verb} {samples} again"
    if is_iterable:
        note += f", as the dataset gave {'them' if num > 1 else 'it'}"
    if watch is not None and watch.before is not None:
        note += ", with the random numbers that they had"

    def apply() -> None:
        give_back()
        _take_over_collate(iterator, watch)
        iterator._sampler_iter = itertools.chain((index,), iterator._sampler_iter)
        if watch is not None:
            watch.put_back()

    return Again(note, apply)


def _take_over_collate(iterator: Any, watch: Watch | None) -> None:
    """A ``collate_fn`` that the loader was given meanwhile."""
    loader = loader_of(iterator)
    if loader is None or loader.collate_fn is iterator._collate_fn:
        return
    iterator._collate_fn = loader.collate_fn
    if watch is None or not watch.replace(loader.collate_fn):
        iterator._dataset_fetcher.collate_fn = loader.collate_fn


def _name(sampler: Any) -> str:
    inner = getattr(sampler, "sampler", None)
    own = type(sampler).__name__
    return f"{own} over {type(inner).__name__}" if inner is not None else own
