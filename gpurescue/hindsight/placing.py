"""Where statements that were added today belong in another version of a program.

Each gap between two statements of that version is a place. The one is right whose
neighbours, and the statements around it, are those that the added ones have today, by
what they say or, where variables have other names, by their shape. If another place
would do as well and it makes a difference, or a variable is not there yet, nothing is
placed: the reason is said.
"""

from __future__ import annotations

import ast
import builtins
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpurescue.errors import CannotPlace
from gpurescue.hindsight.added import SCOPES, Group, blocks, header, words
from gpurescue.hindsight.scopes import bound, free, parameters, targets
from gpurescue.source import names as uses

_WEIGHTS = (1.0, 0.4, 0.2)  # of the first, second and third neighbour on a side
_AROUND = (0.6, 0.3)  # of the innermost statement around, and of the next
_ENOUGH = 0.6  # of a place's score, of 1
_MARGIN = 0.12  # between the best place and another one, for the best to be meant
_SHAPE = 0.95  # statements that differ in the names of variables only
_WORDS = 0.8  # at most, for statements that have some words in common
_VOTES = 2  # statements that say so, for a variable to have another name
_SIMPLE = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Pass)
_HARMLESS = {
    *("print", "len", "float", "int", "str", "item", "append", "add", "extend"),
    *("set_description", "set_postfix", "write"),
}
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a version: before statement ``at`` of a block.

    Attributes:
        source: The name of the text that it is in.
        block: The statements of the block; the tree's own list.
        at: Before which of them.
        around: Statements around the block, outermost first.
    """

    source: str
    block: list[ast.stmt]
    at: int
    around: tuple[ast.stmt, ...]

    @property
    def line(self) -> int:
        """The line that it is in front of, or behind the last of the block."""
        if self.at < len(self.block):
            return self.block[self.at].lineno
        return (self.block[-1].end_lineno or 0) + 1 if self.block else 1


@dataclass(frozen=True, slots=True)
class Placed:
    """Added statements in an old version.

    Attributes:
        slot: Where.
        nodes: The statements, with the names that variables have there.
        confidence: From 0 to 1.
        renamed: Names of today, and those that they have there.
    """

    slot: Slot
    nodes: tuple[ast.stmt, ...]
    confidence: float
    renamed: dict[str, str]


def place(
    group: Group, trees: Mapping[str, ast.Module], given: Collection[str] = ()
) -> Placed:
    """Find the place of added statements in an old version.

    Args:
        group: The statements, and where they are today.
        trees: The sources of the version, by name.
        given: Names that other groups set for all, such as a function that was added.

    Raises:
        CannotPlace: There is no such place, or not one only; says why.
    """
    found = sorted(
        ((_score(group, slot), n, slot) for n, slot in enumerate(_slots(trees))),
        key=lambda one: (-one[0], one[1]),
    )
    if not found or found[0][0] < _ENOUGH:
        raise CannotPlace(
            f"Nothing in this version is like what is around `{_shown(group)}` "
            f"(line {group.nodes[0].lineno} of today's code)."
        )
    best, _, slot = found[0]
    others = [other for score, _, other in found[1:] if score > best - _MARGIN]
    renamed = _renamed(group, slot)
    slot = _only(group, slot, others, renamed)
    nodes = tuple(_with_names(node, renamed) for node in group.nodes)
    _check_names(nodes, slot, _known(slot, trees) | set(given))
    return Placed(slot, nodes, round(best, 2), renamed)


def _shown(group: Group) -> str:
    return header(group.nodes[0]).splitlines()[0]


def _slots(trees: Mapping[str, ast.Module]) -> Iterator[Slot]:
    for name, tree in trees.items():
        yield from _slots_in(name, tree.body, ())


def _slots_in(
    source: str, block: list[ast.stmt], around: tuple[ast.stmt, ...]
) -> Iterator[Slot]:
    for at in range(len(block) + 1):
        yield Slot(source, block, at, around)
    for node in block:
        for _, _, inner in blocks(node):
            yield from _slots_in(source, inner, (*around, node))


# -- how much a place is like today's


def _score(group: Group, slot: Slot) -> float:
    """From 0 to 1."""
    score = total = 0.0
    here = group.block[: group.at][::-1], group.block[group.at :]
    there = slot.block[: slot.at][::-1], slot.block[slot.at :]
    for ours, theirs in zip(here, there, strict=True):
        for at, weight in enumerate(_WEIGHTS):
            if at > len(ours):
                break  # the edge of the block has been compared
            total += weight
            score += weight * _alike(_at(ours, at), _at(theirs, at))
    around = _standing(group.around), _standing(slot.around)
    for at, weight in enumerate(_AROUND):
        total += weight
        score += weight * _alike_around(*(_at(outer, at) for outer in around))
    return score / total


def _standing(around: tuple[ast.stmt, ...]) -> list[ast.stmt]:
    """Functions, classes and loops, innermost first: an ``if`` may come and go."""
    return [n for n in around[::-1] if isinstance(n, (*SCOPES, *_LOOPS))]


def _at(nodes: Sequence[ast.stmt], at: int) -> ast.stmt | None:
    return nodes[at] if at < len(nodes) else None


def _alike(ours: ast.stmt | None, theirs: ast.stmt | None) -> float:
    """How much two neighbours are alike; None is the edge of a block."""
    if ours is None or theirs is None:
        return 1.0 if ours is theirs else 0.0
    if type(ours) is not type(theirs):
        return 0.0
    one, other = header(ours), header(theirs)
    if one == other:
        return 1.0
    if _blanked(ours)[0] == _blanked(theirs)[0]:
        return _SHAPE
    return _WORDS * _common(words(one), words(other))


def _common(one: list[str], other: list[str]) -> float:
    """The share of words in common; none if it is less than half."""
    both = sum((Counter(one) & Counter(other)).values())
    share = 2 * both / (len(one) + len(other))
    return share if share > 0.5 else 0.0


def _alike_around(ours: ast.stmt | None, theirs: ast.stmt | None) -> float:
    """The same of statements around: a function may have got another name."""
    if ours is None or theirs is None:
        return 1.0 if ours is theirs else 0.0
    if isinstance(ours, SCOPES) and type(ours) is type(theirs):
        return 1.0 if ours.name == theirs.name else 0.5
    return _alike(ours, theirs)


class _Blank(ast.NodeTransformer):
    """Takes the names of variables away, and keeps them in order."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def visit_Name(self, node: ast.Name) -> ast.Name:
        self.names.append(node.id)
        return ast.Name("_", node.ctx)


