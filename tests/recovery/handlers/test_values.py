"""Reading live frames: locals, value stack, callables."""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
from types import FrameType
from typing import Any

import harness
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpurescue.recovery.engine import State
from gpurescue.recovery.handlers import crossing, tables, values
from gpurescue.recovery.handlers.abstract import Known


def test_available_here() -> None:
    assert values.available()


def test_a_run_asks_before_a_compiler_changes_how_calls_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(values, "_works", False)
    assert harness.Notebook().start("x = 1").wait(30) is State.FINISHED
    assert values._works


def test_unknown_versions_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "_works", False)
    monkeypatch.setattr(sys, "version_info", (3, 19, 0, "final", 0))
    assert not values.available()


def test_failing_self_test_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise(frame: FrameType, index: int) -> Any:
        raise values.Unreadable("moved")

    monkeypatch.setattr(values, "_works", False)
    monkeypatch.setattr(values, "slot", surprise)
    assert not values.available()
    monkeypatch.undo()
    assert values.available()


def test_local_cells_and_free_variables() -> None:
    outer = object()

    def sample(a: object, b: object, *rest: object, key: object = 4) -> FrameType:
        assert (lambda: (b, outer))() == (b, outer)  # makes b a cell
        return _check(sys._getframe())

    def _check(frame: FrameType) -> FrameType:
        names = frame.f_code._varname_from_oparg  # type: ignore[attr-defined]
        found = {names(i): values.local(frame, i) for i in range(5)}
        assert found["a"] == 1
        assert found["b"].cell_contents == 2
        assert found["key"] == 4
        assert found["rest"] == (3,)
        assert values.first_argument(frame) == 1
        return frame

    sample(1, 2, 3)


def test_unbound_local_is_unreadable() -> None:
    def sample() -> None:
        with pytest.raises(values.Unreadable):
            values.local(sys._getframe(), 0)
        later = 1
        del later

    assert sample.__code__.co_varnames == ("later",)
    sample()


def test_index_out_of_range_is_unreadable() -> None:
    frame = sys._getframe()
    for index in (-1, 10_000):
        with pytest.raises(values.Unreadable):
            values.local(frame, index)
        with pytest.raises(values.Unreadable):
            values.slot(frame, index)


def test_object_at_refuses_what_is_no_object() -> None:
    for address in (0, 3):
        with pytest.raises(values.Unreadable):
            values.object_at(address)
    assert values.object_at(id(None)) is None
    assert values.object_at(id(values)) is values


def test_reading_leaves_reference_counts_alone() -> None:
    thing = object()
    before = sys.getrefcount(thing)
    frame = sys._getframe()
    for _ in range(100):
        values.local(frame, 0)
        values.object_at(id(thing))
    del frame
    assert sys.getrefcount(thing) == before


def test_who_is_called_from_c() -> None:
    def look() -> bool:
        return values.called_from_c(sys._getframe())

    class Thing:
        def __call__(self) -> bool:
            return look()

        def __len__(self) -> int:
            return values.called_from_c(sys._getframe())

    assert not look()
    assert not Thing()()  # look() itself is called from Python
    assert len(Thing()) == 1
    assert functools.partial(look)()
    assert next(iter(map(lambda _: look(), [1]))) is False
    assert max([1], key=lambda _: look() or 5) == 1


class _Exit:
    def __enter__(self) -> _Exit:
        return self

    def __exit__(self, *exc: object) -> None:
        return None


def test_exit_callables_of_nested_withs() -> None:
    first, second, third = _Exit(), _Exit(), _Exit()
    with first, second:
        for _ in (1, 2):
            with third:
                frame = sys._getframe()
                entry = tables.listing(frame.f_code).entry(frame.f_lasti)
                assert entry is not None
                held = [values.slot(frame, i) for i in range(entry.depth)]
    exits = [value.__self__ for value in held if hasattr(value, "__func__")]
    assert exits == [first, second, third]


# --- the callable of a call, in random surroundings ---

_SEEN: list[bool] = []


def _look(*args: Any, **kwargs: Any) -> int:
    inner = sys._getframe()
    outer = inner.f_back
    assert outer is not None
    found = crossing.Crossing(outer, inner, Known(ValueError()))
    _SEEN.append(found.callable_pointer == id(_probe))
    return 1


_probe: Any = functools.partial(_look)  # C between the caller and _look

