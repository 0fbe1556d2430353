"""Values of a statement that are ready when a later part of it fails.

In ``loss = criterion(model(x), y)`` the model has run, and has drawn its random
numbers, when ``criterion`` fails. Running the statement again from its beginning
would run the model twice. So the values that a later part of their statement waits
for are kept in hidden locals, by assignment expressions, and let go of behind the
statement::

    loss = criterion((t0 := model(x)), y); t0 = None

Kept is what running twice may differ from running once: calls and what is like them;
any other operation, if a call comes between it and its use; and what is got by a
variable index (``dataset[i]``) as the argument of a call.

Locals are numbered as the interpreter's stack would be, so at any time they hold
just the values that the stack holds: no tensor lives longer than it did.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from gpurescue.source import hidden
from gpurescue.source import tree as trees
from gpurescue.source.parts import Part, is_effect, parts, stores

SLOT = f"{trees.HIDDEN}t"

EMPTY = ...
"""What a slot holds that has no value: no call of a user's gives an ellipsis."""

_WRAPPERS = ast.Starred | ast.Slice | ast.FormattedValue
_HEADERS = ast.With | ast.AsyncWith | ast.While | ast.If | ast.Match


def slot_name(slot: int) -> str:
    """Hidden local of one operand."""
    return f"{SLOT}{slot}__"


def value_name(index: int) -> str:
    """Hidden variable in which a continuation gets a value that is ready."""
    return f"{trees.HIDDEN}v{index}__"


@dataclass(frozen=True, slots=True)
class Operand:
    """An expression whose value is kept, and the slot that keeps it.

    ``is_head`` says that the statement itself uses the value: its failure may bear
    the position of the expression.
    """

    node: ast.expr
    slot: int
    is_head: bool = False


def operands(node: ast.stmt, unstable: Set[str] = frozenset()) -> list[Operand]:
    """The expressions of a statement whose values are kept, in the order they run.

    Args:
        node: A statement.
        unstable: Names that a call may give another value (``rebound``).
    """
    bound = unstable | _walruses(node)
    walk = _Walk(bound, bound | _stored_names(node), hasattr(node, "gr_is_fixed"))
    depth = 0
    for part in parts(node):
        depth = walk.visit(part, depth)
    return walk.found


def fix_slots(node: ast.stmt, unstable: Set[str]) -> None:
    """Have each operand of ``node`` bear its slot, whatever is changed in it later."""
    for operand in operands(node, unstable):
        operand.node.gr_slot = operand.slot  # type: ignore[attr-defined]
    node.gr_is_fixed = True  # type: ignore[attr-defined]


def rebound(tree: ast.AST) -> frozenset[str]:
    """Names that functions in ``tree`` bind and that are not their own."""
    return frozenset(
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Global | ast.Nonlocal)
        for name in node.names
    )


@dataclass(slots=True)
class _Walk:
    """Gives slots in evaluation order, as a stack would.

    Attributes:
        unstable: Names that may have another value when they are read again.
        stored: The same while the statement stores its value.
        is_fixed: True if the nodes bear their slots.
    """

    unstable: Set[str]
    stored: Set[str]
    is_fixed: bool
    found: list[Operand] = field(default_factory=list)

    def visit(self, part: Part, depth: int) -> int:
        """Number of slots in use once ``part`` has been evaluated."""
        node, inner, first = part.node, depth, len(self.found)
        for child in self._parts_of(part):
            inner = self.visit(child, inner)
        slot = self._slot(part, depth, first)
        if slot is not None:
            self.found.append(Operand(node, slot, part.rule == "head"))
            return slot + 1
        return depth if is_effect(node) else inner

    def _slot(self, part: Part, depth: int, first: int) -> int | None:
        if self.is_fixed:
            return getattr(part.node, "gr_slot", None)
        if not self._is_kept(part):
            return None
        if part.rule == "head":  # not shared: see Operand.is_head
            return max((o.slot + 1 for o in self.found[first:]), default=depth)
        return depth

    def _parts_of(self, part: Part) -> list[Part]:
        """Parts of a part; of what cannot be kept itself they wait in its place."""
        found = parts(part.node)
        if part.waits and _only_holds(part):
            rule = "callee" if part.rule == "callee" else ""
            return [Part(p.node, True, p.rule or rule) for p in found]
        if isinstance(part.node, ast.Starred):
            return [Part(p.node, p.waits, part.rule) for p in found]
        return found

    def _is_kept(self, part: Part) -> bool:
        node = part.node
        if part.rule in {"last", "no"}:
            return False
        if is_effect(node):
            return True
        if _only_holds(part):
            return False
        if part.rule == "stored":
            return not is_trivial(node, self.stored)
        if part.waits:
            return not is_trivial(node, self.unstable)
        return part.rule == "call" and _is_got_by_variable(node)


