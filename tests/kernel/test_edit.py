"""Editing the body of the ``%%resilient`` cell, looking around, changing variables."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.kernel

BODY = """\
%%resilient
seen = []
for step in range(4):
    seen.append(step)
    if step == 2:
        broken
"""


def test_running_the_same_cell_again_is_an_edit(notebook):
    assert notebook.run(BODY, cell="one").error == "Suspended"
    same = notebook.run(BODY, cell="one")
    assert same.error == "UsageError"
    assert "nothing was changed since" in same.traceback
    assert "%%resilient --fresh" in same.traceback
    assert same.panels
    edited = notebook.run(BODY.replace("broken", "seen.append('fixed')"), cell="one")
    assert edited.is_ok, edited.traceback
    assert edited.stdout == (
        "Taken as an edit of the parked run: resumes at line 6: "
        "`seen.append('fixed')` (%%resilient --fresh starts over)\n"
    )
    assert notebook.run("seen").value == "[0, 1, 2, 'fixed', 3]"


def test_same_cell_with_only_a_function_changed(notebook):
    notebook.run("def part(x): return x + missing")
    body = "%%resilient\ntotal = sum(part(i) for i in range(3))\n"
    assert notebook.run(body, cell="two").error == "Suspended"
    notebook.run("def part(x): return x + 1")
    again = notebook.run(body, cell="two")
    assert again.is_ok, again.traceback
    assert again.stdout.startswith(
        "Taken as an edit of the parked run: resumes at line"
    )
    assert notebook.run("total").value == "6"


def test_function_defined_in_the_body_is_edited_there(notebook):
    body = (
        "%%resilient\n"
        "made = []\n"
        "def inner(x):\n"
        "    y = x + 1\n"
        "    return y + wrong_name\n"
        "made.append('model')\n"
        "out = [inner(i) for i in range(2)]\n"
    )
    assert notebook.run(body, cell="three").error == "Suspended"
    edited = notebook.run(body.replace("wrong_name", "1"), cell="three")
    assert edited.is_ok, edited.traceback
    assert "resumes at line 5: `return y + 1`" in edited.stdout
    assert notebook.run("made, out").value == "(['model'], [2, 3])"
    assert "-    return y + wrong_name" in notebook.run("%rescue").stdout


def test_other_cell_is_refused_and_fresh_starts_over(notebook):
    assert notebook.run(BODY, cell="four").error == "Suspended"
    other = notebook.run("%%resilient\n1", cell="five")
    assert other.error == "UsageError"
    assert "is still parked at step 3/4; go on with %resume, or give it up" in (
        other.traceback
    )
    unknown = notebook.run("%%resilient\n1")
    assert "or with %%resume and the new body" in unknown.traceback
    fresh = notebook.run("%%resilient --fresh\nx = 'fresh'\nx", cell="five")
    assert fresh.is_ok, fresh.traceback
    assert fresh.value == "'fresh'"
    assert notebook.run("%resume").error == "UsageError"


def test_resume_with_a_new_body(notebook):
    assert notebook.run(BODY).error == "Suspended"
    fixed = notebook.run(
        BODY.replace("%%resilient", "%%resume").replace("broken", "pass")
    )
    assert fixed.is_ok, fixed.traceback
    assert fixed.stdout == "resumes at line 6: `pass`\n"
    assert notebook.run("seen").value == "[0, 1, 2, 3]"


def test_new_body_can_crash_and_be_fixed_again(notebook):
    assert notebook.run(BODY).error == "Suspended"
    body = BODY.replace("%%resilient", "%%resume") + "seen"
    for name in ("worse", "bad"):
        found = notebook.run(body.replace("broken", name))
        assert found.error == "Suspended"
        assert f"name '{name}'" in found.panels[0]
    assert notebook.run(body.replace("broken", "step = 2")).value == "[0, 1, 2, 3]"
    state = notebook.run("%rescue").stdout
    assert "Patch 3: the cell" in state
    assert "3 redefinitions" in state


def test_fix_offers_the_source(notebook):
    notebook.run(
        "import functools\n"
        "class Model:\n"
        "    size = 1\n"
        "    def forward(self, x):\n"
        "        return x + absent\n"
        "\n"
        "def maker():\n"
        "    def inner(x):\n"
        "        return x + gone\n"
        "    return inner\n"
        "class Plain:\n"
        "    value = 3\n"
        "@functools.lru_cache\n"
        "def cached(x):\n"
        "    return x\n"
    )
    notebook.run("%%resilient\nout = Model().forward(1)\n")
    (payload,) = notebook.run("%fix").reply["payload"]
    assert payload == {
        "source": "set_next_input",
        "replace": False,
        "text": "class Model:\n    size = 1\n    def forward(self, x):\n"
        "        return x + absent",
    }

    def offered(line: str) -> str:
        found = notebook.run(line)
        assert found.is_ok, found.traceback
        return found.reply["payload"][0]["text"]

    assert offered("%fix Model.forward").startswith("class Model:")
    assert offered("%fix Model").startswith("class Model:")
    assert offered("%fix maker").startswith("def maker():")
    assert offered("%fix Plain") == "class Plain:\n    value = 3"
    assert (
        offered("%fix cached") == "@functools.lru_cache\ndef cached(x):\n    return x"
    )
    notebook.run("def absent_now(): pass\nabsent = 2")
    assert notebook.run("%resume").is_ok

    notebook.run("%%resilient\nfunction = maker()\nfunction(1)\n")
    assert offered("%fix").startswith("def maker():\n    def inner(x):")
    notebook.run("%resume --abandon")

    notebook.run(BODY)
    assert offered("%fix") == BODY.replace("%%resilient", "%%resume").strip("\n")


def test_frames_shows_the_stack(notebook):
    notebook.run(
        "def low(x):\n    y = x * 2\n    return y + nope\n"
        "def high(x):\n    return low(x)"
    )
    notebook.run("%%resilient\nz = high(4)\n")
    (text,) = notebook.run("%frames").displays
    assert "low" in text
    assert "high" in text
    (one,) = notebook.run("%frames 1").displays
    assert "high" in one
    assert "low (" not in one


def test_at_reads_and_writes_the_frame(notebook):
    notebook.run(
        "def work(x, *, scale=2):\n"
        "    items = [1, 2]\n"
        "    def capture():\n"
        "        return x\n"
        "    total = x * scale / divisor\n"
        "    return total, x, items, capture(), later()\n"
        "def later(): return 'global'\n"
        "def caller(a):\n"
        "    b = 1\n"
        "    return work(a), b\n"
    )
    assert notebook.run("%%resilient\nresult = caller(3)\n").error == "Suspended"
    seen = notebook.run("%%at\n[x * i for i in items], (lambda: scale)(), capture()")
    assert seen.value == "([3, 6], 2, 3)"
    assert notebook.run("%%at\nx;").value is None
    assert notebook.run("%%at 1\na, b").value == "(3, 1)"
    assert notebook.run("%%at\nx = 10\nitems.append(3)\nnew_name = 7").is_ok
    assert notebook.run("%%at\nx, items, new_name, capture()").value == (
        "(10, [1, 2, 3], 7, 10)"
    )
    assert notebook.run("%%at 1\nb = 99").is_ok
    failing = notebook.run("%%at\nscale = 5\n1 / 0\nscale = 6\n")
    assert failing.error == "ZeroDivisionError"
    assert "gpurescue" not in failing.traceback
    assert "----> 3 1 / 0" in failing.traceback
    assert notebook.run("%%at\nscale").value == "5"
    notebook.run("%%at 2\ndivisor = 1")
    assert notebook.run("divisor").value == "1"
    done = notebook.run("%resume")
    assert done.is_ok, done.traceback
    assert notebook.run("result").value == ("((50.0, 10, [1, 2, 3], 10, 'global'), 99)")


def test_new_names_of_at_are_there_for_the_edited_function(notebook):
    notebook.run("def learn(x):\n    return x + extra_rate")
    notebook.run("%%resilient\ngot = learn(1)\n")
    notebook.run("%%at\nrate = 41")
    notebook.run("def learn(x):\n    return x + rate\n    rate = 0")
    assert notebook.run("%resume").is_ok
    assert notebook.run("got").value == "42"


def test_at_syntax_error_is_the_users(notebook):
    notebook.run(BODY)
    bad = notebook.run("%%at\nx = (\n")
    assert bad.error == "SyntaxError"
    assert notebook.run("%%at\nreturn 1\n").error == "SyntaxError"
    assert notebook.run("%resume --skip").is_ok


MISTAKES = [
    ("%resume --frame 9", "UsageError", "There is no frame 9; choose one of 0 to"),
    ("%resume --at 99", "UsageError", "No statement of cell begins on line 99"),
    ("%resume --skip --raise", "UsageError", "choose one"),
    ("%resume --return (", "UsageError", "is not a Python expression"),
    ("%resume --return 1", "UsageError", "A cell cannot return a value"),
    ("%resume --return undefined_x", "NameError", "1 undefined_x"),
    ("%frames 7", "UsageError", "There is no frame 7"),
    ("%%at 7\n1", "UsageError", "There is no frame 7"),
    ("%fix no_such_function", "UsageError", "There is no 'no_such_function'"),
    ("%fix print", "UsageError", "is neither in a cell"),
    ("%unload_ext gpurescue", "UsageError", "is still suspended"),
    ("%%resilient\n1", "UsageError", "is still parked"),
    ("%%resume\nfor x in:\n", "SyntaxError", "invalid syntax"),
    ("%%resume\nreturn 5\n", "SyntaxError", "outside function"),
    ("%%resume\nseen = []\n", "PatchRejected", "is gone from the new cell"),
    ("def f(:\n", "SyntaxError", ""),
]


def test_mistakes_are_one_sentence_and_lose_nothing(notebook):
    notebook.run(BODY)
    for code, kind, words in MISTAKES:
        found = notebook.run(code)
        assert found.error == kind, (code, found.traceback)
        assert words in found.traceback, code
        if kind not in {"SyntaxError", "NameError"}:
            assert found.traceback.startswith(f"{kind}: "), code
            assert "\n" not in found.traceback, code
            assert found.traceback.endswith("."), code
        assert "gpurescue/" not in found.traceback, code
        state = notebook.run("%rescue").stdout
        assert "suspended at step 3/4" in state, code
    assert notebook.run("%resume --skip").is_ok
    assert notebook.run("seen").value == "[0, 1, 2, 3]"


def test_nothing_suspended(notebook):
    for code in ("%resume", "%frames", "%%at\n1", "%fix", "%%resume\n1"):
        found = notebook.run(code)
        assert found.traceback == (
            "UsageError: No run is suspended; start one with %%resilient."
        ), code
    assert notebook.run("%rescue").is_ok
    wrong = notebook.run("%resume --nonsense")
    assert "unrecognized arguments: --nonsense" in wrong.stderr


def test_failing_statement_removed_from_a_function(notebook):
    notebook.run("def step(x):\n    y = x\n    y += undefined_y\n    return y")
    notebook.run("%%resilient\nstep(1)\n")
    notebook.run("def step(x):\n    return 5")
    found = notebook.run("%resume")
    assert found.is_ok or found.error == "PatchRejected"


def test_everything_from_python(notebook):
    notebook.run(
        "import gpurescue\ndef part(x):\n    y = 3\n    return x + missing_part"
    )
    started = notebook.run("gpurescue.resilient('value = part(1)\\nvalue')")
    assert started.error == "Suspended"
    assert notebook.run("[f.name for f in gpurescue.frames()]").value == (
        "['part', '<module>']"
    )
    assert notebook.run("gpurescue.at('y = 9; x + y')").value == "10"
    assert notebook.run("print(gpurescue.fix())").stdout.startswith("def part(x):")
    assert notebook.run("str(gpurescue.plan())").value == (
        "'resumes at line 4: `return x + missing_part`'"
    )
    wrong = notebook.run("gpurescue.resume(action='fly')")
    assert wrong.traceback.startswith("UsageError: There is no action 'fly'")
    done = notebook.run("gpurescue.resume(action='return', value=5)\nvalue")
    assert done.value == "5"


def test_fresh_with_a_typo_keeps_the_parked_run(notebook):
    notebook.run("%%resilient\nx = 1\nx += hidden_one", cell="typo")
    failed = notebook.run('%%resilient --fresh\nprint("a"', cell="typo")
    assert failed.error == "SyntaxError"
    notebook.run("hidden_one = 1")
    assert notebook.run("%resume").is_ok
    assert notebook.run("x").value == "2"


def test_a_run_cannot_wait_for_itself(notebook):
    crashed = notebook.run("%%resilient\nready = 1\n%resume\nready = 2", timeout=10)
    assert crashed.error == "Suspended"
    assert "inside its own cell" in crashed.traceback
    assert notebook.run("%resume --skip").is_ok
    assert notebook.run("ready").value == "2"
