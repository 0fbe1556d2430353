"""A device is leased in a shared database, which another process has locked.

There is no GPU here: a row of a table stands for the device, as in a simple scheduler.
Fix: the other process ends its transaction; the same statement then succeeds.
Saves: every second epoch
Progress: len(losses)
"""

# %% imports
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import torch
from sklearn.datasets import load_wine
from torch import nn
from torch.nn import functional as F

random.seed(29)
np.random.seed(29)
torch.manual_seed(29)

# %% scheduler
with closing(sqlite3.connect("scheduler.db")) as db, db:
    db.execute("CREATE TABLE IF NOT EXISTS devices (name TEXT, job TEXT, leases INT)")
    db.execute("DELETE FROM devices")
    db.execute("INSERT INTO devices VALUES ('gpu0', NULL, 0)")


class Lease:
    """Has the device for the time of a ``with``."""

    def __init__(self, job):
        self.job = job

    def set(self, job, num_new):
        with closing(sqlite3.connect("scheduler.db", timeout=0.1)) as db, db:
            change = "UPDATE devices SET job = ?, leases = leases + ?"
            db.execute(change, (job, num_new))

    def __enter__(self):
        self.set(self.job, 1)
        return "gpu0"

    def __exit__(self, *exception):
        self.set(None, 0)


# %% another job
_job = """
import sqlite3
db = sqlite3.connect("scheduler.db", isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
input("is busy\\n")
db.execute("COMMIT")
"""
_pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
_other = subprocess.Popen([sys.executable, "-c", _job], **_pipes)
_other.stdout.readline()

# %% data
wine = load_wine()
x = torch.tensor((wine.data - wine.data.mean(0)) / wine.data.std(0)).float()
y = torch.tensor(wine.target)
order = torch.randperm(len(x))
train_rows, test_rows = order[:130], order[130:]

# %% model
class Gated(nn.Module):
    """A block of gated units with a skip connection."""

    def __init__(self, width=24):
        super().__init__()
        self.first = nn.Linear(13, width)
        self.norm = nn.BatchNorm1d(width)
        self.gates = nn.Linear(width, 2 * width)
        self.last = nn.Linear(width, 3)

    def forward(self, x):
        h = self.norm(self.first(x))
        h = h + F.dropout(F.glu(self.gates(h)), 0.2, self.training)
        return self.last(h)


model = Gated()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=False, foreach=True)
scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=8)

# %% checkpoint
losses, accuracies, start = [], [], 0
if os.path.exists("gated.pt"):
    saved = torch.load("gated.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    losses, accuracies = saved["losses"], saved["accuracies"]
    start = saved["epoch"] + 1

# %% train [%%resilient]
for epoch in range(start, 8):
    for rows in train_rows[torch.randperm(len(train_rows))].split(26):
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    scheduler.step()
    if epoch >= 3:
        with Lease(f"wine, epoch {epoch}") as device:
            model.eval()
            found = model(x[test_rows]).argmax(1)
            accuracies.append((found == y[test_rows]).float().mean().item())
            model.train()
        print(f"epoch {epoch} on {device}: accuracy {accuracies[-1]:.3f}")
    if epoch % 2 == 1:
        saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        saved |= {"scheduler": scheduler.state_dict(), "epoch": epoch}
        torch.save(saved | {"losses": losses, "accuracies": accuracies}, "gated.pt")
with closing(sqlite3.connect("scheduler.db")) as db:
    print(db.execute("SELECT * FROM devices").fetchall())
os.remove("scheduler.db")

# %% the other job ends [fix]
_other.communicate(b"\n")

# %% another job [clean]
pass

# %% [%resume]
