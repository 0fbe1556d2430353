"""Beside IPython's own magics, clients without a person, and the end of the kernel."""

from __future__ import annotations

import re
import time

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

pytestmark = pytest.mark.kernel

CRASH = """\
def inner(x):
    local = x + 1
    return local / zero
class Wrap:
    def __call__(self, x):
        return inner(x)
"""
BODY = "%%resilient\nzero = 0\nfor i in range(3):\n    last = Wrap()(i)\n"


def test_debug_enters_the_users_live_frames(notebook):
    notebook.run(CRASH)
    assert notebook.run(BODY).error == "Suspended"
    found = notebook.run(
        "%debug", answers=("p ('local', local)", "up", "up", "p ('i', i)", "q")
    )
    assert found.is_ok
    assert "('local', 1)" in found.stdout
    assert "return local / zero" in found.stdout
    assert "('i', 0)" in found.stdout
    shown = notebook.run("%tb").stdout + notebook.run("%tb").traceback
    assert "gpurescue" not in shown
    assert notebook.run("zero = 2\n%resume").is_ok
    assert notebook.run("last").value == "1.5"


def test_time_above(notebook):
    notebook.run(CRASH)
    found = notebook.run("%%time\n%%resilient\nzero = 1\nprint(inner(1))\n'end'")
    assert found.is_ok, found.traceback
    assert found.stdout.startswith("2.0\n")
    assert "Wall time" in found.stdout
    assert found.value == "'end'"
    crashed = notebook.run("%%time\n" + BODY)
    assert crashed.error == "Suspended"
    assert "Wall time" in crashed.stdout
    assert "line 5" in crashed.panels[0]
    notebook.run("zero = 1")
    assert notebook.run("%resume").is_ok


def test_timeit_above(notebook):
    notebook.run(CRASH)
    found = notebook.run("zero = 1")
    found = notebook.run("%%timeit -n 3 -r 2\n%%resilient\ninner(1);\n")
    assert found.is_ok, found.traceback
    assert "per loop" in found.stdout


def test_capture_above(notebook):
    notebook.run(CRASH)
    found = notebook.run("%%capture kept\n%%resilient\nprint('inside')\n")
    assert found.is_ok
    assert found.stdout == ""
    assert notebook.run("kept.stdout").value == "'inside\\n'"
    crashed = notebook.run("%%capture kept\n" + BODY + "print('late')")
    assert [c["ename"] for k, c in crashed.messages if k == "error"] == ["Suspended"]
    resumed = notebook.run("zero = 1\n%resume")
    assert resumed.is_ok
    assert "late" in resumed.stdout


def test_magics_inside(notebook):
    found = notebook.run("%%resilient\n%%time\nx = 5\n")
    assert found.is_ok, found.traceback
    assert "Wall time" in found.stdout
    assert notebook.run("x").value == "5"


def test_resilient_inside_itself_is_refused(notebook):
    found = notebook.run("%%resilient\n%%resilient\nx = 5\n")
    assert not found.is_ok
    notebook.run("%resume --abandon")


def test_no_standard_input_means_nobody_to_ask(notebook):
    notebook.run(CRASH, stdin=False)
    failed = notebook.run(BODY, stdin=False)
    assert failed.error == "ZeroDivisionError"
    assert failed.reply["evalue"] == "division by zero"
    assert "return local / zero" in failed.traceback
    assert "last = Wrap()(i)" in failed.traceback
    assert "gpurescue" not in failed.traceback
    assert "asyncio" not in failed.traceback
    assert notebook.run("%resume", stdin=False).error == "UsageError"
    parked = notebook.run(BODY.replace("resilient", "resilient --park"), stdin=False)
    assert parked.error == "Suspended"


SLEEPER = """
import time
def nap(i):
    time.sleep(0.005)
    return i
"""
SLEEPING = """%%resilient
for i in range(10_000):
    total += nap(i)
    if done:
        break
"""


def start_sleeping(notebook, **options):
    notebook.run(SLEEPER)
    notebook.run("total, done = 0, False")
    return notebook.send(SLEEPING, **options)


