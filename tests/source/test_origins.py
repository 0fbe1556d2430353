"""Code found again in its source, by where it came from."""

from __future__ import annotations

import ast
import contextlib
import linecache
from types import CodeType

import pytest

from gpurescue.errors import CannotResume
from gpurescue.source import cells, origins

SOURCE = """
class A:
    def go(self, x, *, y):
        return lambda z: (x, y, z)
def make(b, a):
    def inner():
        return [(lambda: (a, b, i))() for i in range(2)]
    return inner
one, two = lambda x: x + 1, lambda x: x * 2
constants = [lambda: 1, lambda: 2]
"""


@pytest.fixture
def name():
    found = "<cell of origins>"
    linecache.cache[found] = (len(SOURCE), None, SOURCE.splitlines(True), found)
    yield found
    del linecache.cache[found]


def codes_in(code: CodeType) -> list[CodeType]:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return inner + [deeper for c in inner for deeper in codes_in(c)]


def functions(name: str) -> list[CodeType]:
    code = cells.compile_unit(ast.parse(SOURCE), name)
    is_comprehension = "<listcomp>"
    return [c for c in codes_in(code) if c.co_name != is_comprehension]


def test_all_code_of_a_source_is_found_again_but_constants_on_a_line(name):
    texts: dict[str, str] = {}
    num_found = 0
    for code in functions(name):
        found = origins.origin(code, "__main__", texts)
        with contextlib.suppress(CannotResume):
            made = origins.code_of(found)
            assert made == code
            num_found += 1
    assert texts == {name: SOURCE}
    assert num_found >= len(functions(name)) - 2


def test_a_source_that_says_something_else_has_no_such_code(name):
    codes = functions(name)
    found = [origins.origin(code, "__main__", {}) for code in codes]
    text = (
        SOURCE.replace("b, a", "b, c")
        .replace("lambda x", "lambda q")
        .replace("class A", "class B")
    )
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    refused = []
    for one in found:
        try:
            origins.code_of(one)
        except CannotResume as error:
            refused.append(str(error))
    assert any("make" in text for text in refused)
    assert any("A.go was made by another version" in text for text in refused)
    assert sum(text.startswith("<lambda> was") for text in refused) >= 2


def test_a_source_that_is_gone_is_told(name):
    found = origins.origin(functions(name)[0], "__main__", {})
    lines = linecache.cache.pop(name)
    with pytest.raises(CannotResume, match="no function of <cell of origins>"):
        origins.code_of(found)
    linecache.cache[name] = lines


def test_code_of_a_library_is_that_of_the_library_as_it_is_here():
    @contextlib.contextmanager
    def block():
        yield

    code = block.__code__
    texts: dict[str, str] = {}
    found = origins.origin(code, "contextlib", texts)
    assert (found.source, texts) == ("", {})
    assert origins.code_of(found) == code
