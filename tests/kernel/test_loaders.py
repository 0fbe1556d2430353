"""A DataLoader that fails in a real kernel: the same batch, and nobody is left."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from driver import Notebook

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytestmark = [pytest.mark.kernel, pytest.mark.thorough]

SETUP = """\
import gc, hashlib, itertools, multiprocessing, os, random, signal, sys, time
import numpy as np, torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import *

torch.set_num_threads(1)
torch.manual_seed(3); random.seed(3); np.random.seed(3)
images, labels = load_digits(return_X_y=True)
images = [torch.tensor(x, dtype=torch.float32) / 16 for x in images[:200]]
labels = [int(y) for y in labels[:200]]
good = images[120]
seen = []

def digest():
    state = [*model.state_dict().values(), torch.get_rng_state()]
    state += [v for s in optimizer.state.values() for v in s.values()]
    text = b"".join(t.detach().numpy().tobytes() for t in state)
    text += repr((random.getstate(), np.random.get_state()[1].tolist(), seen)).encode()
    return hashlib.sha256(text).hexdigest()

class Digits(Dataset):
    def __init__(self):
        self.images, self.labels = images, labels
    def __len__(self):
        return len(self.images)
    def __getitem__(self, index):
        return self.images[index] * random.random() + torch.rand(()), self.labels[index]
"""
BODY = """\
model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for epoch in range(2):
    for x, y in LOOP:
        seen.append(round(float(x.sum()), 4))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
"""


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        name: What is special about it.
        loader: A cell that makes ``loader``.
        loop: What is iterated.
        bug: A cell before the run; empty in the run that never fails.
        fix: A cell while the run is parked.
        error: What the panel shows.
        body: The cell of the run.
    """

    name: str
    loader: str
    bug: str = "images[120] = good[:-1]"
    fix: str = "images[120] = good"
    error: str = "resize|equal size"
    loop: str = "loader"
    body: str = BODY


TWO = "loader = DataLoader(Digits(), 16, shuffle=True, num_workers=2)"
BAR = "from tqdm import tqdm\n"
GATHER = """\
def gather(items):
    xs, ys = zip(*items)
    xs = torch.stack(xs)
    {}
    return xs, torch.tensor(ys)
"""
MODULE = """\
import random
import torch
from sklearn.datasets import load_digits

class Spawned:
    def __init__(self):
        images, labels = load_digits(return_X_y=True)
        self.images = torch.tensor(images[:160], dtype=torch.float32) / 16
        self.labels = [int(label) for label in labels[:160]]
        self.bad = None
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, index):
        if index == self.bad:
            raise ValueError(f"sample {index}")
        return self.images[index] + random.random() + torch.rand(()), self.labels[index]
"""
KILLED = """\
deadly = False
class Killed(Digits):
    def __getitem__(self, index):
        if deadly and index == 120:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)
loader = DataLoader(Killed(), 16, shuffle=True, num_workers=2)
"""
ROWS = """\
class Rows(IterableDataset):
    def __iter__(self):
        at = get_worker_info().id
        for index in range(at, 160 + 40 * at, 2):
            {}
            yield images[index] * random.random() + torch.rand(()), labels[index]
loader = DataLoader(Rows(), 8, num_workers=2)
"""
KILLED_ROWS = """\
deadly = False
class Killed(IterableDataset):
    def __iter__(self):
        for index in range(get_worker_info().id, 200, 2):
            if deadly and index == 120:
                os.kill(os.getpid(), signal.SIGKILL)
            yield images[index], labels[index]
loader = DataLoader(Killed(), 16, num_workers=2)
"""
LIGHTNING = """\
import logging, warnings, lightning
warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 16), nn.Dropout(0.3), nn.Linear(16, 10))
    def training_step(self, batch, batch_idx):
        x, y = batch
        seen.append(round(float(x.sum()), 4))
        return nn.functional.cross_entropy(self.net(x), y)
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)
loader = DataLoader(Digits(), 16, shuffle=True)
"""
FIT = """\
trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
model = Classifier()
trainer.fit(model, loader)
optimizer = trainer.optimizers[0]
"""
CASES = [
    Case("no workers", "loader = DataLoader(Digits(), 16, shuffle=True)"),
    Case("workers", TWO),
    Case("progress bar", BAR + TWO, loop="tqdm(loader, disable=False)", error="resize"),
    Case(
        "an edit that workers get",
        TWO.replace("shuffle=True", "shuffle=True, collate_fn=lambda i: gather(i)"),
        bug=GATHER.format("ys[0] == 7 and [].pop()"),
        fix=GATHER.format("pass"),
        error="in gather",
    ),
    Case("killed", KILLED, "deadly = True", "deadly = False", "exited|reset|killed"),
    Case(
        "items in turn",
        ROWS.format("pass"),
        bug=ROWS.format("assert index != 111, index"),
        fix=ROWS.partition("loader =")[0].format("pass"),
        error="AssertionError: 111",
    ),
    Case(
        "spawned",
        "from spawned import Spawned\ndata = Spawned()\nloader = DataLoader("
        "data, 16, shuffle=True, num_workers=2, multiprocessing_context='spawn')",
        bug="data.bad = 77",
        fix="data.bad = None",
        error="sample 77",
        body=BODY.replace("range(2)", "range(1)"),
    ),
    *([Case("Lightning", LIGHTNING, body=FIT)] if find_spec("lightning") else []),
]
NOBODY = """\
gc.collect()
deadline = time.monotonic() + 15
while multiprocessing.active_children() and time.monotonic() < deadline:
    time.sleep(0.05)
multiprocessing.active_children()
"""


