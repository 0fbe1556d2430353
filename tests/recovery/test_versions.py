"""Programs that another version of Python goes on with, from their sources."""

from __future__ import annotations

import itertools
import random

import harness
import pytest
import test_revival
import versions

GENERATED = """
import abc, collections, contextlib, dataclasses, enum, functools, typing
@dataclasses.dataclass(order=True)
class Plain:
    b: int
    a: list = dataclasses.field(default_factory=list, compare=False)
    c: str = "c"
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    x: int
    y: tuple = ()
    z: dataclasses.InitVar[int] = 3
    def __post_init__(self, z):
        T(z)
@dataclasses.dataclass
class Child(Plain):
    d: float = 0.5
    def __repr__(self):
        return "child"
@dataclasses.dataclass(eq=False)
class Same:
    e: int = 1
Pair = collections.namedtuple("Pair", "left right", defaults=[2])
class Named(typing.NamedTuple):
    first: int
    second: str = "s"
    def both(self):
        return f"{self.first}{self.second}"
class Color(enum.Enum):
    RED = 1
    BLUE = "b"
    def shade(self):
        return T(self.name.lower())
class Mode(enum.Flag):
    A = enum.auto()
    B = enum.auto()
class Number(enum.IntEnum):
    ONE = 1
class Base(abc.ABC):
    @abc.abstractmethod
    def go(self): ...
    @property
    def size(self):
        return T(len(self.parts))
class Slotted(Base):
    __slots__ = ("parts",)
    def __init__(self, parts):
        self.parts = parts
    def go(self):
        return [self.size for _ in self.parts]
    @classmethod
    def of(cls, *parts):
        return cls(list(parts))
    @staticmethod
    def helped(x, *, y=2):
        return x + y
@functools.total_ordering
class Ordered:
    def __init__(self, n):
        self.n = n
    def __eq__(self, other):
        return self.n == other.n
    def __lt__(self, other):
        return self.n < other.n
    def twice(self):
        return T(2 * self.n)
@contextlib.contextmanager
def block(name):
    T(("enter", name))
    yield name
    T(("leave", name))
def noted(function):
    calls = 0
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        nonlocal calls
        calls += 1
        T(calls)
        return function(*args, **kwargs)
    return wrapper
@noted
def add(a, /, b, *, c=1):
    return a + b + c
class Known(typing.Protocol):
    def go(self) -> int: ...
class Failed(ValueError):
    def __init__(self, why):
        super().__init__(why)
        self.why = why
# %%
plain, frozen, child = Plain(1), Frozen(x=2), Child(1, [2])
pair, named, slotted = Pair(1), Named(1), Slotted.of(1, 2)
for i in range(3):
    plain.a.append(i)
    T((plain == Plain(1), plain < Plain(2), repr(plain), repr(frozen), repr(child)))
    T((hash(frozen) == hash(Frozen(x=2)), dataclasses.replace(frozen, x=i, z=1).x))
    T([f.name for f in dataclasses.fields(Child)])
    T((Child(1, c="x", d=i) == Child(1, c="x", d=i), Same() == Same(i), Plain.c))
    try:
        frozen.x = 3
    except dataclasses.FrozenInstanceError:
        T("frozen")
    T((pair, pair._replace(left=i), Pair(i), named, named.both(), Named(i)._asdict()))
    T((Color.RED.shade(), Color("b"), Mode.A | Mode.B, Number(1) + i, list(Color)))
    T((slotted.go(), slotted.helped(i), isinstance(slotted, Base), Slotted.of(1).go()))
    T((Ordered(i) >= Ordered(1), Ordered(i).twice(), max(Ordered(1), Ordered(i)).n))
    T(add(1, i, c=2))
    if i == 2:
        with block(i) as found:
            T(found)
    try:
        raise Failed(i)
    except Failed as error:
        T(error.why)
    try:
        Base()
    except TypeError:
        T("abstract")
"""
LAMBDAS = """
import functools, operator
one, two, same = lambda x: x + 1, lambda x: x * 2, lambda x: x + 1
ones = [lambda: 1, lambda: 2, lambda: "s", lambda: 1.0]
many = [(lambda i: lambda: i)(i) for i in range(3)]
late = [lambda: i for i in range(3)]
table = {"a": lambda x, y=2: (x, y), "b": lambda *a, **k: (a, k)}
key = functools.partial(lambda z, a, x: (a, x, z), 1, x=2)
def outer(z, a):
    q = m = 0
    def inner(x):
        nonlocal q
        q += a
        return lambda b: (b, z, q, m, a, x)
    def other():
        return (m, z)
    class Local:
        q = 5
        def get(self):
            return (q, z, __class__.__name__)
    for i in range(2):
        m += 1
        T(inner(i)(i))
        T((other(), Local().get(), [x + z for x in (1, q)]))
        T({n: (lambda: n + a)() for n in (1, 2)})
    return inner, other, Local
def text(x):
    return (f"{x!r:>5} {x + 1} "
            f"{(lambda y: y + x)(2)} {x:{x}}")
class Deep:
    class Inner:
        make = lambda self, n: [n, (lambda: self.n)()]
        def __init__(self, n):
            self.n = n
            self.__hidden = lambda: n
        def hidden(self):
            return self.__hidden()
# %%
inner, other, Local = outer(3, 4)
deep = Deep.Inner(7)
gen = (x * 2 for x in [1, 2, 3])
next(gen)
del gen
for i in range(3):
    T([one(i), two(i), same(i)])
    T([f() for f in many])
    T([f() for f in late])
    T([table["a"](i), table["b"](i, j=2), key(5)])
    T([inner(i)(2), other(), Local().get()])
    T([text(i), deep.make(i), deep.hidden(), sorted([3, i, 2], key=lambda x: -x)])
"""
ITERATORS = """
import itertools, random
class Own:
    def __init__(self): self.n = 0
    def __iter__(self): return self
    def __next__(self):
        self.n += 1
        if self.n > 6: raise StopIteration
        return self.n
def gen(n):
    try:
        for i in range(n):
            got = yield i
            T(got)
    finally:
        T("closed")
def both(n):
    found = yield from gen(n)
    yield from [7, 8]
# %%
its = {
    "range": iter(range(9)), "list": iter([1, 2, 3, 4, 5]),
    "rev": reversed([1, 2, 3, 4, 5]), "enum": enumerate("abcdef", 3),
    "zip": zip("abcde", itertools.count(2)),
    "strict": zip([1, 2, 3, 4], [5, 6, 7, 8], strict=True),
    "map": map(lambda x: x + 1, iter([1, 2, 3, 4])),
    "filter": filter(None, [1, 0, 2, 3, 4]), "count": itertools.count(1, 2),
    "cycle": itertools.cycle("ab"), "repeat": itertools.repeat(5, 9),
    "chain": itertools.chain([1], "bcde"),
    "flat": itertools.chain.from_iterable([[1, 2], [3, 4]]),
    "islice": itertools.islice(itertools.count(), 1, 20, 2),
    "product": itertools.product("ab", [1, 2]),
    "perm": itertools.permutations([1, 2, 3]),
    "comb": itertools.combinations(range(4), 2),
    "combr": itertools.combinations_with_replacement(range(3), 2),
    "acc": itertools.accumulate([1, 2, 3, 4, 5], lambda a, b: a * b),
    "take": itertools.takewhile(lambda x: x < 9, range(9)),
    "drop": itertools.dropwhile(lambda x: x < 1, range(9)),
    "longest": itertools.zip_longest("abcd", [1]),
    "star": itertools.starmap(pow, [(1, 2), (2, 2), (3, 2), (4, 2)]),
    "compress": itertools.compress("abcdef", [1, 0, 1, 1, 1, 1]),
    "ff": itertools.filterfalse(lambda x: x % 2, range(12)),
    "tee": itertools.tee(range(9))[1], "dict": iter({"a": 1, "b": 2, "c": 3,
    "d": 4}.items()), "set": iter({1, 2, 3, 4}), "str": iter("abcde"),
    "bytes": iter(b"abcde"), "call": iter(Own().__next__, 99), "own": Own(),
    "gen": gen(5), "both": both(3),
}
stream = random.Random(3)
group = None
for i in range(3):
    for name, it in its.items():
        T((name, next(it)))
    T((i, stream.random(), stream.gauss(0, 1)))
T(its["gen"].send("hello"))
its["gen"].close()
its["both"].close()
"""
DEQUES = """
import collections
# %%
found = collections.deque([1, 2, 3, 4, 5])
its = [iter(found), reversed(found), found]
for i in range(3):
    T([next(it) for it in its[:2]])
found.append(T(6))
"""
CONSTANTS = """
ones = [lambda: 1, lambda: 2, lambda: "s", lambda: 1.0]
# %%
for i in range(2):
    T([f() for f in ones])
"""
GENERIC = """
def first[X](found: list[X]) -> X:
    return found[0]
class Box[Y: int]:
    def __init__(self, y: Y):
        self.y = y
    def get(self) -> Y:
        return T(self.y)
    def map[Z](self, f, *z: Z):
        def inner(x: Y) -> Z:
            return f(x)
        return inner(self.y)
type Alias = list[int]
def plain(n):
    for i in range(n):
        T(i)
    return n
# %%
box = Box(3)
for i in range(3):
    T((first([i]), box.get(), box.map(lambda x: x + i), plain(2)))
    T([p.__name__ for p in Box.__type_params__ + first.__type_params__])
"""
EXACT = {
    **test_revival.PROGRAMS,
    "generated": GENERATED,
    "lambdas": LAMBDAS,
    "iterators": ITERATORS,
    "deques": DEQUES,
}
REFUSED = {  # by some of the versions, and never wrong
    "constants": CONSTANTS,
    "generic": GENERIC,
}
ALL = EXACT | REFUSED


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # programs write files


