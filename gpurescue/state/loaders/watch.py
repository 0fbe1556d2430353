"""Random numbers that a DataLoader without workers draws for a batch.

When a batch failed half-way its samples are fetched again, and must not draw from where
the first attempt has left the streams. Where they stand is noted before a batch, but
only of a loader whose batches draw any: after some that drew none nothing is asked of
it any more.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from gpurescue.state.loaders import streams
from gpurescue.state.loaders.streams import Stream

_log = logging.getLogger(__name__)

_NUM_TRIALS = 16  # batches without random numbers: then a loader is taken to draw none
_trials: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


class Watch:
    """Stands in front of a function of a fetcher, for as long as that is needed.

    Attributes:
        before: Where the streams stood before the last batch, if they are known.
    """

    def __init__(
        self, fetcher: Any, name: str, found: Sequence[Stream], loader: Any
    ) -> None:
        self.before: list[bytes] | None = None
        self._name = name
        self._fetcher = weakref.ref(fetcher)  # it must die with its iterator
        self._plain = vars(fetcher).get(name)
        self._streams = found
        self._loader = weakref.ref(loader)
        self._has_left = False
        self._num_left = max(1, _NUM_TRIALS - _trials.get(loader, 0))
        self._stand(self._try)

    def put_back(self) -> None:
        """Make the streams stand as before the last batch."""
        if self.before is None:
            self._stand(self._check)
        else:
            streams.write(self._streams, self.before)

    def replace(self, function: Any) -> bool:
        """Call another ``collate_fn`` from now on; False if not in front of one."""
        if self._name == "collate_fn":
            self._plain = function
        return self._name == "collate_fn" and not self._has_left

    @property
    def plain(self) -> Any:
        """The function itself."""
        fetcher = self._fetcher()
        return self._plain or getattr(type(fetcher), self._name).__get__(fetcher)

    def _stand(self, function: Callable[..., Any]) -> None:
        self._has_left = False
        setattr(self._fetcher(), self._name, function)

    def _try(self, argument: Any) -> Any:
        self.before = streams.read(self._streams)
        found = self.plain(argument)
        if streams.read(self._streams) != self.before:
            self._stand(self._note)
            return found
        loader = self._loader()
        if loader is not None:
            _trials[loader] = _trials.get(loader, 0) + 1
        self._num_left -= 1
        if not self._num_left:
            self._leave()
        return found

    def _note(self, argument: Any) -> Any:
        self.before = streams.read(self._streams)
        return self.plain(argument)

    def _check(self, argument: Any) -> Any:
        """The first attempt was taken to have drawn nothing."""
        before = streams.read(self._streams)
        found = self.plain(argument)
        if streams.read(self._streams) != before:
            _log.warning(
                "This batch draws random numbers, and the first %d of its DataLoader "
                "drew none: what its failed attempt drew is lost.",
                _NUM_TRIALS,
            )
        self._leave()
        return found

    def _leave(self) -> None:
        self.before, self._has_left = None, True
        fetcher = self._fetcher()
        if self._plain is None:
            delattr(fetcher, self._name)
        else:
            setattr(fetcher, self._name, self._plain)
