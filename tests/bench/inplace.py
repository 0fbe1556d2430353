"""In-place repair: what it costs while nothing fails, and how fast and exact it is.

    python tests/bench/inplace.py [--quick]

Prints a table and, as its last line, one JSON object:

    overhead_1ms   CPU time of a guarded training loop with 1 ms steps against the
                   plain one's, minus 1 (median of the rounds' ratios); overhead_02ms
                   and overhead_10ms the same with steps of about 0.2 and 10 ms
    noise_1ms      the same for a second plain copy: the A/A row; noise_02ms, noise_10ms
    step_ms        what a step of about 1 ms took; step_02ms and step_10ms
    added_ns       what guards add to one step, from loops with an empty step, where
                   the noise is nanoseconds; added_1ms is that as a share of 1 ms
    instructions_ratio
                   instructions of the guarded loop against the plain one's, minus 1:
                   the worst of the three sizes (``instructions.py``; null where there
                   is no valgrind); instructions_noise is the A/A row, instructions_02ms
                   and so on each size
    resume_ms      from the start of %resume to the first new line of the user's, in a
                   real kernel (median; resume_ms_p95)
    exact          placements of the bug (tests/scenarios/placements.py) that end with
                   parameters, Adam state and RNG streams bit-identical to the program
                   that never had it, run in another process without gpurescue
    scenarios      how many placements there are
    handled_warm_us, handled_cold_ms
                   what an exception costs that the program handles, while a run is
                   active, against the same program without guards: the worst kind of
                   handler of handled.py, after many exceptions and for the first one
    handled_idle_us
                   the same while no run is active; handled_idle_noise_us a second
                   plain copy: the A/A row
    peers          the same of others (``peers.py``, ``pip install .[bench]``): overhead
                   at each size; placements that go on after one edit, and how many of
                   them end bit-identical; resume_ms
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

import handled
import instructions
import peers
import placements
import training
from driver import Notebook
from scenario import Scenario
from training import TESTS

Figures = dict[str, Any]


def overhead(quick: bool) -> Figures:
    """Guards and peers against plain, with real steps of three sizes."""
    found: Figures = {"peers": {}}
    with peers.loops() as others:
        found["peers"] = {label: {} for label in others}
        for suffix, target_ms, num_steps in training.SIZES:
            step = training.step_of_width(training.width_of(target_ms))
            num_rounds = 9 if quick else 99
            times = training.measure(step, num_steps, num_rounds, others=others)
            _note(found, suffix, times)
    return found | added_by_guards(quick)


def _note(found: Figures, suffix: str, times: dict[str, list[float]]) -> None:
    plain = times["plain"]
    name = "step_ms" if suffix == "1ms" else f"step_{suffix}"
    found[name] = 1e3 * statistics.median(plain)
    ratios = {
        label: statistics.median(a / b for a, b in zip(own, plain, strict=True)) - 1
        for label, own in times.items()
    }
    found[f"overhead_{suffix}"] = ratios["guarded"]
    found[f"noise_{suffix}"] = ratios["plain again"]
    for label, row in found["peers"].items():
        row[f"overhead_{suffix}"] = ratios[label]


def added_by_guards(quick: bool) -> Figures:
    """What guards add to a step, from loops with an empty one."""
    empty = training.measure(lambda i: None, 20_000, 6 if quick else 20)
    added = min(empty["guarded"]) - min(empty["plain"])
    noise = abs(min(empty["plain again"]) - min(empty["plain"]))
    return {
        "added_ns": 1e9 * added,
        "added_noise_ns": 1e9 * noise,
        "added_1ms": added / 1e-3,
    }


def by_instructions(quick: bool) -> Figures:
    """The same by instructions, which no other program on the machine changes."""
    sizes = instructions.measured(quick)
    if sizes is None:
        return {"instructions_ratio": None, "instructions_noise": None}
    noise = max((row["plain again"] for row in sizes.values()), key=abs)
    return {
        "instructions_ratio": max(row["guarded"] for row in sizes.values()),
        "instructions_noise": noise,
        **{f"instructions_{name}": row["guarded"] for name, row in sizes.items()},
    }


STEPS = """
import time
stamps, table = [], {0: 0}
def step(i):
    x = table[i]
    stamps.append(time.perf_counter())
    return x
