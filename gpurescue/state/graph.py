"""The objects of a run as bytes, with what is large beside them.

``cloudpickle`` writes the objects; it knows functions, classes and closures of a
notebook. The bytes of tensors and arrays are left out: each storage once, by number, so
that what shares memory shares it again. Tensors that have a name are left out whole:
to write them one by one takes 30 us each. What cannot be written is left out too, and
named by the path that leads to it.
"""

from __future__ import annotations

import contextlib
import copyreg
import dataclasses
import io
import pickle
import sys
import threading
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import CellType, FunctionType, GeneratorType
from typing import Any

import cloudpickle

from gpurescue.errors import CannotResume
from gpurescue.state import functions, iterators, libraries
from gpurescue.state.history import computed
from gpurescue.state.loaders import rejoin
from gpurescue.state.loaders.position import Position

# Of these cloudpickle writes something else: a copy of a file's text, bytes.
_CHANGED = (io.TextIOWrapper, io.BufferedIOBase, io.RawIOBase, memoryview)
# Dtypes of tensors that torch writes, and does not read from the memory of others.
_NOT_READ = ("torch.q", "torch.bits", "torch.float4")
_new = copyreg.__newobj__  # type: ignore[attr-defined]
_DEEPEST = 8  # steps of a path that is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What objects are of.

    Attributes:
        namespace: The globals of its functions.
        generators: Says how a generator of its functions is pickled; None if not by
            this. Raises CannotResume with the reason if it cannot be.
    """

    namespace: Mapping[str, object] | None = None
    generators: Callable[[Any], tuple[Any, ...] | None] = lambda generator: None


@dataclass(frozen=True, slots=True)
class Captured:
    """A graph of objects.

    Attributes:
        data: The objects, pickled.
        storages: Storages of tensors (``torch.UntypedStorage``), by number.
        buffers: Bytes of arrays and the like, by number.
        lost: The type of what could not be written, and why if that is known, by path.
    """

    data: bytes
    storages: tuple[Any, ...]
    buffers: tuple[pickle.PickleBuffer, ...]
    lost: dict[str, str]


class Numbers:
    """Storages, numbered as they are come by.

    Attributes:
        storages: Untyped storages of torch, each once, by number.
    """

    def __init__(self) -> None:
        self.storages: list[Any] = []
        self._known: dict[int, int] = {}

    def of(self, storage: Any) -> int:
        """The number of an untyped storage."""
        number = self._known.setdefault(storage._cdata, len(self.storages))
        if number == len(self.storages):
            self.storages.append(storage)
        return number


class Lost:
    """Stands where something could not be written.

    What it was given to may ask at once if it is an iterator, or a function.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __iter__(self) -> Lost:
        return self

    def __next__(self) -> Any:
        raise CannotResume(f"A {self.kind} is asked for, which could not be kept.")

    def __call__(self, *_: object, **__: object) -> Any:
        """What it would have done is not known.

        Raises:
            CannotResume: Always.
        """
        raise CannotResume(f"A {self.kind} is called, which could not be kept.")

    def __repr__(self) -> str:
        return f"<a {self.kind} that could not be kept>"


def capture(
    roots: Mapping[str, object],
    names: Mapping[int, str] = types.MappingProxyType({}),
    numbers: Numbers | None = None,
    without_gradient: Collection[int] = (),
    program: Program = Program(),
) -> Captured:
    """Write the objects that some names lead to.

    Args:
        roots: Variables by name.
        names: Of tensors that are kept elsewhere, by ``id``.
        numbers: Those of storages that are kept anyway.
        without_gradient: Ids of tensors whose gradients are left out.
        program: What they are of.
    """
    file = io.BytesIO()
    pickler = _Pickler(file, names, numbers or Numbers())
    pickler.without_gradient = without_gradient
    pickler.program = program
    try:
        pickler.dump(dict(roots))
        lost = _paths(roots, pickler.lost) if pickler.lost else {}
    finally:  # it holds itself, and would hold the objects until somebody collects it
        pickler.clear_memo()
        pickler.lost = {}
    storages = tuple(pickler.numbers.storages)
    return Captured(file.getvalue(), storages, tuple(pickler.buffers), lost)


