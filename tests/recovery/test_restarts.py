"""Each restart, and every way to ask for one that cannot be."""

from __future__ import annotations

import itertools
import traceback
from typing import Any

import harness
import pytest

from gpurescue.errors import CannotResume, PatchRejected, UsageError
from gpurescue.recovery import guards
from gpurescue.recovery.engine import Run, State
from gpurescue.recovery.hooks import Hooks
from gpurescue.recovery.plan import Action, Restart

INNER = """
def inner(x):
    out.append(("inner", x))
    y = x * 2
    if x == 1:
        y = y + missing
    out.append(("done", y))
    return y
"""
OUTER = """
def outer(n):
    total = 0
    for i in range(n):
        with manager(i):
            total += inner(i)
        out.append(("total", total))
    return total
"""
MANAGER = """
import contextlib
@contextlib.contextmanager
def manager(i):
    out.append(("enter", i))
    try:
        yield
    finally:
        out.append(("exit", i))
"""


def parked(
    *cells: str, body: str = "result = outer(3)\nout.append(result)\n"
) -> tuple[harness.Notebook, Run, list[Any]]:
    book = harness.Notebook()
    out: list[Any] = []
    book.names["out"] = out
    for cell in cells or (MANAGER, INNER, OUTER):
        book.cell(cell)
    run = book.start(body)
    assert run.wait(30) is State.SUSPENDED, run.error
    return book, run, out


def finish(run: Run, restart: Restart | None = None) -> State:
    run.resume(restart or Restart())
    return run.wait(30)


CLEAN = [
    ("enter", 0), ("inner", 0), ("done", 0), ("exit", 0), ("total", 0),
    ("enter", 1), ("inner", 1), ("done", 102), ("exit", 1), ("total", 102),
    ("enter", 2), ("inner", 2), ("done", 4), ("exit", 2), ("total", 106),
    106,
]  # fmt: skip


def test_retry_after_the_cause_is_removed() -> None:
    book, run, out = parked()
    book.names["missing"] = 100
    assert finish(run) is State.FINISHED
    assert out == CLEAN


def test_retry_in_the_edited_function() -> None:
    book, run, out = parked()
    book.redefine(run, INNER.replace("missing", "100"))
    assert str(run.plan(Restart())) == "resumes at line 6: `y = y + 100`"
    assert finish(run) is State.FINISHED
    assert out == CLEAN


def test_any_number_of_wrong_fixes_then_a_right_one() -> None:
    book, run, out = parked()
    depths, stacks = [], []
    for k in range(12):
        held = run.suspension
        assert held is not None
        depths.append(len(held.frames))
        stacks.append(sum(1 for _ in traceback.walk_stack(held.live.frame)))
        book.redefine(run, INNER.replace("missing", f"still_missing_{k}"))
        assert finish(run) is State.SUSPENDED
    book.redefine(run, INNER.replace("missing", "100"))
    assert finish(run) is State.FINISHED
    assert out == CLEAN
    assert set(depths) == {3}
    grown = {after - before for before, after in itertools.pairwise(stacks)}
    assert grown == {1}, "one frame a round"


def test_skip_leaves_the_statement_out() -> None:
    _, run, out = parked()
    assert finish(run, Restart(action=Action.SKIP)) is State.FINISHED
    assert ("done", 2) in out
    assert out[-1] == 6


def test_return_gives_the_value_to_the_caller() -> None:
    _, run, out = parked()
    plan = run.plan(Restart(action=Action.RETURN, value=50))
    assert plan.text == "returns 50 from inner"
    assert finish(run, Restart(action=Action.RETURN, value=50)) is State.FINISHED
    assert ("done", 2) not in out
    assert out[-1] == 54


def test_raise_hands_the_users_exception_back() -> None:
    _, run, out = parked()
    assert finish(run, Restart(action=Action.RAISE)) is State.FAILED
    assert isinstance(run.error, NameError)
    assert out[-1] == ("exit", 1)
    names = []
    entry = run.error.__traceback__
    while entry is not None:
        names.append((entry.tb_frame.f_code.co_name, entry.tb_lineno))
        entry = entry.tb_next
    assert names == [("<module>", 1), ("outer", 6), ("inner", 6)]
    assert run.error.__context__ is None


def test_abandon_unwinds_and_ends() -> None:
    _, run, out = parked()
    assert finish(run, Restart(action=Action.ABANDON)) is State.ABANDONED
    assert run.error is None
    assert out[-1] == ("exit", 1)


