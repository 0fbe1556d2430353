"""A training program with a bug in it, and what a person would type to go on.

Programs of the pack are files in ``programs/<class of crash>/<kind>_<bug>.py``, those
in which a framework calls the user's functions in ``company/``: Python in cells, as a
notebook would have them. A line ``# %% NAME [TAG]`` begins a cell:

    no tag              run before training
    [%%resilient ...]   the training cell
    [fix]               typed after the crash
    [%resume ...]       a magic that is typed after the crash; [%%at], [%%resume] too
    [clean]             only in the program that never had the bug

Behind the training cell, a cell that has only lines that begin with ``#-`` and ``#+``
is an edit of the cell with that name: the first lines, which must be there once, are
replaced by the second. What is edited in the notebook, or marked ``[clean]``, is part
of the clean program from its start; what else is typed is not.

The docstring ends with lines ``Saves:`` (how often the program writes a checkpoint
that it can start again from, or never) and ``Progress:`` (an expression that grows with
the work done); a benchmark uses them to compare with a restart.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).with_name("programs")
COMPANY = Path(__file__).with_name("company")
CLASSES = (
    "api_misuse",
    "tensor_mismatch",
    "resource_bug",
    "gpu_contention",
    "path_problem",
    "exceptional_data",
    "nondeterministic_error",
)
KINDS = ("vision", "language", "rl", "tabular")

_HEADER = re.compile(r"^# %%(?P<name>[^\[\n]*)(?:\[(?P<tag>[^\n]*)\])?[ ]*\n", re.M)
_FIELD = re.compile(r"^(Saves|Progress): (.+)$", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A program with a bug, and what a person would type to go on.

    Attributes:
        name: For messages.
        cells: Cells before the run, with the bug in them.
        magic: ``%%resilient``, perhaps with options.
        body: What is under it.
        fix: Cells that mend it, magics included; the last one resumes.
        clean_cells: The same cells without the bug.
        clean_body: The same body without the bug.
        story: What goes wrong, and what is done about it.
        saves: How often it writes a checkpoint that it can start again from.
        progress: An expression that grows with the work done.
    """

    name: str
    cells: tuple[str, ...]
    body: str
    fix: tuple[str, ...]
    clean_cells: tuple[str, ...]
    clean_body: str
    story: str = ""
    saves: str = "never"
    progress: str = "0"
    magic: str = "%%resilient"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    name: str
    tag: str
    text: str

    @property
    def is_edit(self) -> bool:
        lines = [line for line in self.text.splitlines() if line.strip()]
        return bool(lines) and all(line.startswith(("#-", "#+")) for line in lines)


def edited(text: str, edit: str) -> str:
    """``text`` with each run of ``#-`` lines replaced by the ``#+`` lines behind it."""
    for old, new in re.findall(r"((?:^#-.*\n)+)((?:^#\+.*\n)*)", edit, re.M):
        before = re.sub(r"^#-", "", old, flags=re.M)
        assert f"\n{text}".count(f"\n{before}") == 1, f"not there once: {before}"
        after = re.sub(r"^#\+", "", new, flags=re.M)
        text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
    return text


def load(path: Path) -> Scenario:
    """Read one program."""
    source = path.read_text()
    story = ast.get_docstring(ast.parse(source)) or ""
    return _assembled(f"{path.parent.name}/{path.stem}", story, list(_parts(source)))


def pack(folder: Path) -> tuple[Scenario, ...]:
    """All programs below a folder, in the order of their names."""
    return tuple(load(path) for path in sorted(folder.rglob("*.py")))


def _parts(source: str) -> Iterator[_Part]:
    heads = list(_HEADER.finditer(source))
    ends = [head.start() for head in heads[1:]] + [len(source)]
    for head, end in zip(heads, ends, strict=True):
        text = source[head.end() : end].strip("\n") + "\n"
        yield _Part(name=head["name"].strip(), tag=head["tag"] or "", text=text)


def _assembled(name: str, story: str, parts: list[_Part]) -> Scenario:
    tags = [part.tag.partition(" ")[0] for part in parts]
    at = tags.index("%%resilient")
    dirty = {part.name: part.text for part in parts[: at + 1]}
    assert len(dirty) == at + 1, f"{name}: two cells have one name"
    clean, typed, fix = dict(dirty), dict(dirty), list[str]()
    for part in parts[at + 1 :]:
        text = edited(typed[part.name], part.text) if part.is_edit else part.text
        if part.tag == "clean":
            clean[part.name] = text
            continue
        if part.is_edit:
            typed[part.name] = clean[part.name] = text
        fix.append(f"{part.tag}\n{text}" if part.tag.startswith("%") else text)
    *cells, body = dirty.values()
    *clean_cells, clean_body = clean.values()
    return Scenario(
        name=name,
        cells=tuple(cells),
        body=body,
        fix=tuple(text.strip("\n") for text in fix),
        clean_cells=tuple(clean_cells),
        clean_body=clean_body,
        story=story,
        magic=parts[at].tag,
        **{key.lower(): value for key, value in _FIELD.findall(story)},
    )
