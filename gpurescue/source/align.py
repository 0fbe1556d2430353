"""Where an edited function resumes: alignment of two versions of its statements.

Statements are compared without their positions. Along the path to the failing
statement each enclosing statement must have a counterpart; in the failing block the
run goes on at the first statement that has not been executed as it now stands.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gpurescue.errors import PatchRejected
from gpurescue.source import remainder as remainders
from gpurescue.source import tree as trees
from gpurescue.source.remainder import Path, Step
from gpurescue.source.tree import Held, Loop

_DECLARATIONS = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Where the new version goes on, and what the user should know about it.

    Attributes:
        path: The first statement to run.
        failing: The statement that stands for the one that failed, at or behind it
            in the same block.
        is_changed: False if the two versions say the same.
        first: New imports and definitions from further out: what is to run may need
            them, and running them at once changes nothing else.
        notes: What the user should know.
    """

    path: Path
    failing: Path
    is_changed: bool
    notes: tuple[str, ...] = ()
    first: tuple[ast.stmt, ...] = ()


def align(
    old: Sequence[ast.stmt], new: Sequence[ast.stmt], path: Path, *, name: str
) -> Alignment:
    """Find the statement of ``new`` at which a run held at ``path`` of ``old`` goes on.

    Args:
        old: The statements that are running.
        new: The statements as edited.
        path: The failing statement in ``old``.
        name: What to call the function in messages.

    Raises:
        PatchRejected: The failing statement, or one around it, is gone.
    """
    if _same(old, new):
        return Alignment(path=path, failing=path, is_changed=False)
    step, deeper = path[0], path[1:]
    if not deeper:
        return _align_failing(old, new, step.at, name)
    partner = _partner(old, new, step.at)
    around, counterpart = old[step.at], None if partner is None else new[partner]
    if counterpart is None or not _has_block(counterpart, step):
        if _holds_nothing(old, path):
            return _align_failing(old, new, step.at, name)
        raise PatchRejected(
            f"The `{remainders.kind(around)}` around line "
            f"{remainders.statement(old, path).lineno} is gone from the new {name}; "
            "put it back, or choose where to go on with %resume --at LINE."
        )
    inner = align(
        trees.child_block(around, step.field, step.handler),
        trees.child_block(counterpart, step.field, step.handler),
        deeper,
        name=name,
    )
    assert partner is not None
    added = _added_before(old, new, partner)
    first = tuple(node for node in added if isinstance(node, _DECLARATIONS))
    notes = _outer_notes(added, old[step.at], new[partner])
    around_step = Step(partner, step.field, step.handler)
    return Alignment(
        path=(around_step, *inner.path),
        failing=(around_step, *inner.failing),
        is_changed=True,
        notes=(*notes, *inner.notes),
        first=(*first, *inner.first),
    )


def _holds_nothing(body: Sequence[ast.stmt], path: Path) -> bool:
    """True if the blocks along ``path`` keep nothing alive: they can be left."""
    return all(
        isinstance(node, ast.If | ast.Match) or step.field in {"", "orelse"}
        for node, step in zip(remainders.walk(body, path), path, strict=True)
    )


def enclosing(
    old: Sequence[ast.stmt], new: Sequence[ast.stmt], path: Path
) -> dict[int, ast.stmt]:
    """Statements around ``path``: id of the new one -> the old one it stands for.

    Stops where the new version has no counterpart.
    """
    found: dict[int, ast.stmt] = {}
    for step in path:
        partner = _partner(old, new, step.at) if step.field else None
        if partner is None or not _has_block(new[partner], step):
            break
        found[id(new[partner])] = old[step.at]
        old = trees.child_block(old[step.at], step.field, step.handler)
        new = trees.child_block(new[partner], step.field, step.handler)
    return found


