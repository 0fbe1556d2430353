"""Put the tensors of a checkpoint into the objects of a program that runs.

Objects stay what they are: an optimizer goes on holding the model's parameters. Small
tensors are copied. A large one on the CPU is pointed at the mapped file instead, if
nothing but tensors that are restored looks at its memory: it has its values at once,
is read and checked ahead of its use (``residence.py``), and gets memory of its own
before the first step.

Copying weights when a hook says that they are used would not do: whoever reads a weight
without a call would get what was there before, and whoever sets one anew after the
restore would lose it.
"""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpurescue.state.named import Tree, tree
from gpurescue.store import residence, upload
from gpurescue.store.matching import Match, match
from gpurescue.store.reading import Reader, view
from gpurescue.store.residence import Residence, Unit
from gpurescue.store.sharing import Pair

_LARGE = 2**20  # bytes; a mapping costs some 10 us, copying that much 50
_FEW = 5  # names that are shown
_MOST = 4096  # mappings; a process may have 65,530


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore has done.

    Attributes:
        names: Tensors that have the checkpoint's values.
        nbytes: Bytes of them.
        missing: Names here that the checkpoint does not have; these were left alone.
        unused: Names of the checkpoint that are not here.
        dropped: Optimizer state and gradients that were made only after the checkpoint,
            and are gone.
    """

    names: tuple[str, ...]
    nbytes: int
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    dropped: tuple[str, ...]
    _residence: Residence | None = field(repr=False)

    def __repr__(self) -> str:
        parts = [f"{len(self.names)} tensors, {self.nbytes:,} bytes"]
        for label in ("missing", "unused", "dropped"):
            names = getattr(self, label)
            more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
            if names:
                parts.append(f"{label}: {', '.join(names[:_FEW])}{more}")
        return f"Restored({'; '.join(parts)})"

    @property
    def is_checked(self) -> bool:
        """True if nothing is left to read and check."""
        return self._residence is None or self._residence.is_over()

    def wait(self) -> None:
        """Read and check what is not read yet. Nobody has to: hooks do, in time.

        Raises:
            Damaged: A tensor is not what was written; names it.
        """
        if self._residence is not None:
            self._residence.wait()


def restore(
    reader: Reader,
    variables: Mapping[str, object],
    *,
    skeletons: Mapping[str, Any] | None = None,
    lazy: bool = True,
    strict: bool = True,
) -> Restored:
    """Put the tensors of a checkpoint where the variables lead, by name.

    Args:
        reader: Of the checkpoint.
        variables: Modules, optimizers, tensors and what holds them, by name.
        skeletons: State of optimizers that is no tensor, as ``slots.skeletons`` gave
            it when the checkpoint was made; None to leave what is there.
        lazy: True to return before everything is read.
        strict: True to refuse if there are names on one side only.

    Raises:
        UsageError: Shapes, dtypes, names or ties do not fit; nothing was written.
        Damaged: Bytes are not those that were written; nothing was written. With
            ``lazy``, a large tensor's damage is found later: by a forward that uses
            it, by the next step of any optimizer, or by ``wait``.
    """
    import torch

    found = tree(variables)
    with torch.inference_mode(False), torch.no_grad():
        matched = match(reader.manifest, found, skeletons or {}, strict=strict)
        is_lazy = lazy and not _compiles(found)
        plans = list(_plans(reader, matched, found)) if is_lazy else []
        mapped = {id(pair) for plan in plans for pair in plan.pairs}
        copied = [pair for pair in matched.pairs if id(pair) not in mapped]
        sources = [reader.tensor(pair.name) for pair in copied]
        residence.give_up(pair.live for pair in matched.pairs)
        upload.copy([pair.live for pair in copied], sources)
        units = [plan.put() for plan in plans]
        _place_states(matched)
        for parameter, gradient in matched.gradients:
            parameter.grad = gradient
    return Restored(
        names=tuple(pair.name for pair in matched.pairs),
        nbytes=sum({p.live.data_ptr(): p.live.nbytes for p in matched.pairs}.values()),
        missing=matched.missing,
        unused=matched.unused,
        dropped=matched.dropped,
        _residence=_started(reader, units, found, matched),
    )


def _started(
    reader: Reader, units: Sequence[Unit], found: Tree, matched: Match
) -> Residence | None:
    if not units:
        return None
    ids = {id(pair.live) for pair in matched.pairs}
    ids |= {id(key) for _, key, _ in matched.states}
    modules = [module for _, module in found.modules]
    made = Residence(reader, units, modules, ids)
    made.start()
    return made


def _compiles(found: Tree) -> bool:
    """True if something is compiled: such code calls no hooks, or takes them in."""
    if any(getattr(module, "_compiled_call_impl", None) for _, module in found.modules):
        return True
    frames = sys.modules.get("torch._dynamo.eval_frame")
    backends = getattr(frames, "cached_backends", {})
    return any(backend is not None for backend in backends.values())


@dataclass(frozen=True, slots=True)
class _Plan:
    """One storage that is going to be on mapped bytes."""

    pairs: tuple[Pair, ...]
    storage: Any
    nbytes: int

    def put(self) -> Unit:
        import torch

        for pair in self.pairs:
            pair.live.data = view(pair.saved, self.storage)
            torch.autograd.graph.increment_version(pair.live)
        first = self.pairs[0]
        tensors = [pair.live for pair in self.pairs]
        return Unit(first.name, first.saved.storage, self.nbytes, tensors)


def _plans(reader: Reader, matched: Match, found: Tree) -> Iterator[_Plan]:
    used = _used(matched, found)
    groups: dict[int, list[Pair]] = defaultdict(list)
    for pair in matched.pairs:
        groups[pair.live.untyped_storage()._cdata].append(pair)
    count = 0
    for pairs in groups.values():
        if count == _MOST or not _can_be_mapped(pairs, used):
            continue
        number = pairs[0].saved.storage
        with contextlib.suppress(OSError):  # no room for mappings: it is copied
            storage = reader.unchecked(number)
            if storage.data_ptr() % 64 == 0:
                yield _Plan(tuple(pairs), storage, storage.nbytes())
                count += 1


def _used(matched: Match, found: Tree) -> set[int]:
    """Tensors that are used by way of a module or an optimizer, where hooks are."""
    used = {id(key) for _, key in found.owners.values()}
    for _, module in found.modules:
        used.update(map(id, module._parameters.values()))
        used.update(map(id, module._buffers.values()))
    waiting: list[Any] = [state for _, _, state in matched.states]
    while waiting:
        value = waiting.pop()
        used.add(id(value))
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
    return used


def _can_be_mapped(pairs: list[Pair], used: set[int]) -> bool:
    """True if nobody else looks at the memory, and nothing about it is special."""
    import torch

    live = pairs[0].live
    storage = live.untyped_storage()
    if live.is_cuda or storage.nbytes() < _LARGE or storage.is_shared():
        return False
    count = getattr(torch._C, "_storage_Use_Count", lambda _: 0)(storage._cdata)
    return count == 1 + len({id(pair.live) for pair in pairs}) and all(
        id(pair.live) in used
        and pair.saved.storage == pairs[0].saved.storage
        and pair.saved.stride == tuple(pair.live.stride())
        and not (pair.live._is_view() or pair.live.is_inference())
        for pair in pairs
    )


def _place_states(matched: Match) -> None:
    for optimizer, key, state in matched.states:
        if state:
            optimizer.state[key] = state
        else:
            optimizer.state.pop(key, None)
