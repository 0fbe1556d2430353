"""Objects written with their bytes beside them, and made again."""

from __future__ import annotations

import itertools
import random
import socket
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gpurescue.errors import CannotResume  # noqa: E402
from gpurescue.state import graph, rebuilding  # noqa: E402


def again(roots):
    """What is captured and made again, from copies of the bytes."""
    found = graph.capture(roots)
    storages = [torch.UntypedStorage(s.nbytes()).copy_(s) for s in found.storages]
    buffers = [bytearray(buffer.raw()) for buffer in found.buffers]
    return rebuilding.rebuild(
        found.data, rebuilding.Parts(storages.__getitem__, buffers, {}.__getitem__)
    ), found


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.second = torch.nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm = torch.nn.BatchNorm1d(4)
        self.register_buffer("part", self.norm.running_mean[:2])


def test_what_shares_memory_shares_it_again():
    model = Tied()
    optimizer = torch.optim.Adam(model.parameters())
    model.norm(model.second(model.first(torch.randn(8, 4)))).sum().backward()
    optimizer.step()
    found, captured = again({"model": model, "optimizer": optimizer})
    one, adam = found["model"], found["optimizer"]
    assert one.second.weight is one.first.weight
    assert adam.param_groups[0]["params"][0] is one.first.weight
    one.norm.running_mean[0] = 7
    assert one.part[0] == 7
    moments = adam.state[one.first.weight]["exp_avg"]
    assert torch.equal(moments, optimizer.state[model.first.weight]["exp_avg"])
    assert captured.lost == {}
    distinct = {t.untyped_storage()._cdata for t in model.state_dict().values()}
    assert distinct <= {s._cdata for s in captured.storages}


def test_the_bytes_are_not_in_the_pickle():
    roots = {"x": torch.ones(1_000_000), "y": np.ones(1_000_000)}
    found, captured = again(roots)
    assert len(captured.data) < 2_000
    assert torch.equal(found["x"], roots["x"])
    assert np.array_equal(found["y"], roots["y"])
    found["y"][0] = 2  # can be written to


def test_functions_closures_and_classes_of_a_notebook():
    scope = {"__name__": "__main__"}
    source = """
class Counter:
    def __init__(self): self.n = 0
    def more(self): self.n += 1; return self.n
def make(k):
    c = Counter()
    def inner(): return k * c.more()
    return inner
f = make(3); f()
"""
    exec(source, scope)
    found, captured = again({"f": scope["f"], "Counter": scope["Counter"]})
    assert found["f"]() == 6
    assert captured.lost == {}


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: socket.socket(), "socket"),
        (lambda: threading.local(), "_local"),
        (lambda: open("/dev/null"), "TextIOWrapper"),
        (lambda: (x for x in [1]), "generator"),
        (lambda: memoryview(b"x"), "memoryview"),
    ],
)
def test_what_cannot_be_written_is_named_and_the_rest_is_there(make, kind):
    value = make()

    class Trainer:
        def __init__(self):
            self.parts = {"deep": [1, value]}

    def closing():
        return value

    found, captured = again({"trainer": Trainer(), "n": 3, "f": closing})
    assert found["n"] == 3
    assert repr(found["trainer"].parts["deep"][1]) == (
        f"<a {kind} that could not be kept>"
    )
    assert [text.partition(":")[0] for text in captured.lost.values()] == [kind]
    (path,) = captured.lost
    assert path in {"trainer.parts['deep'][1]", "f.<closure>.value"}
    if hasattr(value, "close"):
        value.close()


def test_an_object_that_refuses_is_named():
    class Refuses:
        def __reduce__(self):
            raise RuntimeError("no")

    found, captured = again({"x": [Refuses()]})
    assert captured.lost == {"x[0]": "Refuses"}
    assert found["x"][0].kind == "Refuses"


@pytest.mark.parametrize(
    "made",
    [None, 7, (), (dict,), (dict, []), (7, ()), [dict, ()], (dict, (), None, [1]),
     (dict, (), None, None, 7), (dict, (), None, None, None, 7), (dict,) * 7],
    ids=repr,
)  # fmt: skip
def test_an_object_that_is_made_of_nonsense_is_named(made):
    class Odd:
        def __reduce__(self):
            return made

    found, captured = again({"x": [Odd(), 5]})
    assert captured.lost == {"x[0]": "Odd"}
    assert found["x"][0].kind == "Odd"
    assert found["x"][1] == 5