def behind(old: Sequence[ast.stmt], new: Sequence[ast.stmt], last: int) -> int:
    """Index in ``new`` behind the statement that stands for ``old[last]``."""
    pairs = _pairs(old, new)
    if last in pairs:
        return pairs[last] + 1
    edited = _edited_at(old, new, pairs, last)
    if edited is not None:
        return edited + 1
    return 1 + max((pairs[i] for i in range(last) if i in pairs), default=-1)


def _align_failing(
    old: Sequence[ast.stmt], new: Sequence[ast.stmt], failing: int, name: str
) -> Alignment:
    pairs = _pairs(old, new)
    by_new = {j: i for i, j in pairs.items()}
    limit = pairs.get(failing)
    if limit is None:
        limit = _edited_at(old, new, pairs, failing)
    if limit is None:
        following = behind(old, new, failing - 1) if failing else 0
        line = new[following].lineno if following < len(new) else "LINE"
        raise PatchRejected(
            f"The failing statement (line {old[failing].lineno}: "
            f"`{first_line(old[failing])}`) is gone from the new {name}; go on with "
            f"what follows it by %resume --at {line}."
        )
    resume = next(
        (j for j in range(limit + 1) if by_new.get(j, failing) >= failing), limit
    )
    notes = _removed_notes(old, pairs, failing)
    again = [new[j] for j in range(resume, limit) if j in by_new]
    if again:
        notes += (f"runs again: {_shown(again)}",)
    changed_before = [new[j] for j in range(resume, limit) if j not in by_new]
    if changed_before and _gap_had_run(pairs, resume, failing):
        notes += (f"ran before the edit in another form: {_shown(changed_before)}",)
    return Alignment(
        path=(Step(resume),), failing=(Step(limit),), is_changed=True, notes=notes
    )


def _edited_at(
    old: Sequence[ast.stmt], new: Sequence[ast.stmt], pairs: dict[int, int], index: int
) -> int | None:
    """The statement most like ``old[index]`` in the gap where that one stood."""
    low = max((pairs[i] for i in range(index) if i in pairs), default=-1)
    high = min(
        (pairs[i] for i in range(index, len(old)) if i in pairs), default=len(new)
    )
    gap = range(low + 1, high)
    return max(gap, key=lambda j: (_likeness(old[index], new[j]), -j), default=None)


def _likeness(old: ast.stmt, new: ast.stmt) -> tuple[bool, bool, float]:
    is_alike = type(old) is type(new)
    is_same = is_alike and _header(old) == _header(new)
    before, after = (re.findall(r"\w+|\S", ast.unparse(n)) for n in (old, new))
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    return is_alike, is_same, matcher.ratio()


def _gap_had_run(pairs: dict[int, int], resume: int, failing: int) -> bool:
    return any(i not in pairs for i in range(failing))


def _removed_notes(
    old: Sequence[ast.stmt], pairs: dict[int, int], failing: int
) -> tuple[str, ...]:
    gone = [old[i] for i in range(failing) if i not in pairs]
    return (f"had already run: {_shown(gone)}",) if gone else ()


def _added_before(
    old: Sequence[ast.stmt], new: Sequence[ast.stmt], partner: int
) -> list[ast.stmt]:
    """New or changed statements that lie before the one that the run stands in."""
    unchanged = set(_pairs(old, new).values())
    return [new[j] for j in range(partner) if j not in unchanged]


def _outer_notes(
    added: Sequence[ast.stmt], old: ast.stmt, new: ast.stmt
) -> tuple[str, ...]:
    """Say which edits lie before the current position, in a block around it."""
    first = [node for node in added if isinstance(node, _DECLARATIONS)]
    later = [node for node in added if not isinstance(node, _DECLARATIONS)]
    notes: tuple[str, ...] = ()
    if first:
        notes += (f"runs first: {_shown(first)}",)
    notes += takes_effect_next_time(later)
    if not is_same_header(old, new):
        notes += takes_effect_when_reached(new)
    return notes


