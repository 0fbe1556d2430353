"""Whole rounds from the notebook: run again, or left out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from driver import Notebook

pytestmark = pytest.mark.kernel

TRAIN = """%%resilient --journal
losses = []
for step, (x, y) in enumerate(zip(data, target)):
    loss = ((x * weight).sum() - y) ** 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    check(step)
"""


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    with Notebook() as book:
        assert book.run("%load_ext gpurescue\nimport torch", timeout=60).is_ok
        yield book


def start(notebook: Notebook, bad: int) -> None:
    notebook.run(
        "torch.manual_seed(0)\n"
        "data, target = torch.randn(6, 4), torch.randn(6)\n"
        "weight = torch.ones(4, requires_grad=True)\n"
        "optimizer = torch.optim.Adam([weight], lr=0.1)\n"
        f"bad = {bad}\n"
        "def check(step):\n"
        "    if step == bad:\n"
        "        raise ValueError(step)\n"
    )
    found = notebook.run(TRAIN)
    assert found.error == ("Suspended" if bad >= 0 else ""), found.traceback


def outcome(notebook: Notebook) -> str:
    return str(notebook.run("weight.tolist(), losses").value)


def test_round_runs_again(notebook: Notebook) -> None:
    start(notebook, -1)
    expected = outcome(notebook)
    start(notebook, 3)
    notebook.run("bad = -1")
    planned = notebook.run("%resume --iteration --dry-run")
    assert "runs round 4 again from line 4" in planned.stdout
    assert "as at the top of the round" in planned.stdout
    assert notebook.run("%resume --iteration").is_ok
    assert outcome(notebook) == expected


def test_batch_is_left_out_and_kept_for_a_look(notebook: Notebook) -> None:
    start(notebook, 3)
    found = notebook.run("%resume --skip-batch")
    assert found.is_ok, found.traceback
    assert "skips the batch of round 4" in found.stdout
    assert notebook.run("len(losses)").value == "5"
    notebook.run("import gpurescue\n(left,) = gpurescue.skipped()")
    assert notebook.run("left.where, left.error").value == ("('step 4', ValueError(3))")
    assert notebook.run("sorted(left.batch)").value == "['step', 'x', 'y']"
    assert notebook.run("torch.equal(left.batch['x'], data[3])").value == "True"


def test_only_one_way_can_be_chosen(notebook: Notebook) -> None:
    start(notebook, 3)
    assert notebook.run("%resume --iteration --skip-batch").error == "UsageError"
    assert notebook.run("%resume --abandon").is_ok
