"""The objects of a run made again: from their bytes, and from what was kept apart."""

from __future__ import annotations

import io
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import cloudpickle

from gpurescue.errors import CannotResume, RescueError
from gpurescue.state import codes, functions, maps, reopening
from gpurescue.state.loaders import rejoin
from gpurescue.state.loaders.position import Position
from gpurescue.state.lost import Lost
from gpurescue.state.reopening import Standing

FILES, OTHERS = "<files>", "<others>"  # variables that no user has
_BUILTIN_TYPE = cloudpickle.cloudpickle._builtin_type


@dataclass(frozen=True, slots=True)
class Parts:
    """What an object graph is made again from.

    Attributes:
        storage: Gives an untyped storage of torch by its number.
        buffers: The bytes of arrays, by number.
        tensor: Gives a tensor by its name.
        code: Makes code that another version of Python has written, given where it
            came from.
        unmade: Filled with why code of another version could not be made.
        iterators: Filled when the objects are made: those of DataLoaders, which are
            none yet before ``rejoin.go_on``.
        namespace: The globals of functions that are made; what they use and is not
            there is put there.
        goes_on: Whether a program goes on with them; else no files are opened.
        files: Filled when the objects are made: the files of the program, which stand
            where they stood after ``reopening.go_on``.
        maps: Filled when the objects are made: arrays that are files, each with what
            is to be in it; ``maps.go_on`` writes that.
    """

    storage: Callable[[int], Any]
    buffers: Iterator[Any] | list[Any]
    tensor: Callable[[str], Any]
    code: codes.Make = codes.cannot_make
    unmade: list[str] = field(default_factory=list)
    iterators: list[Any] = field(default_factory=list)
    namespace: dict[str, Any] = field(default_factory=dict)
    goes_on: bool = False
    files: list[Standing] = field(default_factory=list)
    maps: list[tuple[Any, Any]] = field(default_factory=list)


def rebuild(data: bytes | memoryview, parts: Parts) -> dict[str, Any]:
    """Make the objects again.

    Args:
        data: From a source that is trusted: to read a pickle is to run it.
        parts: What was kept beside them.

    Raises:
        CannotResume: They cannot be made, as their classes are now.
    """
    _here.parts = parts
    making = codes.making(parts.code, parts.unmade)
    try:
        opening = reopening.opening(goes_on=parts.goes_on)
        with functions.loading_into(parts.namespace), making, opening:
            file = io.BytesIO(data)
            found: dict[str, Any] = _Unpickler(file, buffers=parts.buffers).load()
    except RescueError:
        raise
    except Exception as error:  # whatever the user's classes may raise
        raise CannotResume(
            f"What the run consists of cannot be made again: {error!r}."
        ) from error
    finally:
        del _here.parts
    found.pop(OTHERS, None)
    parts.files.extend(found.pop(FILES, ()))
    return found


class _Unpickler(pickle.Unpickler):
    """Makes no code but by ``codes``: that of another version may end the process."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            found = super().find_class(module, name)
        except (AttributeError, ModuleNotFoundError):
            return Lost(name, f"is not in {module} here")
        return _type_of_types if found is _BUILTIN_TYPE else found


def _type_of_types(name: str) -> Any:
    found = _BUILTIN_TYPE(name)
    if found is CodeType:
        raise CannotResume(
            "Its byte code was written by an early version of gpurescue."
        )
    return found


_here = threading.local()


def storage(number: int, dtype: Any) -> Any:
    """Called by the pickle, in the place of a storage."""
    own = _here.parts.storage(number)
    kind = sys.modules["torch"].storage.TypedStorage
    return kind(wrap_storage=own, dtype=dtype, _internal=True)


def set_gradient(tensor: Any, gradient: Any) -> None:
    """Called by the pickle, for what a tensor has beside its values."""
    tensor.grad = gradient


def tensor(name: str, is_parameter: bool, requires_grad: bool) -> Any:
    """Called by the pickle, in the place of a tensor that has a name."""
    found = _here.parts.tensor(name)
    if is_parameter:
        return sys.modules["torch"].nn.Parameter(found, requires_grad=requires_grad)
    return found.requires_grad_(requires_grad)


def stand(iterator: Any, position: Position) -> None:
    """Called by the pickle, when it has made the iterator of a DataLoader."""
    rejoin.stand(iterator, position)
    _here.parts.iterators.append(iterator)


def mapped(file: Any, content: Any) -> Any:
    """Called by the pickle, in the place of an array that is a file."""
    parts: Parts = _here.parts
    if not parts.goes_on and content is not None:
        return content
    try:
        made = maps.opened(file)
    except CannotResume as error:
        if parts.goes_on:
            raise
        return Lost("memmap", str(error).rstrip("."))
    if content is not None:
        parts.maps.append((made, content))
    return made
