"""Crash, edit, resume: where the output lands and what the user is told."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.kernel

BROKEN = """\
def helper(x):
    y = x * 2
    if x == 3:
        z = y + oops
    return y
"""
FIXED = BROKEN.replace("oops", "1")
LOOP = """\
%%resilient
import sys
from IPython.display import display
total = 0
handle = display("at start", display_id=True)
for epoch in range(2):
    for step in range(5):
        total += helper(step)
        print("step", epoch, step)
        print("error", epoch, step, file=sys.stderr)
handle.update("at end")
display("shown")
total
"""


def test_output_after_the_resume_is_under_the_resuming_cell(notebook):
    notebook.run(BROKEN)
    first = notebook.run(LOOP)
    assert first.error == "Suspended"
    assert first.stdout == "step 0 0\nstep 0 1\nstep 0 2\n"
    assert first.stderr == "error 0 0\nerror 0 1\nerror 0 2\n"
    assert first.displays[0] == "'at start'"
    (panel,) = first.panels
    assert "NameError: name 'oops' is not defined" in panel
    assert first.traceback == (
        "Suspended at epoch 1/2, step 4/5: NameError: name 'oops' is not defined. "
        "The run is alive: %fix, %resume."
    )
    assert notebook.run("1 + 1").value == "2"
    assert notebook.run(FIXED).is_ok
    second = notebook.run("%resume")
    assert second.is_ok
    lines = second.stdout.splitlines()
    assert lines[0] == "resumes at line 4: `z = y + 1`"
    assert lines[1:] == [f"step {e} {s}" for e in (0, 1) for s in range(5)][3:]
    assert second.stderr.count("error") == 7
    assert "'shown'" in second.displays
    assert second.value == "40"
    assert "'at end'" in second.data("update_display_data")
    assert not first.strays
    assert not second.strays
    assert notebook.run("total, _").value == "(40, 40)"


def test_tqdm_goes_on_in_the_resuming_cell(notebook):
    pytest.importorskip("tqdm")
    notebook.run(BROKEN)
    first = notebook.run(
        "%%resilient\nfrom tqdm import tqdm\nfor i in tqdm(range(5), mininterval=0):\n"
        "    helper(i)\n"
    )
    assert "3/5" in first.stderr
    notebook.run(FIXED)
    second = notebook.run("%resume")
    assert second.is_ok
    assert "5/5" in second.stderr
    assert not second.strays


def test_wrong_fix_then_second_crash_then_right_fix(notebook):
    notebook.run(BROKEN)
    assert notebook.run(LOOP).error == "Suspended"
    for wrong in ("worse", "still_wrong", "no_better"):
        notebook.run(BROKEN.replace("oops", wrong))
        again = notebook.run("%resume")
        assert again.error == "Suspended"
        assert f"name '{wrong}'" in again.panels[0]
        assert again.stdout.startswith(f"resumes at line 4: `z = y + {wrong}`")
    notebook.run(FIXED)
    assert notebook.run("%resume").value == "40"
    state = notebook.run("%rescue").stdout
    assert "suspended 4 times, 4 redefinitions" in state
    assert "-        z = y + no_better\n+        z = y + 1" in state


def test_panel_of_the_old_cell_says_what_happened(notebook):
    notebook.run(BROKEN)
    notebook.run(LOOP)
    notebook.run(FIXED)
    resumed = notebook.run("%resume")
    updates = resumed.data("update_display_data")
    assert any("resumes at line 4" in text for text in updates)
    assert not resumed.panels


def test_class_that_is_run_again_changes_live_instances(notebook):
    notebook.run(
        "class Base:\n    def name(self): return 'base'\n"
        "class Net(Base):\n"
        "    scale = 2\n"
        "    def forward(self, x):\n"
        "        return self.missing(x)\n"
        "    def name(self): return super().name()\n"
    )
    notebook.run("%%resilient\nnet = Net()\nfound = [net.forward(i) for i in (1, 2)]\n")
    edited = notebook.run(
        "class Net(Base):\n"
        "    scale = 3\n"
        "    def forward(self, x):\n"
        "        return x * self.scale\n"
        "    def name(self): return 'new ' + super().name()\n"
        "inside = isinstance(net, Net), net.scale, net.name()\n"
    )
    assert edited.is_ok, edited.traceback
    assert notebook.run("%resume").is_ok
    assert notebook.run("found, inside, type(net) is Net").value == (
        "([3, 6], (True, 3, 'new base'), True)"
    )


@pytest.mark.parametrize("wraps", ["", "    @functools.wraps(function)\n"])
def test_decorated_functions_are_patched(notebook, wraps):
    notebook.run(
        "import functools\ndef bare(function):\n" + wraps + "    def wrapper(*args):\n"
        "        return function(*args)\n"
        "    return wrapper\n"
        "@bare\n"
        "def work(x):\n"
        "    return x + nothing\n"
        "kept = work\n"
    )
    notebook.run("%%resilient\nfound = [kept(i) for i in range(2)]\n")
    notebook.run("@bare\ndef work(x):\n    return x + 1\n")
    assert notebook.run("%resume").is_ok
    assert notebook.run("found, work(1)").value == "([1, 2], 2)"


def test_name_that_meant_something_else_is_not_patched(notebook):
    notebook.run(
        "from textwrap import dedent\nalias = dedent\ndef boom(): 1 / 0\nother = boom"
    )
    notebook.run("%%resilient\nboom()\n")
    notebook.run(
        "def dedent(text):\n    return 'mine'\ndef other():\n    return 'other'\n"
    )
    assert notebook.run("alias('  x'), dedent('  x'), other()").value == (
        "('x', 'mine', 'other')"
    )
    again = notebook.run("%resume")
    assert "ZeroDivisionError" in again.traceback


def test_variable_fixed_in_a_cell(notebook):
    notebook.run("config = {}\ndef rate(): return config['lr']")
    assert notebook.run("%%resilient\nlr = rate()\n").error == "Suspended"
    notebook.run("config['lr'] = 0.1")
    assert notebook.run("%resume").is_ok
    assert notebook.run("lr").value == "0.1"


def test_last_expression_that_crashes_is_displayed_after_the_resume(notebook):
    notebook.run("def late(): return undefined_name")
    assert notebook.run("%%resilient\nx = 1\nlate() + x").error == "Suspended"
    notebook.run("def late(): return 41")
    resumed = notebook.run("%resume")
    assert resumed.value == "42"
    assert resumed.stdout == "resumes at line 1: `return 41`\n"
    assert notebook.run("%%resilient\nx = 1\n2 * x;\n").value is None


def test_last_expression_of_the_body_itself(notebook):
    assert notebook.run("%%resilient\nx = 1\nx + later").error == "Suspended"
    notebook.run("later = 5")
    resumed = notebook.run("%resume")
    assert resumed.stdout == "resumes at line 3: `x + later`\n"
    assert resumed.value == "6"


def test_line_magics_and_shell_commands_in_the_body(notebook):
    found = notebook.run(
        "%%resilient\n"
        "%env GR_TEST=1\n"
        "listing = !echo hello\n"
        "%timeit -n1 -r1 pass\n"
        "1 / 0\n"
    )
    assert found.error == "Suspended"
    assert "env: GR_TEST=1" in found.stdout
    assert "Cell In[" in found.panels[0]
    assert "line 5" in found.panels[0]
    assert notebook.run("%resume --skip").is_ok
    assert notebook.run("listing").value == "['hello']"


def test_top_level_await_in_the_body(notebook):
    notebook.run(
        "import asyncio\nasync def fetch(x):\n    await asyncio.sleep(0)\n"
        "    return x + nowhere"
    )
    assert (
        notebook.run(
            "%%resilient\n"
            "got = []\n"
            "for i in range(3):\n"
            "    got.append(await fetch(i))\n"
            "got"
        ).error
        == "Suspended"
    )
    notebook.run("async def fetch(x):\n    await asyncio.sleep(0)\n    return x + 10")
    assert notebook.run("%resume").value == "[10, 11, 12]"


def test_resume_as_the_last_line_of_a_cell(notebook):
    notebook.run(BROKEN)
    notebook.run(LOOP)
    both = notebook.run(FIXED + "print('before')\n%resume")
    assert both.is_ok
    assert both.stdout.splitlines()[:2] == [
        "before",
        "resumes at line 4: `z = y + 1`",
    ]
    assert both.stdout.splitlines()[-1] == "step 1 4"


def test_resume_in_a_function_waits_too(notebook):
    notebook.run(BROKEN)
    notebook.run(LOOP)
    notebook.run(FIXED)
    found = notebook.run("def go():\n    %resume\ngo()\nprint('after', total)")
    assert found.is_ok, found.traceback
    assert found.stdout.splitlines()[-1] == "after 40"


def test_restarts(notebook):
    notebook.run(
        "def half(x):\n    y = x / zero\n    return y\n"
        "def outer(x):\n    return half(x) + 1\n"
    )
    body = "%%resilient\nzero = 0\nresult = outer(4)\n"
    assert notebook.run(body).error == "Suspended"
    assert notebook.run("%resume --return x * 10").is_ok
    assert notebook.run("result").value == "41"

    notebook.run(body)
    dry = notebook.run("%resume --dry-run --return 5")
    assert dry.stdout == "returns 5 from half\n"
    notebook.run("zero = 2")
    assert notebook.run("%resume --frame 1").is_ok
    assert notebook.run("result").value == "3.0"

    notebook.run(body)
    notebook.run("def half(x):\n    y = 7\n    return y\n")
    at = notebook.run("%resume --at 3")
    assert at.error == "Suspended"  # y was never assigned
    assert "UnboundLocalError" in at.traceback
    assert notebook.run("%resume --at 2").is_ok
    assert notebook.run("result").value == "8"


def test_raise_ends_as_a_plain_cell_would(notebook):
    notebook.run(BROKEN)
    notebook.run(LOOP)
    failed = notebook.run("%resume --raise")
    assert failed.error == "NameError"
    assert failed.reply["evalue"] == "name 'oops' is not defined"
    assert "gpurescue" not in failed.traceback
    assert "line 8" in failed.traceback
    assert "z = y + oops" in failed.traceback
    assert notebook.run("import sys; sys.last_value.__context__").value is None


def test_abandon_ends_quietly_and_runs_finally(notebook):
    notebook.run("%%resilient\ntry:\n    1 / 0\nfinally:\n    print('closed')\n")
    ended = notebook.run("%resume --abandon")
    assert ended.is_ok
    assert (
        ended.stdout
        == "abandons the run\nclosed\nRun " + ended.stdout.partition("closed\nRun ")[2]
    )
    assert "was abandoned" in ended.stdout


def test_exception_that_the_user_handles_is_not_intercepted(notebook):
    notebook.run(BROKEN)
    found = notebook.run(
        "%%resilient\n"
        "for i in range(5):\n"
        "    try:\n"
        "        helper(i)\n"
        "    except NameError as error:\n"
        "        print('handled', error)\n"
    )
    assert found.is_ok
    assert found.stdout == "handled name 'oops' is not defined\n"


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("next(iter([]))", "StopIteration", "next(iter([]))"),
        (
            "raise ExceptionGroup('two', [KeyError(1), OSError(2)])",
            "ExceptionGroup",
            "",
        ),
        ("exec('x = (')", "SyntaxError", ""),
        ("raise SystemExit(3)", "SystemExit", ""),
        ("import asyncio\nraise asyncio.CancelledError()", "CancelledError", ""),
        ("raise GeneratorExit()", "GeneratorExit", ""),
        ("assert 1 == 2, 'no'", "AssertionError", "no"),
    ],
)
def test_every_kind_of_failure_ends_the_cell(notebook, body, kind, words):
    failed = notebook.run("%%resilient\n" + body, stdin=False)
    if failed.error == "Suspended":
        failed = notebook.run("%resume --raise")
    assert failed.error == kind, failed.traceback
    assert words in failed.traceback
    if kind != "SyntaxError":
        assert "gpurescue" not in failed.traceback + failed.stderr
    assert notebook.run("1").value == "1"


def test_system_exit_and_user_errors_outside_runs_look_as_ever(notebook):
    notebook.run("def plain():\n    return undefined_thing\n")
    found = notebook.run("plain()")
    assert found.error == "NameError"
    assert "return undefined_thing" in found.traceback
    assert "gpurescue" not in found.traceback
    assert "__gr" not in found.traceback