def test_random_streams_go_on():
    roots = {
        "a": random.Random(1),
        "b": np.random.default_rng(2),
        "c": torch.Generator().manual_seed(3),
    }
    found, captured = again(roots)
    assert captured.lost == {}
    assert found["a"].random() == roots["a"].random()
    assert found["b"].random() == roots["b"].random()
    one, two = (torch.rand(3, generator=g["c"]) for g in (roots, found))
    assert torch.equal(one, two)


def test_many_tensors_take_time_in_proportion():
    import time

    def seconds(count):
        tensors = [torch.ones(4) for _ in range(count)]
        start = time.thread_time()
        graph.capture({"t": tensors})
        return time.thread_time() - start

    assert min(seconds(8_000) for _ in range(3)) < 20 * min(
        seconds(1_000) for _ in range(3)
    )


def test_what_is_no_longer_found_by_its_name_is_lost(monkeypatch):
    import builtins

    before = builtins.input
    monkeypatch.setattr(builtins, "input", lambda: "")  # as a kernel does
    hidden = type("Hidden", (), {"__module__": "json", "__reduce__": lambda s: "nope"})
    found, captured = again({"input": before, "len": len, "x": [hidden()]})
    assert captured.lost == {
        "input": "builtin_function_or_method",
        "x[0]": "Hidden",
    }
    assert found["len"] is len


ITERATORS = [
    range, lambda n: list(range(n)), lambda n: tuple(range(n)), lambda n: "x" * n,
    lambda n: dict.fromkeys(range(n)), lambda n: dict.fromkeys(range(n)).items(),
    lambda n: set(range(n)), lambda n: reversed(range(n)), itertools.count,
    lambda n: enumerate(range(n), 4), lambda n: zip(range(n), "abc", strict=False),
    lambda n: map(str, range(n)), lambda n: filter(None, range(n)),
    lambda n: itertools.islice(range(n), 2, 9, 2),
    lambda n: itertools.chain([1], range(n)), lambda n: itertools.cycle(range(n)),
    lambda n: itertools.product(range(n), "ab"), lambda n: itertools.accumulate([n]),
]  # fmt: skip


@pytest.mark.parametrize("make", ITERATORS)
@pytest.mark.parametrize("num_taken", [0, 1, 3, 30])
def test_iterators_go_on_where_they_were(make, num_taken):
    iterator = iter(make(7))
    list(itertools.islice(iterator, num_taken))
    found, captured = again({"iterator": iterator})
    assert captured.lost == {}
    rest = list(itertools.islice(found["iterator"], 20))
    assert rest == list(itertools.islice(iterator, 20))


def test_what_asks_something_lost_says_so_when_it_is_asked():
    asks = [enumerate(x for x in "ab"), map(lambda x: x, iter(x for x in "ab"))]
    found, captured = again({"asks": asks, "n": 3})
    assert found["n"] == 3
    assert sorted(captured.lost) == ["asks[0].<iterator>", "asks[1].<iterator>"]
    for iterator in found["asks"]:
        with pytest.raises(CannotResume, match="generator is asked for"):
            next(iterator)


def test_a_bunch_of_scikit_learn_keeps_its_attributes():
    datasets = pytest.importorskip("sklearn.datasets")
    wine = datasets.load_wine()
    found = again({"wine": wine})[0]["wine"]
    assert type(found) is type(wine)
    assert vars(found) == vars(wine) != {}
    assert np.array_equal(found.data, wine.data)


def test_what_could_not_be_kept_says_so_when_it_is_used():
    found = again({"lock": threading.Thread(target=print)})[0]["lock"]
    twice = again({"lock": found})[0]["lock"]
    for lost in (found, twice):
        assert not hasattr(lost, "start")
        with pytest.raises(AttributeError, match=r"could not be kept .* 'start'"):
            lost.start()


def test_hooks_on_loading_keep_what_they_are_called():
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2))
    found = again({"layer": layer})[0]["layer"]
    (before,) = layer._load_state_dict_pre_hooks.values()
    (after,) = found._load_state_dict_pre_hooks.values()
    assert after.__qualname__ == before.__qualname__
    found.load_state_dict(layer.state_dict())
    assert torch.equal(found.weight, layer.weight)
