"""What runs of a real kernel log, and what is known of them afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("pandas")

from restoring import Start, killed, ready, start, went_on

pytestmark = pytest.mark.kernel
__all__ = ["start"]

TRAINING = """
import time, gpurescue, torch, numpy as np
PACE = 0.0
def step(net, optimizer, x):
    optimizer.zero_grad()
    loss = net(x).square().mean()
    loss.backward()
    optimizer.step()
    gpurescue.log("loss", loss)
    time.sleep(PACE)
    return loss
def train():
    torch.manual_seed(gpurescue.arg("seed", 0))
    net = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=gpurescue.arg("lr", 0.1))
    losses = []
    for epoch in range(3):
        for i, x in enumerate(torch.randn(4, 2, 3)):
            losses.append(step(net, optimizer, x).item())
        gpurescue.log("weights", net.weight)
        gpurescue.log("note", f"epoch {epoch} is over")
    return losses
"""


TABLE = """
def table(*names, **given):
    found = gpurescue.logs(*names, **given).reset_index()
    return [tuple(row) for row in found[["epoch", "step", *names]].dropna().values]
"""
STEPS = [(epoch, step) for epoch in range(3) for step in range(4)]


def test_what_a_run_logs_is_a_table(start: Start) -> None:
    book = ready(start, TRAINING, TABLE, "%%resilient\nlosses = train()")
    shown = book.run(
        "found = table('loss')\n"
        "print([x[:2] for x in found], [x[2] for x in found] == losses)"
    )
    assert shown.stdout == f"{STEPS} True\n"
    shown = book.run(
        "found = gpurescue.logs('weights', 'note').reset_index()\n"
        "[*map(int, found['epoch'])], list(found['note']), len(found['weights'][2][0])"
    )
    assert shown.is_ok, shown.traceback
    notes = [f"epoch {epoch} is over" for epoch in range(3)]
    assert shown.value == f"([0, 1, 2], {notes}, 3)"


def test_runs_have_their_arguments_versions_and_outcomes(start: Start) -> None:
    book = ready(start, TRAINING, "%%resilient\nlosses = train()")
    assert book.run("%%resilient --set lr=0.5 --set seed=3\nlosses = train()").is_ok
    edited = TRAINING.replace("(4, 2, 3)", "(2, 2, 3)")
    assert book.run(edited).is_ok
    assert book.run("%%resilient\nlosses = train()\nlosses = 1 / 0").error
    assert book.run("%resume --raise").error == "ZeroDivisionError"
    shown = book.run(
        "found = gpurescue.runs()\n"
        "list(found.state), list(found.lr), list(found.seed), list(found.num_logs)"
    )
    assert shown.value == (
        "(['finished', 'finished', 'failed'], [0.1, 0.5, 0.1], [0, 3, 0], [18, 18, 12])"
    )
    named = "import os\nos.environ['JPY_SESSION_NAME'] = os.path.abspath('night.ipynb')"
    assert book.run(named).is_ok
    assert book.run("%%resilient\nx = 1").is_ok
    query = "SELECT notebook FROM runs ORDER BY began DESC LIMIT 1"
    assert book.run(f"gpurescue.sql({query!r}).iloc[0, 0]").value == "'night.ipynb'"
    shown = book.run("found.version.nunique(), found.environment.nunique()")
    assert shown.value == "(2, 1)"
    query = "SELECT count(*) FROM sources WHERE text LIKE '%randn(2, 2, 3)%'"
    assert book.run(f"int(gpurescue.sql({query!r}).iloc[0, 0])").value == "1"


def test_logging_changes_nothing_that_a_run_computes(start: Start) -> None:
    plain = TRAINING.replace("gpurescue.log(", "plain(")
    seeds = "import random\nrandom.seed(0), np.random.seed(0)"
    shown = "print(train(), torch.rand(3), np.random.rand(), random.random())"
    book = ready(start, "def plain(name, value):\n    return value", plain, seeds)
    wanted = book.run(shown).stdout
    assert wanted
    book = ready(start, TRAINING, seeds)
    assert book.run(f"%%resilient\n{shown}").stdout == wanted


def test_a_run_that_goes_on_in_another_kernel_has_each_value_once(
    start: Start, tmp_path: Path
) -> None:
    book = ready(start, TRAINING, "PACE = 0.2")
    killed(book, "%%resilient --set lr=0.2\nlosses = train()", tmp_path, 2)
    again = ready(start, "import gpurescue")
    assert again.run("list(gpurescue.runs().state)").value == "['killed']"
    result = again.run("%restore", timeout=60)
    assert went_on(result), result.traceback
    assert again.run(TABLE).is_ok
    shown = again.run(
        "last = gpurescue.runs().index[-1]\n"
        "found = table('loss', runs=[last])\n"
        "print([x[:2] for x in found], [x[2] for x in found] == losses)"
    )
    assert shown.stdout == f"{STEPS} True\n"
    shown = again.run("list(gpurescue.runs().lr), list(gpurescue.runs().state)")
    assert shown.value == "([0.2, 0.2], ['killed', 'finished'])"


def test_a_mend_is_recorded_with_both_sources(start: Start) -> None:
    broken = TRAINING.replace("loss.backward()", "loss.backwards()")
    book = ready(start, broken)
    assert book.run("%%resilient\nlosses = train()").error
    assert book.run(TRAINING).is_ok
    assert book.run("%resume").is_ok
    query = (
        "SELECT count(*) FROM patches WHERE before LIKE '%backwards%' "
        "AND after NOT LIKE '%backwards%'"
    )
    assert book.run(f"int(gpurescue.sql({query!r}).iloc[0, 0])").value == "1"


def test_records_that_are_not_ours_are_left_alone(start: Start, tmp_path: Path) -> None:
    book = ready(start, TRAINING, "%%resilient\nlosses = train()", "gpurescue.runs()")
    path = tmp_path / ".gpurescue" / "records.sqlite"
    assert book.run(
        "import sqlite3\nfound = sqlite3.connect('.gpurescue/records.sqlite')\n"
        "found.execute('CREATE TRIGGER t AFTER INSERT ON _logs BEGIN "
        "DELETE FROM _logs; END')\nfound.commit()\nfound.close()"
    ).is_ok
    before = path.read_bytes()
    shown = book.run("%%resilient\nlosses = train()")
    assert shown.is_ok
    refused = book.run("gpurescue.runs()")
    assert "is not as gpurescue makes it" in refused.traceback
    assert path.read_bytes() == before


def test_nothing_is_recorded_if_nobody_wants_it(start: Start, tmp_path: Path) -> None:
    book = ready(start, TRAINING, "%config GpuRescue.records = False")
    body = "losses = train()\nlr = gpurescue.arg('lr', 0.1)"
    assert book.run(f"%%resilient\n{body}").is_ok
    assert book.run(f"%%resilient --set lr=0.2\n{body}").is_ok
    assert book.run("lr, len(losses)").value == "(0.2, 12)"
    assert not (tmp_path / ".gpurescue" / "records.sqlite").exists()
