import random
import time

import pytest
import torch

from gpurescue.diagnosis import panel
from gpurescue.diagnosis.hints import Hint
from gpurescue.diagnosis.report import report

TRAIN = """\
import random

def helper(x, scale):
    y = x * scale
    z = (
        y
        + oops
        + 1
    )
    return z

class Net:
    def forward(self, x):
        k = 5
        def inner(v):
            return missing(v)
        if x == 3:
            return helper(x, k)
        if x == 4:
            return inner(x)
        return k

def recurse(n):
    if n == 0:
        raise ValueError("deep")
    recurse(n - 1)
"""


def described(notebook, body, **options):
    held = notebook.crash(body)
    return report(held, run_number=1, **options)


@pytest.fixture
def train(notebook):
    notebook.filename = notebook.cell(TRAIN)
    return notebook


LOOPS = """\
net = Net()
unused = 1
total = 0
for epoch in range(2):
    for step in range(6):
        total += net.forward(step)
"""


def test_the_facts_of_a_crash(train):
    found = described(train, LOOPS, label_of=lambda name: "Cell In[4]")
    assert (found.run_number, found.error_type) == (1, "NameError")
    assert found.message == "name 'oops' is not defined"
    assert found.where == "epoch 1/2, step 4/6"
    assert [(f.index, f.name, f.line) for f in found.frames] == [
        (0, "helper", 7),
        (1, "Net.forward", 18),
        (2, "<module>", 6),
    ]
    assert found.num_frames == 3
    assert {f.label for f in found.frames} == {"Cell In[4]"}
    where = "at epoch 1/2, step 4/6, in helper (Cell In[4], line 7)"
    assert found.place == where


def test_the_excerpt_marks_the_line_and_its_statement(train):
    lines = described(train, LOOPS).innermost.lines
    assert [line.number for line in lines] == list(range(3, 11))
    assert [line.number for line in lines if line.is_failing] == [7]
    assert [line.number for line in lines if line.is_in_statement] == [5, 6, 7, 8, 9]
    assert lines[4].text == "        + oops"


def test_variables_of_the_failing_statement_come_first(train):
    found = described(train, LOOPS)
    inner = [
        (v.name, v.is_used_in_failing_statement) for v in found.innermost.variables
    ]
    assert inner == [("y", True), ("x", False), ("scale", False)]
    cell = [v.name for v in found.frames[2].variables]
    assert cell == ["net", "step", "total", "unused", "epoch"]


def test_names_of_ours_and_definitions_stay_out_of_the_cells_frame(notebook):
    body = (
        "import math\n"
        "def f(): pass\n"
        "class C: pass\n"
        "for i in [1]:\n"
        "    f(), C, math, __name__\n"
        "    1 / 0"
    )
    (frame,) = described(notebook, body).frames
    assert [v.name for v in frame.variables] == ["i"]


def test_the_traceback_reaches_from_the_cell_to_the_error(train):
    found = described(train, LOOPS, label_of={train.filename: "Cell In[4]"}.get)
    text = found.traceback_text
    assert text.startswith("Traceback (most recent call last):\n")
    assert "gpurescue" not in text
    places = [
        "line 6, in <module>\n    total += net.forward(step)\n",
        "  Cell In[4], line 18, in forward\n    return helper(x, k)\n",
        "  Cell In[4], line 7, in helper\n",
        "NameError: name 'oops' is not defined\n",
    ]
    assert [text.index(place) for place in places] == sorted(map(text.index, places))


def test_a_cause_stays_in_front_of_the_outer_frames(notebook):
    notebook.cell("def f():\n    raise KeyError(1) from ValueError('first')")
    text = described(notebook, "f()").traceback_text
    order = ["first", "direct cause", "in <module>", "in f", "KeyError: 1"]
    assert [text.index(word) for word in order] == sorted(map(text.index, order))


@pytest.mark.parametrize(
    ("statement", "lines", "names"),
    [
        ("for a in missing, i:\n    used\n", [2], ["i"]),
        ("with open(missing + str(i)) as a:\n    used\n", [2], ["i"]),
        ("if (i and\n    missing):\n    used\n", [2, 3], ["i"]),
        ("def f(a=i, b=missing):\n    return used\n", [2], ["i"]),
        ("used[i] = missing", [2], ["used", "i"]),
    ],
)
def test_only_the_head_of_a_compound_statement_failed(
    notebook, statement, lines, names
):
    body = "".join(f"    {line}\n" for line in statement.splitlines())
    notebook.cell(f"def g(used, i):\n{body}")
    frame = described(notebook, "g({}, 1)").innermost
    marked = [line.number for line in frame.lines if line.is_in_statement]
    used = [v.name for v in frame.variables if v.is_used_in_failing_statement]
    assert (marked, used) == (lines, names)


