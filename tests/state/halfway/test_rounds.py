"""Where a call is refused, the whole round can run again."""

from __future__ import annotations

from typing import Any

import harness
import pytest

torch = pytest.importorskip("torch")

from failing import NEVER, AtOperation, state_of  # noqa: E402

from gpurescue.errors import CannotResume  # noqa: E402
from gpurescue.recovery.engine import Run, State  # noqa: E402
from gpurescue.recovery.hooks import Hooks  # noqa: E402
from gpurescue.recovery.plan import Action, Restart  # noqa: E402
from gpurescue.state.device import TorchRuntime  # noqa: E402

pytestmark = pytest.mark.thorough

BODY = """
for i in range(4):
    opt.zero_grad()
    x = torch.randn(5, 3)
    loss = model(x).square().mean()
    if i == 2 and at == "backward":
        start()
    loss.backward()
    if i == 2 and at == "step":
        start()
    opt.step()
    stop()
    sched.step()
"""


def run(at: str, number: int) -> tuple[Run, AtOperation, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    )
    opt = torch.optim.Adam(model.parameters(), lr=0.1, foreach=True)
    opt.register_step_pre_hook(lambda *_: None)  # with it a step is refused
    sched = torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)
    fault = AtOperation(number)
    runtime = TorchRuntime()

    def failed(error: BaseException, frame: Any) -> Any:
        fault.stop()
        return runtime.rollbacks(error, frame)

    book = harness.Notebook()
    book.names |= {"model": model, "opt": opt, "sched": sched, "torch": torch}
    book.names |= {"start": fault.start, "stop": fault.stop, "at": at}
    hooks = Hooks(
        journal=runtime.journal(keeps_parameters=True),
        marks_all=True,
        on_failure=failed,
    )
    run = book.start(BODY, hooks=hooks)
    return (
        run,
        fault,
        lambda: (state_of(list(model.parameters()), opt), sched.last_epoch),
    )


@pytest.mark.parametrize(
    ("at", "number"), [("backward", 3), ("backward", 9), ("step", 58)]
)
def test_a_round_runs_again_where_its_call_cannot(at, number):
    never, _, state = run("never", NEVER)
    assert never.wait(20) is State.FINISHED, never.error
    expected = state()
    failed, _, state = run(at, number)
    assert failed.wait(20) is State.SUSPENDED, failed.error
    with pytest.raises(CannotResume, match="--iteration goes back to the top"):
        failed.resume(Restart())
    failed.resume(Restart(action=Action.ITERATION))
    assert failed.wait(20) is State.FINISHED, failed.error
    assert state() == expected


def test_a_copy_that_there_is_no_memory_for_fails_nobody():
    never, _, state = run("never", NEVER)
    assert never.wait(20) is State.FINISHED, never.error
    expected = state()
    failed, fault, state = run("step", 5)  # while the journal copies parameters
    assert failed.wait(20) is State.FINISHED, failed.error
    assert fault.left < 0
    assert state() == expected
