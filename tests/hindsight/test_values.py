"""Values that are logged, taken and stored."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurescue.hindsight import values
from gpurescue.hindsight.records import ARRAY, FIGURE, FLAG, JSON, SCALAR, TENSOR, TEXT

torch = pytest.importorskip("torch")


def through(value):
    """The kind of a value, and what is read of what is stored of it."""
    kind, found = values.stored(values.taken(value))
    assert type(found) in {int, float, str, bytes, type(None)}
    return kind, values.read(kind, found)


@given(st.floats() | st.integers(-(2**63) + 1, 2**63 - 1) | st.booleans())
def test_numbers_are_the_same_to_the_last_bit(value):
    kind, found = through(value)
    assert kind == (FLAG if isinstance(value, bool) else SCALAR)
    assert type(found) is type(value)
    assert repr(found) == repr(value)


@given(st.text())
def test_texts_are_the_same(value):
    assert through(value) == (TEXT, value)


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        (2**70, TEXT, str(2**70)),
        ("half \ud800", TEXT, "half ?"),
        (None, JSON, None),
        ([1, {"a": 2.5}], JSON, [1, {"a": 2.5}]),
        (np.float32(0.1), SCALAR, float(np.float32(0.1))),
        (np.int64(3), SCALAR, 3),
        (np.bool_(True), FLAG, True),
        (np.array(2.0), SCALAR, 2.0),
        (np.datetime64("2026-01-02"), ARRAY, np.datetime64("2026-01-02")),
        (torch.tensor(0.1), SCALAR, float(np.float32(0.1))),
        (torch.tensor(7), SCALAR, 7),
        (torch.tensor(True), FLAG, True),
        (torch.tensor(0.1, dtype=torch.bfloat16), SCALAR, 0.10009765625),
        (torch.tensor(math.inf), SCALAR, math.inf),
    ],
)
def test_what_is_stored_of_others(value, kind, wanted):
    assert through(value) == (kind, wanted)


def test_what_is_no_number_is_one_again():
    kind, found = through(torch.tensor(math.nan))
    assert kind == SCALAR
    assert math.isnan(found)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.complex64, bool])
def test_arrays_are_the_same(dtype):
    value = np.arange(6).reshape(2, 3).astype(dtype)
    kind, found = through(value)
    assert kind == ARRAY
    assert found.dtype == value.dtype
    assert np.array_equal(found, value)


def test_tensors_are_arrays_of_the_same_numbers():
    value = torch.randn(2, 3, requires_grad=True).T
    kind, found = through(value)
    assert kind == TENSOR
    assert np.array_equal(found, value.detach().numpy())
    kind, found = through(value.bfloat16())
    assert np.array_equal(found, value.bfloat16().float().detach().numpy())


def test_what_is_written_to_afterwards_is_stored_as_it_was():
    tensor, array = torch.zeros(3), np.zeros(3)
    taken = [values.taken(tensor), values.taken(tensor[0]), values.taken(array)]
    tensor += 1
    array += 1
    found = [values.read(*values.stored(x)) for x in taken]
    assert [np.sum(x) for x in found] == [0, 0, 0]


def test_a_graph_is_not_kept_alive():
    loss = (torch.ones(3, requires_grad=True) * 2).sum()
    assert values.taken(loss).grad_fn is None


def test_what_is_too_large_is_named():
    kind, found = through(np.zeros(values.MOST_BYTES + 1, dtype=np.int8))
    assert (kind, found) == (TEXT, "a ndarray of shape (16777217,): too large")
    kind, found = through(torch.zeros(1).expand(values.MOST_BYTES))
    assert kind == TEXT


class Odd:
    def __repr__(self):
        return "odd"


class Worse:
    def __repr__(self):
        raise ValueError("no")


def test_objects_are_named_by_their_repr():
    assert through(Odd()) == (TEXT, "odd")
    assert through(np.array([Odd()], dtype=object))[0] == TEXT


def test_a_value_that_cannot_be_stored_costs_no_other_one():
    taken = values.taken(np.array([Worse()], dtype=object))
    kind, found = values.stored(taken)
    assert (kind, found) == (TEXT, "a ndarray that cannot be kept: no")


def test_a_figure_is_a_picture():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure()
    figure.add_subplot().plot([1, 2])
    kind, found = through(figure)
    assert kind == FIGURE
    assert found.startswith(b"\x89PNG")


def test_no_random_number_is_drawn():
    import random

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    for value in (1.0, torch.randn, np.ones(3), torch.ones(()), "x", [1], Odd()):
        through(value)
    assert torch.equal(before[0], torch.get_rng_state())
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])
