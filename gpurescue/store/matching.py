"""Which tensor of a checkpoint goes where, settled before anything is written."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gpurescue.errors import UsageError
from gpurescue.state import slots
from gpurescue.state.named import GRADIENT, Tree
from gpurescue.store.format import Manifest, Tensor
from gpurescue.store.sharing import Pair, apart

_FEW = 4  # problems that a message names
_UNFIT = "the checkpoint does not fit what is here"
_ADVICE = " strict=False restores the others."


Skeletons = Mapping[str, Any]
State = tuple[Any, Any, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Match:
    """What goes where.

    Attributes:
        pairs: In the order of the program: modules as they were made, then the rest.
        states: Optimizers' states to put in place: optimizer, key, the state.
        missing: Names here that the checkpoint does not have.
        unused: Names of the checkpoint that are not here.
        dropped: Optimizer state and gradients made only after the checkpoint.
        gradients: Those to put in place: the parameter, and its gradient or None.
    """

    pairs: tuple[Pair, ...]
    states: tuple[State, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    dropped: tuple[str, ...]
    gradients: tuple[tuple[Any, Any], ...]


def match(
    manifest: Manifest, tree: Tree, skeletons: Skeletons, *, strict: bool
) -> Match:
    """Match by name; nothing that is there is changed.

    Args:
        manifest: Of the checkpoint.
        tree: What the variables lead to.
        skeletons: State of optimizers that is no tensor, by owner.
        strict: True if all names must be on both sides.

    Raises:
        UsageError: Shapes, dtypes, names or what shares memory do not fit.
    """
    both = [name for name in tree.tensors if name in manifest.tensors]
    pairs = [Pair(n, manifest.tensors[n], tree.tensors[n]) for n in both]
    _refuse(_UNFIT, [p for pair in pairs if (p := _misfit(pair))])
    states = _States(manifest, tree, skeletons, strict=strict)
    made, filled = states.make()
    pairs += made
    gradients = _Gradients(manifest, tree, strict=strict)
    pairs += gradients.made
    known = states.known | tree.gradients.keys()
    missing = tuple(_missing(tree, pairs, known))
    done = {pair.name for pair in pairs}
    unused = tuple(name for name in manifest.tensors if name not in done)
    if strict:
        _refuse("the checkpoint lacks", missing, _ADVICE)
        _refuse("only the checkpoint has", unused, _ADVICE)
    _refuse(_UNFIT, apart(manifest, pairs, strict=strict))
    return Match(
        pairs=tuple(pairs),
        states=tuple(filled),
        missing=missing,
        unused=unused,
        dropped=(*states.dropped, *gradients.dropped),
        gradients=tuple(gradients.placed),
    )


def _refuse(what: str, problems: Iterable[str], advice: str = "") -> None:
    found = list(problems)
    if found:
        more = f" and {len(found) - _FEW} more" if len(found) > _FEW else ""
        few = "; ".join(found[:_FEW])
        raise UsageError(f"Nothing was restored: {what}: {few}{more}.{advice}")


def _misfit(pair: Pair) -> str | None:
    name, saved, live = pair.name, pair.saved, pair.live
    what = _without_memory(live)
    if what is not None:
        return f"{name} {what} here"
    if tuple(live.shape) != saved.shape:
        return f"{name} has shape {saved.shape} there and {tuple(live.shape)} here"
    if str(live.dtype) != f"torch.{saved.dtype}":
        return f"{name} is {saved.dtype} there and {live.dtype} here"
    steps = zip(live.shape, live.stride(), saved.stride, strict=True)
    if any(size > 1 and here == 0 != there for size, here, there in steps):
        return f"{name} is expanded here: one element stands for several"
    return None


def _without_memory(live: Any) -> str | None:
    """Why a tensor has no strided memory that values can be put in."""
    from torch import strided
    from torch.nn.parameter import is_lazy

    if is_lazy(live):
        return "has no shape (before the first forward)"
    if hasattr(type(live), "__tensor_flatten__"):
        return f"is a {type(live).__name__}"
    if live.layout != strided:
        return f"has the layout {live.layout}"
    return "has no memory (device meta)" if live.is_meta else None


class _States:
    """States of optimizers become those of the checkpoint, with entries made or gone.

    Attributes:
        known: Names here that are state of an optimizer.
        dropped: Those of them that go.
    """

    def __init__(
        self, manifest: Manifest, tree: Tree, skeletons: Skeletons, *, strict: bool
    ) -> None:
        self._manifest, self._tree, self._skeletons = manifest, tree, skeletons
        self._groups = {
            id(parameter): group
            for _, optimizer in tree.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        self._there = self._by_owner(manifest.tensors)
        here = self._by_owner(tree.tensors)
        self.known = {name for names in here.values() for name in names}
        gone = {owner for owner in here if strict or owner in self._there}
        self.dropped = [
            name
            for owner in gone
            for name in here[owner]
            if name not in manifest.tensors
        ]
        self.known -= {n for owner in here.keys() - gone for n in here[owner]}
        self._changed = [
            owner
            for owner in tree.owners
            if owner in gone or owner in self._there or owner in skeletons
        ]

    def _by_owner(self, names: Iterable[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in names:
            owner = slots.owner_of(name, self._tree.owners)
            if owner is not None:
                found[owner].append(name)
        return found

    def make(self) -> tuple[list[Pair], list[State]]:
        made: list[Pair] = []
        filled = []
        gone = {id(self._tree.tensors[name]) for name in self.dropped}
        for owner in self._changed:
            optimizer, key = self._tree.owners[owner]
            fresh = [
                Pair(name, saved, _empty(name, saved, key, self._groups[id(key)]))
                for name in self._there.get(owner, ())
                if name not in self._tree.tensors
                for saved in (self._manifest.tensors[name],)
            ]
            made += fresh
            base, tensors = self._base(owner, gone)
            tensors |= {pair.name: pair.live for pair in fresh}
            start = len(owner) + 1
            paths = {name[start:]: tensor for name, tensor in tensors.items()}
            filled.append((optimizer, key, slots.filled(base, paths)))
        return made, filled

    def _base(self, owner: str, gone: set[int]) -> tuple[Any, dict[str, Any]]:
        """What the state begins as, and tensors of ours to put into it."""
        optimizer, key = self._tree.owners[owner]
        names, known = self._there.get(owner, ()), self._tree.tensors
        if owner in self._skeletons:
            tensors = {name: known[name] for name in names if name in known}
            return slots.without(self._skeletons[owner], ()), tensors
        if not names:  # it had no state then, so that nothing stays
            return {}, {}
        return slots.without(optimizer.state.get(key, {}), gone), {}


class _Gradients:
    """Gradients become those of the checkpoint: what it has none of has none.

    Attributes:
        made: Of parameters that have none here.
        placed: What to set: a parameter, and its gradient or None.
        dropped: Names of those that go.
    """

    def __init__(self, manifest: Manifest, tree: Tree, *, strict: bool) -> None:
        self.made: list[Pair] = []
        self.placed: list[tuple[Any, Any]] = []
        fresh: dict[int, Any] = {}
        for name, parameter in tree.tensors.items():
            own = f"{name}{GRADIENT}"
            saved = manifest.tensors.get(own)
            if saved is None or own in tree.tensors or not _fits(saved, parameter):
                continue
            if id(parameter) not in fresh:
                fresh[id(parameter)] = _new(saved, parameter.device)
                self.placed.append((parameter, fresh[id(parameter)]))
            self.made.append(Pair(own, saved, fresh[id(parameter)]))
        self.dropped = [
            own
            for own, parameter in tree.gradients.items()
            if own not in manifest.tensors
            and (strict or own.removesuffix(GRADIENT) in manifest.tensors)
        ]
        self.placed += [(tree.gradients[own], None) for own in self.dropped]


def _fits(saved: Tensor, parameter: Any) -> bool:
    same = str(parameter.dtype) == f"torch.{saved.dtype}"
    is_own = parameter.is_leaf and parameter.requires_grad
    return same and is_own and tuple(parameter.shape) == saved.shape


def _empty(name: str, saved: Tensor, key: Any, group: Mapping[str, Any]) -> Any:
    """Memory for a tensor that the optimizer has not made yet, where it would be."""
    if saved.num_reached - saved.offset < math.prod(saved.shape):
        raise UsageError(f"Nothing was restored: {name} is expanded in the checkpoint.")
    is_apart = name.endswith(".step") and not (
        group.get("fused") or group.get("capturable")
    )
    device = "cpu" if is_apart else key.device
    return _new(saved, device)


def _new(saved: Tensor, device: Any) -> Any:
    """Memory that is looked at as in the checkpoint."""
    import torch

    dtype = getattr(torch, saved.dtype)
    if _is_dense(saved):
        return torch.empty_strided(
            saved.shape, saved.stride, dtype=dtype, device=device
        )
    return torch.empty(saved.shape, dtype=dtype, device=device)


def _is_dense(saved: Tensor) -> bool:
    """True if its elements lie side by side, in whatever order of dimensions."""
    dimensions = zip(saved.stride, saved.shape, strict=True)
    expected = 1
    for step, size in sorted((step, n) for step, n in dimensions if n != 1):
        if step != expected:
            return False
        expected *= size
    return True


def _missing(tree: Tree, pairs: list[Pair], states: set[str]) -> Iterator[str]:
    """What gets no values, under no name: of a tied weight one name is enough."""
    done = {pair.name for pair in pairs}
    places = {_place(pair.live) for pair in pairs}
    for name, live in tree.tensors.items():
        if name not in done and name not in states and _place(live) not in places:
            yield name


def _place(live: Any) -> tuple[object, ...]:
    if _without_memory(live):
        return (id(live),)
    return live.data_ptr(), live.shape, live.stride()
