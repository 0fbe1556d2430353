"""Backward passes, schedulers and scalers that fail: exact, or refused."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from failing import AtOperation, Trial, state_of  # noqa: E402

from gpurescue.recovery.engine import State  # noqa: E402

S = torch.optim.lr_scheduler
BODY = """
for i in range(4):
    opt.step()
    if i == 2:
        damage()
    sched.step()
"""


class Switch:
    """A function of the user's that fails while it is ``off``; C code to torch."""

    def __init__(self, good: Any) -> None:
        self.good = good
        self.is_off = False

    def __call__(self, *args: Any) -> Any:
        return len if self.is_off else self.good(*args)  # no number


def scheduled(make: Callable[[Any, Any], Any], *, fails: bool) -> tuple[Trial, Any]:
    first, second = torch.ones(2), torch.ones(3)
    first.grad, second.grad = torch.ones(2), torch.ones(3)
    opt = torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=0.1)
    switch = Switch(lambda step: 0.5**step)
    sched = make(opt, switch)

    def damage() -> None:
        switch.is_off = fails

    def mend() -> None:
        switch.is_off = False

    names = {"opt": opt, "sched": sched, "damage": damage}
    return Trial(names, BODY, mend), lambda: (
        state_of([first, second], opt),
        {k: v for k, v in vars(sched).items() if k not in {"optimizer", "lr_lambdas"}},
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda opt, f: S.LambdaLR(opt, f),
        lambda opt, f: S.LambdaLR(opt, [lambda step: 0.9**step, f]),
        lambda opt, f: S.MultiplicativeLR(opt, f),
    ],
    ids=["first", "second", "multiplicative"],
)
def test_a_scheduler_that_fails_counts_once(make):
    never, state = scheduled(make, fails=False)
    assert never.play() is State.FINISHED
    expected = state()
    played, state = scheduled(make, fails=True)
    assert played.play() is State.FINISHED, played.refusal
    assert played.num_held == 1
    assert state() == expected
    assert any("is set back" in note for note in played.notes)


def test_a_scheduler_whose_work_cannot_be_told_is_refused():
    def chained(opt: Any, f: Any) -> Any:
        return S.ChainedScheduler([S.ExponentialLR(opt, 0.9), S.LambdaLR(opt, f)])

    played, _ = scheduled(chained, fails=True)
    assert played.play() is State.ABANDONED
    assert "ChainedScheduler.step had begun" in played.refusal
    assert "--iteration" in played.refusal


def test_a_metric_that_is_none_leaves_no_trace():
    p = torch.ones(2)
    opt = torch.optim.SGD([p], lr=0.1)
    names = {"sched": S.ReduceLROnPlateau(opt, patience=0), "loss": "none"}
    played = Trial(names, "for i in range(3):\n    sched.step(float_of[i])\n")
    values = [1.0, "none", 2.0]
    names["float_of"] = values
    played.mend = lambda: values.__setitem__(1, 1.5)
    assert played.play() is State.FINISHED, played.refusal
    assert played.num_held == 1
    assert played.notes == []
    expected = S.ReduceLROnPlateau(torch.optim.SGD([p], lr=0.1), patience=0)
    for value in (1.0, 1.5, 2.0):
        expected.step(value)
    assert names["sched"].state_dict() == expected.state_dict()