def takes_effect_next_time(nodes: Sequence[ast.stmt]) -> tuple[str, ...]:
    """Say that these statements do not run now, if there are any."""
    shown = f"takes effect from the next time round: {_shown(nodes)}"
    return (shown,) if nodes else ()


def takes_effect_when_reached(node: ast.stmt) -> tuple[str, ...]:
    """Say that a statement is already running in its old form."""
    return (f"takes effect from the next time it is reached: `{first_line(node)}`",)


def is_same_header(old: ast.stmt, new: ast.stmt) -> bool:
    """True if two statements say the same, but for the blocks in them."""
    return _header(old) == _header(new)


def _partner(
    old: Sequence[ast.stmt], new: Sequence[ast.stmt], index: int
) -> int | None:
    """The new statement that stands for the enclosing statement ``old[index]``."""
    pairs = _pairs(old, new)
    if index in pairs:
        return pairs[index]
    low = max((pairs[i] for i in range(index) if i in pairs), default=-1)
    high = min(
        (pairs[i] for i in range(index, len(old)) if i in pairs), default=len(new)
    )
    alike = [j for j in range(low + 1, high) if type(new[j]) is type(old[index])]
    same_header = [j for j in alike if _header(new[j]) == _header(old[index])]
    if same_header:
        alike = same_header
    if len(alike) == 1:
        return alike[0]
    order = [
        i for i in _unpaired(pairs, old, index) if type(old[i]) is type(old[index])
    ]
    return alike[order.index(index)] if len(order) == len(alike) else None


def _unpaired(pairs: dict[int, int], old: Sequence[ast.stmt], index: int) -> list[int]:
    """The run of unpaired old statements around ``index``."""
    first = last = index
    while first - 1 >= 0 and first - 1 not in pairs:
        first -= 1
    while last + 1 < len(old) and last + 1 not in pairs:
        last += 1
    return list(range(first, last + 1))


def _pairs(old: Sequence[ast.stmt], new: Sequence[ast.stmt]) -> dict[int, int]:
    """Unchanged statements, in order: old index -> new index."""
    matcher = difflib.SequenceMatcher(
        None, [ast.dump(n) for n in old], [ast.dump(n) for n in new], autojunk=False
    )
    return {
        block.a + k: block.b + k
        for block in matcher.get_matching_blocks()
        for k in range(block.size)
    }


def _same(old: Sequence[ast.stmt], new: Sequence[ast.stmt]) -> bool:
    return [ast.dump(n) for n in old] == [ast.dump(n) for n in new]


def _has_block(node: ast.stmt, step: Step) -> bool:
    return any(
        (name, handler) == (step.field, step.handler)
        for name, handler, _ in trees.child_blocks(node)
    )


def _header(node: ast.stmt) -> str:
    """What a compound statement says before its block."""
    if isinstance(node, Loop | ast.If | ast.With | ast.AsyncWith | ast.Match):
        parts = {
            k: v
            for k, v in ast.iter_fields(node)
            if k not in {"body", "orelse", "cases"}
        }
        return repr({k: _dumped(v) for k, v in parts.items()})
    if isinstance(node, Held):
        types = [h.type and ast.dump(h.type) for h in getattr(node, "handlers", ())]
        return repr(types)
    return ast.dump(node)


def _dumped(value: object) -> str:
    if isinstance(value, ast.AST):
        return ast.dump(value)
    if isinstance(value, list):
        return repr([_dumped(v) for v in value])
    return repr(value)


def first_line(node: ast.stmt) -> str:
    """The statement in one line, as the user would know it."""
    line = ast.unparse(node).splitlines()[0]
    return line if len(line) <= 60 else line[:57] + "..."


def _shown(nodes: Sequence[ast.stmt]) -> str:
    shown = "; ".join(f"`{first_line(node)}`" for node in nodes[:3])
    return shown if len(nodes) <= 3 else f"{shown} and {len(nodes) - 3} more"
