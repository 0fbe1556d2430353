"""``python -m gpurescue``, as a process of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import saving
import torch

from gpurescue.store import bars
from gpurescue.store.reading import Reader
from gpurescue.store.store import Store

ROOT = Path(__file__).parents[2]
HOSTILE = "model.\x1b]0;owned\x07\x1b[2Jx\nall is well\u202e\x7f"


def around() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def run(*words: object, cwd: Path | None = None, status: int = 0) -> str:
    """What a command says; on standard error if it fails."""
    command = [sys.executable, "-W", "error", "-m", "gpurescue", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=around(), cwd=cwd
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if status == 0:
        assert done.stderr == ""
    return done.stdout or done.stderr


def harm(store: Store, made, name: str) -> None:
    chunk = made.chunks[made.storages[made.tensors[name].storage].chunk]
    with (store.path / "packs" / f"{chunk.pack}.pack").open("r+b") as file:
        file.seek(chunk.offset)
        file.write(b"\xff\xfe")


pytestmark = pytest.mark.thorough  # each starts some processes


@pytest.fixture
def made(store):
    return saving.save_tensors(store, {"model.x": torch.ones(9), "y": torch.zeros(9)})


def test_checkpoints(store, made):
    _, row = run("checkpoints", store.path).splitlines()
    assert row.split()[:2] == [made.id, saving.RUN]
    (found,) = json.loads(run("checkpoints", store.path, "--json"))
    assert found["id"] == made.id
    assert (found["number"], found["num_tensors"], found["nbytes"]) == (1, 2, 72)
    run("pin", store.path, made.id)
    assert run("checkpoints", store.path).rstrip().endswith("pinned")


def test_a_store_is_looked_for_in_the_folder(tmp_path):
    store = Store(tmp_path / ".gpurescue", create=True)
    assert run("checkpoints", cwd=tmp_path) == "There are no checkpoints.\n"
    made = saving.save_tensors(store, {"x": torch.ones(2)})
    assert made.id in run("checkpoints", cwd=tmp_path)
    run("pin", made.id, cwd=tmp_path)
    assert store.pinned() == {made.id}
    run("export", made.id, "x.pt", cwd=tmp_path)
    assert torch.load(tmp_path / "x.pt")["x"].eq(1).all()
    run("import", "x.pt", cwd=tmp_path)
    assert len(store.rows()) == 2


def test_verify(store, made):
    assert run("verify", store.path) == "1 checkpoint, and nothing is damaged.\n"
    assert json.loads(run("verify", store.path, "--json")) == {"damaged": {}}
    harm(store, made, "y")
    said = run("verify", store.path, status=1)
    assert said.startswith(f"{made.id}: y: bytes ")
    assert said.count("\n") == 1
    (wrong,) = json.loads(run("verify", store.path, "--json", status=1))["damaged"]
    assert wrong == made.id


def test_gc(store, made):
    assert "nothing to remove" in run("gc", store.path)
    run("remove", store.path, made.id)
    (pack,) = (store.path / "packs").iterdir()
    os.utime(pack, (0, 0))  # longer ago than any writer lives
    assert "1 file, 4.096 kB, to be removed" in run("gc", store.path, "--dry-run")
    assert pack.exists()
    found = json.loads(run("gc", store.path, "--json"))
    assert found["nbytes"] == 4096
    assert [Path(name).name for name in found["removed"]] == [pack.name]
    assert not pack.exists()


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x"])
def test_export_and_import(store, made, tmp_path, name):
    path = tmp_path / name
    said = run("export", store.path, made.id, path, "--prefix", "model")
    assert said == f"{path} has 1 tensor, 36 B.\n"
    assert "already" in run("export", store.path, made.id, path, status=1)
    run("export", store.path, made.id, path, "--overwrite")
    text = run("import", tmp_path / "new", path, "--prefix", "old", "--json")
    found = json.loads(text)
    assert found["tensors"] == ["old.model.x", "old.y"]
    other = Store(tmp_path / "new")
    reader = Reader(other, other.manifest(found["id"])[0])
    assert reader.tensor("old.model.x").eq(1).all()
    said = run("import", tmp_path / "new", path, "--run", found["run"])
    assert f"of run {found['run']} has 2 tensors" in said
    assert [row.number for row in other.rows(found["run"])] == [1, 2]


def test_pin_unpin_remove(store, made):
    run("pin", store.path, made.id)
    assert store.pinned() == {made.id}
    assert "is pinned; unpin it first" in run("remove", store.path, made.id, status=1)
    run("unpin", store.path, made.id)
    assert store.pinned() == set()
    said = json.loads(run("remove", store.path, made.id, "--json"))
    assert said == {"id": made.id, "removed": True}
    assert store.rows() == []
    for command in ("pin", "unpin", "remove"):
        said = run(command, store.path, made.id, status=1)
        assert f"has no checkpoint {made.id}" in said
    assert store.pinned() == set()


def test_a_damaged_checkpoint_can_be_removed(store, made):
    (store.path / "checkpoints" / f"{made.id}.json").write_bytes(b"{")
    assert made.id in run("verify", store.path, status=1)
    run("remove", store.path, made.id)
    run("verify", store.path)


@pytest.mark.parametrize(
    "words",
    [
        ["checkpoints", "none"],
        ["verify", "none"],
        ["gc", "none"],
        ["export", "none", "0123456789abcdef", "x.pt"],
        ["export", "STORE", "0123456789abcdef", "x.pt"],
        ["export", "STORE", "../x", "x.pt"],
        ["import", "none", "nothing"],
        ["import", "STORE", "STORE"],
        ["import", "STORE", "PICKLE"],
        ["import", "STORE", "PICKLE", "--run", "../x"],
        ["pin", "STORE", "../x"],
    ],
)
def test_what_is_refused_is_said_in_one_line(store, tmp_path, words):
    (tmp_path / "pickle").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    places = {"STORE": str(store.path), "PICKLE": "pickle"}
    said = run(*(places.get(word, word) for word in words), cwd=tmp_path, status=1)
    assert said.startswith("gpurescue: ")
    assert said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pickle", "store"]


@pytest.mark.parametrize(
    "words",
    [[], ["fly"], ["pin"], ["gc", "--grace", "0"], ["export", "0" * 16, "x.zip"]],
)
def test_wrong_usage(words, tmp_path):
    assert "usage: python -m gpurescue" in run(*words, cwd=tmp_path, status=2)


def test_names_do_not_drive_the_terminal(store, tmp_path):
    made = saving.save_tensors(store, {HOSTILE: torch.ones(9000)})
    harm(store, made, HOSTILE)
    for words in (["verify", store.path], ["export", store.path, made.id, "x.pt"]):
        said = run(*words, status=1, cwd=tmp_path)
        assert r"model.\x1b]0;owned\x07\x1b[2Jx\nall is well\u202e\x7f: bytes" in said
        assert said.count("\n") == 1
    found = run("verify", store.path, "--json", status=1)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\U0010ffff]", found)
    (wrong,) = json.loads(found)["damaged"].values()
    assert wrong[0].startswith(HOSTILE)


QUICK = """
import sys
from gpurescue.__main__ import main
status = main(sys.argv[1:])
sys.exit(status or (sorted({"torch", "numpy", "pandas", "IPython"} & set(sys.modules))))
"""


@pytest.mark.parametrize("command", ["checkpoints", "verify", "gc", "pin", "remove"])
def test_what_needs_no_torch_does_not_load_it(store, made, command):
    words = [command, str(store.path), *([made.id] if command in "pin remove" else [])]
    process = [sys.executable, "-c", QUICK, *words]
    done = subprocess.run(process, env=around(), capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


BAR = """
import sys
import gpurescue.__main__ as command
import gpurescue.store.bars
gpurescue.store.bars._DELAY = 0
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("verify", [b"verify:   0%|", b"72.0"]),
        ("checkpoints", [b"checkpoints:   0%|", b"0/1"]),
        ("gc", [b"gc: 0.00B"]),
    ],
)
def test_progress_is_shown_on_a_terminal_only(store, made, command, said):
    process = [sys.executable, "-c", BAR, command, str(store.path)]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 100))
    with subprocess.Popen(
        process, env=around(), stdout=subprocess.PIPE, stderr=theirs
    ) as p:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 1000):
                shown += piece
        except OSError:  # how a terminal of Linux ends
            pass
        os.close(ours)
        assert p.stdout is not None
        assert b"%" not in p.stdout.read()
    assert all(part in shown for part in said), shown
    done = subprocess.run(process, env=around(), capture_output=True)
    assert done.stderr == b""


