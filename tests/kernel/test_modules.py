"""Crashes in files beside the notebook, mended in the file, in a real kernel."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from driver import Notebook, Result

pytestmark = pytest.mark.kernel

MODEL = """\
import torch
from torch import nn

from .layers import Scale


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.scale = Scale()
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        noise = torch.rand_like(x)
        hidden = torch.relu(self.first(x + noise))
        hidden = self.scale(hidden)
        return self.last(hidden)
"""
LAYERS = """\
import torch


class Scale(torch.nn.Module):
    def forward(self, x):
        size = x.shape[0]
        if size < 8:
            x = x.reshape(8, 8)
        return x * 0.5
"""
TRAINING = """\
import torch
from torch.nn.functional import cross_entropy


def step(net, optimizer, x, y):
    optimizer.zero_grad()
    loss = cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def fit(net, optimizer, data):
    losses = []
    for x, y in data:
        with torch.enable_grad():
            losses.append(step(net, optimizer, x, y))
    return losses
"""
SETUP = """\
import torch
from training import fit
from nets import Net
torch.manual_seed(0)
data = [(torch.randn(n, 4), torch.randint(0, 2, (n,))) for n in (8, 8, 5, 8)]
net = Net()
optimizer = torch.optim.Adam(net.parameters())
"""
END = """\
import hashlib
parts = [p.detach().numpy().tobytes() for p in net.parameters()]
parts += [v.numpy().tobytes() for s in optimizer.state.values() for v in s.values()]
parts.append(torch.get_rng_state().numpy().tobytes())
hashlib.sha256(b"".join(parts)).hexdigest(), losses
"""
FIXED = LAYERS.replace("x.reshape(8, 8)", "torch.nn.functional.normalize(x)")


class Beside:
    """A folder with a notebook in it, and files beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat().st_mtime_ns if path.exists() else 0
        path.write_text(textwrap.dedent(text))
        if path.stat().st_mtime_ns <= before:
            os.utime(path, ns=(before + 10**6,) * 2)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        self.save(name, text.replace(old, new))

    def open(self, *first: str) -> Notebook:
        book = Notebook(self.folder)
        for cell in first or ("%load_ext gpurescue",):
            loaded = book.run(cell, timeout=60)
            assert loaded.is_ok, loaded.traceback
        return book


@pytest.fixture
def beside(tmp_path: Path) -> Beside:
    return Beside(tmp_path)


@pytest.fixture
def notebook(beside: Beside) -> Iterator[Notebook]:
    with beside.open() as book:
        yield book


def ok(result: Result) -> Result:
    assert result.is_ok, result.traceback
    return result


def test_a_mended_training_run_is_as_one_that_never_failed(beside):
    beside.save("src/nets/__init__.py", "from .model import Net\n")
    beside.save("src/nets/model.py", MODEL)
    beside.save("src/nets/layers.py", FIXED)
    beside.save("training.py", TRAINING)
    path = "import sys; sys.path.insert(0, 'src')"
    with beside.open(path) as book:
        ok(book.run(SETUP, timeout=60))
        ok(book.run("losses = fit(net, optimizer, data)"))
        expected = book.run(END).value
    for cache in beside.folder.rglob("*.pyc"):
        cache.unlink()
    beside.save("src/nets/layers.py", LAYERS)
    with beside.open("%load_ext gpurescue", path) as book:
        ok(book.run(SETUP, timeout=60))
        crash = book.run("%%resilient\nlosses = fit(net, optimizer, data)\n")
        assert crash.error == "Suspended"
        (panel,) = crash.panels
        assert "in Scale.forward (src/nets/layers.py, line 8)" in panel
        assert "Edit line 8 of src/nets/layers.py and save it" in panel
        assert "3: fit (training.py, line 17)" in panel
        beside.save("src/nets/layers.py", "# normalised\n" + FIXED)
        resumed = ok(book.run("%resume"))
        assert resumed.stdout == (
            "src/nets/layers.py as saved: Scale.forward\n"
            "resumes at line 9: `x = torch.nn.functional.normalize(x)`\n"
        )
        assert book.run(END).value == expected
    assert not list(beside.folder.rglob("*.pyc"))


CRASH = """\
def inner(x):
    y = x + 1
    return y / (x - 2)


def outer(n):
    found = []
    for i in range(n):
        found.append(inner(i))
    return found
"""
BODY = "%%resilient\nout = work.outer(4)\n"