def test_a_warning_that_is_an_error_stops_a_scheduler_before_it_has_begun():
    p = torch.ones(2, requires_grad=True)
    opt = torch.optim.SGD([p], lr=0.1)
    names = {"sched": S.ExponentialLR(opt, 0.5)}
    played = Trial(names, "sched.step()", lambda: warnings.simplefilter("ignore"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert played.play() is State.FINISHED, played.refusal
    assert played.num_held == 1
    assert opt.param_groups[0]["lr"] == 0.05
    assert names["sched"].last_epoch == 1


# -- backward passes -------------------------------------------------------------------


class Picky(torch.autograd.Function):
    """Its backward pass gives a gradient that does not fit, while ``is_bad``."""

    is_bad = True

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad.new_zeros(7) if Picky.is_bad else grad


def test_a_backward_pass_that_had_begun_is_refused():
    p = torch.ones(2, requires_grad=True)
    names = {"p": p, "Picky": Picky}
    played = Trial(names, "loss = (Picky.apply(p) * p).sum()\nloss.backward()")
    assert played.play() is State.ABANDONED
    assert "the backward pass had begun" in played.refusal
    assert "--iteration" in played.refusal
    assert "--at 2" in played.refusal


@pytest.mark.parametrize("loss", ["p * 2", "p.detach().sum()"])
def test_a_backward_pass_that_had_not_begun_runs_again(loss):
    p = torch.ones(2, requires_grad=True)
    holder = [eval(loss, {"p": p})]
    played = Trial({"holder": holder}, "holder[0].backward()")
    played.mend = lambda: holder.__setitem__(0, (p * 2).sum())
    assert played.play() is State.FINISHED, played.refusal
    assert played.num_held == 1
    assert played.notes == []
    assert p.grad.tolist() == [2, 2]


def test_a_gradient_of_a_function_is_none_of_our_business():
    def bad(x: Any) -> Any:
        return Picky.apply(x)

    p = torch.ones(2)
    names = {"p": p, "vjp": torch.autograd.functional.vjp, "f": bad}
    Picky.is_bad = True
    played = Trial(names, "out = vjp(f, p, p)", lambda: setattr(Picky, "is_bad", False))
    assert played.play() is State.FINISHED, played.refusal
    Picky.is_bad = True
    assert "runs again from its beginning" in played.notes[0]


# -- gradient scalers ------------------------------------------------------------------


def scaler() -> Any:
    return torch.amp.GradScaler("cpu", init_scale=4.0)


def test_half_precision_gradients_stop_a_scaler_before_it_has_begun():
    first, second = torch.ones(2), torch.ones(2, dtype=torch.half)
    first.grad, second.grad = torch.full((2,), 8.0), torch.full((2,), 8.0).half()
    opt = torch.optim.SGD([first, second], lr=1.0)
    scale = scaler()
    scale.scale(torch.ones(()))

    def mend() -> None:
        second.data, second.grad = second.data.float(), None
        second.grad = torch.full((2,), 8.0)

    names = {"scaler": scale, "opt": opt}
    played = Trial(names, "scaler.step(opt)\nscaler.update()", mend)
    assert played.play() is State.FINISHED, played.refusal
    assert played.num_held == 1
    assert first.tolist() == second.tolist() == [-1, -1]


def test_a_scaler_that_had_nothing_to_check_is_refused():
    p = torch.ones(2)
    opt = torch.optim.SGD([p], lr=1.0)
    scale = scaler()
    scale.scale(torch.ones(()))
    played = Trial({"scaler": scale, "opt": opt}, "scaler.step(opt)")
    assert played.play() is State.ABANDONED
    assert "GradScaler.step had begun" in played.refusal


# -- libraries in between --------------------------------------------------------------

LIBRARY = """
def fit(loss, log):
    log.append("begun")
    loss.backward()
"""


def library() -> Any:
    module = types.ModuleType("trainers.loop")
    exec(LIBRARY, vars(module))
    return module


def test_a_library_whose_backward_pass_had_begun_is_refused():
    p = torch.ones(2, requires_grad=True)
    names = {"p": p, "Picky": Picky, "fit": library().fit, "log": []}
    played = Trial(names, "fit((Picky.apply(p) * p).sum(), log)")
    assert played.play() is State.ABANDONED
    assert "trainers runs again from its beginning, but" in played.refusal
    assert "the backward pass had begun" in played.refusal


def test_a_library_whose_backward_pass_had_not_begun_runs_again():
    p = torch.ones(2, requires_grad=True)
    holder = [p * 2]
    names = {"p": p, "holder": holder, "fit": library().fit, "log": []}
    played = Trial(names, "fit(holder[0], log)")
    played.mend = lambda: holder.__setitem__(0, (p * 2).sum())
    assert played.play() is State.FINISHED, played.refusal
    assert "runs again from its beginning: `fit(" in played.notes[0]


def test_a_step_in_a_comprehension_is_refused():
    # The steps before it in the list would be done twice.
    params = [torch.ones(2) for _ in range(3)]
    for p in params:
        p.grad = torch.ones(2)
    opts = [torch.optim.Adam([p], foreach=False) for p in params]
    fault = AtOperation(12)
    names = {"opts": opts}
    body = "start()\ndone = [opt.step() for opt in opts]\nstop()"
    played = Trial(names, body, fault=fault)
    assert played.play() is State.ABANDONED
    assert "the statement runs again from its beginning, but" in played.refusal


WRAPPING = """
def fit(opt):
    try:
        opt.step()
    except Exception as error:
        raise ValueError("step failed") from error
"""


def test_a_step_whose_failure_a_library_has_renamed_is_refused():
    module = types.ModuleType("trainers.loop")
    exec(WRAPPING, vars(module))
    params = [torch.ones(2) for _ in range(3)]
    for p in params:
        p.grad = torch.ones(2)
    opt = torch.optim.Adam(params, foreach=False)
    names = {"fit": module.fit, "opt": opt}
    fault = AtOperation(22)
    played = Trial(names, "start()\nfit(opt)\nstop()", fault=fault)
    assert played.play() is State.ABANDONED
    assert "Adam.step had begun, and something else was raised" in played.refusal
