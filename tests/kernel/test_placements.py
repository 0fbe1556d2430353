"""Ten places for a bug: crashed, mended and resumed in a real kernel, exact."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import placements
import pytest

REFERENCE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import placements
found = {}
for placement in placements.PLACEMENTS:
    names = {"__name__": "__main__"}
    for cell in (placements.SETUP, *placement.clean_cells, placement.clean_body):
        exec(compile(cell, "<reference>", "exec"), names)
    found[placement.name] = names["digest"](*[
        names[name] for name in ("model", "optimizer", "log")
    ])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def clean() -> dict[str, str]:
    """Digests of the programs that never had the bug, without gpurescue."""
    folder = Path(placements.__file__).parent
    command = [sys.executable, "-c", REFERENCE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("placement", placements.PLACEMENTS, ids=lambda p: p.name)
def test_bit_identical_to_the_run_that_never_crashed(notebook, clean, placement):
    for cell in (placements.SETUP, *placement.cells):
        assert notebook.run(cell, timeout=60).is_ok
    crashed = notebook.run("%%resilient\n" + placement.body, timeout=60)
    assert crashed.error == "Suspended", crashed.traceback
    for cell in placement.fix:
        done = notebook.run(cell, timeout=60)
        assert done.is_ok, done.traceback
    assert "resumes at line" in done.stdout
    assert "done " in done.stdout, "what is printed after the resume appears under it"
    digest = notebook.run("print(digest(model, optimizer, log))").stdout.strip()
    assert digest == clean[placement.name]
