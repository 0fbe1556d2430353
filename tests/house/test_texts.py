"""What no file of the repository may hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

HOSTS = {"www.apache.org"}  # those that a file may name
URL = re.compile(r"(?:https?|ftp|git\+ssh)://([\w.-]+)")
INDEX = re.compile(r"(?:find-links|index-url|trusted-host)\b")
HOMES = re.compile(r"(?<![\w.])/(?:home|opt|private|root|tmp|Users|work)/[\w.]")
TEXTS = {".ipynb", ".md", ".py", ".toml", ".txt", ".html", ""}


@pytest.fixture(scope="module")
def texts(files: list[Path]) -> dict[Path, str]:
    chosen = [path for path in files if path.suffix in TEXTS]
    assert len(chosen) > 100
    return {path: path.read_text(encoding="utf-8") for path in chosen}


def test_sources_are_ascii(texts: dict[Path, str]) -> None:
    sources = {p: t for p, t in texts.items() if p.suffix not in {".ipynb", ".html"}}
    assert [path.name for path, text in sources.items() if not text.isascii()] == []


def test_cells_are_ascii(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        if path.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            assert all("".join(cell["source"]).isascii() for cell in cells), path


def test_no_path_of_one_machine(texts: dict[Path, str]) -> None:
    found = [
        f"{path.name}:{number}: {line.strip()[:80]}"
        for path, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if HOMES.search(line)
    ]
    assert found == []


def test_no_host_of_a_registry(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        assert set(URL.findall(text)) <= HOSTS, path
        if path != Path(__file__):
            assert not INDEX.search(text), path


def test_lines_end_as_they_should(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        assert "\r" not in text, path
        assert not text or text.endswith("\n"), path
        assert text == "\n" or not text.endswith("\n\n"), path


def test_top_level_holds_what_the_design_says(files: list[Path], root: Path) -> None:
    names = {path.relative_to(root).parts[0] for path in files}
    assert {name for name in names if not name.startswith(".")} == {
        "LICENSE",
        "README.md",
        "constraints.txt",
        "gpurescue",
        "notebooks",
        "pyproject.toml",
        "tests",
    }