def test_an_outer_frame_unwinds_the_inner_ones_first() -> None:
    book, run, out = parked()
    book.names["missing"] = 100
    plan = run.plan(Restart(frame=1))
    assert plan.text == "resumes at line 6: `total += inner(i)` in outer"
    assert finish(run, Restart(frame=1)) is State.FINISHED
    assert out == [*CLEAN[:7], *CLEAN[6:]]  # the call runs again, the `with` does not


def test_return_from_an_outer_frame() -> None:
    _, run, out = parked()
    restart = Restart(action=Action.RETURN, frame=1, value="given up")
    assert finish(run, restart) is State.FINISHED
    assert out[-2:] == [("exit", 1), "given up"]


def test_go_on_at_another_line() -> None:
    _, run, out = parked()
    assert finish(run, Restart(line=7)) is State.FINISHED
    assert out[-1] == 6


def test_an_edited_function_further_out_switches_when_the_call_returns() -> None:
    book, run, out = parked()
    book.redefine(run, INNER.replace("missing", "100"))
    book.redefine(run, OUTER.replace('("total", total)', '("new", total)'))
    assert finish(run) is State.FINISHED
    assert [item for item in out if "new" in str(item)] == [("new", 102), ("new", 106)]
    assert ("total", 0) in out


def test_the_new_body_of_the_cell() -> None:
    book, run, out = parked(
        INNER, body="for i in range(3):\n    out.append(inner(i) + missing_too)\n"
    )
    book.names["missing"] = 100
    assert finish(run) is State.SUSPENDED
    body = book.new_body("for i in range(3):\n    out.append(inner(i))\n")
    assert finish(run, Restart(body=body)) is State.FINISHED
    assert [item for item in out if isinstance(item, int)] == [0, 102, 4]


def test_new_imports_and_functions_at_the_top_of_the_body_run_first() -> None:
    body = "for i in range(3):\n    out.append(inner(i))\n    missing_too\n"
    book, run, out = parked(INNER.replace("missing", "0"), body=body)
    new = "import math\ndef twice(x):\n    return 2 * x\n"
    new += body.replace("missing_too", "out.append(twice(math.floor(1.5)))")
    restart = Restart(body=book.new_body(new))
    notes = ("runs first: `import math`; `def twice(x):`",)
    assert run.plan(restart).notes == notes
    assert finish(run, restart) is State.FINISHED, run.error
    assert [item for item in out if isinstance(item, int)] == [0, 2, 2, 2, 4, 2]


def test_a_new_parameter_has_its_default() -> None:
    book, run, out = parked()
    edited = INNER.replace("inner(x)", "inner(x, scale=90, *, shift=10)")
    book.redefine(run, edited.replace("y + missing", "y + scale + shift"))
    assert finish(run) is State.FINISHED, run.error
    assert out == CLEAN


def test_a_new_body_takes_over_when_an_inner_call_returns() -> None:
    book, run, out = parked(INNER, body="for i in range(3):\n    inner(i)\n")
    book.names["missing"] = 100
    body = book.new_body("for i in range(3):\n    inner(i)\n    out.append('new')\n")
    assert finish(run, Restart(body=body)) is State.FINISHED
    assert out.count("new") == 2


