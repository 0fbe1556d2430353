"""The scenario pack: crashed, mended as a person would, and exact to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import playing
import pytest
import scenario
from driver import Notebook
from scenario import Scenario

pytest.importorskip("torch")
pytestmark = [pytest.mark.kernel, pytest.mark.thorough]

PACK = scenario.pack(scenario.PROGRAMS)
FRAMEWORKS = ("lightning", "transformers")


def _needing(program: Scenario) -> Any:
    package = program.name.partition("/")[2]
    is_missing = package in FRAMEWORKS and find_spec(package) is None
    mark = pytest.mark.skipif(is_missing, reason=f"{package} is not installed")
    return pytest.param(program, marks=mark)


COMPANY = tuple(_needing(program) for program in scenario.pack(scenario.COMPANY))


@pytest.fixture(scope="module")
def reference() -> Iterator[playing.Reference]:
    found = playing.Reference()
    yield found
    found.close()


@pytest.fixture
def book(kernel: Notebook, tmp_path: Path) -> Iterator[Notebook]:
    """A kernel that the program has for itself, in a folder of its own."""
    (tmp_path / "rescued").mkdir()
    playing.enter(kernel, tmp_path / "rescued")
    yield kernel
    playing.leave(kernel)


@pytest.mark.parametrize("program", PACK + COMPANY, ids=lambda p: p.name)
def test_ends_as_if_the_bug_had_never_been(book, reference, program, tmp_path):
    (tmp_path / "clean").mkdir()
    reference.begin(program, tmp_path / "clean")
    crashed = playing.crash(book, program)
    assert playing.progress(book, program) > 0, "it fails in the middle of training"
    answers = [book.run(cell, timeout=60) for cell in program.fix]
    clean = reference.end()
    for answer in answers[:-1]:
        assert answer.is_ok or answer.error == "Suspended", answer.traceback
    assert answers[-1].is_ok, answers[-1].traceback
    left = playing.left(book, clean["names"])
    assert _differing(left, clean["left"]) == set(), answers[-1].stdout
    assert playing.printed(program, crashed, answers) == clean["printed"]


def _differing(left: dict[str, str], clean: dict[str, str]) -> set[str]:
    """Variables, streams and files that are not the same."""
    return {k for k in {*left, *clean} if left.get(k) != clean.get(k)}


def test_the_fingerprint_sees_a_single_bit():
    fingerprint = pytest.importorskip("fingerprint")
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    before = fingerprint.digest(optimizer)
    assert fingerprint.digest(optimizer) == before
    with torch.no_grad():
        model.bias.view(torch.int32)[0] += 1
    assert fingerprint.digest(optimizer) != before


@pytest.mark.parametrize("crash", scenario.CLASSES)
def test_every_class_of_crash_in_every_kind_of_program(crash):
    names = [p.name for p in PACK if p.name.startswith(f"{crash}/")]
    kinds = {name.partition("/")[2].partition("_")[0] for name in names}
    assert kinds == set(scenario.KINDS)
