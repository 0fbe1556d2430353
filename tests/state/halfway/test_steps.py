"""An optimizer step that fails anywhere is done once, and wholly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from failing import NEVER, AtOperation, Trial, state_of  # noqa: E402

from gpurescue.recovery.engine import State  # noqa: E402

pytestmark = pytest.mark.thorough

O = torch.optim  # noqa: E741
Make = Callable[[Any], Any]

EVERY = 4
SHAPES = ((3, 4), (4,), (2, 3))
BODY = """
for i in range(3):
    for p, g in zip(params, grads[i]):
        p.grad = g.clone()
    if i == when:
        start()
    opt.step()
    stop()
"""
KINDS = {
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
ALL, TWO = ("single", "foreach", "fused"), ("single", "foreach")


def dense(shape: tuple[int, ...]) -> Any:
    return torch.randn(shape)


def sparse(shape: tuple[int, ...]) -> Any:
    return torch.sparse_coo_tensor(
        torch.tensor([[0, 1, 1]]),
        torch.randn(3, *shape[1:]),
        shape,
        check_invariants=True,
    )


def trial(
    make: Make, when: int, at: int, *, shapes: Any = SHAPES, gradient: Any = dense
) -> tuple[Trial, Any]:
    torch.manual_seed(0)
    params = [torch.randn(shape) for shape in shapes]
    grads = [[gradient(shape) for shape in shapes] for _ in range(3)]
    opt = make([{"params": params[:2]}, {"params": params[2:]}])
    names = {"params": params, "grads": grads, "opt": opt, "when": when}
    played = Trial(names, BODY, fault=AtOperation(at))
    return played, lambda: state_of(params, opt)


def sweep(make: Make, when: int, first: int, every: int, **options: Any) -> list[str]:
    """Fail at every n-th operation of a step: exact, or what the refusals say."""
    never, state = trial(make, when, NEVER, **options)
    assert never.play() is State.FINISHED
    expected = state()
    answers: list[str] = []
    for at in range(first, NEVER, every):
        played, state = trial(make, when, at, **options)
        if played.play() is State.ABANDONED:
            assert "had begun" in played.refusal
            assert "--iteration" in played.refusal
            answers.append(played.refusal)
            continue
        assert state() == expected, (at, played.notes, played.last_error)
        if not played.num_held:
            break
        answers.append("")
    return answers


def cases() -> list[Any]:
    found: dict[str, tuple[Make, tuple[str, ...]]] = {
        "sgd": (lambda p, **k: O.SGD(p, lr=0.1, momentum=0.9, **k), ALL),
        "sgd nesterov": (
            lambda p, **k: O.SGD(
                p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, **k
            ),
            ALL,
        ),
        "sgd maximize": (
            lambda p, **k: O.SGD(p, lr=0.1, weight_decay=0.1, maximize=True, **k),
            ALL,
        ),
        "adam": (lambda p, **k: O.Adam(p, lr=0.1, **k), ALL),
        "adam amsgrad": (
            lambda p, **k: O.Adam(
                p, lr=0.1, weight_decay=0.1, amsgrad=True, maximize=True, **k
            ),
            ALL,
        ),
        "adam tensor lr": (
            lambda p, **k: O.Adam(p, lr=torch.tensor(0.1), **k),
            ("single",),
        ),
        "adamw": (lambda p, **k: O.AdamW(p, lr=0.1, **k), ALL),
        "adadelta": (
            lambda p, **k: O.Adadelta(p, weight_decay=0.1, maximize=True, **k),
            TWO,
        ),
        "adagrad": (
            lambda p, **k: O.Adagrad(p, lr=0.1, weight_decay=0.1, lr_decay=0.1, **k),
            ALL,
        ),
        "adamax": (lambda p, **k: O.Adamax(p, lr=0.1, weight_decay=0.1, **k), TWO),
        "nadam": (
            lambda p, **k: O.NAdam(
                p, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True, **k
            ),
            TWO,
        ),
        "radam": (
            lambda p, **k: O.RAdam(p, lr=0.1, weight_decay=0.1, betas=(0.9, 0.7), **k),
            TWO,
        ),
        "rmsprop": (
            lambda p, **k: O.RMSprop(p, lr=0.1, centered=True, momentum=0.9, **k),
            TWO,
        ),
        "rprop": (lambda p, **k: O.Rprop(p, lr=0.1, **k), TWO),
        "asgd": (lambda p, **k: O.ASGD(p, lr=0.1, weight_decay=0.1, t0=1, **k), TWO),
        "adafactor": (lambda p, **k: O.Adafactor(p, lr=0.1, maximize=True, **k), TWO),
    }
    every = [(n, make, kind) for n, (make, kinds) in found.items() for kind in kinds]
    return [
        pytest.param(make, KINDS[kind], index % EVERY, id=f"{name} {kind}")
        for index, (name, make, kind) in enumerate(every)
    ]


LOST = (O.Adadelta, O.ASGD)  # a few places in these are refused


@pytest.mark.parametrize(("make", "options", "first"), cases())
@pytest.mark.parametrize("when", [0, 1])  # the state of parameters is made at first
def test_a_step_that_fails_anywhere_is_done_once_or_refused(make, options, first, when):
    kind = type(make([torch.ones(1)], **options))
    answers = sweep(
        lambda params: make(params, **options), when, (first + when) % EVERY, EVERY
    )
    if options == KINDS["single"] and kind not in LOST:
        assert [a for a in answers if a and "it was done" not in a] == []
    refusals = {a for a in answers if a and "it was done" not in a and "list" not in a}
    assert all("is lost" in refusal or "round" in refusal for refusal in refusals)


def test_a_step_with_lists_goes_on_behind_its_first_operation():
    # As when memory is short: an operation fails that makes new tensors.
    answers = sweep(lambda params: O.AdamW(params, lr=0.1, foreach=True), 1, 0, 1)
    assert answers.count("") > 10


@pytest.mark.parametrize("when", [0, 1])
def test_a_step_of_sparse_adam_is_refused(when):
    made = {"shapes": ((6, 3), (4, 2), (5, 3)), "gradient": sparse}
    answers = sweep(lambda p: O.SparseAdam(p, lr=0.1), when, when, 7, **made)
    assert any("counts its steps in plain numbers" in answer for answer in answers)


@pytest.mark.skipif(not hasattr(O, "Muon"), reason="this torch has no Muon")
def test_a_step_of_muon_is_done_once():
    shapes = ((3, 4), (4, 2), (2, 3))
    answers = sweep(lambda p: O.Muon(p, lr=0.1), 1, 0, 7, shapes=shapes)
    assert answers.count("") > 10


# -- what was wrong is mended ----------------------------------------------------------

MEND_BODY = """
for i in range(3):
    for p, g in zip(params, grads[i]):
        p.grad = g.clone()
    if i == 1:
        damage()
    opt.step()
