"""Guards: the syntax-tree transform of user code.

A guard is one ``try/except`` around the body of a function (or of a cell), and one
around each block that holds live state: ``with``, ``try``, ``except``, ``finally``.
On CPython 3.11+ a ``try`` that is not taken costs nothing. Loops get no guard: their
iterator is kept in a hidden local, so that a loop can be entered again where it was.

Everything that is added has no line number or, where a frame can stand in it while
a run is parked, the line of the header. So line tables, tracebacks, breakpoints and
``inspect.getsource`` stay as the user wrote them.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Set
from types import CodeType

from gpurescue.source import hidden, listings, operands
from gpurescue.source import tree as trees
from gpurescue.source.loops import keep_iterator
from gpurescue.source.tree import Block, Function, Held, Layout, Loop, Scope

GUARDS = "gpurescue.recovery.guards"
FOREIGN = "gpurescue.source.foreign"  # a constant of a library's code that has a guard
RESUME = "__gr_k__"

# Not imported: where nobody has loaded it there is no run to suspend, and guarded
# functions must work in processes that do not have gpurescue at all.
LOADED_GUARDS = f'__import__("sys").modules.get("{GUARDS}")'


def guard_module(
    tree: ast.Module,
    variables: Mapping[tuple[str, int], CodeType],
    *,
    body: bool,
    skipped: Set[int] = frozenset(),
) -> ast.Module:
    """Guard every function of ``tree`` in place, and its own statements if ``body``.

    Args:
        tree: A normalised tree (``tree.normalise``).
        variables: The plain code of each function by (name, first line), which says
            which of its variables are cells.
        body: True for the body of a ``%%resilient`` cell.
        skipped: First lines of functions to leave as they are; 0 is the body.
    """
    unstable = operands.rebound(tree)
    for scope in list(trees.scopes(tree)):
        if isinstance(scope, ast.Module):
            if body and 0 not in skipped:
                is_async = awaits(scope)
                guard_scope(scope, cells=(), unstable=unstable, is_async=is_async)
        elif trees.first_line(scope) not in skipped:
            code = variables.get((scope.name, trees.first_line(scope)))
            cells = cells_of(code) if code else ()
            guard_scope(scope, cells=cells, unstable=unstable)
    return tree


def cells_of(code: CodeType) -> tuple[str, ...]:
    """Variables that live in cells: captured by, or taken from, another scope."""
    names = code.co_cellvars + code.co_freevars
    return tuple(name for name in names if name.isidentifier())


def functions_of(code: CodeType) -> dict[tuple[str, int], CodeType]:
    """Every code object inside ``code``, by (name, first line)."""
    found = {(code.co_name, code.co_firstlineno): code}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= functions_of(constant)
    return found


def guard_scope(
    scope: Scope,
    *,
    cells: tuple[str, ...],
    unstable: Set[str],
    is_async: bool | None = None,
) -> None:
    """Guard one function (or the cell's body) in place.

    Args:
        scope: The function.
        cells: Its variables that live in cells.
        unstable: Names that a call may give another value (``operands.rebound``).
        is_async: True if its statements may await.

    An async generator is left as it is: a continuation cannot yield for it.
    """
    if is_async is None:
        is_async = isinstance(scope, ast.AsyncFunctionDef)
    if is_async and not isinstance(scope, ast.Module) and yields(scope):
        return
    guard_layout(trees.annotate(scope), cells, unstable, is_async=is_async)


def guard_layout(
    layout: Layout,
    cells: tuple[str, ...],
    unstable: Set[str],
    *,
    is_async: bool,
    is_generator: bool = False,
) -> None:
    """Guard statements that carry their numbers already, such as a remainder.

    ``is_generator`` says that they are a generator's, though none of them may yield.
    """
    guard = _Guard(layout, cells, unstable, is_async=is_async)
    guard.is_generator |= is_generator
    guard.apply()


class _Guard:
    """Puts the guards of one scope in place."""

    def __init__(
        self,
        layout: Layout,
        cells: tuple[str, ...],
        unstable: Set[str],
        *,
        is_async: bool,
    ) -> None:
        self.layout = layout
        self.cells = cells
        self.unstable = unstable
        self.is_async = is_async
        self.is_generator = not is_async and yields(layout.scope)
        self.is_module = isinstance(layout.scope, ast.Module)
        self.slots: list[str] = []

    def apply(self) -> None:
        scope = self.layout.scope
        self.slots = _keep_operands(scope, self.unstable)
        for node in scope.body:
            if isinstance(node, ast.Expr) and hasattr(node, "gr_displayed"):
                _display(node)
        if not self.is_module:
            listings.leave_ours_out(scope)
        top, *inner = [(b, _loops_inside(b.body)) for b in self.layout.blocks]
        for block, loops in inner:
            self._guard_block(block, loops)
        for held in self.layout.held:
            held.gr_init = True  # type: ignore[union-attr]
        for loop in self.layout.loops:
            keep_iterator(loop)
        self._guard_top(*top)
        _insert_checks(scope.body)

    def _guard_top(self, block: Block, loops: list[Loop]) -> None:
        scope = self.layout.scope
        prologue, body = _split_prologue(scope)
        if not body:
            return
        line = _header_line(scope, body)
        if self.is_module:
            scope.body = [*prologue, self._try(body, block, RESUME, loops, line)]
            return
        body += hidden.statements("return None")
        scope.body = [
            *prologue,
            self._try(body, block, RESUME, loops, line),
            self._go_on("return {going_on}", RESUME, "returned", line),
        ]

    def _guard_block(self, block: Block, loops: list[Loop]) -> None:
        held = block.owner
        assert isinstance(held, Held)
        name = trees.resume_name(held)
        line = _header_line(held, block.body)
        check = _if_set(name)
        leaving = trees.leave_name(held)
        going_on = self._go_on(
            f"{leaving} = {{going_on}}", name, f"left, {leaving}", line
        )
        check.body = [going_on, *hidden.clear([name])]
        block.body[:] = [self._try(list(block.body), block, name, loops, line), check]

    def _try(
        self,
        body: list[ast.stmt],
        block: Block,
        name: str,
        loops: list[Loop],
        line: int,
    ) -> ast.stmt:
        """The guard itself, with its handler."""
        # A cell's body cannot return a continuation's result: its runner runs it.
        is_top = block.owner is self.layout.scope
        method = "caught"
        if is_top:
            method = "caught_body" if self.is_module else "caught_last"
        # Never called: its closure is the only way to a live frame's cells.
        cells = f", lambda: ({', '.join(self.cells)},)" if self.cells else ""
        found = f"{name} = {name}.{method}({block.index}{cells})"
        check = _if_set(name)
        check.body = [_guarded_call(hidden.statements(found, line=line), name)]
        held = [trees.iterator_name(x) for x in loops if not isinstance(x, ast.While)]
        (going_out,) = hidden.statements(f"if {name} is None: raise")
        assert isinstance(going_out, ast.If)
        going_out.body[:0] = hidden.clear(list(dict.fromkeys(held)))
        going_out.body[:0] = hidden.clear(self.slots, "...")
        handler = hidden.statements(f"{name} = {LOADED_GUARDS}", line=line)
        return hidden.protected(body, [*handler, check, going_out])

    def _go_on(self, statement: str, name: str, done: str, line: int) -> ast.stmt:
        """Run ``name``; take this frame's own line out of what it raises."""
        run = f"{name}.run()"
        if self.is_async:
            run = f"(await {run})"
        elif self.is_generator:
            run = f"(yield from {run})"
        method, *more = done.split(", ")
        call = f"{name}.{method}({', '.join([run, *more])})"
        text = statement.format(going_on=call)
        passed = hidden.statements(f"{LOADED_GUARDS}.passed()", line=line)
        return hidden.protected(
            hidden.statements(text, line=line),
            [*passed, *hidden.clear([name]), *hidden.statements("raise")],
        )


def display(node: ast.stmt) -> None:
    """Have the value of an expression of a cell's body displayed when it has run."""
    node.gr_displayed = True  # type: ignore[attr-defined]


def _display(node: ast.Expr) -> None:
    """As the interpreter does for ``single`` input: ``sys.displayhook(value)``."""
    made = hidden.expression("__import__('sys').displayhook(_)", at=node.value)
    assert isinstance(made, ast.Call)
    made.args = [node.value]
    node.value = made


def _insert_checks(body: list[ast.stmt]) -> None:
    """Before a guarded statement ``K = None``; behind it, leave if ``K`` is set."""
    found: list[ast.stmt] = []
    for node in body:
        for _, _, child in trees.child_blocks(node):
            _insert_checks(child)
        if isinstance(node, Held) and hasattr(node, "gr_init"):
            found += _checked(node)
        else:
            found.append(node)
    body[:] = found


def _checked(node: Held) -> list[ast.stmt]:
    leaving = trees.leave_name(node)
    check = _if_set(leaving)
    check.body = hidden.statements(f"{leaving}.leave()")
    if isinstance(node, ast.Try | ast.TryStar) and node.orelse:
        # A body that a continuation has finished goes on behind the check,
        # which knows whether the `else` is to run, and in what version.
        (clause,) = hidden.statements(f"if {leaving} is None: pass")
        assert isinstance(clause, ast.If)
        clause.body, node.orelse = node.orelse, [clause]
    return [*hidden.clear([trees.resume_name(node), leaving]), node, check]


def _keep_operands(scope: Scope, unstable: Set[str]) -> list[str]:
    """Keep what the statements of a frame wait for; the hidden locals it takes."""
    used: set[str] = set()

    def walk(body: list[ast.stmt]) -> None:
        for node in body:
            for _, _, child in trees.child_blocks(node):
                walk(child)
            if isinstance(node, ast.Try) and node.finalbody:
                _forget_returned(node)
        body[:] = operands.keep(body, used, unstable)

    walk(scope.body)
    return sorted(used)


def _forget_returned(node: ast.Try) -> None:
    """What a ``return`` has kept is of no use in the ``finally`` that comes behind."""
    names = {
        inner.id
        for found in trees.statements(node.body)
        if isinstance(found, ast.Return)
        for inner in ast.walk(found)
        if isinstance(inner, ast.Name) and inner.id.startswith(operands.SLOT)
    }
    node.finalbody[:0] = hidden.clear(sorted(names), "...")


def _split_prologue(scope: Scope) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """Docstring and ``from __future__`` stay in front of the guard."""
    body = scope.body
    count = 1 if ast.get_docstring(scope, clean=False) is not None else 0
    while count < len(body) and is_future(body[count]):
        count += 1
    return body[:count], body[count:]


def is_future(node: ast.stmt) -> bool:
    """Tell whether a statement is a ``from __future__ import``."""
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _loops_inside(body: list[ast.stmt]) -> list[Loop]:
    found: list[Loop] = []
    for node in body:
        if isinstance(node, Loop):
            found.append(node)
        for _, _, child in trees.child_blocks(node):
            found += _loops_inside(child)
    return found


def own_nodes(scope: ast.AST) -> list[ast.AST]:
    """Nodes that run in the frame of ``scope`` (no nested functions or classes)."""
    found: list[ast.AST] = []
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        found.append(node)
        if not isinstance(node, Function | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return found


_COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def yields(scope: ast.AST) -> bool:
    """Tell whether the function is a generator."""
    return any(isinstance(n, ast.Yield | ast.YieldFrom) for n in own_nodes(scope))


def awaits(scope: ast.AST) -> bool:
    """Tell whether a cell's own statements need an event loop."""
    kinds = ast.Await | ast.AsyncFor | ast.AsyncWith
    return any(
        isinstance(n, kinds)
        or (isinstance(n, _COMPREHENSIONS) and any(g.is_async for g in n.generators))
        for n in own_nodes(scope)
    )


def _header_line(owner: Scope | Held, body: list[ast.stmt]) -> int:
    return int(getattr(owner, "lineno", body[0].lineno))


def _guarded_call(call: list[ast.stmt], name: str) -> ast.stmt:
    """Ask, but never fail: at the recursion limit even the asking does.

    Its ``except`` begins like a guard's, so that whoever reads it takes it for one.
    """
    text = f"{name} = {LOADED_GUARDS}\nif {name}.STRICT: raise\n{name} = None"
    return hidden.protected(call, hidden.statements(text))


def _if_set(name: str) -> ast.If:
    (node,) = hidden.statements(f"if {name} is not None: pass")
    assert isinstance(node, ast.If)
    return node
