"""Random programs, as source text, from one source of chance.

Every program ends, raises nothing that it does not catch, and means the same each
time. ``T(value, label)`` notes what has happened (see ``properties``). Functions call
only functions that were made before them, loops are short, and each variable that an
expression reads is bound wherever it can be read.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

PREAMBLE = '''\
import contextlib, functools


class Box:
    """Of the user's: its methods are guarded."""

    def __init__(self, n):
        T(n, "Box")
        self.n = n
        self.items = [n, n + 1, n + 2]

    def __getitem__(self, i):
        T(i, "getitem")
        return self.items[i % 3]

    def __setitem__(self, i, value):
        T(i, "setitem")
        self.items[i % 3] = value % 50
        T(value, "was set")

    def __add__(self, other):
        T(other, "add")
        return self.n + other

    def __iadd__(self, other):
        T(other, "iadd")
        self.n += other
        return self

    def __iter__(self):
        T(self.n, "iter")
        for item in self.items:
            yield T(item, "item")

    def __call__(self, x=0):
        T(x, "call")
        return x + self.n

    @property
    def value(self):
        T(self.n, "value")
        return self.n

    @value.setter
    def value(self, n):
        T(n, "set value")
        self.n = n

    @classmethod
    def made(cls, n):
        T(n, "made")
        return cls(n)

    @staticmethod
    def twice(n):
        T(n, "twice")
        return 2 * n


class Sub(Box):
    def __init__(self, n):
        T(n, "Sub")
        super().__init__(n)
        T(n, "Sub done")

    def __call__(self, x=1):
        T(x, "sub call")
        found = super().__call__(x)
        T(found, "super called")
        return found + 1


class Steps:
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return self

    def __next__(self):
        T(self.n, "next")
        if self.n <= 0:
            raise StopIteration
        self.n -= 1
        return self.n


class Manager:
    def __init__(self, name):
        self.name = name

    def __enter__(self):
        T(self.name, "enter")
        return self.name

    def __exit__(self, kind, error, traceback):
        T(kind is None, "exit")


@contextlib.contextmanager
def managed(n):
    T(n, "managed")
    try:
        yield n
    finally:
        T(n, "left")


def logged(label):
    def decorate(f):
        @functools.wraps(f)
        def inner(*args, **kwargs):
            T(label, "before")
            result = f(*args, **kwargs)
            T(label, "after")
            return result

        return inner

    return decorate


