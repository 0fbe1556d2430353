"""The state of a program at a boundary: tensors by name, and all other objects.

What a program consists of are the variables of its frames, and the names that its code
uses. Tensors are taken by name, without their bytes; so is memory that has no name. The
bytes are taken by who has asked, while the program stands still.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

from gpurescue.state import graph, rebuilding, reopening
from gpurescue.state.iterators import Loop
from gpurescue.state.loaders import rejoin
from gpurescue.state.named import tree

Bytes = bytes | memoryview
Ready = Callable[[dict[str, Any], list[str]], None]
_NONE = graph.Program()
_MOST_SIZES = 64  # most of torch refuses tensors with more dimensions


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A program at a boundary.

    Attributes:
        tensors: Those that have a name; ``torch.Tensor``.
        numbers: The number of each one's storage.
        storages: Untyped storages of torch, by number.
        buffers: Memory of arrays and the like, in the order that ``graph`` has.
        objects: Pickled, with neither tensors nor arrays in them.
        streams: Random streams, as JSON.
        lost: The type of what could not be captured, by its path.
        is_awaited: True if a backward pass is to come through what was computed.
        transient: Names of tensors that are in no state dict: gradients, and buffers
            that are not persistent.
        moving: Numbers of storages that others than an optimizer are about to write.
    """

    tensors: dict[str, Any]
    numbers: dict[str, int]
    storages: tuple[Any, ...]
    buffers: tuple[Any, ...]
    objects: bytes
    streams: bytes
    lost: dict[str, str]
    is_awaited: bool
    transient: tuple[str, ...]
    moving: frozenset[int]