@pytest.fixture
def crashed(beside: Beside, notebook: Notebook) -> Notebook:
    beside.save("work.py", CRASH)
    ok(notebook.run("import work"))
    assert notebook.run(BODY).error == "Suspended"
    return notebook


def test_looking_at_a_run_that_stands_in_a_file(beside, crashed):
    assert "---> 3     return y / (x - 2)" in crashed.run("%debug", answers="lq").stdout
    assert crashed.run("%fix").stdout == (
        "Edit line 1 of work.py and save it, then go on with %resume.\n"
    )
    assert crashed.run("%fix work.outer").stdout.startswith("Edit line 6 of work.py")
    assert crashed.run("import gpurescue\ngpurescue.fix('work.inner')").value == repr(
        CRASH.split("\n\n")[0]
    )
    beside.edit("work.py", "def inner", "# one\n# two\ndef inner")
    inside = crashed.run("%debug", answers=("l", "up", "q")).stdout
    assert "---> 3     return y / (x - 2)" in inside
    refused = crashed.run("import json\n%fix json.dumps")
    assert "which gpurescue does not guard" in refused.traceback
    shown = crashed.run("%frames 0").displays[0]
    assert shown.startswith("0: inner (work.py before the edit, line 3)\n")
    assert "--> 3      return y / (x - 2)" in shown
    beside.edit("work.py", "(x - 2)", "(x - 2.5)")
    dry = crashed.run("%resume --dry-run").stdout
    assert dry.splitlines() == [
        "work.py as saved: inner",
        "resumes at line 5: `return y / (x - 2.5)`",
    ]
    assert "+    return y / (x - 2.5)" in crashed.run("%rescue").stdout
    ok(crashed.run("%resume"))
    assert crashed.run("out").value == "[-0.5, -2.0, -6.0, 8.0]"
    failed = crashed.run("work.inner('a')")
    assert "File " in failed.traceback
    assert "work.py:4, in inner(x)" in failed.traceback
    assert "----> 4     y = x + 1" in failed.traceback


def test_a_syntax_error_leaves_the_run_parked(beside, crashed):
    beside.edit("work.py", "(x - 2)", "(x - ")
    for _ in range(2):
        refused = crashed.run("%resume")
        assert refused.error == "PatchRejected"
        assert refused.traceback.startswith("PatchRejected: What was saved cannot be")
        assert refused.traceback.count("\n") == 0
    assert "line 3 of work.py" in crashed.run("%rescue").stdout
    assert crashed.run("1 + 1").value == "2"
    beside.edit("work.py", "(x - ", "(x - 2 or 1)")
    assert "resumes at line 3" in ok(crashed.run("%resume")).stdout
    assert crashed.run("out").value == "[-0.5, -2.0, 3.0, 4.0]"


def test_giving_up_needs_no_sound_file(beside, crashed):
    beside.edit("work.py", "(x - 2)", "(x - ")
    assert "was abandoned" in ok(crashed.run("%resume --abandon")).stdout


def test_variables_of_a_file(beside, notebook):
    beside.save("settings.py", "RATE = 0.1\nSTATE = [0]\n")
    beside.save("work.py", "import settings\ndef f(x):\n    return x[settings.RATE]\n")
    ok(notebook.run("import work, settings\nfrom settings import RATE"))
    assert notebook.run("%%resilient\nout = work.f({2: 'two'})\n").error == "Suspended"
    beside.save("settings.py", "RATE = 2\nSTATE = [1]\n")
    resumed = ok(notebook.run("%resume"))
    assert resumed.stdout.splitlines()[0] == (
        "settings.py as saved: RATE, STATE; RATE keeps its value where it was imported "
        "by name"
    )
    assert notebook.run("out, settings.STATE, RATE").value == "('two', [1], 0.1)"
    assert "+RATE = 2" in notebook.run("%rescue").stdout


SPIN = """\
import time
seen = []
class Net:
    def forward(self, x):
        time.sleep(0.01)
        return x
def spin(net):
    begun = time.monotonic()
    while len(set(seen)) < 3 and time.monotonic() - begun < 15:
        seen.append(net.forward(1))
    return seen[-1]
"""


