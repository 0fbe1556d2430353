"""Everything that a program has left: its variables, random number streams and files.

Two runs are the same if and only if their fingerprints are. Parameters, buffers,
gradients, optimizer and scheduler state are all reached from the variables.
"""

from __future__ import annotations

import hashlib
import random
import types
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

_PLAIN = (bool, int, float, complex, str, bytes, type(None), Path, slice, range)
_NAMED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)
# Their state is the machine's: times, process numbers, file handles.
_OPAQUE = ("tqdm", "threading", "subprocess", "multiprocessing", "socket", "sqlite3")


def variables(names: dict[str, Any]) -> list[str]:
    """Those that a program has made, without what it has imported or defined."""
    own = {k: v for k, v in names.items() if not k.startswith("_")}
    return sorted(k for k, v in own.items() if not isinstance(v, _NAMED))


def of(names: dict[str, Any], wanted: list[str]) -> dict[str, str]:
    """A digest for each variable that is wanted, each stream and each file."""
    found = {name: digest(names.get(name)) for name in wanted}
    found["random stream"] = digest(random.getstate())
    found["numpy stream"] = digest(np.random.get_state())
    found["torch stream"] = digest(torch.get_rng_state())
    for path in sorted(Path().rglob("*")):
        if path.is_file() and ".gpurescue" not in path.parts:  # checkpoints are ours
            found[f"file {path}"] = _of_file(path)
    return found


def digest(value: Any) -> str:
    """The same for two values if they, and all that they refer to, are equal."""
    found = hashlib.sha256()
    for piece in _pieces(value, {}):
        found.update(piece)
        found.update(b"\0")
    return found.hexdigest()[:16]


def _of_file(path: Path) -> str:
    if path.suffix == ".pt":
        return digest(torch.load(path, weights_only=False))
    return digest(path.read_bytes())


def _pieces(value: Any, seen: dict[int, tuple[int, Any]]) -> Iterator[bytes]:
    if _is_opaque(value):
        yield b"opaque"
        return
    yield type(value).__qualname__.encode()
    if isinstance(value, _PLAIN):
        yield repr(value).encode()
    elif isinstance(value, _NAMED):
        yield value.__name__.encode()
    elif id(value) in seen:
        yield str(seen[id(value)][0]).encode()
    else:
        seen[id(value)] = len(seen), value  # kept alive: its id stays its own
        yield from _inside(value, seen)


def _inside(value: Any, seen: dict[int, tuple[int, Any]]) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield from _tensor(value, seen)
        return
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        yield f"{value.dtype} {value.shape}".encode()
        yield value.tobytes()
        return
    for part in _parts(value):
        yield from _pieces(part, seen)


def _tensor(value: torch.Tensor, seen: dict[int, tuple[int, Any]]) -> Iterator[bytes]:
    yield f"{value.dtype} {tuple(value.shape)} {value.requires_grad}".encode()
    yield value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if value.is_leaf:
        yield from _pieces(value.grad, seen)


def _parts(value: Any) -> Iterator[Any]:
    """What a value consists of; nothing of what has no equal in another process."""
    if isinstance(value, torch.Generator | random.Random):
        yield (
            value.get_state()
            if isinstance(value, torch.Generator)
            else (value.getstate())
        )
    elif isinstance(value, np.random.Generator):
        yield value.bit_generator.state
    elif isinstance(value, np.ndarray):
        yield value.tolist()
    elif isinstance(value, pd.DataFrame | pd.Series | pd.Index):
        yield value.to_numpy()
        yield list(getattr(value, "index", ()))
        yield list(getattr(value, "columns", ()))
    else:
        yield from _items(value)


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        # Hooks are numbered through the whole process, whoever has them.
        numbers = value and all(isinstance(k, int) for k in value)
        is_hooks = numbers and all(callable(item) for item in value.values())
        for key, item in value.items():
            yield from ("hook" if is_hooks else key, item)
    elif isinstance(value, set | frozenset):
        yield from sorted(value, key=repr)
    elif isinstance(value, list | tuple | deque):
        yield from value
    if isinstance(value, types.MethodType):
        yield from (value.__name__, value.__self__)
    else:
        kept = getattr(value, "__dict__", None) or {}
        yield from (x for k, v in sorted(kept.items()) for x in (k, v))


def _is_opaque(value: Any) -> bool:
    package = type(value).__module__.partition(".")[0]
    return isinstance(value, Iterator) or package in _OPAQUE
