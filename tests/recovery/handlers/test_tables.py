"""Exception tables, instructions and static stack depth, over the standard library."""

from __future__ import annotations

import dis
import functools
import glob
import importlib.util
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

from gpurescue.recovery.handlers import depth_at, tables

_LIBRARY = os.path.dirname(os.__file__)
_FILES = sorted(
    glob.glob(f"{_LIBRARY}/[a-d]*.py")
    + glob.glob(f"{_LIBRARY}/asyncio/*.py")
    + glob.glob(f"{_LIBRARY}/concurrent/futures/*.py")
)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


@functools.cache
def _all_codes() -> list[CodeType]:
    found: list[CodeType] = []
    for path in _FILES:
        source = importlib.util.decode_source(Path(path).read_bytes())
        found += _codes(compile(source, path, "exec", dont_inherit=True))
    return found


def test_rows_are_those_of_dis() -> None:
    for code in _all_codes():
        listing = tables.Listing(code)
        expected = dis._parse_exception_table(code)
        found = [listing.entry(entry.start) for entry in expected]
        assert [(e.start, e.end, e.target, e.depth, e.lasti) for e in found if e] == [
            (e.start, e.end, e.target, e.depth, e.lasti) for e in expected
        ]


def test_entries_are_sorted_and_never_overlap() -> None:
    """What makes one bisection enough to find the innermost handler."""
    for code in _all_codes():
        rows = tables.Listing(code).rows
        for (start, size, *_), (following, *_) in itertools.pairwise(rows):
            assert start + size <= following


def test_instructions_are_those_of_dis() -> None:
    for code in _all_codes()[::5]:
        listing = tables.Listing(code)
        for expected in dis.get_instructions(code):
            if expected.opname in ("CACHE", "EXTENDED_ARG"):
                continue
            found = listing.at(listing.start_of(expected.offset))
            assert found.op == expected.opcode
            assert expected.arg is None or found.arg == expected.arg
            if found.op in tables.JUMPS:
                assert tables.jump_target(found) == expected.argval
            for inside in range(expected.offset, found.after, 2):
                assert listing.start_of(inside) == found.start


def test_depth_stays_within_the_stack() -> None:
    for code in _all_codes():
        listing = tables.Listing(code)
        for entry in dis._parse_exception_table(code):
            expected = entry.depth + entry.lasti + 1
            assert listing.depth(entry.target) == expected
        listing.depth(len(listing.bytes))
        for offset, depth in listing._depths.items():
            assert 0 <= depth <= code.co_stacksize
            if dis.opname[listing.at(offset).op] == "RETURN_VALUE":
                assert depth >= 1


def test_depth_does_not_depend_on_the_order_of_questions() -> None:
    """Handlers were once forgotten when the first answer came before them."""
    for code in _all_codes()[::3]:
        whole = tables.Listing(code)
        offsets = [whole.start_of(i.offset) for i in dis.get_instructions(code)]
        forwards = [whole.depth(offset) for offset in offsets]
        backwards = tables.Listing(code)
        found = [backwards.depth(offset) for offset in reversed(offsets)]
        assert forwards == found[::-1]


def test_depth_at_statement_starts() -> None:
    def sample(a, b):
        a = b
        for x in a:
            print(x, [a, b])
        with a as c:
            b = c

    code = sample.__code__
    starts: dict[int, list[int]] = {}
    for offset, _, line in code.co_lines():
        if line is not None:
            starts.setdefault(line - code.co_firstlineno, []).append(offset)
    found = {line: depth_at(code, offsets[0]) for line, offsets in starts.items()}
    assert found[1] == 0
    assert found[3] == 1  # the loop's iterator
    assert found[5] == 1  # the manager's exit
    assert depth_at(code, len(code.co_code)) == -1


def test_depth_inside_a_cache_is_that_of_the_instruction() -> None:
    def sample(a):
        return a.b.c(1)

    code = sample.__code__
    listing = tables.listing(code)
    for instruction in dis.get_instructions(code):
        found = listing.at(listing.start_of(instruction.offset))
        for inside in range(found.start, found.after, 2):
            assert depth_at(code, inside) == depth_at(code, found.start)


def test_listing_is_kept_by_identity() -> None:
    source = "def f(a):\n    return a\n"
    first, second = (compile(source, "<same>", "exec").co_consts[0] for _ in "ab")
    assert first == second
    assert tables.listing(first) is not tables.listing(second)
    assert tables.listing(first) is tables.listing(first)


def test_listings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_listings", {})
    monkeypatch.setattr(tables, "_KEPT", 3)
    for number in range(10):
        tables.listing(compile(f"x = {number}", "<bounded>", "exec"))
    assert len(tables._listings) <= 3


def test_depth_from_several_threads() -> None:
    codes = _all_codes()[:400]
    expected = [tables.Listing(code).depth(len(code.co_code) - 2) for code in codes]
    found: list[list[int]] = []

    def ask() -> None:
        found.append([tables.listing(c).depth(len(c.co_code) - 2) for c in codes])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
