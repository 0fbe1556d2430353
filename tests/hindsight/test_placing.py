"""Statements of today's code, carried into old versions: right, or refused.

Each file of ``pairs`` has today's code, in which the added lines end with ``#+``, an
old version, and what that must become, or the reason why nothing is placed.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from gpurescue.errors import CannotPlace
from gpurescue.hindsight import placing
from gpurescue.hindsight.added import Group, added

PAIRS = sorted((Path(__file__).parent / "pairs").glob("*.txt"))
_MARK = "  #+"


def parts(path: Path) -> tuple[dict[str, str], str]:
    """The sections of a file by name, and why nothing is placed."""
    pieces = re.split(
        r"^# %% (today|old|expected|refused.*)\n", path.read_text(), flags=re.M
    )
    found = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    refused = next((name for name in found if name.startswith("refused")), "")
    return found, refused.removeprefix("refused: ")


def cells(text: str) -> dict[str, str]:
    pieces = text.split("# %% cell\n")
    return {f"cell {n}": piece for n, piece in enumerate(pieces)}


def added_to(text: str) -> list[Group]:
    """What the lines with a mark have added to a cell."""
    lines = text.splitlines()
    base = "\n".join(line for line in lines if not line.endswith(_MARK))
    groups, edited = added(base, text)
    assert not edited
    return groups


def carried(today: str, old: str) -> dict[str, str]:
    """The cells of the old version with what was added today."""
    trees = {name: ast.parse(text) for name, text in cells(old).items()}
    groups = [group for text in cells(today).values() for group in added_to(text)]
    given = {name for group in groups for name in placing.set_for_all(group)}
    placing.insert([placing.place(group, trees, given) for group in groups])
    return {name: ast.unparse(tree) for name, tree in trees.items()}


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.stem)
def test_pairs(path):
    found, refused = parts(path)
    if refused:
        with pytest.raises(CannotPlace, match=re.escape(refused)):
            carried(found["today"], found["old"])
        return
    wanted = {n: ast.unparse(ast.parse(t)) for n, t in cells(found["expected"]).items()}
    assert carried(found["today"], found["old"]) == wanted


def test_there_are_enough_pairs():
    assert len(PAIRS) >= 40
