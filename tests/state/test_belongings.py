"""What modules have in themselves, written down and given to modules anew."""

from __future__ import annotations

import abc
import importlib
import sys
import threading

import pytest

from gpurescue.state import belongings, graph, rebuilding

TEXT = """
import abc, dataclasses, enum, functools
NOTHING = object()
n, cache, names = 0, {}, []
class Plain:
    rate = 1
    table = cache
    def __init__(self, found=NOTHING):
        self.found = found
    @staticmethod
    def helped(past=names):
        return past
    @classmethod
    def made(cls, found=cache):
        return found
    @property
    def size(self):
        return 1
class Base(abc.ABC):
    known = []
class Color(enum.Enum):
    RED = 1
@dataclasses.dataclass
class Config:
    rate: float = 0.1
    depth: int = 2
def counting(function):
    calls = 0
    @functools.wraps(function)
    def wrapper(*given):
        nonlocal calls
        calls += 1
        wrapper.calls = calls
        return function(*given)
    return wrapper
@counting
def is_nothing(x=NOTHING, *, into=cache):
    into[len(into)] = x
    return x is NOTHING
tick, tock = counting(lambda: n), counting(len)
"""


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """Imports the module, anew each time."""
    (tmp_path / "own_things.py").write_text(TEXT)
    monkeypatch.syspath_prepend(str(tmp_path))

    def again():
        sys.modules.pop("own_things", None)
        importlib.invalidate_caches()
        return importlib.import_module("own_things")

    yield again
    sys.modules.pop("own_things", None)


def carried(module, imported, **roots):
    """Write a module down, import it anew, and give it what it had."""
    variables = belongings.variables_of({"own_things": module})
    captured = graph.capture({**roots, **variables})
    new = imported()
    buffers = [bytearray(buffer.raw()) for buffer in captured.buffers]
    parts = rebuilding.Parts({}.__getitem__, buffers, {}.__getitem__)
    found = rebuilding.rebuild(captured.data, parts)
    values = belongings.modules_of(found)["own_things"]
    given = belongings.Given()
    given.give(new, values, belongings.unkept(values))
    return new, found, captured.lost, given


def test_all_that_a_module_has_changed_is_there_again(imported):
    old = imported()
    old.n = 7
    old.Plain.rate = 2
    old.Plain.more = [1]
    old.Config.rate = 0.5
    old.Base.known.append(3)
    old.names.append("x")
    old.is_nothing()
    old.tick()
    new, _, lost, _ = carried(old, imported)
    assert lost == {}
    assert new is sys.modules["own_things"]
    assert (new.n, new.Plain.rate, new.Plain.more) == (7, 2, [1])
    assert (new.Config.rate, new.Config().rate, new.Base.known) == (0.5, 0.1, [3])
    assert new.is_nothing.calls == 1
    assert new.is_nothing()
    assert new.is_nothing.calls == 2
    assert new.tick.__name__ == "<lambda>"
    new.tick()
    assert new.tick.calls == 2


def test_what_a_module_shares_within_itself_is_shared_again(imported):
    old = imported()
    new, found, _, _ = carried(old, imported, mine=old.cache, none=old.NOTHING)
    assert new.is_nothing()
    assert new.cache == {0: new.NOTHING}
    shared = [new.Plain.table, new.Plain.made(), found["mine"]]
    assert all(one is new.cache for one in shared)
    assert new.Plain.helped() is new.names
    assert new.Plain().found is new.NOTHING is found["none"]


def test_functions_and_classes_stay_what_the_import_has_made(imported):
    old = imported()
    red, kept = old.Color.RED, old.Plain()
    new, found, _, _ = carried(old, imported, red=red, kept=kept)
    assert found["red"] is new.Color.RED
    assert type(found["kept"]) is new.Plain
    assert new.Base.__abstractmethods__ == frozenset()
    assert isinstance(new.Base, abc.ABCMeta)


def test_what_was_put_in_the_place_of_a_function_is_there_again(imported):
    old = imported()
    scope = {"__name__": "__main__"}
    exec("def size(self, x=1): return 5\ndef f(): return 6", scope)
    old.Plain.helped, old.tick = scope["size"], scope["f"]
    new, _, lost, _ = carried(old, imported)
    assert lost == {}
    assert (new.Plain().helped(), new.tick()) == (5, 6)


def test_what_leads_to_something_lost_stays_as_imported(imported):
    old = imported()
    old.names.append(threading.local())
    old.n = 3
    new, _, lost, _ = carried(old, imported)
    assert list(lost) == ["<module own_things>['names'][0]"]
    assert (new.n, new.names) == (3, [])
    assert new.Plain.helped() is new.names


def test_it_can_be_taken_back(imported):
    old = imported()
    old.n, old.more, old.Plain.rate, old.Plain.more = 3, 4, 5, 6
    old.is_nothing()
    new, _, _, given = carried(old, imported)
    assert new.more == 4
    given.take_back()
    assert (new.n, new.Plain.rate, new.cache) == (0, 1, {})
    assert not hasattr(new, "more")
    assert not hasattr(new.Plain, "more")
    assert not hasattr(new.is_nothing, "calls")


def test_what_a_module_no_longer_has_is_passed_over(imported, tmp_path):
    old = imported()
    old.Plain.rate, old.n = 4, 2
    (tmp_path / "own_things.py").write_text("n = 0\n")
    new, _, _, _ = carried(old, imported)
    assert new.n == 2
    assert not hasattr(new, "Plain")
