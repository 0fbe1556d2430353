"""What libraries handle in their own test suites is left alone; see libraries.py."""

from __future__ import annotations

import importlib.util

import libraries
import pytest

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("library", ["networkx", "numpy", "test"])
def test_what_a_library_handles_is_not_intercepted(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")
    found = libraries.measure(library, 6)
    assert found["row"]["tests"]
    assert found["row"]["handled"] > 100
    assert not found["false"]