"""


def resume_latency(num_rounds: int) -> list[float]:
    """Milliseconds from %resume to the user's next line, in a real kernel."""
    found: list[float] = []
    with Notebook() as book:
        book.run("%load_ext gpurescue")
        book.run(STEPS)
        book.run(f"%%resilient\nfor i in range({num_rounds} + 2):\n    step(i)\n")
        for i in range(1, num_rounds + 1):
            book.run(f"table[{i}] = {i}; begun = len(stamps)")
            book.run("start = time.perf_counter()\n%resume", timeout=30)
            stamp = book.run("1e3 * (stamps[begun] - start)").value
            found.append(float(stamp or "nan"))
    return found


REFERENCE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import placements
found = {}
for p in placements.PLACEMENTS:
    names = {"__name__": "__main__"}
    for cell in (placements.SETUP, *p.clean_cells, p.clean_body):
        exec(compile(cell, "<reference>", "exec"), names)
    found[p.name] = names["digest"](names["model"], names["optimizer"], names["log"])
print(json.dumps(found))
"""


def reference_digests() -> dict[str, str]:
    """Digests of the programs that never had the bug, without gpurescue."""
    command = [sys.executable, "-c", REFERENCE, str(TESTS / "scenarios")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def repaired_digest(book: Notebook, placement: Scenario) -> str:
    """The digest of one program, crashed, mended and resumed."""
    for cell in (placements.SETUP, *placement.cells):
        book.run(cell, timeout=60)
    crashed = book.run("%%resilient\n" + placement.body, timeout=60)
    if crashed.error != "Suspended":
        return f"not suspended: {crashed.error}"
    for cell in placement.fix:
        book.run(cell, timeout=60)
    return str(book.run("print(digest(model, optimizer, log))").stdout.strip())


def exactness(expected: dict[str, str]) -> dict[str, bool]:
    """Which placements end bit-identical."""
    with Notebook() as book:
        book.run("%load_ext gpurescue")
        return {
            p.name: repaired_digest(book, p) == expected[p.name]
            for p in placements.PLACEMENTS
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a short run")
    quick = parser.parse_args().quick
    figures: Figures = {}
    for part in (overhead, handled.worst):
        figures |= part(quick)
        _show(figures, {}, sys.stderr)  # it takes minutes: what there is so far
    resumed = sorted(resume_latency(10 if quick else 40))
    figures["resume_ms"] = statistics.median(resumed)
    figures["resume_ms_p95"] = resumed[int(0.95 * (len(resumed) - 1))]
    expected = reference_digests()
    exact = exactness(expected)
    figures |= {"exact": sum(exact.values()), "scenarios": len(exact)}
    for peer, row in peers.measured(expected, quick).items():
        figures["peers"].setdefault(peer, {}).update(row)
    _show(figures, exact, sys.stderr)
    figures |= by_instructions(quick)  # last: other work does not disturb it
    _show(figures, exact)
    print(json.dumps(figures))


def _show(figures: Figures, exact: dict[str, bool], file: Any = None) -> None:
    for name, value in figures.items():
        if name != "peers":
            shown = f"{value:12.5f}" if isinstance(value, float) else f"{value!s:>12}"
            print(f"{name:20} {shown}", file=file)
    for name, is_exact in exact.items():
        said = "bit-identical" if is_exact else "DIFFERS"
        print(f"  {name:28} {said}", file=file)
    for peer, row in figures["peers"].items():
        print(f"  {peer:20}", *(f"{k} {v:.4g}" for k, v in row.items()), file=file)
    print(file=file, flush=True)


if __name__ == "__main__":
    main()
