"""Loading and storing: the stack, constants, variables, attributes, imports."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from gpurescue.recovery.handlers.abstract import (
    CELL,
    GLOBAL,
    LOCAL,
    NULL,
    UNKNOWN,
    Bound,
    Known,
    Local,
    Place,
    Super,
    Value,
)
from gpurescue.recovery.handlers.memory import in_globals
from gpurescue.recovery.handlers.objects import (
    SCALARS,
    attribute,
    is_any,
    is_class,
    is_exception,
    is_stable,
    module_dict,
)
from gpurescue.recovery.handlers.paths import LOCALS, NO_CONTINUATION, Path
from gpurescue.recovery.handlers.steps.registry import SINCE_12, SINCE_13, pop, step
from gpurescue.recovery.handlers.tables import OP, Instruction

if TYPE_CHECKING:
    from gpurescue.recovery.handlers.execute import Run


@step("POP_TOP")
def _pop_top(run: Run, path: Path, at: Instruction) -> None:
    path.stack.pop()


@step("PUSH_NULL")
def _push_null(run: Run, path: Path, at: Instruction) -> None:
    path.stack.append(NULL)


@step("COPY")
def _copy(run: Run, path: Path, at: Instruction) -> None:
    path.stack.append(path.stack[-at.arg])


@step("SWAP")
def _swap(run: Run, path: Path, at: Instruction) -> None:
    stack = path.stack
    stack[-1], stack[-at.arg] = stack[-at.arg], stack[-1]


@step("LOAD_CONST")
def _load_const(run: Run, path: Path, at: Instruction) -> None:
    path.stack.append(Known(run.scope.constants[at.arg]))


@step("LOAD_ASSERTION_ERROR")
def _load_assertion_error(run: Run, path: Path, at: Instruction) -> None:
    path.stack.append(Known(AssertionError))


def _fast(run: Run, path: Path, index: int) -> Value:
    """A variable that was stored to, or one that is read when it is needed."""
    found = path.variables.get(index)
    if found is not None:
        return found
    is_live = run.handler is not None and index < len(LOCALS)
    return LOCALS[index] if is_live else run.read(index)


@step("LOAD_FAST", "LOAD_FAST_CHECK")
def _load_fast(run: Run, path: Path, at: Instruction) -> None:
    path.stack.append(_fast(run, path, at.arg))


@step("LOAD_FAST_AND_CLEAR")  # 3.12: an inlined comprehension
def _load_fast_and_clear(run: Run, path: Path, at: Instruction) -> None:
    path.stack.append(_fast(run, path, at.arg))
    path.variables[at.arg] = UNKNOWN


@step("STORE_FAST")
def _store_fast(run: Run, path: Path, at: Instruction) -> None:
    path.variables[at.arg] = run.resolve(path.stack.pop())


@step("DELETE_FAST")
def _delete_fast(run: Run, path: Path, at: Instruction) -> None:
    path.variables[at.arg] = UNKNOWN


@step("LOAD_FAST_LOAD_FAST")  # 3.13
def _load_two(run: Run, path: Path, at: Instruction) -> None:
    path.stack.append(_fast(run, path, at.arg >> 4))
    path.stack.append(_fast(run, path, at.arg & 15))


@step("STORE_FAST_LOAD_FAST")  # 3.13
def _store_load(run: Run, path: Path, at: Instruction) -> None:
    path.variables[at.arg >> 4] = run.resolve(path.stack.pop())
    path.stack.append(_fast(run, path, at.arg & 15))


@step("STORE_FAST_STORE_FAST")  # 3.13
def _store_two(run: Run, path: Path, at: Instruction) -> None:
    second, first = pop(path, 2)
    path.variables[at.arg >> 4] = run.resolve(first)
    path.variables[at.arg & 15] = run.resolve(second)


@step("MAKE_CELL")
def _make_cell(run: Run, path: Path, at: Instruction) -> None:
    path.variables["cell", at.arg] = path.variables.pop(at.arg, UNKNOWN)


@step("LOAD_DEREF")
def _load_deref(run: Run, path: Path, at: Instruction) -> None:
    found = path.variables.get(("cell", at.arg))
    if found is None:
        if run.can_wait() and not path.dirty:
            found = Place(CELL, at.arg)
        else:
            found = path.settled(run.read_cell(at.arg))
    path.stack.append(found)


@step("LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")
def _load_class_deref(run: Run, path: Path, at: Instruction) -> None:
    if SINCE_12:
        path.stack.pop()
    path.stack.append(UNKNOWN)


@step("STORE_DEREF")
def _store_deref(run: Run, path: Path, at: Instruction) -> None:
    path.variables["cell", at.arg] = run.resolve(path.stack.pop())
    path.stored = True


@step("DELETE_DEREF")
def _delete_deref(run: Run, path: Path, at: Instruction) -> None:
    path.variables["cell", at.arg] = UNKNOWN


@step("STORE_NAME", "STORE_GLOBAL")
def _store_name(run: Run, path: Path, at: Instruction) -> None:
    name = run.scope.code.co_names[at.arg]
    path.variables[name] = run.resolve(path.stack.pop())
    path.stored = True


@step("DELETE_NAME", "DELETE_GLOBAL")
def _delete_name(run: Run, path: Path, at: Instruction) -> None:
    path.variables[run.scope.code.co_names[at.arg]] = UNKNOWN


@step("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
def _load_name(run: Run, path: Path, at: Instruction) -> None:
    if at.op != OP["LOAD_NAME"]:
        path.stack.pop()
    name = run.scope.code.co_names[at.arg]
    found = path.variables.get(name)
    if found is None:
        found = run.scope.local_name(name)
        if run.scope.is_module and found is not NO_CONTINUATION:
            run.note(in_globals, name, found)
        elif found is not NO_CONTINUATION:
            run.reads = None
        found = path.settled(found)
    path.stack.append(found)


@step("LOAD_GLOBAL")
def _load_global(run: Run, path: Path, at: Instruction) -> None:
    name = run.scope.code.co_names[at.arg >> 1]
    found = path.variables.get(name)
    if found is None:
        found = run.scope.name(name)
        if run.can_wait() and not path.dirty and _is_object(found):
            found = Place(GLOBAL, name)
        else:
            run.note(in_globals, name, found)
            found = path.settled(found)
    if not at.arg & 1:
        path.stack.append(found)
    elif SINCE_13:
        path.stack += (found, NULL)
    else:
        path.stack += (NULL, found)


def _is_object(found: Value) -> bool:
    """Whether it is more likely an attribute that is looked at."""
    return (
        isinstance(found, Known)
        and not is_stable(found.value)
        and not is_any(type(found.value), SCALARS)
        and not is_exception(found)
    )


def _attribute(run: Run, path: Path, owner: Value, name: str) -> Value:
    if isinstance(owner, Local | Place) and run.can_wait():
        is_sure = not path.dirty
        if isinstance(owner, Local):
            return Place(LOCAL, owner.index).attribute(name, is_sure=is_sure)
        return owner.attribute(name, is_sure=is_sure)
    owner = run.resolve(owner)
    if isinstance(owner, Known):
        stored = path.variables.get((id(owner.value), name))
        if stored is not None:
            return stored
    found = attribute(owner, name)
    run.note_attribute(owner, name, found)
    return found if is_exception(owner) else path.settled(found)


def _push_method(path: Path, found: Value) -> None:
    """Push what CALL expects: a function and its self, or a callable and NULL."""
    if isinstance(found, Bound):
        path.stack += (Known(found.function), found.owner)
    elif SINCE_13:
        path.stack += (found, NULL)
    else:
        path.stack += (NULL, found)


@step("LOAD_ATTR")
def _load_attr(run: Run, path: Path, at: Instruction) -> None:
    names = run.scope.code.co_names
    index = at.arg >> 1 if SINCE_12 else at.arg
    found = _attribute(run, path, path.stack.pop(), names[index])
    if SINCE_12 and at.arg & 1:
        _push_method(path, found)
    else:
        path.stack.append(found)


@step("LOAD_METHOD")  # 3.11
def _load_method(run: Run, path: Path, at: Instruction) -> None:
    name = run.scope.code.co_names[at.arg]
    _push_method(path, _attribute(run, path, path.stack.pop(), name))


@step("LOAD_SUPER_ATTR")  # 3.12
def _load_super_attr(run: Run, path: Path, at: Instruction) -> None:
    _, cls, owner = (run.resolve(value) for value in pop(path, 3))
    found: Value = UNKNOWN
    if isinstance(cls, Known) and is_class(cls.value):
        name = run.scope.code.co_names[at.arg >> 2]
        found = attribute(Super(cls.value, owner), name)
    if at.arg & 1:
        _push_method(path, found)
    else:
        path.stack.append(found)


@step("STORE_ATTR")
def _store_attr(run: Run, path: Path, at: Instruction) -> None:
    value, owner = (run.resolve(taken) for taken in pop(path, 2))
    if isinstance(owner, Known):
        name = run.scope.code.co_names[at.arg]
        path.variables[id(owner.value), name] = value
    path.stored = True


@step("IMPORT_NAME")
def _import_name(run: Run, path: Path, at: Instruction) -> None:
    level, names = pop(path, 2)
    module = None
    if isinstance(level, Known) and level.value == 0 and isinstance(names, Known):
        name = run.scope.code.co_names[at.arg]
        module = sys.modules.get(name if names.value else name.partition(".")[0])
    path.stack.append(UNKNOWN if module is None else Known(module))


@step("IMPORT_FROM")
def _import_from(run: Run, path: Path, at: Instruction) -> None:
    module = path.stack[-1]
    name = run.scope.code.co_names[at.arg]
    found: Value = UNKNOWN
    if isinstance(module, Known) and type(module.value) is ModuleType:
        names = module_dict(module.value)
        found = Known(names[name]) if name in names else UNKNOWN
    path.stack.append(found)