"""
Change = Callable[[Any], None]


def mending(
    make: Make, damage: Change, mend: Change, *, is_whole: bool = False
) -> tuple[Trial, Any]:
    """A run that is damaged in its second round, and mended while it is held."""
    torch.manual_seed(0)
    params = [torch.randn(shape, requires_grad=True) for shape in SHAPES]
    grads = [[torch.randn(shape) for shape in SHAPES] for _ in range(3)]
    opt = make([{"params": params[:2]}, {"params": params[2:]}])

    def both() -> None:
        damage(opt)
        if is_whole:
            mend(opt)

    names = {"params": params, "grads": grads, "opt": opt, "damage": both}
    return Trial(names, MEND_BODY, lambda: mend(opt)), lambda: state_of(params, opt)


def mended(make: Make, damage: Change, mend: Change) -> Trial:
    """It ends as if it had been mended before the step, or is refused."""
    never, state = mending(make, damage, mend, is_whole=True)
    assert never.play() is State.FINISHED
    assert never.num_held == 0
    expected = state()
    played, state = mending(make, damage, mend)
    if played.play() is State.FINISHED:
        assert state() == expected, (played.notes, played.last_error)
    return played


def parameter(opt: Any, which: int) -> Any:
    return [p for group in opt.param_groups for p in group["params"]][which]


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (O.Adam, "exp_avg"),
        (O.Adam, "exp_avg_sq"),
        (O.Adadelta, "square_avg"),
        (O.Adagrad, "sum"),
        (O.NAdam, "exp_avg"),
        (O.RMSprop, "square_avg"),
        (O.SGD, "momentum_buffer"),
    ],
)
@pytest.mark.parametrize("foreach", [False, True])
def test_state_of_another_shape_that_is_replaced(kind, key, which, foreach):
    def put(opt: Any, value: Callable[[Any], Any]) -> None:
        p = parameter(opt, which)
        opt.state[p][key] = value(p)

    momentum = {"momentum": 0.9} if kind is O.SGD else {}
    played = mended(
        lambda params: kind(params, lr=0.1, foreach=foreach, **momentum),
        lambda opt: put(opt, lambda p: torch.ones(7)),
        lambda opt: put(opt, torch.ones_like),
    )
    if played.refusal:  # it had been changed itself before it did not fit
        reasons = ("an operation on a list", "is not what it was")
        assert any(reason in played.refusal for reason in reasons)
    else:
        assert played.num_held == 1


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("foreach", [False, True])
def test_a_sparse_gradient_that_is_replaced(which, foreach):
    def put(opt: Any, make: Callable[[Any], Any]) -> None:
        p = parameter(opt, which)
        p.grad = make(p.grad)

    played = mended(
        lambda params: O.AdamW(params, foreach=foreach),
        lambda opt: put(opt, lambda g: g.to_sparse()),
        lambda opt: put(opt, lambda g: g.to_dense()),
    )
    assert played.refusal == ""
    assert played.notes == ["AdamW.step had begun: what it has done is not done again"]


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("foreach", [False, True])
def test_state_that_is_replaced_by_copies_of_itself(which, foreach):
    # As when it is moved to the device where the parameters are.
    def damage(opt: Any) -> None:
        opt.state[parameter(opt, which)]["exp_avg"] = torch.zeros(7)

    def mend(opt: Any) -> None:
        opt.state[parameter(opt, which)]["exp_avg"] = torch.zeros(SHAPES[which])
        for state in opt.state.values():
            state |= {key: value.clone() for key, value in state.items()}

    played = mended(lambda p: O.AdamW(p, foreach=foreach), damage, mend)
    assert foreach or played.refusal == ""


def test_another_gradient_than_the_one_that_was_used_is_refused():
    def mend(opt: Any) -> None:
        parameter(opt, 0).grad = parameter(opt, 0).grad * 2
        opt.state[parameter(opt, 2)]["exp_avg"] = torch.zeros(2, 3)

    def damage(opt: Any) -> None:
        opt.state[parameter(opt, 2)]["exp_avg"] = torch.zeros(7)

    played, _ = mending(lambda p: O.Adam(p, foreach=False), damage, mend)
    assert played.play() is State.ABANDONED
    assert "what it had worked with is not what it was" in played.refusal


def test_another_learning_rate_than_the_one_that_was_used_is_refused():
    def mend(opt: Any) -> None:
        opt.param_groups[0]["lr"] = 0.5
        opt.state[parameter(opt, 2)]["exp_avg"] = torch.zeros(2, 3)

    def damage(opt: Any) -> None:
        opt.state[parameter(opt, 2)]["exp_avg"] = torch.zeros(7)

    played, _ = mending(lambda p: O.Adam(p, foreach=False), damage, mend)
    assert played.play() is State.ABANDONED
    assert "its settings are not what they were" in played.refusal


def test_what_is_not_mended_fails_at_the_same_place_until_it_is():
    def damage(opt: Any) -> None:
        opt.state[parameter(opt, 2)]["exp_avg"] = torch.zeros(7)

    tries: list[int] = []

    def mend(opt: Any) -> None:
        tries.append(1)
        if len(tries) > 1:
            opt.state[parameter(opt, 2)]["exp_avg"] = torch.zeros(2, 3)

    def make(params: Any) -> Any:
        return O.Adam(params, foreach=False)

    played, state = mending(make, damage, mend)
    assert played.play() is State.FINISHED
    assert played.num_held == 2
    never, expected = mending(make, damage, mend, is_whole=True)
    assert never.play() is State.FINISHED
    assert state() == expected()


# -- who else has a part in a step -----------------------------------------------------


def test_a_scheduler_that_watches_the_steps_goes_on_doing_so():
    def make(params: Any) -> Any:
        opt = O.Adam(params, lr=0.1, foreach=False)
        opt.scheduler = O.lr_scheduler.ExponentialLR(opt, 0.5)
        return opt

    answers = sweep(make, 1, 1, 9)
    assert answers.count("") > 1
    played, _ = trial(make, 1, 10)
    assert played.play() is State.FINISHED
    opt = played.names["opt"]
    before = opt.step
    opt.step()
    assert opt.step is before
    assert opt.step._wrapped_by_lr_sched


def test_a_step_leaves_nothing_behind_when_it_has_gone_on():
    played, _ = trial(lambda p: O.Adam(p, foreach=False), 1, 10)
    assert played.play() is State.FINISHED
    assert played.num_held == 1
    opt = played.names["opt"]
    assert "step" not in vars(opt)
    assert not opt._optimizer_step_pre_hooks


class Foreign(O.Optimizer):
    """An optimizer of another library: nothing is known of its step."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(p.grad)


