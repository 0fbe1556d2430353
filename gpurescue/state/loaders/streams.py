"""The random streams that a piece of code may draw from, and where they stand.

There are the global ones (``random``, NumPy's, torch's) and those that the code keeps
for itself: a generator in an attribute, in a closure, in a global variable of its
functions. They are found by looking, and nothing of the user's runs for it.

Where a stream stands is read before every batch, so it has to be cheap: a Mersenne
Twister is copied straight out of memory, after a trial that the copy is right.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import pickle
import random
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

_WORDS = struct.Struct("624I")
_GAUSS = struct.Struct("=id")  # is there a second normal number, and which
_MOST_NODES = 500
_MOST_ITEMS = 64


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of random numbers.

    Attributes:
        name: What it is called in all processes that have it.
        read: Where it stands.
        write: Make it stand there again.
        thing: What draws from it; None for those of the whole process.
    """

    name: str
    read: Callable[[], bytes]
    write: Callable[[bytes], None]
    thing: Any = None


def streams(*roots: object) -> list[Stream]:
    """The global streams, and those that can be reached from ``roots``."""
    found = [Stream("random", *_of_python(random._inst))]
    numpy, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    if numpy is not None:
        found.append(Stream("numpy", *_of_numpy(numpy.mtrand._rand, numpy)))
    if torch is not None:
        found += _of_torch(torch)
    for number, thing in enumerate(_generators(roots)):
        own = stream_of(thing, f"{type(thing).__name__} {number}")
        if own is not None:
            found.append(own)
    return found


def stream_of(thing: Any, name: str) -> Stream | None:
    """The stream of a generator of random numbers; None if it is of no known kind."""
    makers = [make for kind, make in _kinds() if type(thing) is kind]
    return Stream(name, *makers[0](thing), thing) if makers else None


def read(found: Sequence[Stream]) -> list[bytes]:
    """Where each of them stands."""
    return [stream.read() for stream in found]


def write(found: Sequence[Stream], states: Sequence[bytes]) -> None:
    """Make each of them stand there again."""
    for stream, state in zip(found, states, strict=True):
        stream.write(state)


_Access = tuple[Callable[[], bytes], Callable[[bytes], None]]


def _kinds() -> Iterator[tuple[type, Callable[[Any], _Access]]]:
    yield random.Random, _of_python
    numpy, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    if numpy is not None:
        yield numpy.RandomState, lambda rng: _of_numpy(rng, numpy)
        yield numpy.Generator, _of_numpy_generator
    if torch is not None:
        yield torch.Generator, lambda rng: _of_generator(rng, torch)


# -- Python ----------------------------------------------------------------------------


def _of_python(rng: random.Random) -> _Access:
    offset = _offset_in_python()
    if offset is None:
        return lambda: pickle.dumps(rng.getstate()), lambda b: rng.setstate(_loads(b))
    window = _window(rng, id(rng) + offset, 4 + _WORDS.size)

    def read() -> bytes:
        gauss = rng.gauss_next  # type: ignore[attr-defined]
        return window.tobytes() + _GAUSS.pack(gauss is not None, gauss or 0.0)

    def write(state: bytes) -> None:
        (at,) = struct.unpack_from("i", state)
        words = _WORDS.unpack_from(state, 4)
        is_set, gauss = _GAUSS.unpack_from(state, 4 + _WORDS.size)
        rng.setstate((3, (*words, at), gauss if is_set else None))

    return read, write


@functools.cache
def _offset_in_python() -> int | None:
    """Where a ``random.Random`` keeps its position, in front of its 624 words."""
    trial = random.Random(1)
    trial.random()
    *words, at = trial.getstate()[1]
    return _offset(trial, struct.pack("i", at) + _WORDS.pack(*words))


# -- NumPy -----------------------------------------------------------------------------


def _of_numpy(rng: Any, numpy: ModuleType) -> _Access:
    twister, offset = rng._bit_generator, _offset_in_numpy()
    if type(twister) is not numpy.MT19937 or offset is None:
        return lambda: pickle.dumps(rng.get_state()), lambda b: rng.set_state(_loads(b))
    address = twister.ctypes.state_address
    window = _window(twister, address, _WORDS.size + 4)
    gauss = _window(rng, id(rng) + offset, 16)

    def read() -> bytes:
        return window.tobytes() + gauss.tobytes()

    def write(state: bytes) -> None:
        words = sys.modules["numpy"].frombuffer(state, "u4", 624)
        (at,) = struct.unpack_from("i", state, _WORDS.size)
        is_set, _, second = struct.unpack_from("iid", state, _WORDS.size + 4)
        rng.set_state(("MT19937", words, at, is_set, second))

    return read, write


@functools.cache
def _offset_in_numpy() -> int | None:
    """Where a ``RandomState`` keeps its second normal number and whether it has one."""
    trial = sys.modules["numpy.random"].RandomState(1)
    name, words, at, *_ = trial.get_state()
    second = 1.2345e-67
    found: set[int | None] = set()
    for is_set in (1, 0):
        trial.set_state((name, words, at, is_set, second))
        offset = _offset(trial, struct.pack("d", second))
        if offset is None or _int_at(id(trial) + offset - 8) != is_set:
            return None
        found.add(offset - 8)
    return found.pop() if len(found) == 1 else None