def _only_holds(part: Part) -> bool:
    """True for what has no value of its own, or none that is worth a slot."""
    node = part.node
    if part.rule == "callee" and isinstance(node, ast.Attribute | ast.Name):
        return True  # a method is looked up and called at once
    is_target = not isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
    return is_target or isinstance(node, _WRAPPERS) or _holds_slices(node)


def _holds_slices(node: ast.expr) -> bool:
    return isinstance(node, ast.Tuple) and any(
        isinstance(inner, ast.Slice) for inner in node.elts
    )


def _is_got_by_variable(node: ast.expr) -> bool:
    return isinstance(node, ast.Subscript) and any(
        isinstance(inner, ast.Name) for inner in ast.walk(node.slice)
    )


def is_trivial(node: ast.expr, unstable: Set[str] = frozenset()) -> bool:
    """Tell whether running ``node`` again, however late, gives the same value."""
    match node:
        case ast.Name():
            return node.id not in unstable
        case ast.Constant():
            return True
        case ast.UnaryOp():
            return isinstance(node.operand, ast.Constant)
        case ast.Lambda() | ast.Tuple() | ast.List() | ast.Set() | ast.Dict():
            return all(is_trivial(part.node, unstable) for part in parts(node))
        case ast.Slice() | ast.JoinedStr() | ast.Starred():
            return all(is_trivial(part.node, unstable) for part in parts(node))
    return False


def _walruses(node: ast.stmt) -> Set[str]:
    return {
        inner.target.id
        for part in parts(node)
        for inner in ast.walk(part.node)
        if isinstance(inner, ast.NamedExpr)
    }


def _stored_names(node: ast.stmt) -> Set[str]:
    if isinstance(node, ast.Match):
        return {
            name
            for case in node.cases
            for inner in ast.walk(case.pattern)
            for name in (getattr(inner, "name", None), getattr(inner, "rest", None))
            if name is not None
        }
    targets = node.targets if isinstance(node, ast.Assign) else []
    found = [store for target in targets for store in stores(target)]
    return {store.id for store in found if isinstance(store, ast.Name)}


def keep(
    body: list[ast.stmt], used: set[str], unstable: Set[str] = frozenset()
) -> list[ast.stmt]:
    """Keep the operands of the statements in ``body``, which are changed in place.

    The hidden locals that this takes are added to ``used``.
    """
    found: list[ast.stmt] = []
    for node in body:
        kept = {id(o.node): o.slot for o in operands(node, unstable)}
        names = [slot_name(slot) for slot in sorted(set(kept.values()))]
        if kept:
            _Keeper(kept).visit_header(node)
        used.update(names)
        found += letting_go(node, names)
    return found


def letting_go(node: ast.stmt, names: Sequence[str]) -> list[ast.stmt]:
    """``node``, and as soon as it is done, nothing in the hidden ``names``."""
    if not names or isinstance(node, ast.Return | ast.Raise):
        return [node]
    if isinstance(node, ast.For | ast.AsyncFor):  # see transform: not every round
        node.gr_clears = [*getattr(node, "gr_clears", ()), *names]  # type: ignore[union-attr]
        return [node]
    if not isinstance(node, _HEADERS):
        return [node, *hidden.clear(names, "...")]
    if isinstance(node, ast.Match):
        for case in node.cases:
            case.body[:0] = hidden.clear(names, "...")
        return [node, *hidden.clear(names, "...")]
    node.body[:0] = hidden.clear(names, "...")
    if isinstance(node, ast.If | ast.While):
        node.orelse[:0] = hidden.clear(names, "...")
    return [node]


class _Keeper(ast.NodeTransformer):
    def __init__(self, slots: dict[int, int]) -> None:
        self.slots = slots

    def visit_header(self, node: ast.stmt) -> None:
        """Wrap what runs in the frame of ``node`` and is in no block of it."""
        for name, value in list(ast.iter_fields(node)):
            if isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
            elif isinstance(value, list) and not _is_block(value):
                setattr(node, name, [self._visit_item(item) for item in value])

    def _visit_item(self, item: Any) -> Any:
        if isinstance(item, ast.match_case):
            item.guard = item.guard and self.visit(item.guard)
            return item
        return self.visit(item) if isinstance(item, ast.AST) else item

    def visit(self, node: ast.AST) -> Any:
        slot = self.slots.get(id(node))
        result = super().visit(node)
        if slot is None or not isinstance(result, ast.expr):
            return result
        target = ast.Name(id=slot_name(slot), ctx=ast.Store())
        kept = ast.NamedExpr(target=ast.copy_location(target, node), value=result)
        return ast.copy_location(kept, node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        node.args = self.visit(node.args)
        return node


def _is_block(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], ast.stmt | ast.ExceptHandler)