def test_a_step_of_another_library_is_refused():
    played, _ = trial(Foreign, 1, 2)
    assert played.play() is State.ABANDONED
    assert "Foreign.step had begun" in played.refusal
    assert "not one of torch's own" in played.refusal


def test_a_step_with_a_hook_is_refused():
    def make(params: Any) -> Any:
        opt = O.Adam(params, foreach=False)
        opt.register_step_pre_hook(lambda *_: None)
        return opt

    played, _ = trial(make, 1, 10)
    assert played.play() is State.ABANDONED
    assert "it has hooks" in played.refusal


def test_a_step_that_was_done_is_not_done_again():
    def make(params: Any) -> Any:
        opt = O.Adam(params, foreach=False)
        opt.register_step_post_hook(lambda *_: 1 / 0)
        return opt

    played, _ = trial(make, 1, NEVER)
    assert played.play() is State.ABANDONED
    assert "it was done" in played.refusal


def test_a_line_search_is_refused():
    torch.manual_seed(0)
    p = torch.randn(3, requires_grad=True)
    opt = O.LBFGS([p])
    fault = AtOperation(30)
    grads: list[int] = []

    def closure() -> Any:
        grads.append(1)
        opt.zero_grad()
        loss = (p**4).sum()
        loss.backward()
        return loss

    names = {"opt": opt, "closure": closure}
    played = Trial(names, "start()\nopt.step(closure)\nstop()", fault=fault)
    assert played.play() is State.ABANDONED
    assert "LBFGS.step had begun" in played.refusal
    assert "a closure" in played.refusal


