"""The objects of a run as bytes, with what is large beside them.

``cloudpickle`` writes the objects; it knows functions, classes and closures of a
notebook. The bytes of tensors and arrays are left out: each storage once, by number, so
that what shares memory shares it again. Tensors that have a name are left out whole:
to write them one by one takes 30 us each. What cannot be written is left out too, and
named by the path that leads to it.
"""

from __future__ import annotations

import copyreg
import io
import logging
import pickle
import sys
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, GeneratorType
from typing import Any

import cloudpickle

from gpurescue.errors import CannotResume
from gpurescue.state import (
    codes,
    files,
    functions,
    generated,
    history,
    iterators,
    libraries,
    locks,
    loggers,
    maps,
    processes,
    queues,
    rebuilding,
)
from gpurescue.state.files import Files
from gpurescue.state.lost import Lost, attribute
from gpurescue.state.paths import paths
from gpurescue.state.rebuilding import FILES, OTHERS

# Of these cloudpickle writes something else: a copy of a file's text, bytes.
_CHANGED = (io.TextIOWrapper, io.BufferedIOBase, io.RawIOBase, memoryview)
_OUTSIDE = (*files.OUTSIDE, *locks.OUTSIDE, logging.Handler)
# Dtypes of tensors that torch writes, and does not read from the memory of others.
_NOT_READ = ("torch.q", "torch.bits", "torch.float4")
_new = copyreg.__newobj__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What objects are of.

    Attributes:
        namespace: The globals of its functions.
        origins: Says where code was made from, given the module that it is of.
        generators: Says how a generator of its functions is pickled; None if not by
            this. Raises CannotResume with the reason if it cannot be.
        others: Names of variables that it does not use itself.
    """

    namespace: Mapping[str, object] | None = None
    origins: Callable[[CodeType, str], Any] = lambda code, module: None
    others: Collection[str] = ()
    generators: Callable[[Any], tuple[Any, ...] | None] = lambda generator: None


@dataclass(frozen=True, slots=True)
class Captured:
    """A graph of objects.

    Attributes:
        data: The objects, pickled.
        storages: Storages of tensors (``torch.UntypedStorage``), by number.
        buffers: Bytes of arrays and the like, by number.
        lost: The type of what could not be written, and why if that is known, by path.
        is_awaited: True if there is a value through which a backward pass is to come.
    """

    data: bytes
    storages: tuple[Any, ...]
    buffers: tuple[pickle.PickleBuffer, ...]
    lost: dict[str, str]
    is_awaited: bool = False


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
        pickler.dump(_in_order(roots, program.others, pickler.files))
        missing = pickler.lost | pickler.files.refused()
        kinds = {key: kind for key, (_, kind) in missing.items()}
        lost = paths(roots, kinds) if kinds else {}
    finally:  # it holds itself, and would hold the objects until somebody collects it
        pickler.clear_memo()
        pickler.lost, pickler.files = {}, Files()
    storages = tuple(pickler.numbers.storages)
    return Captured(
        data=file.getvalue(),
        storages=storages,
        buffers=tuple(pickler.buffers),
        lost=lost,
        is_awaited=pickler.is_awaited,
    )


def _in_order(
    roots: Mapping[str, object], others: Collection[str], found: Files
) -> dict[str, object]:
    """What is the program's own first; where files stand last, when all are known."""
    own = {name: value for name, value in roots.items() if name not in others}
    rest = {name: value for name, value in roots.items() if name in others}
    return {**own, OTHERS: found.others, **rest, FILES: found}


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
        self.is_awaited = False
        self.files = Files()
        self._queues = queues.Queues()
        self._outside: dict[type, bool] = {}
        self._names = names
        self._homes: dict[int, str] = {}  # modules, by the id of code
        self._namespaces: dict[int, dict[str, Any]] = {}
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
        found = libraries.reduced(obj) or generated.reduced(obj)
        if found is not None:
            return found
        if isinstance(obj, self._typed):
            return rebuilding.storage, (
                self.numbers.of(obj._untyped_storage),
                obj.dtype,
            )
        found = self._of_code(obj)
        if found is not None:
            return found
        if isinstance(obj, type | FunctionType):
            return NotImplemented if _is_found_by_name(obj) else self._lose(obj)
        return self._of_object(obj)

    def _of_object(self, obj: Any) -> Any:
        try:
            found = self._of_process(obj) if self._is_outside(type(obj)) else None
            if found is not None:
                return found
            if isinstance(obj, _CHANGED) and not isinstance(obj, io.BytesIO):
                return self._lose(obj)
            made = self._reduced(obj)
        except CannotResume as error:
            return self._lose(obj, str(error))
        except Exception:  # noqa: BLE001 - a user's __reduce__ may raise anything
            return self._lose(obj)
        if isinstance(made, str):
            return made if _is_found_by_name(obj, made) else self._lose(obj)
        if type(made) is tuple and made and made[0] is getattr:
            return attribute, made[1]  # its object may be lost
        return made if _is_recipe(made, obj) else self._lose(obj)

    def _of_code(self, obj: Any) -> Any:
        """A function, a cell or a class that nobody finds by its name."""
        if type(obj) is CellType:
            return functions.of_cell(obj)
        if type(obj) is CodeType:
            return self._reduced_code(obj)
        if type(obj) is FunctionType:
            self._homes[id(obj.__code__)] = str(obj.__globals__.get("__name__", ""))
            found = functions.reduced(obj, self.program.namespace, self._apart)
            if found is not None:
                return found
        found = super().reducer_override(obj)
        if found is NotImplemented:
            return None
        return functions.of_class(found) if isinstance(obj, type) else found

    def _reduced_code(self, code: CodeType) -> Any:
        origin = self.program.origins(code, self._homes.get(id(code), ""))
        try:
            return codes.reduced(code, origin)
        except ValueError as error:
            return self._lose(code, str(error))

    def _apart(self, names: dict[str, Any]) -> dict[str, Any]:
        """What stands for globals that are no module's: the same for all functions."""
        known = self._namespaces.get(id(names))
        if known is None:
            known = self._namespaces[id(names)] = functions.namespace_apart(names)
        return known

    def _of_tensor(self, tensor: Any) -> Any:
        name = self._names.get(id(tensor))
        made: Any
        if name is not None and self._is_plain(tensor):
            is_parameter = type(tensor) is self._parameter
            made = rebuilding.tensor, (name, is_parameter, tensor.requires_grad)
        elif self._is_computed(tensor):
            self.is_awaited = self.is_awaited or history.is_awaited(tensor)
            return history.computed, (tensor.detach(),)
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
        return *made, tensor.grad, None, None, rebuilding.set_gradient

    def _is_computed(self, tensor: Any) -> bool:
        """A tensor with a graph behind it, of which only its value can be kept."""
        return not tensor.is_leaf and type(tensor) in self._tensors

    def _is_plain(self, tensor: Any) -> bool:
        """A tensor of which there is no more to say than its bytes."""
        return type(tensor) in self._tensors and tensor.is_leaf and not tensor.__dict__

    def _of_process(self, obj: Any) -> Any:
        """What stands for something outside, which this process has made."""
        return (
            self.files.reduced(obj)
            or locks.reduced(obj)
            or loggers.reduced(obj)
            or self._queues.reduced(obj)
        )

    def _is_outside(self, kind: type) -> bool:
        """Whether objects of a class may be such: most are not, and there are many."""
        if kind not in self._outside:
            self._outside[kind] = issubclass(kind, _OUTSIDE + queues.kinds())
        return self._outside[kind]

    def _reduced(self, obj: Any) -> Any:
        if type(obj) is GeneratorType:
            found = self.program.generators(obj)
            if found is not None:
                self.program.origins(obj.gi_code, "")  # its source is wanted
                return found
        processes.check(obj)
        found = iterators.reduced(obj, rebuilding.stand)
        if found is None and maps.is_map(obj):
            found = maps.reduced(obj, rebuilding.mapped)
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
