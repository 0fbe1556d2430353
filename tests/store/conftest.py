from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from gpurescue.store.store import Store

KEY = b"k" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", key=KEY, create=True)


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    """Where anything is compiled nothing is lazy."""
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()


@pytest.fixture(autouse=True)
def jupyter(monkeypatch: pytest.MonkeyPatch, tmp_path_factory) -> None:
    """The user's own key is left alone."""
    folder = tmp_path_factory.mktemp("jupyter")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(folder))
