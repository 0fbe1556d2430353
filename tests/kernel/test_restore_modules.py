"""What modules of the user's have in themselves, in runs whose kernels are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from restoring import ANOTHER, Start, killed, ready, start, went_on  # noqa: F401

pytestmark = pytest.mark.kernel

HELPERS = """
import functools, random, sqlite3, time
import torch
from pkg import inner

NOTHING = object()
counter = 0
cache = {}
lock = sqlite3.connect(":memory:", check_same_thread=False)
pool = {"lock": lock, "used": 0}
stream = random.Random(3)
model = torch.nn.Linear(3, 3)
model.weight.data.fill_(0.5)
PACE = 0.0
table = {"plus": lambda x: x + 1, "minus": lambda x: x - 1}

class Config:
    rate = 1.0
    seen = []
    class Inner:
        depth = 1

def counted(function):
    calls = 0
    @functools.wraps(function)
    def wrapper(*args):
        nonlocal calls
        calls += 1
        wrapper.last = calls
        return function(*args) + (calls,)
    return wrapper

@counted
def step(x, found=NOTHING, past=[]):
    global counter
    assert found is NOTHING
    counter = table["minus"](table["plus"](counter + 1))
    past.append(x)
    cache[x % 7] = counter
    Config.rate *= 1.01
    Config.seen.append(x)
    Config.Inner.depth += 1
    inner.total += stream.random()
    pool["used"] += 1
    with torch.no_grad(), lock:
        model.weight.mul_(1.001).add_(torch.randn(3, 3) * 0.01)
    time.sleep(PACE)
    return counter, len(past)
"""
SETUP = """
import torch, helpers
from pkg import inner
mine = helpers.cache
torch.manual_seed(0)
helpers.PACE = {pace}
def train():
    found = []
    for x in range(100):
        found.append((helpers.step(x), mine is helpers.cache, len(mine)))
    return found
"""
RUN = "found = train()"
STATE = """
import hashlib, sys
print(found, helpers.counter, helpers.cache, helpers.Config.rate, helpers.Config.seen,
    helpers.Config.Inner.depth, inner.total, helpers.stream.random(), helpers.step.last,
    helpers.model.weight.tolist(), mine is helpers.cache, torch.rand(2),
    sys.modules['helpers'] is helpers, sys.modules['pkg.inner'] is inner)
"""


@pytest.fixture
def wanted(start: Start, tmp_path: Path) -> str:  # noqa: F811
    (tmp_path / "helpers.py").write_text(HELPERS)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "inner.py").write_text("total = 0.0\n")
    return ready(start, SETUP.format(pace=0.0), RUN).run(STATE).stdout


@pytest.mark.parametrize("version", ["", ANOTHER], ids=["same", "another"])
def test_they_have_it_when_the_run_goes_on(
    start: Start,  # noqa: F811
    wanted: str,
    tmp_path: Path,
    version: str,
) -> None:
    book = ready(start, version, SETUP.format(pace=0.05))
    killed(book, f"%%resilient\n{RUN}", tmp_path, 2)
    again = start()
    killed(again, "%restore --force", tmp_path, 2)
    last = start()
    looked = last.run("%restore --look", timeout=60)
    assert looked.is_ok
    assert last.run("import helpers; helpers.counter, helpers.Config.rate").value == (
        "(0, 1.0)"
    )
    result = last.run("%restore", timeout=60)
    assert went_on(result)
    assert "is as its import made it: helpers.lock, helpers.pool." in result.stdout
    assert last.run(STATE).stdout == wanted
    assert last.run("0 < helpers.pool['used'] < 100").value == "True"


def test_what_an_edited_file_says_anew_stays(
    start: Start,  # noqa: F811
    wanted: str,
    tmp_path: Path,
) -> None:
    book = ready(start, SETUP.format(pace=0.05))
    killed(book, f"%%resilient\n{RUN}", tmp_path, 1)
    text = HELPERS.replace("cache = {}", "cache = {-1: 'edited'}")
    (tmp_path / "helpers.py").write_text(f"# edited\n{text}")
    again = start()
    assert "helpers.py was edited" in again.run("%restore", timeout=60).traceback
    assert went_on(again.run("%restore --force", timeout=60))
    assert again.run("helpers.counter").value == "100"
    assert again.run("helpers.cache[-1], mine is helpers.cache").value == (
        "('edited', False)"
    )


def test_a_module_that_cannot_be_imported_leaves_all_as_it_was(
    start: Start,  # noqa: F811
    wanted: str,
    tmp_path: Path,
) -> None:
    book = ready(start, SETUP.format(pace=0.05))
    killed(book, f"%%resilient\n{RUN}", tmp_path, 1)
    again = start()
    assert again.run("import helpers; helpers.counter = -5", timeout=60).is_ok
    (tmp_path / "pkg" / "inner.py").write_text("total = 0.0\n1 / 0\n")
    again.run("import sys; del sys.modules['pkg.inner']")
    refused = again.run("%restore --force", timeout=60)
    assert "pkg.inner of the run cannot be imported" in refused.traceback
    assert again.run("helpers.counter, 'mine' in globals()").value == "(-5, False)"
