"""Steps that fail half-way, from the notebook."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from driver import Notebook

pytestmark = pytest.mark.kernel

TRAIN = """%%resilient --journal
for step in range(5):
    loss = (Picky.apply(model(torch.randn(6, 4))) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    damage(step)
    optimizer.step()
    scheduler.step()
"""
SETUP = """
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
last = model[1].weight

class Picky(torch.autograd.Function):
    num_calls = 0
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    backward = staticmethod(lambda ctx, grad: grad[:bad] if bad else grad)

def damage(step):
    if step == 2 and is_damaged:
        optimizer.state[last]["exp_avg"] = optimizer.state[last]["exp_avg"].T
"""


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    with Notebook() as book:
        assert book.run("%load_ext gpurescue\nimport torch", timeout=60).is_ok
        yield book


@pytest.fixture(scope="module")
def expected(notebook: Notebook) -> str:
    notebook.run(f"bad, is_damaged = 0, False\n{SETUP}")
    found = notebook.run(TRAIN)
    assert found.is_ok, found.traceback
    return outcome(notebook)


def outcome(notebook: Notebook) -> str:
    return str(
        notebook.run(
            "[p.tolist() for p in model.parameters()], scheduler.get_last_lr(), "
            "[float(s['step']) for s in optimizer.state.values()], torch.rand(1).item()"
        ).value
    )


def test_a_step_is_done_once(notebook: Notebook, expected: str) -> None:
    notebook.run(f"bad, is_damaged = 0, True\n{SETUP}")
    assert notebook.run(TRAIN).error == "Suspended"
    left_out = notebook.run("%resume --skip --dry-run")
    assert "what had begun stays half done" in left_out.stdout
    notebook.run('state = optimizer.state[last]; state["exp_avg"] = state["exp_avg"].T')
    found = notebook.run("%resume")
    assert found.is_ok, found.traceback
    assert "AdamW.step had begun: what it has done is not done again" in found.stdout
    assert outcome(notebook) == expected


def test_a_backward_pass_goes_back_to_the_top(
    notebook: Notebook, expected: str
) -> None:
    notebook.run(f"bad, is_damaged = 1, False\n{SETUP}")
    assert notebook.run(TRAIN).error == "Suspended"
    refused = notebook.run("%resume")
    assert refused.error == "CannotResume"
    assert "the backward pass had begun" in refused.traceback
    notebook.run("bad = 0")
    assert notebook.run("%resume --iteration").is_ok
    assert outcome(notebook) == expected