def test_progress_is_shown_in_a_notebook(monkeypatch, capsys):
    monkeypatch.setattr(bars, "_DELAY", 0)
    with bars.bar("verify", 2_000_000, in_notebook=True) as progress:
        progress(2_000_000)
    assert "2.00M" in capsys.readouterr().err


def test_a_reader_that_stops_is_no_error(store, made):
    ours, theirs = os.pipe()
    os.close(ours)
    process = [sys.executable, "-m", "gpurescue", "checkpoints", str(store.path)]
    done = subprocess.run(process, env=around(), stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_terminal_that_does_not_know_all_letters(store, tmp_path):
    (tmp_path / "kl\u00e4r").write_bytes(b"none")
    env = {**around(), "PYTHONIOENCODING": "ascii"}
    made = saving.save_tensors(store, {"kl\u00e4r": torch.ones(9000)})
    harm(store, made, "kl\u00e4r")
    process = [sys.executable, "-m", "gpurescue", "verify", str(store.path)]
    done = subprocess.run(process, env=env, capture_output=True)
    assert b"kl\\xe4r: bytes" in done.stdout, done.stderr


def test_every_command_and_option_has_help():
    from gpurescue import __main__ as command

    parser = command._parser()
    (commands,) = (a for a in parser._actions if a.dest == "command")
    assert len(commands._choices_actions) == len(commands.choices)
    for name, one in commands.choices.items():
        assert one.description, name
        assert all(action.help for action in one._actions), name
