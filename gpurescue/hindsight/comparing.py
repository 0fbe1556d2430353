"""Two runs side by side: what of code, arguments and environment is not the same."""

from __future__ import annotations

import difflib
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gpurescue.hindsight import tables
from gpurescue.hindsight.records import Records

_ALIKE = 0.5  # share of lines that two texts have in common to be one that was edited


@dataclass(frozen=True, slots=True)
class Difference:
    """What two runs do not have in common.

    Attributes:
        runs: The ids of both.
        code: By the name of a source: its lines as ``diff -u`` shows them.
        arguments: By name: both values; None where a run has no such argument.
        environment: By name: both facts; None where nothing is known.
    """

    runs: tuple[str, str]
    code: dict[str, str]
    arguments: dict[str, tuple[Any, Any]]
    environment: dict[str, tuple[Any, Any]]

    def __str__(self) -> str:
        parts = [
            *(f"{name}: {a!r} -> {b!r}" for name, (a, b) in self.arguments.items()),
            *(f"{name}: {a} -> {b}" for name, (a, b) in self.environment.items()),
            *self.code.values(),
        ]
        return "\n".join(parts) or "There is no difference."

    __repr__ = __str__


def diff(records: Records, first: str, second: str) -> Difference:
    """What is not the same in two runs.

    Args:
        records: Where they are.
        first: The id of a run, or how it begins.
        second: That of the other one.

    Raises:
        UsageError: There is no such run, or there are several.
    """
    with records.reading() as found:
        runs = tables.whole(found, first), tables.whole(found, second)
        facts = [_facts(found, run) for run in runs]
    (code, arguments, environment), others = facts
    return Difference(
        runs=runs,
        code=_code(code, others[0]),
        arguments=_unlike(arguments, others[1]),
        environment=_unlike(environment, others[2]),
    )


def _facts(
    found: sqlite3.Connection, run: str
) -> tuple[dict[str, str], dict[str, Any], dict[str, str]]:
    """Sources, arguments and environment of a run, by name."""
    sources = "SELECT s.name, s.text FROM sources s JOIN runs r USING (version) "
    arguments = "SELECT name, value FROM arguments WHERE run = ?"
    facts = "SELECT e.name, e.value FROM environments e JOIN runs r USING (environment)"
    by_run = " WHERE r.run = ?"
    return (
        dict(found.execute(sources + by_run, (run,))),
        {n: msgspec.json.decode(v) for n, v in found.execute(arguments, (run,))},
        dict(found.execute(facts + by_run, (run,))),
    )


def _unlike(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    pairs = {n: (first.get(n), second.get(n)) for n in sorted({*first, *second})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _code(first: dict[str, str], second: dict[str, str]) -> dict[str, str]:
    """Texts that are not in both, each beside the one that it has become."""
    same = set(first.values()) & set(second.values())
    old = {name: text for name, text in first.items() if text not in same}
    new = {name: text for name, text in second.items() if text not in same}
    found = {}
    for name, text in old.items():
        other = name if name in new else _most_alike(text, new)
        found[name] = _lines(name, text, new.pop(other, "") if other else "")
    return found | {name: _lines(name, "", text) for name, text in new.items()}


def _most_alike(text: str, others: Mapping[str, str]) -> str | None:
    """The name of the text that this one was edited to; None if there is none."""
    lines = text.splitlines()
    alike = {
        name: difflib.SequenceMatcher(None, lines, other.splitlines()).ratio()
        for name, other in others.items()
    }
    best = max(alike, key=alike.__getitem__, default=None)
    return best if best is not None and alike[best] >= _ALIKE else None


def _lines(name: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), name, name, lineterm="", n=2
    )
    return "\n".join(lines)