def test_interrupt_pauses_the_run(notebook):
    request = start_sleeping(notebook)
    time.sleep(0.5)
    notebook.interrupt()
    began = time.monotonic()
    found = notebook.collect(request, timeout=20)
    assert time.monotonic() - began < 10  # of the minute that the loop would take
    assert found.error == "Suspended"
    assert re.search(r"Paused at step \d+/10000: before line \d", found.traceback)
    assert "%resume --raise" in found.panels[0]
    assert "paused" in notebook.run("%rescue").stdout
    edit = SLEEPER.replace("return i", "globals().update(done=True)\n    return i")
    assert notebook.run(edit).is_ok
    assert notebook.run("%resume", timeout=20).is_ok
    assert notebook.run("total == sum(range(i + 1)), i < 1000").value == "(True, True)"


def test_edit_while_the_run_is_going_on(notebook):
    """As a callback of a widget makes it: the cell that waits leaves the loop free."""
    notebook.run(
        "import asyncio\n"
        "LOOP = '''def loop():\n"
        "    for i in range(10_000):\n"
        "        nap(i)\n"
        "        if done:\n"
        "            return i\n"
        "'''\n"
        "EDIT = LOOP.replace('if done', 'if i > 20')\n"
        "later = asyncio.get_event_loop().call_later\n"
    )
    notebook.run(SLEEPER)
    notebook.run("done = False\nget_ipython().run_cell(LOOP)")
    notebook.run("_ = later(0.5, get_ipython().run_cell, EDIT)")
    found = notebook.run("%%resilient\nprint(loop())", timeout=20)
    assert found.is_ok
    printed = found.stdout + "".join(c.get("text", "") for _, c in found.strays)
    assert "The run takes up the new loop at its next statement." in printed
    assert 20 < int(found.stdout.split()[-1]) < 1000


def test_paused_run_can_be_stopped(notebook):
    request = start_sleeping(notebook)
    time.sleep(0.3)
    notebook.interrupt()
    assert notebook.collect(request, timeout=20).error == "Suspended"
    found = notebook.run("%resume --raise")
    assert found.error == "KeyboardInterrupt"
    assert "gpurescue" not in found.traceback
    assert "total += nap(i)" in found.traceback
    assert notebook.run("1").value == "1"


def test_interrupt_of_a_run_that_nobody_can_resume(notebook):
    request = start_sleeping(notebook, stdin=False)
    time.sleep(0.5)
    notebook.interrupt()
    found = notebook.collect(request, timeout=20)
    assert found.error == "KeyboardInterrupt"
    assert "gpurescue" not in found.traceback
    assert "time.sleep(0.005)" in found.traceback


def test_second_interrupt_lets_go_of_a_run_that_does_not_answer(notebook):
    notebook.run("import threading\nblocked = threading.Event()")
    request = notebook.send("%%resilient\nblocked.wait()\nprint('went on')\n")
    time.sleep(0.4)
    notebook.interrupt()
    time.sleep(0.4)
    notebook.interrupt()
    found = notebook.collect(request, timeout=20)
    assert found.error == "KeyboardInterrupt"
    assert notebook.run("%%resilient\n1").error == "UsageError"
    notebook.run("blocked.set()")
    time.sleep(0.3)
    assert "suspended (paused)" in notebook.run("%rescue").stdout
    assert notebook.run("%resume").stdout.endswith("went on\n")


def test_the_kernels_loop_is_free_while_a_run_is_awaited(notebook):
    notebook.run(
        "import asyncio\nticks = []\n"
        "async def tick():\n"
        "    while len(ticks) < 1000:\n"
        "        ticks.append(1)\n"
        "        await asyncio.sleep(0.01)\n"
        "task = asyncio.ensure_future(tick())\n"
    )
    found = notebook.run(
        "%%resilient\nimport time\nbefore = len(ticks)\ntime.sleep(0.5)\n"
        "len(ticks) - before"
    )
    notebook.run("task.cancel()")
    assert int(found.value) > 20


def test_progress_is_shown_in_the_waiting_cell(notebook):
    found = notebook.run(
        "%%resilient\nimport time\n"
        "for epoch in range(2):\n"
        "    for step in range(70):\n"
        "        time.sleep(0.01)\n"
    )
    (first,) = [text for text in found.displays if "epoch" in text]
    assert "left" in first
    last = found.data("update_display_data")[-1]
    assert last.startswith("epoch 2/2, step 70/70 | done")
    (html,) = found.data("display_data", "text/html")
    assert "<progress" in html
    assert len(found.data("update_display_data")) <= 6


