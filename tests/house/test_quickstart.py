"""The quickstart, executed again, says what the committed one says.

``GPURESCUE_FIX=1`` writes the new one in its place.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

PLACE = re.compile(r"(?:/[\w.+-]+)+/site-packages/")
DIGEST = re.compile(r"\b[0-9a-f]{16}\b")
NUMBER = re.compile(r"-?\d+\.\d+")
CARETS = re.compile(r"^[ ]*[\^~]+[ ]*$\n?", re.MULTILINE)  # differ between versions
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def execute(path: Path) -> Any:
    """The notebook, executed as ``jupyter execute`` would."""
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        cell.metadata.pop("execution", None)
    client = NotebookClient(
        book,
        timeout=120,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    book.metadata.language_info.pop("version", None)
    return without_places(book)


def without_places(value: Any) -> Any:
    """The same, but library files without the folder they were installed in."""
    if isinstance(value, str):
        return PLACE.sub("site-packages/", value)
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if isinstance(value, dict):
        for key in value:
            value[key] = without_places(value[key])
    return value


def outputs(book: Any) -> list[str]:
    """The texts that each code cell shows, one string a cell."""
    shown = (
        "".join(_text(output) for output in cell.outputs)
        for cell in book.cells
        if cell.cell_type == "code"
    )
    return [CARETS.sub("", without_places(ANSI.sub("", text))) for text in shown]


def _text(output: Any) -> str:
    if output.output_type == "stream":
        return str(output.text)
    if output.output_type == "error":
        return f"{output.ename}: {output.evalue}\n"
    return str(output.data.get("text/plain", "")) + "\n"


@pytest.fixture(scope="module")
def books(root: Path) -> tuple[Any, Any]:
    """The notebook as committed, and executed again."""
    path = root / "notebooks" / "quickstart.ipynb"
    old = os.environ.get("PYTHONPATH", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(root), old])))
        again = execute(path)
    if os.environ.get("GPURESCUE_FIX"):
        nbformat.write(again, path)
    return nbformat.read(path, as_version=4), again


def test_rescued_run_is_bit_identical(books: tuple[Any, Any]) -> None:
    for book in books:
        last = outputs(book)[-1]
        repaired, clean = DIGEST.findall(last)
        assert repaired == clean
        assert last.endswith("bit-identical: True\n")


def test_committed_outputs_are_what_comes_out(books: tuple[Any, Any]) -> None:
    committed, again = map(outputs, books)
    for index, (old, new) in enumerate(zip(committed, again, strict=True)):
        assert _words(old) == _words(new), f"code cell {index}"
        pairs = zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
        # Other processors round other bits; within a machine they are identical.
        assert all(
            math.isclose(float(a), float(b), rel_tol=0.05, abs_tol=0.05)
            for a, b in pairs
        ), f"code cell {index}"


def _words(text: str) -> str:
    return NUMBER.sub("N", DIGEST.sub("D", text))


def test_committed_notebook_is_executed_in_order(books: tuple[Any, Any]) -> None:
    counts = [c.execution_count for c in books[0].cells if c.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
