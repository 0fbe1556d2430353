"""How far a sampler has come in an epoch, and where what it draws from began.

The permutation of an epoch is nowhere to be read, but it follows from the random
streams as they stood before. With those, the sampler can be asked again in another
process for the indices that it has given; a checksum of them says if it was the same.
"""

from __future__ import annotations

import marshal
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpurescue.state.loaders import streams
from gpurescue.state.loaders.fingerprint import fingerprint
from gpurescue.state.loaders.streams import Stream

DRAWN = "_gr_drawn"

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_INNER = ("sampler", "batch_sampler")
_VERSION = 2  # of marshal: later ones write how often an object is referred to


@dataclass(slots=True)
class Beginning:
    """Where the streams of a sampler stood.

    Attributes:
        streams: Which they are; behind the random ones the attributes of samplers.
        num_random: How many are random.
        made: Before its iterator was made: some draw there.
        asked: Before that was asked for its first index: others draw there. Empty if
            it was not asked yet.
    """

    streams: Sequence[Stream]
    num_random: int
    made: Sequence[bytes]
    asked: Sequence[bytes] = field(default=())

    def put_back(self, states: Sequence[bytes]) -> None:
        """Let the same be drawn again; what the user has set meanwhile stays."""
        num = self.num_random
        streams.write(self.streams[:num], states[:num])


def beginning(sampler: Any, generator: Any) -> Beginning:
    """Of an epoch, before the sampler's iterator is made."""
    random = streams.streams(sampler, generator)
    found = [*random, *map(attributes_of, chain(sampler))]
    return Beginning(found, len(random), streams.read(found))


class Drawn:
    """Stands in front of a sampler's iterator.

    Attributes:
        beginning: Where the streams stood.
        number: How many indices it has given.
        proof: A checksum of them.
        is_over: True if there are no more.
    """

    def __init__(self, inner: Iterator[Any], beginning: Beginning) -> None:
        self.beginning = beginning
        self.number = 0
        self.proof = 0
        self.is_over = False
        self._inner = inner

    def __iter__(self) -> Drawn:
        return self

    def __next__(self) -> Any:
        if not self.number:
            self.beginning.asked = streams.read(self.beginning.streams)
        try:
            index = next(self._inner)
        except StopIteration:
            self.is_over = True
            raise
        self.number += 1
        self.proof = _proof(index, self.proof)
        return index

    def begin_again(self, sampler: Any) -> None:
        """The sampler has given nothing yet: a new start of it is the same."""
        self.beginning.put_back(self.beginning.asked)
        self._inner = iter(sampler)


def _proof(index: Any, before: int) -> int:
    try:
        return zlib.crc32(marshal.dumps(index, _VERSION), before)
    except ValueError:  # no plain values
        return fingerprint(index, before)


def chain(sampler: Any) -> list[Any]:
    """A sampler, and those that it asks."""
    found: list[Any] = []
    while sampler is not None and hasattr(sampler, "__dict__"):
        if any(sampler is known for known in found):
            break
        found.append(sampler)
        own = vars(sampler)
        sampler = next((own[name] for name in _INNER if name in own), None)
    return found


def attributes_of(sampler: Any) -> Stream:
    """The plain attributes of a sampler, such as a count of epochs, like a stream."""

    def read() -> bytes:
        own = {k: v for k, v in vars(sampler).items() if type(v) in _PLAIN}
        return marshal.dumps(own, _VERSION)

    def write(state: bytes) -> None:
        vars(sampler).update(marshal.loads(state))

    return Stream(f"attributes of {type(sampler).__name__}", read, write, sampler)