total = 0
shared = iter(range(100, 140))
'''

ASYNC_PREAMBLE = """\
import asyncio


class Waiter:
    async def __aenter__(self):
        T(0, "aenter")
        await asyncio.sleep(0)
        return 1

    async def __aexit__(self, kind, error, traceback):
        T(kind is None, "aexit")


class Ticks:
    def __init__(self, n):
        self.n = n

    def __aiter__(self):
        return self

    async def __anext__(self):
        T(self.n, "anext")
        self.n -= 1
        if self.n < 0:
            raise StopAsyncIteration
        await asyncio.sleep(0)
        return self.n
"""


@dataclass(frozen=True, slots=True)
class Program:
    """Cells; the last is the body of the run, the first is never edited."""

    cells: tuple[str, ...]

    def __str__(self) -> str:
        return "\n# %%\n".join(self.cells)


@dataclass
class _Scope:
    """What may be written where the writer stands."""

    kind: str  # def, gen, async, body
    names: list[str]
    is_async: bool = False
    lists: list[str] = field(default_factory=list)
    iterators: list[str] = field(default_factory=list)
    boxes: list[str] = field(default_factory=list)
    num_loops: int = 0
    catches: list[str] = field(default_factory=list)
    in_finally: bool = False
    depth: int = 0
    outer: list[str] = field(default_factory=list)
    global_names: frozenset[str] = frozenset()

    @property
    def can_return(self) -> bool:
        return self.kind != "body" and not self.in_finally


class _Writer:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.lines: list[str] = []
        self.indent = 0
        self.num_labels = 0
        self.num_names = 0
        self.functions: list[tuple[str, int]] = []
        self.generators: list[str] = []
        self.coroutines: list[str] = []
        self.agenerators: list[str] = []
        self.budget = 0  # of compound statements in one function

    # -- text ------------------------------------------------------------------

    def line(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    @contextmanager
    def block(self, header: str):
        self.line(header)
        self.indent += 1
        yield
        self.indent -= 1

    def fresh(self, prefix: str) -> str:
        self.num_names += 1
        return f"{prefix}{self.num_names}"

    def label(self) -> int:
        self.num_labels += 1
        return self.num_labels

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, *options: Callable[..., object]) -> Callable[..., object]:
        return self.rng.choice(options)

    # -- expressions -----------------------------------------------------------

    def noted(self, scope: _Scope, depth: int = 1) -> str:
        return f"T({self.expression(scope, depth)}, {self.label()})"

    def expression(self, scope: _Scope, depth: int) -> str:
        """An expression whose value is an int."""
        if depth <= 0 or self.chance(0.25):
            return self.atom(scope)
        makers = [
            self.noted, self.noted, self.noted, self.operation, self.operation,
            self.call, self.call, self.choice, self.compared, self.either,
            self.walrus, self.item, self.box_operation, self.text, self.display,
            self.following, self.starred, self.builtin,
        ]  # fmt: skip
        if self.coroutines and scope.is_async:
            makers += [self.awaited, self.awaited]
        return str(self.rng.choice(makers)(scope, depth - 1))

    def atom(self, scope: _Scope) -> str:
        if scope.names and self.chance(0.7):
            return self.rng.choice(scope.names)
        return str(self.rng.randint(0, 5))

    def operation(self, scope: _Scope, depth: int) -> str:
        left, right = self.expression(scope, depth), self.expression(scope, depth)
        operator = self.rng.choice(["+", "-", "*", "^", "|"])
        if operator == "*":
            return f"({left} % 10 * ({right} % 10))"
        return f"({left} {operator} {right})"

    def call(self, scope: _Scope, depth: int) -> str:
        if not self.functions:
            return self.noted(scope, depth)
        name, arity = self.rng.choice(self.functions)
        arguments = [self.expression(scope, depth) for _ in range(arity)]
        style = self.rng.randint(0, 5)
        if arguments and style == 0:
            return f"{name}(*[{', '.join(arguments)}])"
        if arguments and style == 1:
            arguments[-1] = f"k={arguments[-1]}"
        elif arguments and style == 2:
            arguments[-1] = f"**{{'k': {arguments[-1]}}}"
        return f"{name}({', '.join(arguments)})"

    def awaited(self, scope: _Scope, depth: int) -> str:
        name = self.rng.choice(self.coroutines)
        return f"(await {name}({self.expression(scope, depth)}))"

    def choice(self, scope: _Scope, depth: int) -> str:
        parts = [self.expression(scope, depth) for _ in range(3)]
        return f"({parts[0]} if {parts[1]} else {parts[2]})"

    def compared(self, scope: _Scope, depth: int) -> str:
        parts = [self.expression(scope, depth) for _ in range(self.rng.randint(2, 3))]
        operators = [self.rng.choice(["<", "<=", "==", "!="]) for _ in parts[1:]]
        text = parts[0]
        for operator, part in zip(operators, parts[1:], strict=True):
            text += f" {operator} {part}"
        return f"({text})"

    def either(self, scope: _Scope, depth: int) -> str:
        word = self.rng.choice(["and", "or"])
        parts = [self.expression(scope, depth) for _ in range(self.rng.randint(2, 3))]
        return f"({f' {word} '.join(parts)})"

    def walrus(self, scope: _Scope, depth: int) -> str:
        if not scope.names:
            return self.noted(scope, depth)
        return f"({self.rng.choice(scope.names)} := {self.expression(scope, depth)})"

    def item(self, scope: _Scope, depth: int) -> str:
        if not scope.lists:
            return self.noted(scope, depth)
        return f"{self.rng.choice(scope.lists)}[({self.expression(scope, depth)}) % 3]"

    def box_operation(self, scope: _Scope, depth: int) -> str:
        if not scope.boxes:
            return f"Box({self.expression(scope, depth)}).n"
        box, x = self.rng.choice(scope.boxes), self.expression(scope, depth)
        return self.rng.choice(
            [f"{box}[{x}]", f"({box} + {x})", f"{box}({x})", f"{box}.value",
             f"{box}.twice({x})", f"{box}.made({x}).value", f"sum({box})",
             f"{box}.items[{x} % 3]"]
        )  # fmt: skip

    def text(self, scope: _Scope, depth: int) -> str:
        inner = self.expression(scope, depth)
        if any(sign in inner for sign in "'{:"):  # not before Python 3.12
            return f"len(str({inner}))"
        return f"len(f'{{{inner}}} {{{self.atom(scope)}:>3}}')"

    def display(self, scope: _Scope, depth: int) -> str:
        a, b = self.expression(scope, depth), self.expression(scope, depth)
        return self.rng.choice(
            [f"[{a}, {b}][1]", f"({a}, {b})[0]", f"len({{{a}, {b}}})",
             f"{{'a': {a}, 'b': {b}}}['b']"]
        )  # fmt: skip

    def following(self, scope: _Scope, depth: int) -> str:
        if not scope.iterators:
            return f"next(shared, {self.expression(scope, depth)})"
        name = self.rng.choice(scope.iterators)
        return f"next({name}, {self.expression(scope, depth)})"

    def starred(self, scope: _Scope, depth: int) -> str:
        parts = ", ".join(self.expression(scope, depth) for _ in range(2))
        return f"max(*[{parts}], {self.expression(scope, depth)})"

    def builtin(self, scope: _Scope, depth: int) -> str:
        a, b = self.expression(scope, depth), self.expression(scope, depth)
        return self.rng.choice(
            [f"max({a}, {b})", f"abs({a})", f"int(str({a}))", f"sum([{a}, {b}])"]
        )

    def iterable(self, scope: _Scope, depth: int) -> str:
        """An expression that gives a few ints."""
        options = [
            f"range({self.rng.randint(0, 3)})",
            f"range({self.expression(scope, depth)} % 3)",
            f"[{self.expression(scope, depth)}, {self.expression(scope, depth)}]",
            f"Steps({self.rng.randint(0, 2)})",
            f"map(abs, [{self.expression(scope, depth)}, 2])",
        ]
        options += [f"{name}({self.expression(scope, depth)})"
                    for name in self.generators]  # fmt: skip
        options += [f"list({name})" for name in scope.lists]
        options += scope.boxes
        return self.rng.choice(options)

    # -- statements ------------------------------------------------------------

    def body(self, scope: _Scope, most: int = 3) -> None:
        scope.depth += 1
        names = list(scope.names)
        for _ in range(self.rng.randint(1, most)):
            self.statement(scope)
            self.budget -= 1
        scope.names[:] = names
        scope.depth -= 1

    def statement(self, scope: _Scope) -> None:
        simple = [
            self.noting, self.noting, self.noting, self.assign, self.assign,
            self.unpack, self.augment, self.augment, self.augment_item,
            self.store_item, self.asserted, self.deleted, self.annotated,
            self.global_change, self.chained, self.nested_call,
        ]  # fmt: skip
        compound = [
            self.if_, self.if_, self.for_, self.for_, self.while_, self.with_,
            self.with_, self.try_, self.try_, self.try_, self.match_, self.define,
            self.suppressed, self.group,
        ]  # fmt: skip
        leaving = [self.leave]
        if scope.kind == "gen":
            simple += [self.yielding] * 4
        if scope.is_async:
            compound += [self.async_with, self.async_for]
        options = simple + leaving
        if scope.depth < 4 and self.budget > 0:
            options = options + compound
        self.rng.choice(options)(scope)

    def noting(self, scope: _Scope) -> None:
        self.line(self.noted(scope, 2))

    def target(self, scope: _Scope) -> str:
        if self.chance(0.5) and scope.names:
            return self.rng.choice(scope.names)
        return self.fresh("v")

    def bound(self, scope: _Scope, name: str) -> None:
        if name not in scope.names:
            scope.names.append(name)

    def assign(self, scope: _Scope) -> None:
        value = self.expression(scope, 3)
        name = self.target(scope)
        self.line(f"{name} = {value}")
        self.bound(scope, name)

    def annotated(self, scope: _Scope) -> None:
        value = self.expression(scope, 2)
        name = self.fresh("v")
        self.line(f"{name}: int = {value}")
        self.bound(scope, name)

    def chained(self, scope: _Scope) -> None:
        value = self.expression(scope, 2)
        a, b = self.target(scope), self.target(scope)
        self.line(f"{a} = {b} = {value}")
        self.bound(scope, a)
        self.bound(scope, b)

    def unpack(self, scope: _Scope) -> None:
        values = [self.expression(scope, 2) for _ in range(3)]
        a, b = self.fresh("v"), self.fresh("v")
        if self.chance(0.5):
            self.line(f"{a}, *_, {b} = {', '.join(values)}")
        else:
            self.line(f"({a}, {b}), _ = ({values[0]}, {values[1]}), {values[2]}")
        self.bound(scope, a)
        self.bound(scope, b)

    def augment(self, scope: _Scope) -> None:
        if not scope.names:
            return self.assign(scope)
        operator = self.rng.choice(["+", "-", "^"])
        name = self.rng.choice(scope.names)
        self.line(f"{name} {operator}= {self.expression(scope, 2)}")

    def item_place(self, scope: _Scope, index: str, of_boxes: float) -> str | None:
        """An item or attribute that can be stored to; None where there is none."""
        if scope.boxes and self.chance(of_boxes):
            box = self.rng.choice(scope.boxes)
            return self.rng.choice([f"{box}[{index}]", f"{box}.n", f"{box}.value"])
        if scope.lists:
            return f"{self.rng.choice(scope.lists)}[{index} % 3]"
        return None

    def augment_item(self, scope: _Scope) -> None:
        index, value = self.expression(scope, 1), self.expression(scope, 2)
        place = self.item_place(scope, index, 0.6)
        if place is not None:
            return self.line(f"{place} += {value}")
        name = self.fresh("box")
        self.line(f"{name} = {self.rng.choice(['Box', 'Sub'])}({index})")
        scope.boxes.append(name)

    def store_item(self, scope: _Scope) -> None:
        index, value = self.expression(scope, 1), self.expression(scope, 2)
        place = self.item_place(scope, index, 0.5)
        if place is None:
            return self.noting(scope)
        self.line(f"{place} = {value}")

    def asserted(self, scope: _Scope) -> None:
        text = self.expression(scope, 2)
        self.line(f"assert ({text}) != -99, {self.noted(scope)}")

    def deleted(self, scope: _Scope) -> None:
        name = self.fresh("d")
        value = self.expression(scope, 1)
        self.line(f"{name} = [{value}, {self.atom(scope)}, 3, 4, 5]")
        self.line(f"del {name}[{self.expression(scope, 2)} % 3], {name}[1]")
        self.line(f"T({name}, {self.label()})")
        self.line(f"del {name}")

    def global_change(self, scope: _Scope) -> None:
        if scope.kind == "body":
            self.line(f"total += {self.expression(scope, 2)}")
        else:
            self.line(f"T(globals()['total'], {self.label()})")

    def nested_call(self, scope: _Scope) -> None:
        for name in scope.outer:
            self.line(f"{name} += {self.expression(scope, 1)}")
            self.line(f"T({name}, {self.label()})")
            return
        self.noting(scope)

    def yielding(self, scope: _Scope) -> None:
        if self.generators and self.chance(0.25):
            name = self.rng.choice(self.generators)
            target = self.fresh("v")
            self.line(f"{target} = yield from {name}({self.expression(scope, 1)})")
            self.line(f"{target} = {target} or 0")
            self.bound(scope, target)
        elif self.chance(0.3):
            self.line(f"T((yield {self.expression(scope, 2)}) or 1, {self.label()})")
        else:
            self.line(f"yield {self.expression(scope, 2)}")

    def leave(self, scope: _Scope) -> None:
        words: list[str] = []
        if scope.num_loops:
            words += ["break", "continue"]
        if scope.can_return:
            words.append("return")
        if scope.catches:
            words += ["raise", "raise"]
        if not words:
            return self.noting(scope)
        word = self.rng.choice(words)
        if word == "return":
            word = f"return {self.expression(scope, 2)}"
        elif word == "raise":
            error = self.rng.choice(scope.catches)
            word = f"raise {error}({self.expression(scope, 2)})"
        if self.chance(0.7):
            with self.block(f"if {self.expression(scope, 1)} % 2:"):
                self.line(word)
        else:
            self.line(word)

    def if_(self, scope: _Scope) -> None:
        with self.block(f"if {self.expression(scope, 2)}:"):
            self.body(scope)
        if self.chance(0.4):
            with self.block(f"elif {self.expression(scope, 2)}:"):
                self.body(scope)
        if self.chance(0.5):
            with self.block("else:"):
                self.body(scope)

    @contextmanager
    def inside(self, scope: _Scope, **changes):
        before = {name: getattr(scope, name) for name in changes}
        kept = [list(x) for x in (scope.names, scope.lists, scope.iterators,
                                  scope.boxes)]  # fmt: skip
        for name, value in changes.items():
            setattr(scope, name, value)
        yield
        for name, value in before.items():
            setattr(scope, name, value)
        for target, value in zip(
            (scope.names, scope.lists, scope.iterators, scope.boxes), kept, strict=True
        ):
            target[:] = value

    def for_(self, scope: _Scope) -> None:
        name, source = self.fresh("i"), self.iterable(scope, 2)
        target = name
        if self.chance(0.25):
            other = self.fresh("j")
            target, source = f"{other}, {name}", f"enumerate({source})"
        elif self.chance(0.15) and scope.iterators:
            source = self.rng.choice(scope.iterators)
            source = f"zip({source}, range({self.rng.randint(0, 2)}))"
            target = f"{name}, _"
        with self.inside(scope, num_loops=scope.num_loops + 1):
            with self.block(f"for {target} in {source}:"):
                scope.names.append(name)
                self.body(scope, 4)
        if self.chance(0.3):
            with self.block("else:"):
                self.body(scope)

    def while_(self, scope: _Scope) -> None:
        count = self.fresh("w")
        self.line(f"{count} = {self.rng.randint(1, 3)}")
        test = self.rng.choice(
            [f"{count} > 0", f"{count} > 0 and {self.expression(scope, 2)}"]
        )
        with self.inside(scope, num_loops=scope.num_loops + 1):
            with self.block(f"while {test}:"):
                self.line(f"{count} -= 1")
                self.body(scope, 4)
        if self.chance(0.3):
            with self.block("else:"):
                self.body(scope)

    def manager(self, scope: _Scope) -> str:
        return self.rng.choice(
            [f"Manager({self.expression(scope, 1)})",
             f"managed({self.expression(scope, 1)})",
             f"contextlib.nullcontext({self.expression(scope, 2)})"]
        )  # fmt: skip

    def with_(self, scope: _Scope) -> None:
        items, names = [], []
        for _ in range(self.rng.randint(1, 2)):
            name = self.fresh("m")
            items.append(f"{self.manager(scope)} as {name}")
            names.append(name)
        with self.block(f"with {', '.join(items)}:"):
            with self.inside(scope):
                scope.names += names
                self.body(scope)
        scope.names += []

    def suppressed(self, scope: _Scope) -> None:
        with self.block("with contextlib.suppress(KeyError):"):
            with self.inside(scope, catches=[*scope.catches, "KeyError"]):
                self.body(scope)

    def try_(self, scope: _Scope) -> None:
        error = self.rng.choice(["KeyError", "ValueError", "LookupError"])
        raised = {"LookupError": "IndexError"}.get(error, error)
        has_finally = self.chance(0.5)
        has_handler = not has_finally or self.chance(0.6)
        catches = [*scope.catches, raised] if has_handler else scope.catches
        with self.block("try:"):
            with self.inside(scope, catches=catches):
                self.body(scope, 4)
        if has_handler:
            self.handler(scope, error)
            if self.chance(0.2):
                self.handler(scope, "ZeroDivisionError")
            if self.chance(0.08):
                self.handler(scope, "Exception")
            if self.chance(0.4):
                with self.block("else:"), self.inside(scope):
                    self.body(scope)
        if has_finally:
            changes = {} if self.chance(0.05) else {"in_finally": True, "num_loops": 0}
            with self.block("finally:"), self.inside(scope, **changes):
                self.body(scope)

    def handler(self, scope: _Scope, error: str) -> None:
        name = f"e{scope.depth}"
        with self.block(f"except {error} as {name}:"), self.inside(scope):
            if self.chance(0.5):
                self.line(f"T(type({name}).__name__, {self.label()})")
            self.body(scope)
            if scope.catches and error in scope.catches and self.chance(0.2):
                self.line("raise")

    def group(self, scope: _Scope) -> None:
        with self.block("try:"), self.inside(scope, num_loops=0, in_finally=True):
            self.body(scope)
            with self.block(f"if {self.expression(scope, 1)} % 2:"):
                self.line("raise ExceptionGroup('g', [KeyError(1), ValueError(2)])")
        for error in ("KeyError", "ValueError"):
            with self.block(f"except* {error} as e:"):
                with self.inside(scope, num_loops=0, in_finally=True, catches=[]):
                    self.line(f"T(len(e.exceptions), {self.label()})")
                    self.body(scope)

    def match_(self, scope: _Scope) -> None:
        a, b = self.expression(scope, 2), self.expression(scope, 1)
        with self.block(f"match ({a} % 3, {b}):"):
            with self.block("case (0, k):"), self.inside(scope):
                scope.names.append("k")
                self.body(scope)
            with self.block(f"case (1, _) if {self.expression(scope, 2)}:"):
                with self.inside(scope):
                    self.body(scope)
            with self.block("case _:"), self.inside(scope):
                self.body(scope)

    def async_with(self, scope: _Scope) -> None:
        name = self.fresh("m")
        with self.block(f"async with Waiter() as {name}:"), self.inside(scope):
            scope.names.append(name)
            self.body(scope)

    def async_for(self, scope: _Scope) -> None:
        name = self.fresh("i")
        source = f"Ticks({self.rng.randint(0, 2)})"
        if self.agenerators and self.chance(0.5):
            source = f"{self.rng.choice(self.agenerators)}({self.expression(scope, 1)})"
        with self.inside(scope, num_loops=scope.num_loops + 1):
            with self.block(f"async for {name} in {source}:"):
                scope.names.append(name)
                self.body(scope)

    def define(self, scope: _Scope) -> None:
        """A nested function with a closure, and its call."""
        name = self.fresh("inner")
        captured = [name for name in scope.names if name not in ("x", "y")][:2]
        is_global = scope.kind == "body" or bool(scope.global_names & set(captured))
        with self.block(f"def {name}(x, y={self.expression(scope, 1)}):"):
            if captured:
                self.line(f"{'global' if is_global else 'nonlocal'} {captured[0]}")
            inner = _Scope("def", ["x", "y", *captured], depth=max(scope.depth, 2))
            inner.global_names = frozenset(captured if is_global else ())
            inner.outer = captured[:1]
            self.body(inner, 3)
            self.line(f"return {self.expression(inner, 1)}")
        value = f"{name}({self.expression(scope, 1)})"
        self.line(f"T({value}, {self.label()})")

    # -- functions -------------------------------------------------------------

    def start(self, scope: _Scope) -> None:
        self.budget = 6
        for name in ("a", "b"):
            if name not in scope.names:
                self.line(f"{name} = {self.rng.randint(0, 5)}")
                scope.names.append(name)
        if self.chance(0.6):
            self.line(f"xs = [{', '.join(str(self.rng.randint(0, 9)) for _ in '123')}]")
            scope.lists.append("xs")
        if self.chance(0.5):
            self.line("it = iter(range(20, 30))")
            scope.iterators.append("it")
        if self.chance(0.4):
            self.line(f"box = {self.rng.choice(['Box', 'Sub'])}({self.label()})")
            scope.boxes.append("box")

    def end(self, scope: _Scope) -> None:
        parts = ["a", "b", *scope.lists]
        parts += [f"next({name}, 0)" for name in scope.iterators]
        parts += [f"{box}.n" for box in scope.boxes if box == "box"]
        self.line(f"T([{', '.join(parts)}], {self.label()})")

    def function(self) -> None:
        kind = self.rng.choice(["def", "def", "def", "gen"])
        name = self.fresh("f" if kind == "def" else "g")
        arity = self.rng.randint(0, 2) if kind == "def" else 1
        parameters = {0: "", 1: "k", 2: "a, k=3"}[arity]
        if kind == "def" and arity == 2 and self.chance(0.3):
            parameters = "a, *args, k=3"
        if kind == "def" and self.chance(0.2):
            self.line(f"@logged({self.label()})")
        with self.block(f"def {name}({parameters}):"):
            scope = _Scope(kind, {0: [], 1: ["k"], 2: ["a", "k"]}[arity])
            self.start(scope)
            self.body(scope, 5)
            if kind == "gen":
                self.line(f"yield {self.expression(scope, 1)}")
            self.end(scope)
            self.line(f"return {self.expression(scope, 2)}")
        if kind == "def":
            self.functions.append((name, arity))
        else:
            self.generators.append(name)

    def coroutine(self) -> None:
        is_generator = self.chance(0.3)
        name = self.fresh("ag" if is_generator else "co")
        with self.block(f"async def {name}(k):"):
            scope = _Scope("async", ["k"], is_async=True)
            self.start(scope)
            if is_generator:
                scope.kind = "body"  # it cannot return a value
                self.body(scope, 3)
                self.line(f"yield {self.expression(scope, 1)}")
                self.body(scope, 2)
                self.line(f"yield {self.expression(scope, 1)}")
            else:
                self.line("await asyncio.sleep(0)")
                self.body(scope, 5)
                self.end(scope)
                self.line(f"return {self.expression(scope, 2)}")
        (self.agenerators if is_generator else self.coroutines).append(name)

    def taken(self) -> str:
        text = "\n".join(self.lines) + "\n"
        self.lines = []
        return text


def make(rng: random.Random) -> Program:
    """One program."""
    writer = _Writer(rng)
    cells = [PREAMBLE]
    is_async = writer.chance(0.15)
    if is_async:
        cells[0] += ASYNC_PREAMBLE
    for _ in range(rng.randint(1, 3)):
        writer.function()
        cells.append(writer.taken())
    if is_async:
        for _ in range(rng.randint(1, 2)):
            writer.coroutine()
            cells.append(writer.taken())
    scope = _Scope("body", [], is_async=is_async)
    writer.start(scope)
    writer.body(scope, 5)
    for name, arity in writer.functions[-1:]:
        writer.line(f"T({name}({', '.join('12'[:arity])}), {writer.label()})")
    for name in writer.generators[-1:]:
        writer.line(f"T(list({name}(2)), {writer.label()})")
    for name in writer.coroutines[-1:]:
        writer.line(f"T(await {name}(1), {writer.label()})")
    writer.end(scope)
    writer.line(f"T([total, next(shared)], {writer.label()})")
    cells.append(writer.taken())
    return Program(tuple(cells))
