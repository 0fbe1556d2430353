"""The README tells the truth: commands, example, figures, magics."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
from driver import Notebook, Result

from gpurescue.magics import extension

PROMPT = re.compile(r"^In \[\d+\]: (.*)$")
MORE = "   ...: "


@pytest.fixture(scope="module")
def kernel() -> Iterator[Notebook]:
    with Notebook() as book:
        assert book.run("%load_ext gpurescue", timeout=60).is_ok
        yield book


def commands(readme: str) -> list[str]:
    return re.findall(r"^    (python3 .*)$", readme, re.MULTILINE)


def test_two_commands_of_one_line_each(readme: str) -> None:
    first, second = commands(readme)
    assert "notebooks/quickstart.ipynb" in first
    assert re.search(r"python\S* -m pytest", second)


def test_commands_use_what_is_there(
    readme: str, root: Path, pyproject: dict[str, Any]
) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    ignored = (root / ".gitignore").read_text().splitlines()
    for command in commands(readme):
        (extra,) = re.findall(r'"\.\[(\w+)\]"', command)
        assert extra in extras
        assert "-qc constraints.txt" in command
        assert command.startswith("python3 -m venv .venv && ")
    assert {".venv/", "build/"} <= set(ignored)


def test_ci_runs_the_command_of_the_readme(readme: str, root: Path) -> None:
    (expression,) = re.findall(r"sed -n '([^']+)'", (root / ".ci/run").read_text())
    assert expression == r"s/^    \(python3.* -m pytest.*\)$/\1/p"
    found = re.findall(r"^    (python3.* -m pytest.*)$", readme, re.MULTILINE)
    assert found == commands(readme)[1:]
    assert (root / ".ci/run").stat().st_mode & 0o111


def test_files_that_are_named_are_there(readme: str, root: Path) -> None:
    named = re.findall(r"`((?:tests|notebooks|\.ci|gpurescue)/[\w./]*)", readme)
    linked = re.findall(r"\]\(([^)#]+)\)", readme)
    assert len(named) > 5
    for name in (*named, *linked):
        assert (root / name).exists(), name
    tests = {path.name for path in (root / "tests").rglob("test_*.py")}
    assert set(re.findall(r"test_\w+\.py", readme)) <= tests


def test_picture_is_small_enough(readme: str, root: Path) -> None:
    (name,) = re.findall(r"^!\[[^]]+\]\((.*)\)$", readme, re.MULTILINE)
    data = (root / name).read_bytes()
    assert len(data) < 150_000
    width, _ = struct.unpack(">II", data[16:24])
    assert 900 <= width <= 1100


# -- the example ---------------------------------------------------------------------


def example(readme: str) -> list[tuple[str, str]]:
    """Cells of the first example, each with what is shown below it."""
    lines = readme.split("```text\n", 1)[1].split("\n```", 1)[0].splitlines()
    found: list[tuple[list[str], list[str]]] = []
    for line in lines:
        if match := PROMPT.match(line):
            found.append(([match[1]], []))
        elif line.startswith(MORE.rstrip()):
            found[-1][0].append(line.removeprefix(MORE))
        else:
            found[-1][1].append(line)
    return [("\n".join(cell), "\n".join(shown)) for cell, shown in found]


def shown_by(result: Result) -> str:
    """What a terminal shows, without the panel."""
    parts = (result.stdout, result.stderr, result.value or "", result.traceback)
    return "\n".join(part.strip("\n") for part in parts if part)


def test_example_is_among_the_first_thirty_lines(readme: str) -> None:
    head = readme.splitlines()[:30]
    assert head.count("```text") == head.count("```") == 1


def test_example_runs_as_shown(readme: str, kernel: Notebook) -> None:
    cells = example(readme)
    assert len(cells) >= 4
    kernel.run("%unload_ext gpurescue")  # the example begins with loading it
    for cell, expected in cells:
        shown = kernel.run(cell, timeout=60)
        assert shown_by(shown) == expected, cell
        assert len(shown.panels) == ("Suspended" in expected), cell


# -- the magics ----------------------------------------------------------------------


def magics() -> list[tuple[str, Any]]:
    """Each with its prefix, such as ``%%resilient``."""
    return [
        ("%" * (2 if kind == "cell" else 1) + name, getattr(owner, attribute))
        for owner in extension.MAGICS
        for kind, names in owner.magics.items()
        for name, attribute in names.items()
    ]


@pytest.mark.parametrize("name", [name for name, _ in magics()])
def test_magic_is_in_the_readme_and_has_help(
    name: str, readme: str, kernel: Notebook
) -> None:
    assert re.search(rf"^\| `{name}\b", readme, re.MULTILINE)
    (page,) = kernel.run(f"{name}?").reply["payload"]
    text = page["data"]["text/plain"]
    assert "Docstring:" in text
    assert f"%{name.lstrip('%')}" in text


@pytest.mark.parametrize(("name", "function"), magics())
def test_options_are_explained(name: str, function: Any, readme: str) -> None:
    for action in function.parser._actions:
        assert action.help, (name, action.dest)
        for option in action.option_strings:
            assert f"`{option}" in readme or f" {option}" in readme, (name, option)


# -- the figures ---------------------------------------------------------------------


def test_figures_are_those_of_the_tests(readme: str, root: Path) -> None:
    names = [path.stem for path in harness.SAMPLES.glob("*.py")]
    num_calls = sum(
        harness.guarded(harness.load(name), None)[2].num_calls for name in names
    )
    situations = (root / "tests/recovery/handlers/situations").glob("*.txt")
    num_situations = sum(
        len(re.findall(r"^### ", path.read_text(), re.MULTILINE)) for path in situations
    )
    told = {name: int(n) for n, name in re.findall(r"over (\d+) (\w+)", readme)}
    counts = {"programs": len(names), "calls": num_calls, "situations": num_situations}
    assert told.keys() == counts.keys()
    assert all(told[name] < counts[name] for name in counts), counts
