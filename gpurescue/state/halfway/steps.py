"""An optimizer's step that failed half-way: what it has done is not done again.

Where it stood is read off the dead frames. The retry runs the step again, and leaves
out what was done (``replay.py``). This needs a step that is torch's own, whose source
is known, and that nobody has a part in: with a closure, or with hooks, it is refused.
"""

from __future__ import annotations

import ast
import functools
import inspect
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import CodeType, TracebackType
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.protocols import Rollback
from gpurescue.state.again import Refused
from gpurescue.state.dead import names_of
from gpurescue.state.halfway import lists, places
from gpurescue.state.halfway.before import Before, Changed
from gpurescue.state.halfway.frames import Dead, is_of, is_passing_on
from gpurescue.state.halfway.places import Place, Unclear
from gpurescue.state.halfway.replay import Replay

_log = logging.getLogger(__name__)

_OURS = "gpurescue"
_ANSWER = "_gr_answer"
_WAY = (
    "with %%resilient --journal, %resume --iteration goes back to the top of the round"
)


@dataclass(slots=True)
class Step:
    """A ``Rollback``: the step runs again without what it has done.

    Attributes:
        optimizer: Whose step failed.
        places: Where its dead frames stood, outermost first.
        before: What it had then.
        buffers: Momentum that it had made, and not yet stored: by parameter.
        begun: State of a parameter that was being made.
    """

    optimizer: Any
    places: list[Place]
    before: Before
    buffers: list[tuple[Any, Any]] = field(default_factory=list)
    begun: Any = None
    gives_again: bool = False
    is_exact: bool = True
    is_going_on: bool = True

    @property
    def note(self) -> str:
        """What is done about it."""
        return f"{_name(self.optimizer)} had begun: what it has done is not done again"

    def apply(self) -> None:
        """The next step of this optimizer is the one that failed."""
        if self.begun is not None:
            self.begun.clear()
        for parameter, buffer in self.buffers:
            self.optimizer.state[parameter]["momentum_buffer"] = buffer
        step = self.optimizer.step
        own = vars(self.optimizer)
        earlier = {"step": own["step"]} if "step" in own else {}
        hooks = self.optimizer._optimizer_step_pre_hooks

        def put_back() -> None:
            own.pop("step", None)
            own.update(earlier)
            hooks.pop(_OURS, None)

        @functools.wraps(step)
        def again(*arguments: Any, **keywords: Any) -> Any:
            put_back()
            return self._run(functools.partial(step, *arguments, **keywords))

        def refuse(*_: object) -> None:
            """Somebody has kept the step from before: it would be done twice."""
            put_back()
            raise self._refusal(CannotResume("it was called in another way"))

        hooks[_OURS] = refuse
        own["step"] = again

    def _run(self, step: functools.partial[Any]) -> Any:
        replay = Replay(self.optimizer, self.places, self.before)
        try:
            if any(v is not None for v in (*step.args, *step.keywords.values())):
                raise CannotResume("it was called with something else")
            return replay.run(step)
        except CannotResume as error:
            raise self._refusal(error) from None
        except BaseException as error:
            if not replay.has_arrived:  # nothing is different: the same holds again
                setattr(error, _ANSWER, self)
            raise

    def _refusal(self, error: CannotResume) -> CannotResume:
        answer = _refused(self.optimizer, error)
        found = CannotResume(answer.note)
        # What was changed may be put back; nothing has been done.
        setattr(found, _ANSWER, self if isinstance(error, Changed) else answer)
        return found


def rollback(dead: Dead, error: BaseException) -> Rollback | None:
    """The answer to an optimizer's step that failed; None if none did."""
    answer = getattr(error, _ANSWER, None)
    if isinstance(answer, Step | Refused):
        return answer
    found = _found(dead)
    if found is None:
        return None
    optimizer, inner = found
    try:
        return _step(optimizer, inner, error)
    except Unclear as reason:
        return _refused(optimizer, reason)
    except Exception as failure:  # noqa: BLE001 - it had begun, that is known
        _log.warning("A step that failed could not be read.", exc_info=True)
        return _refused(optimizer, failure)


def _refused(optimizer: Any, reason: BaseException) -> Refused:
    why = str(reason) or type(reason).__name__
    name = _name(optimizer)
    return Refused(f"{name} had begun, and cannot go on: {why}; {_WAY}")


def _name(optimizer: Any) -> str:
    return f"{type(optimizer).__name__}.step"