def test_a_very_long_statement_is_cut_around_its_line(notebook):
    items = "".join(f"        {n},\n" for n in range(200))
    notebook.cell(f"def f():\n    return [\n{items}        missing,\n{items}    ]")
    lines = described(notebook, "f()").innermost.lines
    assert len(lines) == 25
    assert lines[12].text.strip() == "missing,"


def test_a_form_feed_does_not_shift_the_lines(notebook):
    frame = described(notebook, "a = 1\n\x0cb = 2\n1 / 0  # here").innermost
    failing = [line for line in frame.lines if line.is_failing]
    assert [line.text for line in failing] == ["1 / 0  # here"]


@pytest.mark.parametrize(
    ("body", "commands"),
    [
        ("helper(1, 2)", ["%fix helper", "%%at", "%resume", "%frames"]),
        ("Net().forward(3)", ["%fix helper", "%%at", "%resume", "%frames"]),
        ("Net().forward(4)", ["%fix Net.forward", "%%at", "%resume", "%frames"]),
        (
            "1 / 0",
            [
                "Edit this cell and run it again",
                "Use any other cell",
                "%resume",
                "%frames",
            ],
        ),
        (
            "for x in (1 / n for n in [0]):\n    pass",
            [
                "Edit this cell and run it again",
                "Use any other cell",
                "%resume --skip",
                "%frames",
            ],
        ),
        (
            "for x, y in [1]:\n    pass",
            [
                "Edit this cell and run it again",
                "Use any other cell",
                "%resume --at LINE",
                "%frames",
            ],
        ),
    ],
)
def test_hints_fit_the_situation(train, body, commands):
    assert [hint.command for hint in described(train, body).hints] == commands


def test_a_hint_names_the_line(train):
    found = described(train, "helper(1, 2)")
    purpose = "go on from line 7, in this same iteration"
    assert Hint(command="%resume", purpose=purpose) in found.hints


class BrokenMessage(Exception):
    def __str__(self):
        raise RuntimeError


class SlyMessage(Exception):
    def __str__(self):
        return type("S", (str,), {"__getitem__": None, "__len__": None})("sly")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BrokenMessage(), "(its message cannot be read: its __str__ failed)"),
        (SlyMessage(), "sly"),
        (ValueError(), ""),
        (KeyError("k"), "'k'"),
        (ValueError("x" * 10**6), "x" * 19_997 + "..."),
    ],
)
def test_messages(notebook, error, message):
    notebook.names["error"] = error
    found = described(notebook, "raise error")
    assert found.message == message
    assert panel.html(found)
    assert panel.text(found, color=True)


def test_a_deep_stack_is_shown_by_both_ends(train):
    found = described(train, "recurse(300)")
    assert found.num_frames == 302
    assert [f.index for f in found.frames] == [*range(10), *range(297, 302)]
    assert "[286 more frames]" in found.traceback_text
    assert "287 frames more" in panel.html(found)
    assert "287 more frames" in panel.text(found, color=False)


def test_many_variables_are_counted(notebook):
    names = "\n".join(f"    v{n} = {n}" for n in range(100))
    notebook.cell(f"def f():\n{names}\n    return v77 + missing")
    frame = described(notebook, "f()").innermost
    assert [v.name for v in frame.variables][:3] == ["v77", "v0", "v1"]
    assert (len(frame.variables), frame.num_more_variables) == (30, 70)


def test_a_frame_that_cannot_be_described_leaves_a_gap(train, monkeypatch, caplog):
    monkeypatch.setattr("gpurescue.diagnosis.excerpt.excerpt", None)
    found = described(train, LOOPS)
    assert [(f.name, f.lines) for f in found.frames][:1] == [("helper", ())]
    assert "cannot be described" in caplog.text
    assert "Net.forward" in panel.html(found)


def test_labels_without_a_namer(notebook):
    assert described(notebook, "1 / 0").innermost.label == "cell"


def test_looking_changes_nothing(train):
    held = train.crash(LOOPS)
    torch.manual_seed(3)
    before = random.getstate(), torch.get_rng_state()
    values = [dict(frame.variables()) for frame in held.frames]
    panel.html(report(held, run_number=1))
    assert [dict(frame.variables()) for frame in held.frames] == values
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_big_suspension_is_shown_at_once(notebook):
    names = "".join(f"    v{n} = '<&>' * 999\n" for n in range(10_000))
    notebook.cell(
        f"def f(t):\n{names}    raise KeyError('<&>' * 99999)\n"
        "def g(n, t):\n    u = t + n\n    return g(n - 1, t) if n else f(t)"
    )
    notebook.names["t"] = torch.ones(900_000)
    held = notebook.crash("g(60, t)")
    report(held, run_number=1)  # the first time compiles patterns and warms caches up
    start = time.thread_time()
    found = report(held, run_number=1)
    pages = panel.html(found), panel.frames_html(found)
    texts = panel.text(found, color=True), panel.frames_text(found, color=True)
    seconds = time.thread_time() - start
    assert max(map(len, pages + texts)) < 200_000
    assert all(len(page) > 10_000 for page in pages)
    assert seconds < 0.2