@dataclass(frozen=True, slots=True)
class Parts:
    """What an object graph is made again from.

    Attributes:
        storage: Gives an untyped storage of torch by its number.
        buffers: The bytes of arrays, by number.
        tensor: Gives a tensor by its name.
        iterators: Filled when the objects are made: those of DataLoaders, which are
            none yet before ``rejoin.go_on``.
        namespace: The globals of functions that are made; what they use and is not
            there is put there.
    """

    storage: Callable[[int], Any]
    buffers: Iterator[Any] | list[Any]
    tensor: Callable[[str], Any]
    iterators: list[Any] = field(default_factory=list)
    namespace: dict[str, Any] = field(default_factory=dict)


def rebuild(data: bytes | memoryview, parts: Parts) -> dict[str, Any]:
    """Make the objects again.

    Args:
        data: From a source that is trusted: to read a pickle is to run it.
        parts: What was kept beside them.
    """
    _here.parts = parts
    try:
        with functions.loading_into(parts.namespace):
            found: dict[str, Any] = pickle.loads(data, buffers=parts.buffers)
    finally:
        del _here.parts
    return found


_here = threading.local()


def _storage(number: int, dtype: Any) -> Any:
    """Called by the pickle, in the place of a storage."""
    own = _here.parts.storage(number)
    kind = sys.modules["torch"].storage.TypedStorage
    return kind(wrap_storage=own, dtype=dtype, _internal=True)


def _set_gradient(tensor: Any, gradient: Any) -> None:
    """Called by the pickle, for what a tensor has beside its values."""
    tensor.grad = gradient


def _tensor(name: str, is_parameter: bool, requires_grad: bool) -> Any:
    """Called by the pickle, in the place of a tensor that has a name."""
    found = _here.parts.tensor(name)
    if is_parameter:
        return sys.modules["torch"].nn.Parameter(found, requires_grad=requires_grad)
    return found.requires_grad_(requires_grad)


def _stand(iterator: Any, position: Position) -> None:
    """Called by the pickle, when it has made the iterator of a DataLoader."""
    rejoin.stand(iterator, position)
    _here.parts.iterators.append(iterator)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(
        self, file: io.BytesIO, names: Mapping[int, str], numbers: Numbers
    ) -> None:
        self.buffers: list[pickle.PickleBuffer] = []
        super().__init__(file, protocol=5, buffer_callback=self._keep)
        self.numbers = numbers
        self.lost: dict[int, tuple[Any, str]] = {}
        self.without_gradient: Collection[int] = ()
        self.program = Program()
        self._names = names
        torch = sys.modules.get("torch")
        self._typed: Any = ()
        self._tensor: Any = ()
        self._tensors: Any = ()
        self._parameter: Any = None
        if torch is not None:
            self._typed = torch.storage.TypedStorage
            self._parameter = torch.nn.Parameter
            self._tensor = torch.Tensor
            self._tensors = {torch.Tensor, torch.nn.Parameter}

    def _keep(self, buffer: pickle.PickleBuffer) -> bool:
        self.buffers.append(buffer)
        return False

    def reducer_override(self, obj: Any) -> Any:
        """As cloudpickle does it; what cannot be written is noted."""
        if isinstance(obj, self._tensor):
            return self._of_tensor(obj)
        found = libraries.reduced(obj)
        if found is not None:
            return found
        if isinstance(obj, self._typed):
            return _storage, (self.numbers.of(obj._untyped_storage), obj.dtype)
        found = self._of_code(obj)
        if found is not None:
            return found
        if isinstance(obj, type | FunctionType):
            return NotImplemented if _is_found_by_name(obj) else self._lose(obj)
        if isinstance(obj, _CHANGED) and not isinstance(obj, io.BytesIO):
            return self._lose(obj)
        try:
            made = self._reduced(obj)
        except CannotResume as error:
            return self._lose(obj, str(error))
        except Exception:  # noqa: BLE001 - a user's __reduce__ may raise anything
            return self._lose(obj)
        if isinstance(made, str):
            return made if _is_found_by_name(obj, made) else self._lose(obj)
        return made if _is_recipe(made, obj) else self._lose(obj)

    def _of_code(self, obj: Any) -> Any:
        """A function, a cell or a class that nobody finds by its name."""
        if type(obj) is CellType:
            return functions.of_cell(obj)
        if type(obj) is FunctionType:
            found = functions.reduced(obj, self.program.namespace)
            if found is not None:
                return found
        found = super().reducer_override(obj)
        if found is NotImplemented:
            return None
        return functions.of_class(found) if isinstance(obj, type) else found

    def _of_tensor(self, tensor: Any) -> Any:
        name = self._names.get(id(tensor))
        made: Any
        if name is not None and self._is_plain(tensor):
            is_parameter = type(tensor) is self._parameter
            made = _tensor, (name, is_parameter, tensor.requires_grad)
        elif self._is_computed(tensor):
            return computed, (tensor.detach(),)
        elif str(tensor.dtype).startswith(_NOT_READ):
            return self._lose(tensor)
        else:
            try:
                made = tensor.__reduce_ex__(5)
            except Exception:  # noqa: BLE001 - a user's subclass may raise anything
                return self._lose(tensor)
        has_gradient = tensor.is_leaf and tensor.grad is not None
        if not has_gradient or id(tensor) in self.without_gradient:
            return made
        if len(made) > 2:  # there is no room for more
            self._lose(tensor.grad, "the gradient of a tensor of a kind of its own")
            return made
        return *made, tensor.grad, None, None, _set_gradient

    def _is_computed(self, tensor: Any) -> bool:
        """A tensor with a graph behind it, of which only its value can be kept."""
        return not tensor.is_leaf and type(tensor) in self._tensors

    def _is_plain(self, tensor: Any) -> bool:
        """A tensor of which there is no more to say than its bytes."""
        return type(tensor) in self._tensors and tensor.is_leaf and not tensor.__dict__

    def _reduced(self, obj: Any) -> Any:
        if type(obj) is GeneratorType:
            found = self.program.generators(obj)
            if found is not None:
                return found
        found = iterators.reduced(obj, _stand)
        if found is not None:
            return found
        reduce = self.dispatch_table.get(type(obj))
        if reduce is not None:
            return reduce(obj)
        return iterators.silently(lambda: obj.__reduce_ex__(5), obj)

    def _lose(self, obj: Any, why: str = "") -> Any:
        kind = type(obj).__name__
        self.lost[id(obj)] = obj, f"{kind}: {why}" if why else kind
        return Lost, (kind,)


