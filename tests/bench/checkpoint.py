"""Checkpoints: what they cost training, how soon they are durable and back again.

    python tests/bench/checkpoint.py [--quick]

Prints a table and, as its last line, one JSON object, put together from ``stalls.py``
(``stall_memcpy``, ``durable_odirect``, ``cpu_s``, ``peers``), ``restoring.py``
(``first_forward_ratio``), ``overhead.py`` (``run_overhead``) and ``growth.py``
(``growth_tensors``, ``growth_checkpoints``), each in a process of its own; what each of
them measures is said there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PARTS = ("stalls", "restoring", "overhead", "growth")


def figures_of(part: str, quick: bool) -> dict[str, Any]:
    """The last line of one of the parts; its table is passed on."""
    script = Path(__file__).with_name(f"{part}.py")
    command = [sys.executable, str(script), *(["--quick"] if quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    *table, last = done.stdout.splitlines()
    print(f"--- {part}", *table, sep="\n", flush=True)
    found: dict[str, Any] = json.loads(last)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a short run")
    quick = parser.parse_args().quick
    found: dict[str, Any] = {}
    for part in PARTS:
        found |= figures_of(part, quick)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
