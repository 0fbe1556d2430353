"""Programs taken apart by one version of Python, and gone on with by another.

    python versions.py take FILE MOST
    python versions.py revive FILE

``take`` writes copies of programs; ``revive`` goes on from each, and prints as JSON
what came of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import platform
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle

_ROOT = Path(__file__).parents[2]
SAID = platform.python_version().rpartition(".")[0]
_TIMEOUT = 600
RANDOM = "random "  # how the names of random programs begin


@dataclass
class Found:
    """What came of going on from the copies of one program."""

    num_exact: int = 0
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def take(file: Path, most: int) -> None:
    """Write copies of programs, which are cells by name in a file."""
    import harness
    import reviving

    made: dict[str, Any] = {}
    for name, source_cells in json.loads(file.with_suffix(".json").read_text()).items():
        wanted = _trace(name, source_cells)
        if wanted is not None:  # not of another version, and not one that fails
            copies = reviving.copies(source_cells, most, _probe(name))
            made[name] = (source_cells, wanted, copies)
        harness.forget()
    file.write_bytes(pickle.dumps(made))


def revive(file: Path) -> dict[str, Found]:
    """Go on from all copies in a file."""
    import harness

    found: dict[str, Found] = {}
    for name, (cells, then, copies) in pickle.loads(file.read_bytes()).items():
        found[name] = Found()
        now = _trace(name, cells) or then
        for data, texts in copies:
            _go_on(found[name], data, texts, list(zip(then, now, strict=True)))
        harness.forget()
    return found


def _probe(name: str) -> Any:
    """``T`` for a program: random ones call it with a label."""
    import harness
    import properties

    return properties.Probe() if name.startswith(RANDOM) else harness.Probe()


def _trace(name: str, cells: list[str]) -> list[str] | None:
    """What a program does by itself; None if it cannot be run."""
    import harness
    import properties

    try:
        if not name.startswith(RANDOM):
            return list(map(repr, harness.plain(cells)))
        alone = properties.plain(cells)
    except SyntaxError:
        return None
    return None if alone.error else list(map(repr, alone.trace))


def _go_on(
    found: Found, data: bytes, texts: dict[str, str], wanted: list[tuple[str, str]]
) -> None:
    import reviving

    from gpurescue.errors import CannotResume
    from gpurescue.recovery.engine import State
    from gpurescue.source import cells

    try:
        for name, text in texts.items():
            with contextlib.suppress(SyntaxError):
                cells.adopt(name, text)
        names, run = reviving.revive(data)
    except CannotResume as error:
        found.refused.append(str(error))
        return
    error = run.error or (run.suspension and run.suspension.error)
    out = list(map(repr, names["out"]))
    if isinstance(error, CannotResume):
        found.refused.append(str(error))
    elif run.state is not State.FINISHED or len(out) != len(wanted):
        found.wrong.append(f"{run.state}: {error!r}; {out}")
    elif any(x not in either for x, either in zip(out, wanted, strict=True)):
        found.wrong.append(f"{out}, and not {wanted}")
    else:
        found.num_exact += 1


# -- in other processes


def interpreters() -> dict[str, str]:
    """Interpreters of the versions that are supported, as far as there are any."""
    found = {SAID: sys.executable}
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for version in ("3.11", "3.12", "3.13"):
        known = [str(p) for p in root.glob(f"versions/{version}.*/bin/python")]
        for path in (f"python{version}", *sorted(known)):
            if version not in found and _is_of(path, version):
                found[version] = path
    return found


def _is_of(path: str, version: str) -> bool:
    said = "import platform; print(platform.python_version())"
    with contextlib.suppress(OSError):
        done = subprocess.run([path, "-c", said], capture_output=True, text=True)
        return done.stdout.strip().rpartition(".")[0] == version
    return False


def asked(python: str, folder: Path, *arguments: object) -> Any:
    """Run this file with another interpreter, which needs no packages of its own."""
    here, packages = Path(__file__).parent, folder / "packages"
    packages.mkdir(exist_ok=True)
    for module in (cloudpickle,):
        link = packages / module.__name__
        if not link.exists():
            link.symlink_to(Path(module.__file__ or "").parent)
    path = os.pathsep.join(map(str, (_ROOT, here, here / "generator", packages)))
    done = subprocess.run(
        [python, __file__, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout else None


def crossed(
    one: str, other: str, folder: Path, programs: dict[str, list[str]], most: int
) -> dict[str, Any]:
    """What came of taking programs with one interpreter, and going on with another."""
    file = folder / "copies"
    file.with_suffix(".json").write_text(json.dumps(programs))
    asked(one, folder, "take", file, most)
    found: dict[str, Any] = asked(other, folder, "revive", file)
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        if sys.argv[1] == "take":
            take(Path(sys.argv[2]), int(sys.argv[3]))
            told = None
        else:
            told = {n: asdict(x) for n, x in revive(Path(sys.argv[2])).items()}
    if told is not None:
        print(json.dumps(told))