def _is_recipe(made: Any, obj: Any) -> bool:
    """True for what pickle takes; anything else would be the end of all of it."""
    if type(made) is not tuple or not 2 <= len(made) <= 6:
        return False
    function, given, _, items, pairs, setter = (*made, None, None, None, None)[:6]
    if function is _new and given and given[0] is not obj.__class__:
        return False  # what takes itself for another, as super() does
    return (
        callable(function)
        and type(given) is tuple
        and all(x is None or isinstance(x, Iterator) for x in (items, pairs))
        and (setter is None or callable(setter))
    )


def _is_found_by_name(obj: Any, name: str | None = None) -> bool:
    """True for what a pickle may refer to by its module and name."""
    found: Any = sys.modules.get(getattr(obj, "__module__", None) or "builtins")
    for part in (name or obj.__qualname__).split("."):
        found = getattr(found, part, None)
    return found is obj


def _paths(
    roots: Mapping[str, object], lost: Mapping[int, tuple[Any, str]]
) -> dict[str, str]:
    """By which path each object is reached, the shortest one."""
    found: dict[str, str] = {}
    left = set(lost)
    waiting = [(name, value) for name, value in roots.items()]
    seen: set[int] = set()
    for _ in range(_DEEPEST):
        following: list[tuple[str, object]] = []
        for path, value in waiting:
            if id(value) in left:
                left.discard(id(value))
                found[path] = lost[id(value)][1]
            elif id(value) not in seen:
                seen.add(id(value))
                following += [(f"{path}{step}", x) for step, x in _inside(value)]
        waiting = following
        if not left:
            break
    found |= {f"?.{key:x}": lost[key][1] for key in left}
    return found


def _inside(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r:.40}]", x) for key, x in list(value.items()))
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", x) for index, x in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from (("{}", x) for x in value)
    elif asked := iterators.inside(value):
        yield from ((".<iterator>", x) for x in asked if type(x) is not tuple)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if hasattr(value, f.name)]
        yield from ((f".{name}", getattr(value, name)) for name in names)
    else:
        try:  # not vars(value): a lazy object would wake up
            own = object.__getattribute__(value, "__dict__")
        except AttributeError:
            own = {}
        if isinstance(own, dict) and not isinstance(value, types.ModuleType):
            yield from ((f".{name}", x) for name, x in list(own.items()))
        if isinstance(value, FunctionType):
            yield from _of_function(value)


def _of_function(function: FunctionType) -> Iterator[tuple[str, object]]:
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):
            yield f".<closure>.{name}", cell.cell_contents
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f".<global>.{name}", function.__globals__[name]
