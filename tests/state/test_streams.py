"""Random streams: put back exactly, however they have moved."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

from gpurescue.state.streams import Streams  # noqa: E402

DRAWS: list[Callable[[], Any]] = [
    lambda: random.random(),
    lambda: random.gauss(),
    lambda: random.getrandbits(7),
    lambda: np.random.rand(),
    lambda: np.random.randn(),
    lambda: np.random.permutation(5).tolist(),
    lambda: torch.rand(()).item(),
    lambda: torch.randn(3).tolist(),
    lambda: torch.randperm(4).tolist(),
]


def test_each_draw_comes_again() -> None:
    """Read before every draw, so that what is kept from the last read is right."""
    np.random.seed(0)  # loads it: until then it has no state
    streams, order = Streams(), random.Random(0)
    chosen = [order.choice(DRAWS) for _ in range(400)]
    for draw, following in itertools.pairwise(chosen):
        restore = streams.read()
        first = draw(), following()
        restore()
        assert (draw(), following()) == first


def test_an_old_reading_stays_good() -> None:
    streams = Streams()
    restore = streams.read()
    expected = [draw() for draw in DRAWS]
    for _ in range(50):
        streams.read()
        for draw in DRAWS:
            draw()
    restore()
    assert [draw() for draw in DRAWS] == expected