def test_a_kept_step_function_does_not_do_a_step_twice():
    played, state = trial(lambda p: O.Adam(p, foreach=False), 1, 10)
    played.names["step"] = played.names["opt"].step
    played.body = played.body.replace("opt.step()", "step()")
    before: list[Any] = []
    played.mend = lambda: before.append(state())
    assert played.play() is State.ABANDONED
    assert "was called in another way" in played.refusal
    assert state() == before[0]


# -- gradient scalers ------------------------------------------------------------------

SCALED = """
for i in range(3):
    for p, g in zip(params, grads[i]):
        p.grad = g.clone() * 4
    if i == 1:
        start()
    scaler.step(opt)
    stop()
    scaler.update()
"""


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_scaled_step_is_done_once_or_refused(options):
    expected = None
    answers: list[str] = []
    for at in [NEVER, *range(60)]:
        played, state = trial(lambda p: O.AdamW(p, lr=0.1, **options), 1, at)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
        scaler.scale(torch.ones(()))
        played.names["scaler"], played.body = scaler, SCALED
        if played.play() is State.ABANDONED:
            assert "had begun" in played.refusal
            answers.append(played.refusal)
            continue
        found = state(), scaler.state_dict(), scaler.get_scale()
        expected = expected or found
        assert found == expected, (at, played.last_error)
        if at != NEVER and not played.num_held:
            break
        answers.append("")
    assert answers.count("") > (1 if options != KINDS["fused"] else 0)