OTHERS = sorted(versions.interpreters().keys() - {versions.SAID})
needs_another = pytest.mark.skipif(not OTHERS, reason="there is one Python only")


def crossed(one, other, tmp_path, programs, most=30):
    known = versions.interpreters()
    return versions.crossed(known[one], known[other], tmp_path, programs, most)


def check(found):
    """What is said of programs: not one copy is wrong, and most are exact."""
    assert {name: x["wrong"] for name, x in found.items() if x["wrong"]} == {}
    refused = {name: x["refused"] for name, x in found.items() if x["refused"]}
    assert refused.keys() <= REFUSED.keys(), refused
    reasons = [reason for some in refused.values() for reason in some]
    assert all("version of Python" in r or "has no" in r for r in reasons), reasons
    assert all(found[name]["num_exact"] >= 2 for name in EXACT)


def cells(program):
    return program.split("# %%\n")


@needs_another
@pytest.mark.parametrize("other", OTHERS)
def test_another_version_goes_on_to_the_same_end(other, tmp_path):
    programs = {name: cells(text) for name, text in ALL.items()}
    check(crossed(versions.SAID, other, tmp_path, programs, 3))


@pytest.mark.thorough
@needs_another
@pytest.mark.parametrize(
    ("one", "other"), list(itertools.permutations([versions.SAID, *OTHERS], 2))
)
def test_all_samples_in_all_pairs_of_versions(one, other, tmp_path):
    samples = {f"sample {n}": harness.load(n) for n in test_revival.NAMES}
    programs = {name: cells(text) for name, text in ALL.items()} | samples
    check(crossed(one, other, tmp_path, programs))


@pytest.mark.thorough
@needs_another
@pytest.mark.parametrize(
    ("one", "other"), list(itertools.permutations([versions.SAID, *OTHERS], 2))
)
def test_random_programs_in_all_pairs_of_versions(one, other, tmp_path):
    made = {
        f"{versions.RANDOM}{n}": list(
            test_revival.programs.make(random.Random(n)).cells
        )
        for n in range(100)
    }
    found = crossed(one, other, tmp_path, made, 4)
    assert not [x for x in found.values() if x["wrong"] or x["refused"]]
    assert sum(x["num_exact"] for x in found.values()) > 30
