"""Which checkpoints stay.

Of each run, those that any of these rules asks for:

*the last ones*, for when the newest is damaged or came after the mistake;

*log-spaced ones*, so that a replay can begin near any place. Checkpoints of a run are
counted from 0. One whose place can be divided by ``2**k`` stays until it is
``2 * 2**k`` places back, and as long as the run has not got to place
``spread * 2**k``. By the first part there is one that is ``2**j`` to ``2**(j + 1) - 1``
places back, for every ``j``; by the second none of the run is farther from the one
before it than ``2 / spread`` of the run. Place 0 can be divided by anything, and stays;

*the best ones* by a value that was logged;

*those that are pinned*.

None of these ever asks for a checkpoint that it did not ask for before, so it does not
matter when, or how often, they are gone by: they would never have kept one that is
gone. About ``log2(n) + spread`` stay of ``n``.

Each run has rules of its own, and a run that none are given for is left as it is.

A limit in bytes is for all runs together, and goes before the rules. Checkpoints share
what did not change, so removing one gives back what no other has, which may be nothing:
what counts is what those that stay need together. The log-spaced ones go first, oldest
first, whatever the run; then the last ones; then the best ones. What is pinned stays,
and the newest of each run, also of those that are over: these alone may pass the limit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gpurescue.errors import UsageError

Chunks = Callable[[str], Iterable[tuple[str, int]]]

_SPACED, _LAST, _BEST, _HELD = range(4)  # in the order in which a limit takes them


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A checkpoint that is there.

    Attributes:
        id: Its name.
        run: The run that it is of.
        number: Counts the checkpoints of the run, from 1.
        created: Seconds since 1970.
        nbytes: Of all of its chunks.
        metrics: What was logged, by name.
        is_pinned: True if it is never to be removed.
    """

    id: str
    run: str
    number: int
    created: float
    nbytes: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    is_pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which checkpoints of a run stay.

    Attributes:
        last: How many of the newest.
        spread: Into how many parts the log-spaced ones divide the run, at least half.
        best: How many of the best ones.
        metric: The value that they are the best by; None if they are not asked for.
        is_better_high: True for an accuracy, False for a loss.

    Raises:
        UsageError: A value makes no sense.
    """

    last: int = 3
    spread: int = 16
    best: int = 1
    metric: str | None = None
    is_better_high: bool = False

    def __post_init__(self) -> None:
        for name, least in (("last", 1), ("spread", 1), ("best", 0)):
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"{name} is {value!r}: give at least {least}.")


def to_remove(
    there: Sequence[Kept],
    rules: Mapping[str, Rules],
    limit: int | None = None,
    chunks_of: Chunks | None = None,
) -> list[str]:
    """The checkpoints that no rule asks for, or that there is no room for.

    Args:
        there: All that are in the store, in any order.
        rules: By run.
        limit: Bytes that all runs may take together; None for no limit.
        chunks_of: The digests and sizes of a checkpoint's chunks, by its id; asked only
            where the limit may have been passed, and not for those that no rule keeps.

    Returns:
        Their ids, oldest first.

    Raises:
        UsageError: There is a limit, and nothing to count the bytes by.
    """
    ranks: dict[str, int] = {}
    for name, run in _by_run(there).items():
        if name not in rules:
            ranks.update((one.id, _SPACED) for one in run)
        ranks.update(_ranks(run, rules.get(name, Rules())))
    kept = [one for one in there if one.id in ranks]
    over: set[str] = set()
    # Together they cannot need more than each for itself.
    if limit is not None and sum(one.nbytes for one in kept) > limit:
        if chunks_of is None:
            raise UsageError("A limit in bytes needs the chunks of each checkpoint.")
        needed = _Needed({one.id: set(chunks_of(one.id)) for one in kept})
        over = _over_limit(kept, ranks, limit, needed)
    going = [one for one in there if one.id not in ranks or one.id in over]
    return [one.id for one in sorted(going, key=_age)]


def _age(one: Kept) -> tuple[float, int]:
    return one.created, one.number


def _by_run(there: Iterable[Kept]) -> dict[str, list[Kept]]:
    runs: dict[str, list[Kept]] = {}
    for one in there:
        runs.setdefault(one.run, []).append(one)
    return runs


def _ranks(run: list[Kept], rules: Rules) -> dict[str, int]:
    """Why a checkpoint of a run stays, by id; those that do not are left out."""
    newest_first = sorted(run, key=lambda one: -one.number)
    newest = newest_first[0]
    ranks = {
        one.id: _SPACED
        for one in run
        if _is_spaced(one.number - 1, newest.number - 1, rules.spread)
    }
    ranks.update((one.id, _LAST) for one in newest_first[: rules.last])
    ranks.update((one.id, _BEST) for one in _best(run, rules))
    ranks.update((one.id, _HELD) for one in run if one.is_pinned or one is newest)
    return ranks


def _is_spaced(place: int, newest: int, spread: int) -> bool:
    if place <= 0:
        return True
    step = place & -place  # the highest power of two that divides it
    return newest - place < 2 * step or newest < spread * step


def _best(run: list[Kept], rules: Rules) -> list[Kept]:
    """Of equal ones the older: a newer one would put it out, and gain nothing."""
    name = rules.metric
    if name is None:
        return []
    sign = -1.0 if rules.is_better_high else 1.0
    valued = [one for one in run if not math.isnan(one.metrics.get(name, math.nan))]
    valued.sort(key=lambda one: (sign * one.metrics[name], one.number))
    return valued[: rules.best]


def _over_limit(
    kept: Sequence[Kept], ranks: Mapping[str, int], limit: int, needed: _Needed
) -> set[str]:
    """Those that go so that the rest has room."""
    going: list[str] = []
    for one in sorted(kept, key=lambda one: (ranks[one.id], _age(one))):
        if needed.nbytes <= limit or ranks[one.id] == _HELD:
            break
        needed.remove(one.id)
        going.append(one.id)
    # What freed nothing, or little, may find room after all, the most wanted first.
    return {id for id in reversed(going) if not needed.has_room(id, limit)}


class _Needed:
    """The bytes that some checkpoints need together.

    Args:
        chunks: Of each checkpoint.
    """

    def __init__(self, chunks: dict[str, set[tuple[str, int]]]) -> None:
        self._chunks = chunks
        self._users = Counter(key for keys in chunks.values() for key in keys)
        self.nbytes = sum(nbytes for _, nbytes in self._users)

    def remove(self, id: str) -> None:
        """Count without a checkpoint."""
        for key in self._chunks[id]:
            self._users[key] -= 1
            if not self._users[key]:
                self.nbytes -= key[1]

    def has_room(self, id: str, limit: int) -> bool:
        """Count with a checkpoint again, if it fits, or needs nothing of its own."""
        more = sum(key[1] for key in self._chunks[id] if not self._users[key])
        if more and self.nbytes + more > limit:
            return False
        self.nbytes += more
        self._users.update(self._chunks[id])
        return True