def test_an_edit_while_a_run_is_running(beside, notebook):
    beside.save("work.py", SPIN)
    ok(notebook.run("import work"))
    request = notebook.send("%%resilient\nout = work.spin(work.Net())\n")
    time.sleep(1)
    beside.edit("work.py", "return x", "return x +")  # saved too early
    time.sleep(2)
    beside.edit("work.py", "return x +", "return x + 1")
    time.sleep(2)
    beside.edit("work.py", "return x + 1", "return self.more(x)\n    more = max")
    beside.edit("work.py", "more = max", "def more(self, x):\n        return x + 2")
    found = ok(notebook.collect(request, timeout=30))
    lines = [line for line in found.stdout.splitlines() if "work.py" in line]
    assert lines[0].startswith("What was saved cannot be parsed: ")
    assert lines[1:] == [
        "work.py as saved: Net.forward",
        "work.py as saved: Net.forward, Net",
    ]
    assert notebook.run("out, sorted(set(work.seen))").value == "(3, [1, 2, 3])"


def test_a_run_begins_in_what_the_files_say(beside, notebook):
    beside.save("work.py", "def f():\n    return 1\n")
    ok(notebook.run("import work"))
    beside.save("work.py", "def f():\n    return 2\n")
    assert notebook.run("work.f()").value == "1"
    began = ok(notebook.run("%%resilient\nout = work.f()\n"))
    assert began.stdout == "work.py as saved: f\n"
    assert notebook.run("out, work.f()").value == "(2, 2)"
    beside.save("work.py", "def f(:\n    return 3\n")
    began = ok(notebook.run("%%resilient\nout = work.f()\n"))
    assert began.stdout.startswith("What was saved cannot be parsed: invalid syntax")
    assert notebook.run("out").value == "2"


def test_a_cell_that_writes_the_file_is_an_edit(beside, crashed):
    text = CRASH.replace("(x - 2)", "(x - 2.5)")
    ok(crashed.run(f"%%writefile work.py\n{text}"))
    assert ok(crashed.run("%resume")).stdout.splitlines()[0] == (
        "work.py as saved: inner"
    )


def test_what_was_imported_before_is_guarded_and_put_back(beside):
    beside.save("work.py", CRASH)
    beside.save("stale.py", CRASH)
    facts = (
        "import sys, gc, types\n"
        "def facts():\n"
        "    found = [f for f in gc.get_objects() if type(f) is types.FunctionType\n"
        "             and f.__code__.co_filename.endswith('work.py')]\n"
        "    return ([f.__code__.co_consts for f in found], len(sys.meta_path),\n"
        "            type(work.__loader__), type(work.__spec__.loader),\n"
        "            [f.__code__.co_varnames for f in found])\n"
    )
    with beside.open("import work, stale", facts) as book:
        before = book.run("facts()").value
        beside.edit("stale.py", "def inner", "\ndef inner")
        loaded = book.run("%load_ext gpurescue")
        assert loaded.stdout == (
            "stale.py was edited after it was imported: its functions are not guarded "
            "until it is imported again (importlib.reload).\n"
        )
        assert book.run(BODY).error == "Suspended"
        refused = book.run("%unload_ext gpurescue")
        assert refused.traceback.startswith("UsageError: Run")
        beside.edit("work.py", "(x - 2)", "(x - 2.5)")
        ok(book.run("%resume"))
        beside.edit("work.py", "(x - 2.5)", "(x - 2)")
        ok(book.run("%%resilient\nwork.inner(0)\n"))
        ok(book.run("%unload_ext gpurescue"))
        assert book.run("facts()").value == before
        assert "ZeroDivisionError" in book.run("work.outer(3)").traceback


PUMP = """\
import threading, time
counts = []
stop = threading.Event()
def pump():
    while not stop.is_set():
        for i in range(3):
            counts.append(i)
        time.sleep(0.01)
def numbers():
    for i in range(2):
        for j in range(2):
            yield i, j
thread = threading.Thread(target=pump)
thread.start()
made = numbers()
next(made)
"""


def test_what_runs_while_it_is_unloaded_goes_on(beside, notebook):
    beside.save("work.py", PUMP)
    ok(notebook.run("import work, time, builtins"))
    ok(notebook.run("%unload_ext gpurescue"))
    ok(notebook.run("count = len(work.counts)\ntime.sleep(0.5)"))
    assert notebook.run("len(work.counts) > count").value == "True"
    assert notebook.run("list(work.made)").value == "[(0, 1), (1, 0), (1, 1)]"
    ok(notebook.run("work.stop.set()\nwork.thread.join()\ndel work.made"))
    ok(notebook.run("%load_ext gpurescue"))
    ok(notebook.run("%unload_ext gpurescue"))
    assert notebook.run("hasattr(builtins, '__gr_iter__')").value == "False"


AUTORELOAD = ("%load_ext autoreload", "%load_ext gpurescue")


