"""Kernels for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from driver import Notebook


@pytest.fixture(scope="module")
def kernel() -> Iterator[Notebook]:
    with Notebook() as book:
        yield book


@pytest.fixture
def notebook(kernel: Notebook) -> Iterator[Notebook]:
    """A kernel with the extension loaded and no run in it."""
    loaded = kernel.run("%load_ext gpurescue")
    assert loaded.is_ok, loaded.traceback
    yield kernel
    kernel.run(
        "import gpurescue\nif 'suspended' in gpurescue.rescue():\n"
        "    gpurescue.resume(action='abandon')"
    )