def test_nobody_waits_for_a_client_that_runs_the_notebook(kernel):
    cells = ["%load_ext gpurescue", CRASH, BODY, "print('never')"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    client = NotebookClient(book, timeout=60, kernel_name="python3")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        client.execute(env={**__import__("os").environ, "PYTHONPATH": _path()})
    assert not book.cells[3].outputs
    traceback = "".join(book.cells[2].outputs[-1]["traceback"])
    assert "gpurescue" not in traceback


def test_run_all_stops_at_the_suspension(kernel):
    cells = [
        "%load_ext gpurescue",
        CRASH,
        BODY.replace("%%resilient", "%%resilient --park"),
        "print('never')",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    client = NotebookClient(book, timeout=60, kernel_name="python3")
    with pytest.raises(CellExecutionError, match="The run is alive"):
        client.execute(env={**__import__("os").environ, "PYTHONPATH": _path()})
    assert not book.cells[3].outputs


def _path() -> str:
    import os
    from pathlib import Path

    root = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))


def test_unload_puts_everything_back(notebook):
    notebook.run(
        "import sys\nfrom IPython import get_ipython\nip = get_ipython()\n"
        "def facts():\n"
        "    return (len(ip.ast_transformers), len(ip.input_transformers_post),\n"
        "            len(ip.events.callbacks['pre_run_cell']),\n"
        "            sorted(n for n in ip.magics_manager.magics['cell'] if n in\n"
        "                   ('resilient', 'resume', 'at')),\n"
        "            '__gr_iter__' in ip.user_ns, '__gr_iter__' in ip.user_ns_hidden,\n"
        "            hasattr(__import__('builtins'), '__gr_iter__'),\n"
        "            len(sys.meta_path), sorted(n for n in dir(ip) if 'rescue' in n))\n"
    )
    notebook.run("%unload_ext gpurescue")
    before = notebook.run("facts()").value
    notebook.run("%load_ext gpurescue")
    assert notebook.run("facts()").value != before
    notebook.run(CRASH + "def gen(n):\n    for i in range(n):\n        yield i\n")
    assert notebook.run("'__gr_k__' in inner.__code__.co_varnames").value == "True"
    notebook.run(BODY)
    refused = notebook.run("%unload_ext gpurescue")
    assert refused.traceback.startswith("UsageError: Run")
    notebook.run("%resume --abandon")
    assert notebook.run("%unload_ext gpurescue").is_ok
    assert notebook.run("facts()").value == before
    assert (
        notebook.run(
            "[n for f in (inner, gen, facts, Wrap.__call__)"
            " for n in f.__code__.co_varnames"
            " + f.__code__.co_names if '__gr' in n]"
        ).value
        == "[]"
    )
    assert notebook.run("zero = 1\nlist(gen(3)), Wrap()(1)").value == "([0, 1, 2], 2.0)"
    assert notebook.run("%resume").traceback == ""
    assert notebook.run("%load_ext gpurescue").is_ok


def test_reset_does_not_break_guarded_functions(notebook):
    found = notebook.run(
        "%reset -f\n"
        "def count(n):\n    t = 0\n    for i in range(n):\n        t += i\n"
        "    return t\n"
        "print(count(4))"
    )
    assert found.stdout == "6\n"
    assert notebook.run("%%resilient\ncount(5)").value == "10"


def test_importing_does_nothing(kernel):
    found = kernel.run(
        "import subprocess, sys\n"
        "code = ('import sys, time; t = time.perf_counter(); import gpurescue; '\n"
        "        'took = time.perf_counter() - t; '\n"
        '        \'print(took < 0.1, [m for m in ("torch", "ipywidgets", "IPython")\'\n'
        "        ' if m in sys.modules])')\n"
        "command = [sys.executable, '-c', code]\n"
        "print(subprocess.run(command, capture_output=True, text=True).stdout)"
    )
    assert found.stdout.strip() == "True []"
