"""Small programs: the verdict of their guards against what really happens."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpurescue.recovery.handlers import Fate, values

_FOLDER = Path(__file__).parent / "situations"
_FATES = {"U": Fate.UNHANDLED, "H": Fate.HANDLED, "M": Fate.MAYBE}


def _read() -> list[Any]:
    found = []
    for path in sorted(_FOLDER.glob("*.txt")):
        needed = _needs(path)
        for part in ("\n" + path.read_text()).split("\n### ")[1:]:
            head, _, source = part.partition("\n")
            name, _, expected = head.rpartition(":")
            case = (expected.strip(), source)
            label = f"{path.stem}-{name.strip()}"
            found.append(pytest.param(*case, id=label, marks=needed))
    return found


def _needs(path: Path) -> list[pytest.MarkDecorator]:
    """``# needs NAME ...`` in the first line of a file."""
    words = path.read_text().partition("\n")[0].split()
    names = words[2:] if words[:2] == ["#", "needs"] else []
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return [pytest.mark.skip(reason=f"needs {missing}")] if missing else []


_SITUATIONS = _read()
_VERSION = "{}.{}".format(*sys.version_info)


def _expected(text: str) -> set[Fate]:
    """``U``, or by version: ``M 3.11=U``; several letters are alternatives."""
    default, *others = text.split()
    for other in others:
        version, _, letters = other.partition("=")
        if version == _VERSION:
            default = letters
    return {_FATES[letter] for letter in default}


@pytest.mark.parametrize("mode", ["body", "blocks"])
@pytest.mark.parametrize(("expected", "source"), _SITUATIONS)
def test_verdict(
    expected: str, source: str, mode: str, play: Callable[..., Any]
) -> None:
    run = play(source, mode)
    assert run.verdicts, "no guard caught anything"
    assert not run.false_intercepts(), f"final: {run.final!r}"
    assert run.first in _expected(expected), run.verdicts


@pytest.mark.parametrize(("expected", "source"), _SITUATIONS)
def test_no_false_intercept_with_guards_everywhere(
    expected: str, source: str, play: Callable[..., Any]
) -> None:
    run = play(source, "all")
    assert not run.false_intercepts(), f"final: {run.final!r}"


@pytest.mark.parametrize(("expected", "source"), _SITUATIONS)
def test_a_warm_verdict_is_the_cold_one(
    expected: str, source: str, play: Callable[..., Any], comparing: None
) -> None:
    run = play(source, "all", times=3)
    assert run.verdicts
    assert not run.differences


@pytest.mark.parametrize("mode", ["body", "all"])
@pytest.mark.parametrize(("expected", "source"), _SITUATIONS)
def test_what_is_on_course_needs_no_other_verdict(
    expected: str, source: str, mode: str, play: Callable[..., Any], stub: Any
) -> None:
    """The guards that an exception passes trust the first: it is held all the same."""
    judged = play(source, mode)
    stub.follows_courses = True
    followed = play(source, mode)
    assert not followed.false_intercepts(), f"final: {followed.final!r}"
    assert _is_held(followed) == _is_held(judged)


def _is_held(run: Any) -> bool:
    return any(verdict.fate is Fate.UNHANDLED for verdict in run.verdicts)


@pytest.mark.parametrize(("expected", "source"), _SITUATIONS)
def test_no_false_intercept_without_the_value_stack(
    expected: str,
    source: str,
    play: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(values, "_works", False)
    monkeypatch.setattr(values, "_is_known_build", lambda: False)
    run = play(source)
    if any(name in source for name in ("import gc\n", "sqlite3", "ctypes")):
        return  # C code that drops what its callbacks raise: it cannot be seen here
    assert not run.false_intercepts(), f"final: {run.final!r}"


@pytest.mark.parametrize(("expected", "source"), _SITUATIONS)
def test_no_false_intercept_if_every_call_looks_as_if_from_c(
    expected: str,
    source: str,
    play: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it does while a frame evaluator (PEP 523) of torch.compile is set."""
    monkeypatch.setattr(values, "_works", True)
    monkeypatch.setattr(values, "called_from_c", lambda frame: True)
    run = play(source)
    assert not run.false_intercepts(), f"final: {run.final!r}"


def test_enough_situations() -> None:
    assert len(_SITUATIONS) >= 150


def test_misses_are_few(play: Callable[..., Any]) -> None:
    """A miss: nobody handles it, but doubt lets it pass to the next outer guard."""
    played = [param for param in _SITUATIONS if not param.marks]
    missed = [param.id for param in played if _misses(param, play)]
    assert len(missed) <= len(played) * 0.1, missed


def _misses(param: Any, play: Callable[..., Any]) -> bool:
    run = play(param.values[1])
    return any(verdict is run.verdicts[0] for verdict in run.misses())