@pytest.mark.parametrize("first", [AUTORELOAD, AUTORELOAD[::-1]])
@pytest.mark.parametrize("mode", ["2", "3", "2-"])
def test_beside_autoreload(beside, first, mode):
    beside.save("work.py", CRASH)
    with beside.open(*first, f"%autoreload {mode} -p") as book:
        ok(book.run("import work\nfrom work import outer, inner"))
        ids = book.run("id(work.outer), id(work.inner)").value
        assert book.run(BODY).error == "Suspended"
        beside.edit("work.py", "(x - 2)", "(x - 2.5)")
        other = book.run("'another cell'")
        assert other.stdout == "work.py as saved: inner\n"
        assert book.run("id(work.outer), id(work.inner)").value == ids
        assert "resumes at line 3" in ok(book.run("%resume")).stdout
        assert book.run("out").value == "[-0.5, -2.0, -6.0, 8.0]"
        beside.edit("work.py", "(x - 2.5)", "(x - 3.5)")
        assert "Reloading 'work'." in book.run("inner(4)").stdout
        assert book.run("inner(4), outer(0)").value == "(10.0, [])"
        beside.edit("work.py", "(x - 3.5)", "(x - 2)")
        ok(book.run("'no run is alive'"))
        crash = book.run(BODY)
        assert crash.error == "Suspended"
        assert "in inner (work.py, line 3)" in crash.panels[0]
        beside.edit("work.py", "(x - 2)", "(x - 2.5)")
        resumed = ok(book.run("%resume"))
        assert "Reloading" not in resumed.stdout
        assert "resumes at line 3: `return y / (x - 2.5)`" in resumed.stdout


def test_a_reload_by_hand_is_an_edit(beside, crashed):
    beside.edit("work.py", "(x - 2)", "(x - 2.5)")
    ok(crashed.run("import importlib\nfunction = work.inner\nimportlib.reload(work)"))
    resumed = ok(crashed.run("%resume"))
    assert "resumes at line 3: `return y / (x - 2.5)`" in resumed.stdout
    assert crashed.run("function is work.inner").value == "True"


def test_files_of_others_stay_plain(beside, notebook):
    beside.save("env/pyvenv.cfg", "")
    beside.save("env/lib/their.py", CRASH)
    beside.save("off.py", "# gpurescue: off\n" + CRASH)
    beside.save("on.py", CRASH)
    ok(notebook.run("import sys\nsys.path.insert(0, 'env/lib')\nimport their, off, on"))
    guarded = "['__gr_k__' in m.inner.__code__.co_varnames for m in (their, off, on)]"
    assert notebook.run(guarded).value == "[False, False, True]"


def test_an_import_that_fails_in_a_run_is_done_again(beside, notebook):
    beside.save("settings.py", "def read():\n    return {}['rate']\nRATE = read()\n")
    crash = notebook.run(
        "%%resilient\nout = 1\nimport settings\nout += settings.RATE\n"
    )
    assert crash.error == "Suspended"
    assert "in the cell's own code" in crash.panels[0]
    assert notebook.run("import sys; 'settings' in sys.modules").value == "False"
    beside.save("settings.py", "RATE = 2\n")
    assert "resumes at line 3: `import settings`" in ok(notebook.run("%resume")).stdout
    assert notebook.run("out").value == "3"


def test_breakpoints_in_a_file(beside, notebook):
    pytest.importorskip("debugpy")
    from test_debugger import Debugger

    beside.save("work.py", CRASH.replace("(x - 2)", "(x - 9)"))
    ok(notebook.run("import work"))
    debugger = Debugger(notebook)
    debugger.attach()
    path = str(beside.folder / "work.py")
    debugger.ask(
        "setBreakpoints",
        breakpoints=[{"line": 3, "condition": "x == 2"}],
        source={"path": path},
    )
    debugger.ask("configurationDone")
    request = notebook.send(BODY)
    stopped: dict[str, Any] = stops(notebook)
    trace = debugger.ask("stackTrace", threadId=stopped["threadId"])
    frames = [(f["name"], f["line"]) for f in trace["body"]["stackFrames"][:2]]
    assert frames == [("inner", 3), ("outer", 9)]
    debugger.ask("continue", threadId=stopped["threadId"])
    ok(notebook.collect(request))


def stops(notebook: Notebook) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            message = notebook.client.get_iopub_msg(timeout=1)
        except Exception:
            continue
        event = message["content"]
        if message["msg_type"] == "debug_event" and event.get("event") == "stopped":
            return dict(event["body"])
    raise TimeoutError("No breakpoint was hit.")
