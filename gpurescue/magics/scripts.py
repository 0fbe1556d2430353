"""The body of a cell, compiled with guards in it."""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass
from types import CodeType

from gpurescue.source import cells, transform
from gpurescue.source.cells import Definition

_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The body of a cell as the user wrote it, and as Python can compile it.

    Attributes:
        written: The user's own text, magics and all.
        source: The same as Python, at the lines that it has in the cell.
        filename: The name under which ``linecache`` has ``source``.
        cell: What tells the cell from others over its edits; None if nothing does.
    """

    written: str
    source: str
    filename: str
    cell: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a script is made from.

    Attributes:
        text: The body.
        flags: Compiler flags in force, from ``from __future__`` in earlier cells.
        interactivity: IPython's ``ast_node_interactivity``.
    """

    text: Text
    flags: int
    interactivity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A body that can be run, or take the place of one that is running."""

    text: Text
    code: CodeType
    definition: Definition
    recipe: Recipe


def compile_script(text: Text, *, flags: int, interactivity: str) -> Script:
    """Compile a body; what a cell would display at its end is displayed.

    Args:
        text: The body.
        flags: Compiler flags in force, from ``from __future__`` in earlier cells.
        interactivity: IPython's ``ast_node_interactivity``.

    Raises:
        SyntaxError: As the cell itself would.
    """
    recipe = Recipe(text=text, flags=flags, interactivity=interactivity)
    flags |= _FLAGS
    tree = compile(text.source, text.filename, "exec", flags | ast.PyCF_ONLY_AST, True)
    unit = cells.unit(text.filename)
    if unit is None:
        raise SyntaxError(f"{text.filename} cannot be parsed.")
    shown = displayed(tree.body, text.source, interactivity)
    # Continuations are made from the unit's tree: they display the same.
    for body in (tree.body, unit.tree.body):
        for index in shown:
            transform.display(body[index])
    code = cells.compile_unit(tree, text.filename, flags=flags, guard_body=True)
    return Script(text=text, code=code, definition=unit.definitions[0], recipe=recipe)


def displayed(body: list[ast.stmt], source: str, interactivity: str) -> list[int]:
    """Which of the statements are expressions whose value the cell displays."""
    if not body or interactivity == "none":
        return []
    indices = range(len(body)) if interactivity == "all" else [len(body) - 1]
    if ends_in_semicolon(source):
        indices = [i for i in indices if i != len(body) - 1]
    return [i for i in indices if isinstance(body[i], ast.Expr)]


def ends_in_semicolon(source: str) -> bool:
    """Tell whether the last thing in ``source`` is a semicolon: display nothing."""
    skipped = {
        tokenize.ENDMARKER,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.COMMENT,
        tokenize.DEDENT,
    }
    try:
        found = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return False
    last = next((t.string for t in reversed(found) if t.type not in skipped), "")
    return last == ";"
