"""Handlers that re-raise whatever they catch are known by their shape."""

from __future__ import annotations

import textwrap
from types import CodeType

import pytest

from gpurescue.recovery.handlers import shapes, tables

_IMPORTED = """
    __gr_k__ = __import__("gpurescue.recovery.guards", None, None, ("it",)).it(0)
    if __gr_k__ is None:
        __gr_it1__ = None
        raise
"""
_LOADED = """
    __gr_k__ = __import__("sys").modules.get("gpurescue.recovery.guards")
    if __gr_k__ is not None:
        __gr_k__ = __gr_k__.caught_last(0, lambda: (a,))
    if __gr_k__ is None:
        raise
"""
_PASSED = """
    __import__("sys").modules.get("gpurescue.recovery.guards").passed()
    raise
"""


def _code(source: str) -> CodeType:
    code = compile(textwrap.dedent(source), "<shape>", "exec")
    for inner in code.co_consts:
        if isinstance(inner, CodeType) and inner.co_name in ("f", "A"):
            return inner
    return code


def _targets(code: CodeType) -> list[int]:
    return [2 * row[2] for row in tables.listing(code).rows]


@pytest.mark.parametrize("handler", [_IMPORTED, _LOADED, _PASSED])
@pytest.mark.parametrize("where", ["def f(a):", "class A:", "if True:"])
def test_guards_are_recognised(handler: str, where: str) -> None:
    body = "try:\n    print(1)\nexcept:" + textwrap.indent(handler.rstrip(), "")
    code = _code(where + "\n" + textwrap.indent(body, "    "))
    assert any(shapes.is_guard(code, target) for target in _targets(code))
    first = 2 * tables.listing(code).starts[0]
    assert shapes.landing(tables.listing(code), first).entry is None


@pytest.mark.parametrize(
    "handler",
    [
        "pass",
        "raise",
        "__import__('sys').exit()",
        "__import__('sys').modules.get('gpurescue.recovery.other')",
        "x = 'gpurescue.recovery.guards'",
        "import gpurescue.recovery.guards",
        "try:\n        pass\n    except:" + textwrap.indent(_LOADED.rstrip(), "    "),
    ],
)
def test_others_are_no_guards(handler: str) -> None:
    code = _code(f"try:\n    print(1)\nexcept:\n    {handler}\n")
    outermost = 2 * tables.listing(code).rows[0][2]
    assert not shapes.is_guard(code, outermost)


def _lands(source: str) -> bool:
    """Whether an exception in ``crash()`` meets a handler to be looked into."""
    code = _code("def f(x):\n" + textwrap.indent(textwrap.dedent(source), "    "))
    listing = tables.listing(code)
    offset = 0
    while True:
        step = listing.at(offset)
        if shapes.loaded_name(code, step) == "crash":
            return shapes.landing(listing, offset).entry is not None
        offset = step.after


def test_finally_is_transparent() -> None:
    assert not _lands("try:\n    crash()\nfinally:\n    x.close()")


def test_reraise_only_is_transparent() -> None:
    assert not _lands("try:\n    crash()\nexcept ValueError:\n    raise")
    assert not _lands("try:\n    crash()\nexcept:\n    raise")


def test_finally_that_stores_is_looked_into() -> None:
    assert _lands("try:\n    crash()\nfinally:\n    x = 1")


def test_finally_that_returns_is_looked_into() -> None:
    assert _lands("try:\n    crash()\nfinally:\n    return 1")


def test_clause_that_calls_is_looked_into() -> None:
    """What it calls may always raise something else."""
    assert _lands("try:\n    crash()\nexcept ValueError:\n    x.log()\n    raise")


def test_clause_that_converts_is_looked_into() -> None:
    assert _lands("try:\n    crash()\nexcept ValueError as e:\n    raise x from e")


def test_effects_on_the_way_are_noted() -> None:
    code = _code("def f(x):\n    try:\n        x()\n    finally:\n        x.y = 1\n")
    listing = tables.listing(code)
    found = shapes.landing(listing, 2 * listing.starts[0])
    assert found == shapes.Landing(None, effects=True, stores=True)
