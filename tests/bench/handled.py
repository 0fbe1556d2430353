"""What an exception costs that the program handles by itself.

    python tests/bench/handled.py [--quick]

Several kinds of handlers, each as a program of guarded functions and as a plain copy.
``inplace.py`` reports the worst kind; this prints all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS / "recovery")]

import harness  # noqa: E402

from gpurescue.recovery.handlers import tables  # noqa: E402

# Each defines ``handle()``, in which one exception is raised and handled.
KINDS = {
    "try near": """
def fail(key): return {}[key]
def handle():
    try:
        return fail("a")
    except KeyError:
        return None
""",
    "third clause": """
def fail(key): raise FileNotFoundError(key)
def handle():
    try:
        return fail("a")
    except (KeyError, IndexError):
        return 1
    except ValueError as error:
        raise RuntimeError("bad value") from error
    except OSError as error:
        return str(error)
""",
    "five frames up": """
def a(key): return {}[key]
def b(key): return a(key)
def c(key): return b(key)
def d(key): return c(key)
def e(key): return d(key)
def handle():
    try:
        return e("a")
    except KeyError:
        return None
""",
    "with and finally": """
import threading
lock, seen = threading.Lock(), []
def fail(key): return {}[key]
def locked(key):
    with lock:
        return fail(key)
def handle():
    try:
        try:
            return locked("a")
        finally:
            seen.clear()
    except LookupError:
        return None
""",
    "retries": """
def fail(attempt):
    if attempt < 1: raise ConnectionError("later")
    return attempt
def handle(attempts=2):
    for attempt in range(attempts):
        try:
            return fail(attempt)
        except ConnectionError:
            if attempt + 1 == attempts:
                raise
""",
    "text of the error": """
def fail(): raise RuntimeError("CUDA out of memory")
def handle():
    try:
        fail()
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
""",
    "state of an object": """
class Cache:
    def __init__(self): self.strict, self.default, self.misses = False, 1, []
    def load(self, key): return {}[key]
    def get(self, key):
        try:
            return self.load(key)
        except KeyError as error:
            if self.strict:
                raise LookupError(key) from error
            self.misses.append(key)
            return self.default
handle = lambda cache=Cache(): (cache.get("a"), cache.misses.clear())
""",
    "logs": """
import logging
log = logging.getLogger("handled")
def fail(key): return {}[key]
def handle():
    try:
        return fail("a")
    except KeyError as error:
        log.debug("missing: %s", error)
        return None
""",
    "getattr": """
class Lazy:
    def __getattr__(self, name): raise AttributeError(name)
lazy = Lazy()
def handle():
    return getattr(lazy, "missing", None)
""",
    "hasattr": """
class Lazy:
    @property
    def missing(self): raise AttributeError("missing")
lazy = Lazy()
def handle():
    return hasattr(lazy, "missing")
""",
    "next": """
class Once:
    def __init__(self): self.left = 1
    def __iter__(self): return self
    def __next__(self):
        if not self.left: raise StopIteration
        self.left -= 1
        return self.left
def handle():
    for item in Once(): pass
""",
    "suppress": """
import contextlib
def fail(key): return {}[key]
def handle():
    with contextlib.suppress(KeyError):
        fail("a")
""",
    "own manager": """
import contextlib
@contextlib.contextmanager
def ignoring(*kinds):
    try:
        yield
    except kinds:
        pass
def fail(key): return {}[key]
def handle():
    with ignoring(KeyError):
        fail("a")
""",
    "library": """
import json
class Shown: pass
def default(value): raise TypeError("no JSON")
encoder = json.JSONEncoder(default=default)
shown = Shown()
def handle():
    try:
        return encoder.encode({"a": shown})
    except TypeError:
        return None
""",
    "library handles": """
import configparser, collections
class Layers(collections.abc.Mapping):
    def __getitem__(self, key): raise KeyError(key)
    def __iter__(self): return iter(())
    def __len__(self): return 0
layers = Layers()
def handle():
    return layers.get("a"), "a" in layers
""",
}


def _plain(source: str) -> Callable[[], Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "<plain>", "exec"), names)
    handle: Callable[[], Any] = names["handle"]
    return handle


def _guarded(source: str) -> Callable[[], Any]:
    book = harness.Notebook()
    book.cell(source)
    handle: Callable[[], Any] = book.names["handle"]
    return handle


def _seconds(function: Callable[[], Any], num_calls: int) -> float:
    start = time.thread_time()
    for _ in range(num_calls):
        function()
    return (time.thread_time() - start) / num_calls


class Bench:
    """The programs, and what each took: seconds for one call of ``handle``."""

    def __init__(self, quick: bool) -> None:
        self.num_rounds = 5 if quick else 50
        self.num_calls = 50 if quick else 200
        self.guarded = {k: _guarded(KINDS[k]) for k in KINDS}
        self.plain = {k: _plain(KINDS[k]) for k in KINDS}
        self.again = {k: _plain(KINDS[k]) for k in KINDS}

    def in_a_run(self, measure: Callable[[], None]) -> None:
        """Call ``measure`` in the thread of a run."""
        book = harness.Notebook({"measure": measure})
        run = book.start("measure()")
        run.wait()
        if run.error is not None:
            raise run.error

    def compare(self, kind: str) -> tuple[float, float]:
        """What guards add to one call, and what a second plain copy adds.

        From the fastest rounds, in which the three take turns.
        """
        copies = [self.plain[kind], self.guarded[kind], self.again[kind]]
        times: list[list[float]] = [[], [], []]
        for i in range(self.num_rounds):
            for j in range(3):
                which = (i + j) % 3
                times[which].append(_seconds(copies[which], self.num_calls))
        plain, guarded, again = map(min, times)
        return guarded - plain, again - plain

    def cold(self, kind: str) -> float:
        """The first exception of a program, with nothing known of any code."""
        found = []
        for _ in range(self.num_rounds):
            function = _guarded(KINDS[kind])
            tables._listings.clear()
            found.append(_seconds(function, 1))
        return statistics.median(found) - _seconds(self.plain[kind], 1)


def measure(quick: bool) -> dict[str, dict[str, float]]:
    """For each kind microseconds: warm and cold in a run; idle and noise without."""
    bench = Bench(quick)
    found: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}

    def active() -> None:
        for kind, row in found.items():
            row["cold"] = 1e6 * bench.cold(kind)
            _seconds(bench.guarded[kind], bench.num_calls)
            row["warm"] = 1e6 * bench.compare(kind)[0]

    bench.in_a_run(active)
    for kind, row in found.items():
        idle, noise = bench.compare(kind)
        row |= {"idle": 1e6 * idle, "idle_noise": 1e6 * abs(noise)}
    return found


def worst(quick: bool) -> dict[str, float]:
    """The figures that ``inplace.py`` reports: the worst kind's."""
    rows = measure(quick).values()
    return {
        "handled_warm_us": max(row["warm"] for row in rows),
        "handled_cold_ms": max(row["cold"] for row in rows) / 1e3,
        "handled_idle_us": max(row["idle"] for row in rows),
        "handled_idle_noise_us": max(row["idle_noise"] for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a short run")
    rows = measure(parser.parse_args().quick)
    print(f"{'us':20}" + "".join(f"{name:>12}" for name in next(iter(rows.values()))))
    for kind, row in rows.items():
        print(f"{kind:20}" + "".join(f"{value:12.2f}" for value in row.values()))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
