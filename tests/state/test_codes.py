"""Byte code that another version of Python has written is never made into code."""

from __future__ import annotations

import marshal

import cloudpickle
import pytest

from gpurescue.errors import CannotResume
from gpurescue.state import codes, graph, rebuilding
from gpurescue.state.lost import Lost


def parts(make=codes.cannot_make):
    return rebuilding.Parts({}.__getitem__, [], {}.__getitem__, make)


def named(x, y=3):
    return x + y


def written(monkeypatch, roots):
    """What another version of Python would have written."""
    monkeypatch.setattr(codes, "TAG", "cpython-30 ffff")
    monkeypatch.setattr(codes.marshal, "dumps", lambda code: b"nothing to read")
    program = graph.Program(origins=lambda code, module: (code.co_name, module))
    found = graph.capture(roots, program=program)
    monkeypatch.undo()
    return found.data


def functions():
    k = 2

    def inner(x):
        return k * x

    class Kind:
        def go(self):
            return inner(3)

    return inner, Kind


def test_what_nobody_can_make_is_a_stand_in_that_says_why(monkeypatch):
    inner, kind = functions()
    data = written(monkeypatch, {"f": inner, "kind": kind, "made": kind(), "n": 5})
    cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.clear()
    given = parts()
    found = rebuilding.rebuild(data, given)
    assert found["n"] == 5
    assert isinstance(found["f"], Lost)
    assert len(given.unmade) == 2
    for call in (found["f"], found["made"].go):
        with pytest.raises(CannotResume, match="made by another version of Python"):
            call(1)


def test_what_can_be_made_has_its_variables_by_name(monkeypatch):
    def make(a, b):
        def inner():
            return (a, b)

        return inner

    def turned(b, a):
        def inner():
            return (b, a)

        return inner

    given = []

    def compiled(origin):
        given.append(origin)
        return turned(0, 0).__code__.replace(co_freevars=("b", "a"))

    data = written(monkeypatch, {"f": make(1, 2)})
    found = rebuilding.rebuild(data, parts(compiled))["f"]
    assert given == [("inner", __name__)]
    assert found.__code__.co_freevars == ("b", "a")
    assert [cell.cell_contents for cell in found.__closure__] == [2, 1]


def test_code_of_this_version_is_its_bytes():
    tag, data, _ = codes.reduced(named.__code__, None)[1]
    assert tag == codes.TAG
    assert marshal.loads(data) == named.__code__


def test_a_pickle_with_plain_code_in_it_is_refused():
    inner, _ = functions()
    data = cloudpickle.dumps({"f": inner})
    with pytest.raises(CannotResume, match="early version of gpurescue"):
        rebuilding.rebuild(data, parts())


def test_what_a_module_no_longer_has_is_a_stand_in():
    data = cloudpickle.dumps({"f": named, "n": 3}).replace(b"named", b"gamed")
    found = rebuilding.rebuild(data, parts())
    assert found["n"] == 3
    with pytest.raises(CannotResume, match=r"which is not in .* here"):
        found["f"]()


def test_functions_of_no_module_share_their_variables_again():
    names = {"__name__": "nowhere"}
    exec("n = 1\ndef more():\n    global n\n    n += 1\n    return n", names)
    exec("def read():\n    return n", names)
    data = graph.capture({"more": names["more"], "read": names["read"]}).data
    found = rebuilding.rebuild(data, parts())
    assert found["more"]() == found["read"]() == 2
    assert names["n"] == 1
