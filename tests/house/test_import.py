"""``import gpurescue`` is quick, loads nothing heavy and does nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gpurescue

HEAVY = {"IPython", "ipykernel", "ipywidgets", "matplotlib", "numpy", "pandas", "torch"}
BUDGET = 0.1  # seconds
IMPORT = """
import json, sys, time
import _thread, atexit, threading
written = []
def watch(event, args):
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        written.append(str(args[0]))
    elif event in ("os.mkdir", "os.rename", "socket.__new__", "subprocess.Popen"):
        written.append(event)
sys.addaudithook(watch)
def hooks():
    return [*sys.meta_path, *sys.path_hooks, sys.excepthook, threading.excepthook,
            sys.gettrace(), sys.getprofile(), atexit._ncallbacks()]
before, num_threads = hooks(), _thread._count()
start = time.perf_counter()
import gpurescue
took = time.perf_counter() - start
print(json.dumps({
    "took": took, "modules": sorted({n.partition(".")[0] for n in sys.modules}),
    "ours": [n for n in sys.modules if n.startswith("gpurescue")],
    "written": written, "hooks": hooks() == before,
    "threads": _thread._count() - num_threads,
}))
"""


@pytest.fixture(scope="module")
def imports(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What three fresh interpreters say about importing us."""
    env = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    folder = tmp_path_factory.mktemp("import")
    found = []
    for _ in range(3):
        command = [sys.executable, "-c", IMPORT]
        done = subprocess.run(
            command, env=env, cwd=folder, capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout))
    assert not list(folder.iterdir())
    return found


def test_import_is_quick(imports: list[Any]) -> None:
    assert min(found["took"] for found in imports) < BUDGET


def test_import_loads_nothing_heavy(imports: list[Any]) -> None:
    assert not HEAVY & set(imports[0]["modules"])
    assert imports[0]["ours"] == ["gpurescue"]


def test_import_does_nothing(imports: list[Any]) -> None:
    assert imports[0]["written"] == []
    assert imports[0]["threads"] == 0
    assert imports[0]["hooks"]


def test_public_names_are_sorted_and_there() -> None:
    assert gpurescue.__all__ == sorted(gpurescue.__all__)
    assert len(gpurescue.__all__) == len(set(gpurescue.__all__))
    for name in gpurescue.__all__:
        value = getattr(gpurescue, name)
        assert name == "__version__" or value.__doc__, name


def test_type_checkers_see_the_same_names(root: Path) -> None:
    """Names for type checkers are imported; others come from ``__getattr__``."""
    homes = gpurescue._HOMES
    lazy = {name for names in homes.values() for name in names}
    here = {n for n in gpurescue.__all__ if n in vars(gpurescue)} | {"__version__"}
    assert lazy | here == set(gpurescue.__all__)
    text = (root / "gpurescue" / "__init__.py").read_text()
    checked = text.split("if TYPE_CHECKING:", 1)[1].split("__all__", 1)[0]
    for home, names in homes.items():
        assert f"from {home} import" in checked
        assert all(name in checked for name in names)


def test_version_is_that_of_pyproject(root: Path, pyproject: dict[str, Any]) -> None:
    assert gpurescue.__version__ in {pyproject["project"]["version"], "0+source"}