def _blanked(node: ast.stmt) -> tuple[str, list[str]]:
    """What a statement says but for names of variables, and these in order."""
    blank = _Blank()
    bare = blank.visit(ast.parse(header(node)).body[0])
    return ast.dump(bare), blank.names


# -- one place only


def _only(
    group: Group, slot: Slot, others: Sequence[Slot], renamed: Mapping[str, str]
) -> Slot:
    """The place, if all others that would do as well come to the same.

    Raises:
        CannotPlace: One does not.
    """
    for other in others:
        if other.block is not slot.block or not _commutes(group, slot, other, renamed):
            raise CannotPlace(
                f"`{_shown(group)}` may belong in front of line {slot.line} of "
                f"{slot.source}, or of line {other.line} of {other.source}."
            )
    return slot


def _commutes(group: Group, one: Slot, other: Slot, renamed: Mapping[str, str]) -> bool:
    """True if nothing between two places of a block has to do with the statements."""
    low, high = sorted((one.at, other.at))
    between = one.block[low:high]
    if not all(_is_harmless(node) for node in between):
        return False
    ours = {renamed.get(n, n) for node in group.nodes for n in uses.mentioned(node)}
    theirs = {n for node in between for n in uses.mentioned(node)}
    return not ours & theirs


def _is_harmless(node: ast.stmt) -> bool:
    """True for what changes nothing but the variables that it names.

    What a call of something else changes, such as the parameters behind an optimizer,
    no name tells.
    """
    if not isinstance(node, _SIMPLE):
        return False
    calls = [inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    return all(
        isinstance(func, ast.Name | ast.Attribute)
        and (func.id if isinstance(func, ast.Name) else func.attr) in _HARMLESS
        for func in calls
    )


# -- names


def _renamed(group: Group, slot: Slot) -> dict[str, str]:
    """Names of today that have another one there, as all pairs of statements say.

    Raises:
        CannotPlace: They do not say the same.
    """
    votes: dict[str, Counter[str]] = {}
    for ours, theirs in _pairs(group, slot):
        (shape, names), (other_shape, others) = _blanked(ours), _blanked(theirs)
        if shape == other_shape:
            for name, other in zip(names, others, strict=True):
                votes.setdefault(name, Counter())[other] += 1
    needed = free(group.nodes)
    found = {}
    for name in sorted(needed & votes.keys()):
        if len(votes[name]) > 1:
            told = " and ".join(sorted(votes[name]))
            raise CannotPlace(f"`{name}` of today's code may be {told} there.")
        ((other, num_votes),) = votes[name].items()
        if other == name:
            continue
        if num_votes < _VOTES:
            raise CannotPlace(
                f"`{name}` of today's code may be {other} there, as one statement says."
            )
        found[name] = other
    return found


def _pairs(group: Group, slot: Slot) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    """Statements of today and there that stand for each other.

    Those around, and by likeness those of the same block and of the blocks around it.
    """
    yield from _paired(group.block, slot.block)
    outer = zip(_standing(group.around), _standing(slot.around), strict=False)
    for ours, theirs in outer:
        yield ours, theirs
        for (*place, block), (*other, there) in zip(
            blocks(ours), blocks(theirs), strict=False
        ):
            if place == other and there is not slot.block:
                yield from _paired(block, there)


def _paired(
    ours: Sequence[ast.stmt], theirs: Sequence[ast.stmt]
) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    left = list(theirs)
    for node in ours:
        scores = [(_alike(node, other), -n) for n, other in enumerate(left)]
        best, at = max(scores, default=(0.0, 0))
        if best >= _SHAPE:
            yield node, left.pop(-at)


class _Names(ast.NodeTransformer):
    def __init__(self, renamed: Mapping[str, str]) -> None:
        self._renamed = renamed

    def visit_Name(self, node: ast.Name) -> ast.Name:
        name = self._renamed.get(node.id, node.id)
        return ast.copy_location(ast.Name(name, node.ctx), node)


def _with_names(node: ast.stmt, renamed: Mapping[str, str]) -> ast.stmt:
    """A copy with other names of variables."""
    copy = ast.parse(ast.unparse(node)).body[0]
    made: ast.stmt = _Names(renamed).visit(copy)
    return ast.fix_missing_locations(made)


def _check_names(nodes: Sequence[ast.stmt], slot: Slot, known: Collection[str]) -> None:
    """Refuse a place where a name means nothing yet.

    Raises:
        CannotPlace: Names which.
    """
    missing = free(nodes) - {*known, *dir(builtins)}
    for name in sorted(missing):
        raise CannotPlace(
            f"There is no `{name}` in front of line {slot.line} of {slot.source}."
        )


def _known(slot: Slot, trees: Mapping[str, ast.Module]) -> set[str]:
    """Names that have a value there: of the functions around, and of all sources."""
    found: set[str] = set()
    scopes = [
        n for n in slot.around if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    if scopes:
        found |= _before(slot)
    for scope in scopes[:-1]:
        found |= parameters(scope)
        for node in scope.body:
            found |= bound(node)
    for name, tree in trees.items():
        is_own = name == slot.source and not scopes
        for node in tree.body:
            if not (is_own and _is_behind(node, slot)):
                found |= bound(node)
    return found | (_before(slot) if not scopes else set())


def _is_behind(node: ast.stmt, slot: Slot) -> bool:
    return node.lineno >= slot.line or node in slot.around


def _before(slot: Slot) -> set[str]:
    """Names that the innermost function, or the cell, has set before the place."""
    found: set[str] = set()
    block, at = slot.block, slot.at
    for outer in (*slot.around[::-1], None):
        for node in block[:at]:
            found |= bound(node)
        if outer is None:
            break
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef):
            return found | parameters(outer)
        if isinstance(outer, ast.ClassDef):
            return found
        found |= targets(outer)
        block, at = _block_around(slot, outer)
    return found


def _block_around(slot: Slot, inner: ast.stmt) -> tuple[list[ast.stmt], int]:
    """The block that a statement around the place is in, and where in it it stands."""
    at = slot.around.index(inner)
    if at == 0:
        return [inner], 0  # of the source itself: all of its names count anyway
    for _, _, block in blocks(slot.around[at - 1]):
        if inner in block:
            return block, block.index(inner)
    raise LookupError("A statement is in no block of the one around it.")


def insert(placed: Sequence[Placed]) -> None:
    """Put statements where they belong; the trees are changed.

    Args:
        placed: Of one version, each in the order of today's code.
    """
    by_block: dict[int, list[Placed]] = {}
    for one in placed:
        by_block.setdefault(id(one.slot.block), []).append(one)
    for some in by_block.values():
        block = some[0].slot.block
        for one in sorted(some, key=lambda x: x.slot.at, reverse=True):
            same = [x for x in some if x.slot.at == one.slot.at]
            if one is same[0]:
                block[one.slot.at : one.slot.at] = [n for x in same for n in x.nodes]


def set_for_all(group: Group) -> set[str]:
    """Names that a group sets for all functions, as it is in none."""
    if any(isinstance(node, SCOPES) for node in group.around):
        return set()
    return set().union(*map(bound, group.nodes))