def body(case: Case) -> str:
    return "%%resilient\n" + case.body.replace("LOOP", case.loop)


REFERENCE = """
import json, sys, warnings
if __name__ == "__main__":
    found = {}
    for name, cells in json.load(open(sys.argv[1])).items():
        names = {"__name__": "__main__"}
        for cell in cells:
            exec(compile(cell, "<reference>", "exec"), names)
        found[name] = names["digest"]()
    json.dump(found, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("loaders")
    (found / "spawned.py").write_text(MODULE)
    return found


@pytest.fixture(scope="module")
def clean(folder: Path) -> dict[str, str]:
    """Digests of the trainings that never failed, in a process without gpurescue."""
    (folder / "reference.py").write_text(REFERENCE)
    cells = {
        case.name: [SETUP, case.loader, case.fix, case.body.replace("LOOP", case.loop)]
        for case in CASES
    }
    (folder / "cells.json").write_text(json.dumps(cells))
    command = [sys.executable, "reference.py", "cells.json", "found.json"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_batch_again(
    case: Case, notebook: Notebook, clean: dict[str, str], folder: Path
) -> None:
    setup = f"import sys; sys.path.insert(0, {str(folder)!r})\n{SETUP}"
    for cell in (setup, case.loader, case.bug):
        done = notebook.run(cell, timeout=60)
        assert done.is_ok, done.traceback
    crashed = notebook.run(body(case), timeout=60)
    assert crashed.error == "Suspended", crashed.traceback
    assert re.search(case.error, crashed.panels[0]), crashed.panels[0]
    assert "ask for the same item again" in crashed.panels[0]
    assert notebook.run(case.fix).is_ok
    resumed = notebook.run("%resume", timeout=120)
    assert resumed.is_ok, resumed.traceback
    assert re.search(r"resumes at line .* again", resumed.stdout)
    assert notebook.run("digest()").value == repr(clean[case.name])
    assert notebook.run(NOBODY, timeout=30).value == "[]"


def test_the_frames_are_the_users(notebook: Notebook) -> None:
    for cell in (SETUP, BAR + TWO, "images[120] = good[:-1]"):
        assert notebook.run(cell, timeout=60).is_ok
    loop = BODY.replace("LOOP", "tqdm(loader)").replace("\n", "\n    ")
    assert notebook.run(f"def train():\n    {loop}").is_ok
    crashed = notebook.run("%%resilient\ntrain()", timeout=60)
    assert crashed.error == "Suspended"
    assert "epoch 1/2" in crashed.traceback
    assert "for x, y in tqdm(loader):" in crashed.panels[0]
    shown = notebook.run("%frames").displays[0]
    assert "Frame 0 in train" in shown or "train" in shown
    assert "__next__" not in shown.split("Traceback")[0]
    assert notebook.run("%%at\nepoch, 'y' in dir()").value.startswith("(0, ")
    assert notebook.run("%fix").is_ok
    assert notebook.run("%resume --abandon").is_ok
    # IPython keeps the last traceback for %debug, and with it the loop.
    notebook.run("sys.last_value = sys.last_exc = sys.last_traceback = None")
    assert notebook.run(NOBODY, timeout=30).value == "[]"


@pytest.mark.parametrize(("loader", "num"), [(KILLED, 26), (KILLED_ROWS, 28)])
def test_a_killed_worker_does_not_take_the_kernel_along(
    notebook: Notebook, loader: str, num: int
) -> None:
    """torch's signal handler is there once the main thread has had workers."""
    for cell in (SETUP, loader, "first = next(iter(loader))", "deadly = True"):
        done = notebook.run(cell, timeout=60)
        assert done.is_ok, done.traceback
    crashed = notebook.run("%%resilient\n" + BODY.replace("LOOP", "loader"), timeout=60)
    assert crashed.error == "Suspended", crashed.traceback
    assert notebook.run("deadly = False").is_ok
    assert notebook.run("%resume", timeout=60).is_ok
    assert notebook.run("len(seen)").value == str(num)
    assert notebook.run(NOBODY, timeout=30).value == "[]"


def test_torch_that_is_imported_in_the_run_is_watched(kernel: Notebook) -> None:
    with Notebook() as fresh:
        assert fresh.run("%load_ext gpurescue", timeout=60).is_ok
        crashed = fresh.run(
            "%%resilient\n"
            "from torch.utils.data import DataLoader\n"
            "data = [1, 2, None, 4]\n"
            "for item in zip('abcd', DataLoader(data)):\n"
            "    print(item)\n",
            timeout=60,
        )
        assert crashed.error == "Suspended"
        assert fresh.run("data[2] = 3").is_ok
        resumed = fresh.run("%resume")
        assert "('c', tensor([3]))\n('d', tensor([4]))" in resumed.stdout