def _found(dead: Dead) -> tuple[Any, list[TracebackType]] | None:
    """The optimizer whose step had begun, and the frames inside of its step."""
    torch: Any = sys.modules["torch"]
    for index, entry in enumerate(dead):
        frame = entry.tb_frame
        if not is_of(entry, "torch.optim.optimizer"):
            continue
        if not frame.f_code.co_qualname.endswith("profile_hook_step.<locals>.wrapper"):
            continue
        names = names_of(frame)
        inner = list(dead[index + 1 :])
        optimizer = names.get("self")
        is_step = isinstance(optimizer, torch.optim.Optimizer)
        if is_step and ("out" in names or _is_inside(optimizer, inner)):
            return optimizer, inner
    return None


def _is_inside(optimizer: Any, inner: list[TracebackType]) -> bool:
    """False if a hook failed in front of the step."""
    return any(entry.tb_frame.f_code is _code(optimizer) for entry in inner)


def _code(optimizer: Any) -> CodeType | None:
    step = inspect.unwrap(type(optimizer).step)
    return getattr(step, "__code__", None)


def _step(optimizer: Any, inner: list[TracebackType], error: BaseException) -> Step:
    codes = [entry.tb_frame.f_code for entry in inner]
    code = _code(optimizer)
    if code not in codes:
        raise Unclear("it was done, and what comes after it failed (see --skip)")
    own = _own(inner[codes.index(code) :])
    names = [names_of(entry.tb_frame) for entry in own]
    before = Before(optimizer)
    _check(optimizer, names[0], before)
    stood = [
        places.place(entry.tb_frame.f_code, entry.tb_lasti, values, before.round)
        for entry, values in zip(own, names, strict=True)
    ]
    scope = own[-1].tb_frame.f_globals
    if lists.may_be_done(stood[-1], names[-1], scope, error):
        raise Unclear("an operation on a list may have done a part of it")
    made = Step(optimizer, stood, before)
    made.buffers = _buffers(optimizer, own, names)
    made.begun = _begun(stood, names)
    before.note([buffer for _, buffer in made.buffers])
    return made


def _own(inner: list[TracebackType]) -> list[TracebackType]:
    """The frames of torch.optim, down to the one that called something else."""
    found: list[TracebackType] = []
    inner = [entry for entry in inner if not is_passing_on(entry.tb_frame)]
    for entry in inner:
        is_part = entry.tb_frame.f_code.co_name.startswith("<")  # a comprehension
        if is_part or not is_of(entry, "torch.optim"):
            break
        found.append(entry)
    if not found:
        raise Unclear("it is not one of torch's own")
    if any(is_of(entry, "torch.optim") for entry in inner[len(found) + 1 :]):
        raise Unclear("parts of it are called by something else")
    return found


def _check(optimizer: Any, names: Mapping[str, Any], before: Before) -> None:
    optim = sys.modules["torch.optim.optimizer"]
    hooks = {
        *optimizer._optimizer_step_pre_hooks,
        *vars(optim)["_global_optimizer_pre_hooks"],
    }
    if hooks - {_OURS}:
        raise Unclear("it has hooks, which would run again")
    if names.get("closure") is not None:
        raise Unclear("it has a closure, which would run again")
    if any(group.get("differentiable") for group in optimizer.param_groups):
        raise Unclear("it is differentiable")
    if any(map(_counts_itself, optimizer.state.values())):
        raise Unclear("it counts its steps in plain numbers")
    if not before.are_apart:
        raise Unclear("its parameters share their storage")


def _counts_itself(state: dict[str, Any]) -> bool:
    return any(isinstance(value, int | float) for value in state.values())


def _buffers(
    optimizer: Any, own: list[TracebackType], names: list[dict[str, Any]]
) -> list[tuple[Any, Any]]:
    """SGD stores the momentum of a group when all of the group is done."""
    is_fused = any(entry.tb_frame.f_code.co_name == "_fused_sgd" for entry in own)
    parameters = names[0].get("params")
    buffers = names[0].get("momentum_buffer_list")
    if is_fused or not parameters or not buffers:
        return []
    return [
        (parameter, buffer)
        for parameter, buffer in zip(parameters, buffers, strict=False)
        if optimizer.state[parameter].get("momentum_buffer") is None
        and buffer is not None
    ]


def _begun(stood: list[Place], names: list[dict[str, Any]]) -> Any:
    """The state of a parameter that was being made when it failed."""
    for place, values in zip(stood, names, strict=True):
        for node in ast.walk(places.function(place.code)):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "len(state) == 0":
                line = place.span[2]
                if node.body[0].lineno <= line <= (node.body[-1].end_lineno or 0):
                    return values.get("state")
    return None
