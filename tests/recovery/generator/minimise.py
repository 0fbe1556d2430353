"""Makes a program that shows a fault smaller, for as long as it still shows it."""

from __future__ import annotations

import ast
import copy
import time
from collections.abc import Callable, Iterator, Sequence

Shows = Callable[[Sequence[str]], bool]


def minimise(parts: Sequence[str], shows: Shows, seconds: float) -> tuple[str, ...]:
    """The smallest program that is found, in cells as before.

    Args:
        parts: Cells of a program for which ``shows`` is true.
        shows: Tells whether a program still has the fault; wrong programs do not.
        seconds: The time to take, at most.
    """
    best = tuple(ast.unparse(ast.parse(part)) + "\n" for part in parts)
    if not shows(best):
        return tuple(parts)
    deadline = time.monotonic() + seconds
    is_smaller = True
    while is_smaller and time.monotonic() < deadline:
        is_smaller = False
        for i in reversed(range(len(best))):
            found: tuple[tuple[str, ...], int] | None = (best, 0)
            while found is not None and time.monotonic() < deadline:
                best, done = found
                found = _next_smaller(best, i, shows, done)
                is_smaller = is_smaller or found is not None
    return best


def _next_smaller(
    parts: tuple[str, ...], index: int, shows: Shows, start: int
) -> tuple[tuple[str, ...], int] | None:
    """A smaller program, and how many changes had been tried when it was found."""
    tree = ast.parse(parts[index])
    for k, change in enumerate(_changes(tree)):
        smaller = change() if k >= start else None
        text = "" if smaller is None else _text(smaller)
        if text and len(text) < len(parts[index]) and _parses(text):
            candidate = (*parts[:index], text, *parts[index + 1 :])
            if shows(candidate):
                return candidate, k
    return None


def _text(tree: ast.Module) -> str:
    try:
        return ast.unparse(ast.fix_missing_locations(tree)) + "\n"
    except Exception:  # not every change leaves a tree that is one
        return ""


def _parses(text: str) -> bool:
    try:
        compile(text, "<smaller>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError):
        return False
    return True


Change = Callable[[], ast.Module | None]


def _changes(tree: ast.Module) -> Iterator[Change]:
    """Ways to make ``tree`` smaller, the largest first."""
    fields = [
        (i, name, value)
        for i, node in enumerate(ast.walk(tree))
        for name, value in ast.iter_fields(node)
    ]
    for i, name, value in fields:
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            yield from _block_changes(tree, i, name, value)
        elif isinstance(value, list) and name in _LISTS:
            for k in range(len(value)):
                yield _editing(tree, i, lambda n, name=name, k=k: _drop(n, name, k))
    for i, name, value in fields:
        for k, item in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(item, ast.expr):
                place = k if isinstance(value, list) else None
                yield from _expression_changes(tree, i, name, place, item)


_LISTS = {"handlers", "cases", "items", "decorator_list", "keywords", "args", "targets",
          "elts", "values", "defaults", "kw_defaults", "kwonlyargs"}  # fmt: skip


def _editing(tree: ast.Module, index: int, edit: Callable[[ast.AST], bool]) -> Change:
    def change() -> ast.Module | None:
        made = copy.deepcopy(tree)
        node = next(n for i, n in enumerate(ast.walk(made)) if i == index)
        return made if edit(node) else None

    return change


def _drop(node: ast.AST, name: str, k: int) -> bool:
    del getattr(node, name)[k]
    return True


def _block_changes(
    tree: ast.Module, index: int, name: str, block: list[ast.stmt]
) -> Iterator[Change]:
    size = len(block)
    while size:
        for start in range(0, len(block), size):
            yield _editing(
                tree, index, lambda n, a=start, b=start + size: _cut(n, name, a, b)
            )
        size //= 2
    for k, node in enumerate(block):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for field in ("body", "orelse", "finalbody"):
            if getattr(node, field, None):
                yield _editing(
                    tree, index, lambda n, k=k, field=field: _unwrap(n, name, k, field)
                )


def _cut(node: ast.AST, name: str, start: int, end: int) -> bool:
    block = getattr(node, name)
    del block[start:end]
    is_needed = name == "body" and not isinstance(node, ast.Module)
    if is_needed and not block:
        block.append(ast.Pass())
    return True


def _unwrap(node: ast.AST, name: str, k: int, field: str) -> bool:
    block = getattr(node, name)
    block[k : k + 1] = getattr(block[k], field)
    return True


def _expression_changes(
    tree: ast.Module, index: int, name: str, k: int | None, value: ast.expr
) -> Iterator[Change]:
    if isinstance(value, ast.Constant | ast.Name) and not isinstance(value, ast.Name):
        return
    if not isinstance(getattr(value, "ctx", ast.Load()), ast.Load):
        return
    inner = [n for n in ast.iter_child_nodes(value) if isinstance(n, ast.expr)]
    for j in range(len(inner)):
        yield _editing(tree, index, lambda n, j=j: _replace(n, name, k, j))
    yield _editing(tree, index, lambda n: _replace(n, name, k, None))


def _replace(node: ast.AST, name: str, k: int | None, j: int | None) -> bool:
    old = getattr(node, name) if k is None else getattr(node, name)[k]
    if j is None:
        new: ast.expr = ast.Constant(1)
    else:
        new = [n for n in ast.iter_child_nodes(old) if isinstance(n, ast.expr)][j]
    if k is None:
        setattr(node, name, new)
    else:
        getattr(node, name)[k] = new
    return True