def _of_numpy_generator(rng: Any) -> _Access:
    twister = rng.bit_generator

    def write(state: bytes) -> None:
        twister.state = _loads(state)

    return lambda: pickle.dumps(twister.state), write


# -- torch -----------------------------------------------------------------------------


def _of_torch(torch: ModuleType) -> list[Stream]:
    found = [Stream("torch", *_of_generator(torch.default_generator, torch))]
    if torch.cuda.is_initialized():
        found += [
            Stream(f"cuda {number}", *_of_generator(rng, torch))
            for number, rng in enumerate(torch.cuda.default_generators)
        ]
    return found


def _of_generator(rng: Any, torch: ModuleType) -> _Access:
    def read() -> bytes:
        state = rng.get_state()
        return ctypes.string_at(state.data_ptr(), state.numel())

    def write(state: bytes) -> None:
        rng.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

    return read, write


# -- memory ----------------------------------------------------------------------------


def _offset(thing: object, wanted: bytes) -> int | None:
    """Where the memory of an object has these bytes; None if it is not plain."""
    if sys.implementation.name != "cpython":
        return None
    memory = ctypes.string_at(id(thing), type(thing).__basicsize__)
    return memory.find(wanted) if memory.count(wanted) == 1 else None


def _window(owner: object, address: int, size: int) -> memoryview:
    """Memory that belongs to ``owner``, which is kept alive."""
    array = (ctypes.c_char * size).from_address(address)
    array.owner = owner  # type: ignore[attr-defined]
    return memoryview(array).cast("B")


def _int_at(address: int) -> int:
    return ctypes.c_int.from_address(address).value


def _loads(state: bytes) -> Any:
    return pickle.loads(state)


# -- looking ---------------------------------------------------------------------------


def _generators(roots: Sequence[object]) -> list[Any]:
    """Every generator of random numbers within reach, in a stable order."""
    kinds = tuple(kind for kind, _ in _kinds())
    found: list[Any] = []
    waiting, seen = list(roots), {id(root) for root in roots}
    for thing in waiting:  # grows on the way
        if issubclass(type(thing), kinds):  # an instance check may run the user's code
            found.append(thing)
        elif len(waiting) < _MOST_NODES:
            parts = [
                part
                for part in _parts(thing)
                if type(part) not in _ATOMS and id(part) not in seen
            ]
            seen.update(map(id, parts))
            waiting += parts
    return [thing for thing in found if id(thing) not in _global()]


def _global() -> set[int]:
    torch = sys.modules.get("torch")
    others = () if torch is None else (torch.default_generator,)
    return {id(rng) for rng in (random._inst, *others)}


def _parts(thing: object) -> list[object]:
    """What an object is made of, as far as that may hold a generator."""
    kind = type(thing)  # nothing is asked of the object itself: it may be the user's
    if kind is FunctionType:
        return _parts_of_function(thing)  # type: ignore[arg-type]
    if issubclass(kind, type | ModuleType):
        return []
    if not (gc.is_tracked(thing) or kind in _UNTRACKED):
        return []
    if kind in _CONTAINERS and len(thing) > _MOST_ITEMS:  # type: ignore[arg-type]
        return []
    if kind.__module__.partition(".")[0] in _TABLES or kind.__name__ == "Tensor":
        return []
    found = gc.get_referents(thing)
    return [*_functions_of(kind), *found] if len(found) <= 2 * _MOST_ITEMS else []


_UNTRACKED = {dict, tuple}  # if what is in them cannot be in a cycle: a generator
_ATOMS = {bool, int, float, complex, str, bytes, type(None)}
_CONTAINERS = {list, tuple, dict, set, frozenset}
_TABLES = {"numpy", "pandas", "pyarrow"}


def _functions_of(kind: type) -> list[object]:
    """The functions of a class, unless it is a library's."""
    return [
        getattr(value, "__func__", value)
        for owner in kind.__mro__
        if not _is_library(owner.__module__)
        for value in vars(owner).values()
        if isinstance(value, FunctionType | staticmethod | classmethod)
    ]


def _parts_of_function(function: FunctionType) -> list[object]:
    """What it closes over, its defaults, and what its global names mean."""
    found: list[object] = [*(function.__defaults__ or ())]
    for cell in function.__closure__ or ():
        found += gc.get_referents(cell)
    if _is_library(function.__module__ or ""):
        return found
    names = function.__globals__
    return [
        *found,
        *(names[name] for name in _names(function.__code__) if name in names),
    ]


def _names(code: CodeType) -> list[str]:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return [*code.co_names, *(name for c in inner for name in _names(c))]


@functools.cache
def _is_library(module: str) -> bool:
    """True of what is installed, and of Python's own."""
    top = module.partition(".")[0]
    if top == "__main__":
        return False
    if top in sys.stdlib_module_names:
        return True
    spec = getattr(sys.modules.get(top), "__spec__", None)
    return "-packages" in str(getattr(spec, "origin", ""))
