"""No worker outlives the test that it belongs to."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("torch")

from training import let_go


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    yield
    let_go()
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()
