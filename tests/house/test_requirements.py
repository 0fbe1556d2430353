"""constraints.txt pins all that is installed, and pyproject asks for nothing else."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PIN = re.compile(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*")


@pytest.fixture(scope="module")
def pins(root: Path) -> dict[str, Version]:
    lines = (root / "constraints.txt").read_text().splitlines()
    found = [line for line in lines if not line.startswith("#")]
    assert all(PIN.fullmatch(line) for line in found)
    names = [line.partition("==")[0] for line in found]
    assert names == sorted(set(names))
    return {
        name: Version(line.partition("==")[2])
        for name, line in zip(names, found, strict=True)
    }


@pytest.fixture(scope="module")
def asked(pyproject: dict[str, Any]) -> list[Requirement]:
    """Every requirement of pyproject.toml, whatever it is for."""
    project = pyproject["project"]
    texts = [*project["dependencies"], *pyproject["build-system"]["requires"]]
    for extra in project["optional-dependencies"].values():
        texts += extra
    return [Requirement(text) for text in texts]


def test_every_requirement_is_pinned(
    pins: dict[str, Version], asked: list[Requirement]
) -> None:
    for requirement in asked:
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), requirement


def test_what_they_require_is_pinned(
    pins: dict[str, Version], asked: list[Requirement]
) -> None:
    waiting, seen = list(asked), set[tuple[str, str]]()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            waiting += _required(name, extra)
    assert {name for name, _ in seen} <= set(pins)


def _required(name: str, extra: str) -> list[Requirement]:
    """Requirements of something that is installed here."""
    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    found = [Requirement(text) for text in texts]
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]


def test_torch_is_pinned(pins: dict[str, Version]) -> None:
    assert pins["torch"] == Version("2.13.0")
