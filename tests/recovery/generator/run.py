"""Make random programs, break them, mend them, compare.

    python tests/recovery/generator/run.py --programs 20000 --workers 2 [--seed N]

Prints its progress, each counter-example made small, and as its last line one JSON
object. Needs nothing but gpurescue itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import platform
import random
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[i]) for i in (3, 1, 0)]

import harness  # noqa: E402
import minimise  # noqa: E402
import programs  # noqa: E402
import properties  # noqa: E402

CHUNK = 50
MINIMISE = 120.0  # seconds


@dataclass
class Found:
    """What some programs have shown."""

    programs: int = 0
    unfit: int = 0
    exact: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    statements: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Take over what others have shown."""
        self.programs += other.programs
        self.unfit += other.unfit
        self.exact += other.exact
        self.refused += other.refused
        self.statements += other.statements
        self.wrong += other.wrong


def try_programs(numbers: range) -> Found:
    """Make and try the programs with these numbers."""
    found = Found()
    for number in numbers:
        rng = random.Random(number)
        parts = programs.make(rng).cells
        case = properties.draw(parts, rng)
        found.programs += 1
        if case is None:
            found.unfit += 1
            continue
        for tried in (properties.Case(), case):
            verdict = properties.check(parts, tried)
            if verdict.problem:
                found.wrong.append(_made_small(number, parts, tried, verdict))
                break
        else:
            found.exact += not verdict.refusal
            found.statements.update(verdict.statements)
            if verdict.refusal:
                found.refused[verdict.refusal] += 1
    harness.forget()
    return found


def _made_small(
    number: int,
    parts: tuple[str, ...],
    case: properties.Case,
    verdict: properties.Verdict,
) -> str:
    small = minimise.minimise(parts, properties.showing(case, verdict), MINIMISE)
    problem = properties.check(small, case).problem
    title = f"program {number}, {case}: {problem}"
    return "\n# %%\n".join([title, *small])


def _prepare() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    gc.freeze()  # what is there already is not looked through again and again


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    first, last = options.seed, options.seed + options.programs
    chunks = [range(n, min(n + CHUNK, last)) for n in range(first, last, CHUNK)]
    start, total = time.monotonic(), Found()
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.workers, _prepare) as pool:
        for found in pool.imap_unordered(try_programs, chunks):
            total.add(found)
            for text in found.wrong:
                print(text, flush=True)
            if total.programs % 1000 < CHUNK:
                seconds = time.monotonic() - start
                print(
                    f"{total.programs} programs, {len(total.wrong)} wrong, "
                    f"{seconds:.0f} s",
                    flush=True,
                )
    figures = {
        "python": platform.python_version(),
        "seed": options.seed,
        "programs": total.programs,
        "unfit": total.unfit,
        "exact": total.exact,
        "refused": dict(total.refused.most_common()),
        "wrong": len(total.wrong),
        "statements": dict(total.statements.most_common()),
        "seconds": round(time.monotonic() - start),
    }
    print(json.dumps(figures))
    return 1 if total.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
