"""The tools of pyproject.toml have nothing to say."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

TOOLS = {
    "contracts": ("lint-imports", "--no-cache"),
    "types": ("mypy",),
    "lint": ("ruff", "check", "--no-cache", "."),
    "format": ("ruff", "format", "--check", "--no-cache", "."),
    "docstrings": ("interrogate", "-v", "gpurescue"),
}


@pytest.mark.parametrize("name", TOOLS)
def test_tool_is_content(name: str, root: Path, tmp_path: Path) -> None:
    tool, *arguments = TOOLS[name]
    if tool == "mypy":  # an old cache hides what it has not looked at again
        arguments += ["--cache-dir", str(tmp_path)]
    command = [str(Path(sysconfig.get_path("scripts")) / tool), *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
