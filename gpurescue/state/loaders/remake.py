"""Making the iterator of a DataLoader again, with new workers, in its own place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from gpurescue.state.loaders.crew import Crew

_KEPT = ("_num_yielded", "_index_sampler", "_IterableDataset_len_called")


def remake(iterator: Any, crew: Crew, first: int, indices: Iterator[Any]) -> None:
    """Start new workers, who go on with the batch of number ``first``.

    The user's loop holds the iterator: it stays the same object.
    """
    kept = {name: getattr(iterator, name) for name in _KEPT}
    _make_over(iterator, crew)
    for name, value in kept.items():
        setattr(iterator, name, value)
    iterator._sampler_iter = indices
    iterator._send_idx = iterator._rcvd_idx = first
    for _ in range(first % crew.num_workers):
        next(iterator._worker_queue_idx_cycle)
    for _ in range(iterator._prefetch_factor * crew.num_workers):
        iterator._try_put_index()


def _make_over(iterator: Any, crew: Crew) -> None:
    """Have torch make the iterator again, in the place of itself, with no batches."""
    data = sys.modules["torch.utils.data.dataloader"]
    stand_in = crew.stand_in()
    stand_in._index_sampler = ()
    # It draws a seed, and must not draw it from the streams of the run.
    stand_in.generator = sys.modules["torch"].Generator()
    stand_in.pin_memory, stand_in.pin_memory_device = iterator._pin_memory, ""
    crew.base_seed = iterator._base_seed
    try:
        data._MultiProcessingDataLoaderIter.__init__(iterator, stand_in)
    except BaseException:
        iterator._shutdown_workers()
        raise
    finally:
        crew.base_seed = None
