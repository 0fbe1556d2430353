"""The wheel holds the package and nothing else, and works by itself."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    done = subprocess.run(
        [*command, "--outdir", str(folder), str(root)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.iterdir()
    return found


def test_wheel_holds_exactly_the_package(
    wheel: Path, files: list[Path], root: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
        extra = {n.split("/", 1)[1] for n in set(archive.namelist()) - names}
    package = {p.relative_to(root).as_posix() for p in files}
    assert names == {name for name in package if name.startswith("gpurescue/")}
    assert "gpurescue/py.typed" in names
    assert extra == {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE"}


def test_metadata_is_that_of_pyproject(wheel: Path, pyproject: dict[str, Any]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("METADATA")]
        found = message_from_string(archive.read(name).decode())
    project = pyproject["project"]
    assert found["Version"] == project["version"]
    assert found["Requires-Python"] == project["requires-python"]
    assert found["License-Expression"] == "Apache-2.0"
    plain = [r for r in found.get_all("Requires-Dist") if "extra ==" not in r]
    assert sorted(plain) == sorted(project["dependencies"])


def test_every_module_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import importlib, pkgutil, sys; sys.path.insert(0, sys.argv[1])\n"
        "import gpurescue\n"
        "assert gpurescue.__file__.startswith(sys.argv[1]), gpurescue.__file__\n"
        "for found in pkgutil.walk_packages(gpurescue.__path__, 'gpurescue.'):\n"
        "    importlib.import_module(found.name)\n"
        "print(gpurescue.__version__)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in wheel.name