BAD = {
    "unknown frame": (Restart(frame=7), UsageError, "There is no frame 7"),
    "negative frame": (Restart(frame=-1), UsageError, "There is no frame -1"),
    "no such line": (Restart(line=99), UsageError, "No statement of inner begins"),
    "into a loop": (Restart(frame=2, action=Action.RETURN), UsageError, "cell cannot"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_wish_loses_nothing(name: str) -> None:
    restart, kind, text = BAD[name]
    book, run, out = parked()
    with pytest.raises(kind, match=text):
        run.resume(restart)
    assert run.state is State.SUSPENDED
    book.names["missing"] = 100
    assert finish(run) is State.FINISHED
    assert out == CLEAN


EDITS = {
    "statement gone": (
        INNER.replace("        y = y + missing\n", "        pass\n"),
        None,
    ),
    "block gone": (
        INNER.replace("    if x == 1:\n        y = y + missing\n", ""),
        r"`if x == 1:`\) is gone from the new inner; go on .* %resume --at 5",
    ),
    "nothing left": ("\ndef inner(x):\n    pass\n", None),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_that_does_not_fit_loses_nothing(name: str) -> None:
    source, text = EDITS[name]
    book, run, out = parked()
    book.redefine(run, source)
    if text is None:  # another statement stands where the failing one stood
        assert ": `pass`" in str(run.plan(Restart()))
    else:
        with pytest.raises(PatchRejected, match=text):
            run.resume(Restart())
    assert run.state is State.SUSPENDED
    book.redefine(run, INNER.replace("missing", "100"))
    assert finish(run) is State.FINISHED
    assert out == CLEAN


def test_the_failing_statement_may_not_be_deleted() -> None:
    source = "def inner(x):\n    out.append(x)\n    missing\n    return x\n"
    book, run, out = parked(source, body="out.append(inner(1))")
    book.redefine(run, source.replace("    missing\n", ""))
    with pytest.raises(PatchRejected, match=r"line 3: `missing`.*%resume --at 3"):
        run.resume(Restart())
    assert finish(run, Restart(line=3)) is State.FINISHED
    assert out == [1, 1]


def test_no_jump_into_a_loop_that_is_not_running() -> None:
    source = (
        "def inner(x):\n    missing\n    for i in range(2):\n        out.append(i)\n"
    )
    _, run, _ = parked(source, body="inner(1)")
    with pytest.raises(CannotResume, match="inside the `for` of line 3"):
        run.resume(Restart(line=4))
    assert finish(run, Restart(line=3)) is State.FINISHED


def test_nothing_suspended() -> None:
    book = harness.Notebook()
    run = book.start("x = 1")
    assert run.wait(30) is State.FINISHED
    with pytest.raises(UsageError, match="No run is suspended"):
        run.resume(Restart())


def test_an_iterator_that_fails_is_not_asked_again() -> None:
    source = """
class Items:
    def __iter__(self):
        return map(self.get, range(4))
    get = staticmethod(lambda i: {0: "a", 2: "c", 3: "d"}[i])
def walk():
    for item in Items():
        out.append(item)
"""
    _, run, out = parked(source, body="walk()")
    with pytest.raises(CannotResume, match="might lose an item"):
        run.resume(Restart())
    assert finish(run, Restart(action=Action.SKIP)) is State.FINISHED
    assert out == ["a", "c", "d"]


@pytest.mark.parametrize("kind", ["with lines in front of it", "as it was"])
def test_a_dead_iterator_is_not_gone_on_with_in_an_edited_function(kind) -> None:
    """A statement in front of the loop is no other statement in its place."""
    source = (
        "class Items:\n"
        "    __iter__ = staticmethod(lambda: map(eval, ['0', 'missing', '2']))\n"
        "def walk():\n"
        "    for item in Items():\n"
        "        out.append(item)\n"
    )
    book, run, out = parked(source, body="walk()")
    book.names["missing"] = 1
    added = "    out.append('new')\n" if kind.startswith("with") else ""
    book.redefine(
        run, source.replace("    for item in Items", f"{added}    for item in Items")
    )
    with pytest.raises(CannotResume, match="might lose an item"):
        run.resume(Restart())
    other = source.replace("for item in Items()", "while out[-1] != 9")
    book.redefine(run, other.replace("out.append(item)", "out.append(9)"))
    run.resume(Restart())
    assert run.wait(30) is State.FINISHED
    assert out == [0, 9]


def test_a_run_that_does_not_park_raises() -> None:
    book = harness.Notebook()
    run = book.start("{}['x']", parks=False)
    assert run.wait(30) is State.FAILED
    assert isinstance(run.error, KeyError)


@pytest.mark.parametrize(
    "edit", ["criterion(model(x), y + 1)", "criterion(model(x), y)"]
)
def test_a_value_that_is_ready_is_not_made_again(edit: str) -> None:
    cells = """
def model(x):
    out.append("model")
    return x
def train(x, y):
    loss = criterion(model(x), y)
    return loss
"""
    book = harness.Notebook()
    book.names["out"] = out = []
    book.names["criterion"] = lambda a, b: a // b
    book.cell(cells)
    run = book.start("out.append(train(4, 0))")
    assert run.wait(30) is State.SUSPENDED
    book.names["criterion"] = lambda a, b: a + b
    book.redefine(run, cells.replace("criterion(model(x), y)", edit))
    assert finish(run) is State.FINISHED
    assert out == ["model", 5 if "1" in edit else 4]


def test_a_value_is_made_again_if_what_made_it_was_edited() -> None:
    model = "def model(x):\n    out.append('model')\n    return x\n"
    book = harness.Notebook()
    book.names["out"] = out = []
    book.names["criterion"] = lambda a, b: b // a
    book.cell(model)
    book.cell("def train(x, y):\n    return criterion(model(x), y)\n")
    run = book.start("out.append(train(0, 6))")
    assert run.wait(30) is State.SUSPENDED
    book.redefine(run, model.replace("return x", "return x + 3"))
    plan = run.plan(Restart())
    assert plan.notes == (
        "runs again, since what it uses was edited: `model(x)`",
        "runs again from its beginning: `criterion(model(x), y)` "
        "(it failed inside tests)",
    )
    assert finish(run) is State.FINISHED
    assert out == ["model", "model", 2]


@pytest.mark.parametrize(
    "statement",
    [
        "log.append((d['k'], T(1)))",
        "x = T(0), d['k'], T(1)",
        "x = {'a': d['k'], 'b': T(1)}",
        "x = f\"{d['k']} {T(1)}\"",
        "x = d['k'] or T(1)",
        "x = max(T(0), d['k'], key=T(None))",
        "x = nowhere + T(1)",
        "x = d.missing.more(T(1)) if T(0) else d['k'] + T(1)",
        "log.append((lambda v: v)(d['k']) + T(1) * T(2))",
        "x = [T(0), d['k'][T(0)]]",
        "d['k'][T(0)] = T(1)",
        "x = T(0) < d['k'] < T(9)",
    ],
)
def test_only_values_that_were_made_are_used_again(statement: str) -> None:
    """What fails may stand to the left of calls that have not run yet."""
    probe, out = harness.Probe(), list[Any]()
    book = harness.Notebook()
    book.names |= {"T": probe, "d": {}, "log": out}
    cell = f"def f():\n    x = None\n    for i in range(2):\n        {statement}\n"
    book.cell(cell + "    return x\n")
    run = book.start("result = f()")
    assert run.wait(30) is State.SUSPENDED
    good: dict[str, Any] = {"d": {"k": 5}, "nowhere": 1}
    if "d['k'][" in statement:
        good["d"] = {"k": [7, 8]}
    book.names |= good
    assert finish(run) is State.FINISHED, run.error
    clean, trace = {"T": (plain := harness.Probe()), **good, "log": (log := [])}, out
    if "d['k'][" in statement:
        clean["d"] = {"k": [7, 8]}
    exec(cell + "    return x\nresult = f()", clean)
    assert (book.names["result"], trace) == (clean["result"], log)
    assert probe.out == plain.out


def test_a_comprehension_that_begins_again_is_told() -> None:
    book = harness.Notebook()
    book.names |= {"T": (probe := harness.Probe()), "d": {0: 0}}
    book.cell("def f():\n    return sum([T(i) + d[i] for i in range(2)]) + T(5)\n")
    run = book.start("result = f()")
    assert run.wait(30) is State.SUSPENDED
    book.names["d"] = {0: 0, 1: 1}
    part = "[T(i) + d[i] for i in range(2)]"
    assert run.plan(Restart()).notes == (f"runs again from its beginning: `{part}`",)
    assert finish(run) is State.FINISHED
    assert (book.names["result"], probe.out) == (7, [0, 1, 0, 1, 5])


def test_a_recursion_that_is_too_deep_is_held_where_it_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guards, "STRICT", False)  # at the limit asking fails, too
    book = harness.Notebook()
    book.cell("def f(x):\n    return f(x + 1)\ndef g(x):\n    return f(x)\n")
    book.names["start"] = 1
    run = book.start("result = g(start)")
    assert run.wait(30) is State.SUSPENDED
    assert [held.name for held in run.suspension.frames] == ["f", "g", "<module>"]
    assert run.suspension.error.__context__ is None
    with pytest.raises(CannotResume, match="f has already been left"):
        run.resume(Restart())
    assert finish(run, Restart(action=Action.RETURN, value=0)) is State.FINISHED


def test_a_recursion_error_keeps_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "STRICT", False)  # at the limit asking fails, too
    book = harness.Notebook()
    book.cell("def f(x):\n    return f(x + 1)\n")
    with pytest.raises(RecursionError) as caught:
        book.names["f"](0)
    assert caught.value.__context__ is None


class Undecided:
    """A context manager of which nobody can tell what it will do."""

    def __init__(self, *answers: bool) -> None:
        self.answers = iter(answers)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> bool:
        return next(self.answers)


BLOCK = """
for i in range(3):
    with undecided:
        T(i)
        table[i]
    T("behind")
"""
IN_FUNCTION = f"def f():{BLOCK.replace(chr(10), chr(10) + '    ')}\n"


@pytest.mark.parametrize("source", [BLOCK, IN_FUNCTION], ids=["cell", "function"])
@pytest.mark.parametrize(
    ("restart", "expected"),
    [
        (Restart(line=3), [0, "behind", 1, 1, "behind", 2, "behind"]),
        (Restart(action=Action.SKIP), [0, "behind", 1, "behind", 2, "behind"]),
    ],
    ids=["at", "skip"],
)
def test_a_block_that_has_been_left_is_not_gone_on_in(
    source: str, restart: Restart, expected: list[object]
) -> None:
    book = harness.Notebook()
    table, probe = {0: 0, 2: 2}, harness.Probe()
    undecided = Undecided(False, False, False, False)
    book.names |= {"T": probe, "table": table, "undecided": undecided}
    if source is IN_FUNCTION:
        book.cell(source)
    run = book.start(source if source is BLOCK else "f()")
    assert run.wait(30) is State.SUSPENDED
    table[1] = 1
    with pytest.raises(CannotResume, match="the `with` of line 3 has already been lef"):
        run.resume(Restart())
    assert finish(run, restart) is State.FINISHED
    assert probe.out == expected


# -- what a library call had half done -------------------------------------------------


class Half:
    """A rollback that notes when it is used."""

    def __init__(self, out: list[Any], *, is_exact: bool = True) -> None:
        self.out = out
        self.is_exact = is_exact
        self.note = "the step had begun"
        self.gives_again = False

    def apply(self) -> None:
        self.out.append("rolled back")


def half_done(*, is_exact: bool = True) -> tuple[harness.Notebook, Run, list[Any]]:
    out: list[Any] = []
    hooks = Hooks(on_failure=lambda error, frame: [Half(out, is_exact=is_exact)])
    book = harness.Notebook()
    book.names["out"] = out
    book.cell("def f():\n    out.append('before')\n    out.append(missing)\n")
    run = book.start("f()\nout.append('end')\n", hooks=hooks)
    assert run.wait(30) is State.SUSPENDED
    return book, run, out


def test_what_was_half_done_is_taken_back_before_the_statement_runs_again() -> None:
    book, run, out = half_done()
    assert "the step had begun" in str(run.plan(Restart()))
    assert out == ["before"]
    book.names["missing"] = "done"
    assert finish(run) is State.FINISHED
    assert out == ["before", "rolled back", "done", "end"]


def test_an_outer_frame_takes_it_back_when_it_is_reached() -> None:
    book, run, out = half_done()
    book.names["missing"] = "done"
    assert finish(run, Restart(frame=1)) is State.FINISHED
    assert out == ["before", "rolled back", "before", "done", "end"]


def test_a_skipped_statement_takes_nothing_back() -> None:
    _, run, out = half_done()
    assert finish(run, Restart(action=Action.SKIP)) is State.FINISHED
    assert out == ["before", "end"]


def test_what_cannot_be_taken_back_is_refused_unless_a_line_is_named() -> None:
    book, run, out = half_done(is_exact=False)
    with pytest.raises(CannotResume, match=r"the step had begun; %resume --at 3"):
        run.resume(Restart())
    assert run.state is State.SUSPENDED
    book.names["missing"] = "done"
    assert finish(run, Restart(line=3)) is State.FINISHED
    assert out == ["before", "done", "end"]


def test_an_item_that_is_mended_in_place_is_got_again():
    body = "for i in range(3):\n    out.append(float(values[i]))\n"
    book = harness.Notebook()
    values, out = ["1", "none", "3"], []
    book.names.update(values=values, out=out)
    run = book.start(body)
    assert run.wait(30) is State.SUSPENDED
    values[1] = "2"
    run.resume(Restart())
    assert run.wait(30) is State.FINISHED
    assert out == [1.0, 2.0, 3.0]


def test_what_two_clauses_raise_together_is_handed_back():
    book = harness.Notebook()
    out: list[Any] = []
    book.names["out"] = out
    run = book.start(
        "out.append(1)\n"
        "try:\n"
        "    raise ExceptionGroup('g', [KeyError(), ValueError()])\n"
        "except* KeyError:\n"
        "    1 / 0\n"
        "except* ValueError:\n"
        "    {}['missing']\n"
    )
    assert run.wait(30) is State.FAILED
    assert isinstance(run.error, ExceptionGroup)
    assert out == [1]


def test_a_generator_whose_block_fails_twice_keeps_its_variables():
    book = harness.Notebook()
    probe = harness.Probe(1)
    book.names |= {"T": probe, "out": probe.out}
    book.cell("import contextlib")
    book.cell(
        "def g(k):\n"
        "    for i in range(2):\n"
        "        with contextlib.nullcontext():\n"
        "            T(k)\n"
        "            T(i)\n"
        "    yield k\n"
    )
    run = book.start("found = list(g(5))\n")
    for fail_at in (3, None):
        assert run.wait(30) is State.SUSPENDED
        probe.fail_at = fail_at
        run.resume(Restart())
    assert run.wait(30) is State.FINISHED, run.error
    assert probe.out == [5, 0, 5, 1]
    assert book.names["found"] == [5]