STACK = "<stack>"  # the variable that frames are in
FILES = "<files>"  # the variable that open files are in; see ``reopening.go_on``
MAPS = "<maps>"  # the one that arrays which are files are in; see ``maps.go_on``
STAYS = "stays"  # note: why a program cannot go on from here
_LOOP = "<loop "  # in the name of the variable that a loop is in


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A program at a boundary, as it is: nothing of it is taken yet.

    Attributes:
        variables: By name; see ``variables_of``.
        notes: Plain facts about it.
        sources: Texts of its code, by the name of each.
        surroundings: What it has changed around itself, as JSON.
        program: What its functions and generators are.
        is_whole: True if its frames are there, so that it can go on from here.
        is_urgent: True to take it although a backward pass could not go on from here;
            a better place may come.
        settle: Called in the background: what must last before this does.
    """

    variables: Mapping[str, object]
    notes: dict[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    surroundings: bytes = b"{}"
    program: graph.Program = _NONE
    is_whole: bool = True
    is_urgent: bool = True
    settle: Callable[[], None] = lambda: None


def capture(
    variables: Mapping[str, object],
    dtypes: Iterable[str],
    program: graph.Program = _NONE,
) -> Captured:
    """Capture what variables lead to; called where the program stands still.

    Args:
        variables: By name; see ``variables_of``.
        dtypes: Of the tensors that are taken by name, as torch names them; others, and
            what has too many dimensions, are a part of the objects.
        program: What its functions and generators are.
    """
    streams = read_streams()
    known, kinds = tree(variables), _dtypes(dtypes)
    dead = zeroed(variables)
    tensors = {
        name: tensor
        for name, tensor in known.tensors.items()
        if _is_kept(tensor, kinds) and id(known.gradients.get(name)) not in dead
    }
    numbers = graph.Numbers()
    of = {name: numbers.of(t.untyped_storage()) for name, t in tensors.items()}
    names = {id(tensor): name for name, tensor in reversed(tensors.items())}
    found = graph.capture(variables, names, numbers, dead, program)
    gradients = tensors.keys() & known.gradients.keys()
    return Captured(
        tensors=tensors,
        numbers=of,
        storages=found.storages,
        buffers=found.buffers,
        objects=found.data,
        streams=streams,
        lost=found.lost,
        is_awaited=found.is_awaited,
        transient=tuple(n for n in tensors if n in gradients or n in known.transient),
        moving=frozenset(of[name] for name in gradients),
    )


def missed(lost: Mapping[str, str]) -> str | None:
    """Why a program cannot go on without what was lost; None if it can.

    A variable that is lost may never be asked for; what its frames stand in will be.
    """
    for path, kind in lost.items():
        if path.startswith(STACK) or _LOOP in path:
            return f"{path} could not be kept: {kind}."
    return None


def _dtypes(names: Iterable[str]) -> set[Any]:
    torch = sys.modules.get("torch")
    return {getattr(torch, name, None) for name in names}


def zeroed(variables: Mapping[str, object]) -> frozenset[int]:
    """Ids of parameters whose gradients go before anybody can look at them."""
    torch = sys.modules.get("torch")
    loops = [value for value in variables.values() if isinstance(value, Loop)]
    found: set[int] = set()
    for owner in (owner for loop in loops for owner in loop.zeroed):
        if torch is None or "zero_grad" in getattr(owner, "__dict__", {}):
            continue
        does = getattr(type(owner), "zero_grad", None)
        if does is torch.nn.Module.zero_grad:
            found.update(map(id, torch.nn.Module.parameters(owner)))
        elif does is torch.optim.Optimizer.zero_grad:
            found.update(id(p) for g in owner.param_groups for p in g["params"])
    return frozenset(found)


def _is_kept(tensor: Any, dtypes: set[Any]) -> bool:
    """True for what is memory: not for sparse, quantised, fake and nested tensors."""
    torch = sys.modules["torch"]
    is_plain = type(tensor) in {torch.Tensor, torch.nn.Parameter}
    is_known = tensor.dtype in dtypes and tensor.dim() <= _MOST_SIZES
    return is_plain and tensor.layout is torch.strided and is_known


# -- which variables


def variables_of(
    code: CodeType, namespace: Mapping[str, Any], frames: Iterable[tuple[str, Any]] = ()
) -> dict[str, Any]:
    """What a run consists of.

    Args:
        code: Of the cell.
        namespace: The cell's variables.
        frames: The name of the function and the variables of each frame of the run,
            outermost first; those of the cell's body without a function's name.

    Returns:
        By name: variables of the cell as they are, others as ``function.variable``,
        and ``function.2.variable`` in the second frame of a function.
    """
    found = {name: namespace[name] for name in used_names(code, namespace)}
    counts: dict[str, int] = {}
    for function, values in frames:
        count = counts[function] = counts.get(function, 0) + 1
        prefix = function if count == 1 else f"{function}.{count}"
        start = f"{prefix}." if function else ""
        found |= {f"{start}{name}": value for name, value in values.items()}
    return found


def used_names(code: CodeType, namespace: Mapping[str, Any]) -> list[str]:
    """Names of a namespace that code uses, or functions and classes that it uses."""
    return list(_used(code, namespace))


def used_codes(code: CodeType, namespace: Mapping[str, Any]) -> list[CodeType]:
    """Code, and that of functions and classes of a namespace that it uses."""
    return [code, *(c for codes in _used(code, namespace).values() for c in codes)]


def _used(code: CodeType, namespace: Mapping[str, Any]) -> dict[str, list[CodeType]]:
    found: dict[str, list[CodeType]] = {}
    waiting = [code]
    while waiting:
        for name in _names(waiting.pop()):
            if name in namespace and name not in found:
                found[name] = _codes(namespace[name], namespace)
                waiting += found[name]
    return found


def _names(code: CodeType) -> list[str]:
    """Names that are global to code, its functions and comprehensions included."""
    found = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found += _names(constant)
    return found


def _codes(value: Any, namespace: Mapping[str, Any]) -> list[CodeType]:
    """Code of a function, or of the methods of a class, of the same namespace."""
    value = getattr(value, "__wrapped__", value)
    if isinstance(value, FunctionType):
        return [value.__code__] if value.__globals__ is namespace else []
    if not isinstance(value, type):
        value = type(value)
    if value.__module__ != namespace.get("__name__"):
        return []
    methods = [getattr(m, "__func__", m) for m in vars(value).values()]
    return [m.__code__ for m in methods if isinstance(m, FunctionType)]


# -- random streams


def read_streams() -> bytes:
    """Where ``random``, NumPy's global stream and torch's stand, as JSON."""
    version, state, gauss = random.getstate()
    found: dict[str, Any] = {"random": [version, list(state), gauss]}
    if (module := sys.modules.get("numpy.random")) is not None:
        _, keys, position, has_gauss, cached = module.get_state()
        found["numpy"] = [keys.tobytes().hex(), position, has_gauss, cached]
    if (torch := sys.modules.get("torch")) is not None:
        found["torch"] = [_hex(torch.default_generator.get_state())]
        if torch.cuda.is_initialized():
            found["cuda"] = [_hex(g.get_state()) for g in torch.cuda.default_generators]
    return json.dumps(found).encode()


def write_streams(data: bytes | memoryview) -> None:
    """Put all streams that ``read_streams`` has read back."""
    found = json.loads(bytes(data))
    version, state, gauss = found["random"]
    random.setstate((version, tuple(state), gauss))
    if "numpy" in found:
        import numpy as np

        keys, *rest = found["numpy"]
        words = np.frombuffer(bytes.fromhex(keys), np.uint32)
        np.random.set_state(("MT19937", words, *rest))
    if "torch" in found:
        import torch

        torch.default_generator.set_state(_unhex(found["torch"][0]))
        if "cuda" in found and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([_unhex(text) for text in found["cuda"]])


def _hex(state: Any) -> str:
    return bytes(state.numpy()).hex()


def _unhex(text: str) -> Any:
    torch = sys.modules["torch"]
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


# -- a program again


def rebuilt(
    objects: Bytes,
    streams: Bytes,
    parts: rebuilding.Parts,
    ready: Ready = lambda found, unmade: None,
) -> dict[str, Any]:
    """What variables led to, made again; the random streams stand where they stood.

    Files are open, and as they are; ``reopening.go_on(found[FILES])`` has them stand
    where they stood.

    Args:
        objects: From a source that is trusted: to read a pickle is to run it.
        streams: As ``read_streams`` gave them.
        parts: What was kept beside them.
        ready: Called with the objects, and with why code in them could not be made,
            before anything goes on: worker processes are copies of this one, and what
            it does may draw from streams.

    Raises:
        CannotResume: An iterator of a DataLoader would not give the next batch, or a
            file is not what it was.
    """
    found = rebuilding.rebuild(objects, dataclasses.replace(parts, goes_on=True))
    try:
        reopening.check(parts.files)
        ready(found, parts.unmade)
        write_streams(streams)
        for iterator in parts.iterators:
            rejoin.go_on(iterator)
    except BaseException:
        reopening.close(parts.files)
        raise
    found[FILES], found[MAPS] = parts.files, parts.maps
    return found
