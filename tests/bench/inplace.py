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
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS / "recovery"), str(TESTS / "kernel")]
sys.path.insert(0, str(TESTS / "scenarios"))

import handled  # noqa: E402
import harness  # noqa: E402
import placements  # noqa: E402
from driver import Notebook  # noqa: E402
from scenario import Scenario  # noqa: E402

from gpurescue.recovery.hooks import Hooks  # noqa: E402
from gpurescue.state.device import TorchRuntime  # noqa: E402

TRAIN = """
def train(num_steps, step):
    total = 0.0
    for epoch in range(2):
        for i in range(num_steps // 2):
            with context:
                loss = step(i)
            if loss is not None and loss < 0:
                continue
            total += advance(scale(i), 1)
    return total
"""


SIZES = (("02ms", 0.2, 300), ("1ms", 1.0, 60), ("10ms", 10.0, 6))


class _Context:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _loops() -> tuple[harness.Notebook, dict[str, Any]]:
    """Two plain copies of the loop and a guarded one, over the same helpers."""
    names = {"context": _Context(), "scale": abs, "advance": max}
    found: dict[str, Any] = {}
    for label in ("plain", "plain again"):
        own = dict(names)
        exec(compile(TRAIN, f"<{label}>", "exec"), own)
        found[label] = own["train"]
    book = harness.Notebook()
    book.names |= names
    book.cell(TRAIN)
    found["guarded"] = book.names["train"]
    return book, found


def _torch_step(target_ms: float) -> Any:
    """One forward, backward and optimizer step of about ``target_ms``."""
    for width in (0, *range(64, 4096, 64), *range(4096, 65536, 1024)):
        step = _step_of_width(width)
        for i in range(20):
            step(i)
        start = time.thread_time()
        for i in range(20):
            step(i)
        if (time.thread_time() - start) / 20 * 1e3 >= target_ms:
            break
    return step


def _step_of_width(width: int) -> Any:
    """Two layers and Adam; of no width one layer and SGD, the smallest step."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if width:
        model = torch.nn.Sequential(
            torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10)
        )
        optimizer: Any = torch.optim.Adam(model.parameters())
    else:
        model = torch.nn.Sequential(torch.nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), foreach=False)
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def measure_loops(step: Any, num_steps: int, num_rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each loop in each round, in rotated order, inside a run."""
    book, loops = _loops()
    times: dict[str, list[float]] = {label: [] for label in loops}

    def rounds() -> None:
        order = list(loops)
        for i in range(num_rounds):
            for label in order[i % 3 :] + order[: i % 3]:
                start = time.thread_time()
                loops[label](num_steps, step)
                times[label].append((time.thread_time() - start) / num_steps)

    book.names["rounds"] = rounds
    hooks = Hooks(journal=TorchRuntime().journal(keeps_parameters=False))
    run = book.start("rounds()", hooks=hooks)
    run.wait()
    if run.error is not None:
        raise run.error
    return times


def overhead(quick: bool) -> dict[str, float]:
    """Guards against plain, with real steps of three sizes and with empty ones."""
    found: dict[str, float] = {}
    for suffix, target_ms, num_steps in SIZES:
        num_rounds = 9 if quick else 99
        times = measure_loops(_torch_step(target_ms), num_steps, num_rounds)
        plain = times["plain"]
        ratios = {
            label: statistics.median(a / b for a, b in zip(own, plain, strict=True))
            for label, own in times.items()
        }
        is_main = suffix == "1ms"
        found["step_ms" if is_main else f"step_{suffix}"] = 1e3 * statistics.median(
            plain
        )
        found[f"overhead_{suffix}"] = ratios["guarded"] - 1
        found[f"noise_{suffix}"] = ratios["plain again"] - 1
    return found | added_by_guards(quick)


def added_by_guards(quick: bool) -> dict[str, float]:
    """What guards add to a step, from loops with an empty one."""
    empty = measure_loops(lambda i: None, 20_000, 6 if quick else 20)
    added = min(empty["guarded"]) - min(empty["plain"])
    noise = abs(min(empty["plain again"]) - min(empty["plain"]))
    return {
        "added_ns": 1e9 * added,
        "added_noise_ns": 1e9 * noise,
        "added_1ms": added / 1e-3,
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


def exactness() -> dict[str, bool]:
    """Which placements end bit-identical."""
    expected = reference_digests()
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
    figures: dict[str, Any] = overhead(quick) | handled.worst(quick)
    resumed = sorted(resume_latency(10 if quick else 40))
    figures["resume_ms"] = statistics.median(resumed)
    figures["resume_ms_p95"] = resumed[int(0.95 * (len(resumed) - 1))]
    exact = exactness()
    figures |= {"exact": sum(exact.values()), "scenarios": len(exact)}
    for name, value in figures.items():
        print(
            f"{name:16} {value:12.5f}"
            if isinstance(value, float)
            else f"{name:16} {value:12}"
        )
    for name, is_exact in exact.items():
        print(f"  {name:28} {'bit-identical' if is_exact else 'DIFFERS'}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