_ATOMS = st.sampled_from(
    ["a", "1", "probe()", "probe(a, 2)", "probe(*t)", "probe(k=1)"]
)


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(inner, inner)
    return st.one_of(
        pair.map(lambda p: f"({p[0]} + {p[1]})"),
        pair.map(lambda p: f"[{p[0]}, {p[1]}, *t]"),
        pair.map(lambda p: f"probe({p[0]}, k={p[1]})"),
        pair.map(lambda p: f"probe({p[0]}, *t, **{{'k': {p[1]}}})"),
        pair.map(lambda p: f"ident({p[0]}, {p[1]})"),
        pair.map(lambda p: f"obj.method({p[0]}, {p[1]})"),
        pair.map(lambda p: f"({p[0]} if {p[1]} else {p[0]})"),
        pair.map(lambda p: f"({p[0]} and {p[1]})"),
        pair.map(lambda p: f"{{{p[0]!r}: {p[0]}, 'b': {p[1]}}}"),
        pair.map(lambda p: f"[{p[0]} for _ in (1, 2) if {p[1]}]"),
        pair.map(lambda p: f"(lambda x=({p[0]}): x)({p[1]})"),
        inner.map(lambda p: f"(0 < {p} < 3)" if "[" not in p and "{" not in p else p),
        inner.map(lambda p: f"f'{{({p})!r:>3}}'" if "'" not in p else p),
        inner.map(lambda p: f"(y := {p})"),
    )


_EXPRESSIONS = st.recursive(_ATOMS, _grow, max_leaves=8)
_BLOCKS = st.sampled_from(
    [
        "{0}",
        "for _ in (1, 2):\n  {0}",
        "with cm() as q:\n  {0}",
        "with cm(), cm():\n  for _ in (1,):\n   with cm():\n    {0}",
        "try:\n  {0}\nfinally:\n  {0}",
        "try:\n  1 / 0\nexcept ZeroDivisionError as e:\n  {0}",
        "for i in (1,):\n  try:\n   1 / 0\n  except ZeroDivisionError:\n   {0}",
        "while True:\n  {0}\n  break",
        "match a:\n  case 7:\n   {0}",
    ]
)


class _Thing:
    def method(self, *args: object) -> object:
        return args[0]


@settings(max_examples=150, deadline=None, database=None)
@given(block=_BLOCKS, expression=_EXPRESSIONS)
def test_callable_is_found_in_any_expression(block: str, expression: str) -> None:
    if "'b'" in expression and "f'" in expression:
        return  # no nested quotes before 3.12
    text = block.format(expression)
    source = "def program(a, t, probe, ident, obj, cm):\n" + "\n".join(
        " " + line for line in text.splitlines()
    )
    names: dict[str, Any] = {}
    exec(compile(source, "<expression>", "exec"), names)
    _SEEN.clear()
    with contextlib.suppress(TypeError):  # 1 + [1]; what ran until then counts
        names["program"](
            7, (1, 2), _probe, lambda *a: a[0], _Thing(), contextlib.nullcontext
        )
    assert all(_SEEN)


def test_callable_is_never_read_when_it_may_be_gone() -> None:
    """Finalisers run while a call's operands are being released."""
    seen: list[bool] = []

    class Temporary:
        def __init__(self) -> None:
            self.me = self

        def __call__(self, *args: object) -> None:
            return None

        def __del__(self) -> None:
            inner = sys._getframe()
            if inner.f_back is None:
                return
            found = crossing.Crossing(inner.f_back, inner, Known(ValueError()))
            with contextlib.suppress(Exception):
                found.operand(found.callable_pointer)
            seen.append(True)

    def use(*args: object) -> None:
        return None

    for _ in range(200):
        temporary = Temporary()
        del temporary.me
        use(temporary, [1] * 3)
        del temporary
        functools.partial(use, 1)(Temporary.__new__(Temporary))
        Temporary.__new__(Temporary)(1, 2)
        print(Temporary.__new__(Temporary), end="", file=_Sink())
    gc.collect()
    assert len(seen) >= 600


class _Sink:
    def write(self, text: str) -> None:
        return None


def test_depth_agrees_with_suspended_generators() -> None:
    """A suspended frame knows its stack pointer: the one thing to compare with."""

    def one(a: Any) -> Any:
        yield 0
        print((yield 1), [a, (yield 2)], end="", file=_Sink())
        with contextlib.nullcontext():
            for _ in (1, 2):
                x = [a, {1: (yield 3)}, a]
                try:
                    x.append([a, (yield 4)])
                except ValueError:
                    yield 5
                finally:
                    x.append((a, (yield 6)))
        try:
            raise KeyError
        except KeyError as e:
            f"{e}{(yield 7)}"
        yield from (8, 9)

    generator = one(1)
    checked = 0
    for value in generator:
        frame = generator.gi_frame
        address = values.interpreter_frame(frame)
        top = values.word(address + 64) & 0xFFFFFFFF  # int stacktop
        listing = tables.listing(frame.f_code)
        depth = listing.depth(listing.start_of(frame.f_lasti))
        if value in (8, 9):  # SEND: what it delegates to, and what is sent
            continue
        assert top - listing.slots == depth - 1  # without the value it yielded
        checked += 1
    assert checked >= 10
