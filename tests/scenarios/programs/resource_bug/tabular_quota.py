"""Predictions are kept in a database with a quota of pages, and it is used up.

The database itself then takes the whole transaction back, so a retry of the failing
statement would lose rows.
Fix: the quota is raised in a cell, and the call that stores the rows is made again from
the frame around it: `%resume --frame 1`.
Saves: every epoch
Progress: len(history)
"""

# %% imports
import os
import random
import sqlite3

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

random.seed(14)
np.random.seed(14)
torch.manual_seed(14)

# %% data
x, y = load_breast_cancer(return_X_y=True)
x = ((x - x.mean(0)) / x.std(0)).astype("float32")
held_out = np.random.permutation(len(x))[:121]
is_train = np.ones(len(x), dtype=bool)
is_train[held_out] = False
train = TensorDataset(torch.from_numpy(x[is_train]), torch.from_numpy(y[is_train]))
weights = 1.0 / np.bincount(y[is_train])[y[is_train]]
sampler = WeightedRandomSampler(torch.from_numpy(weights), len(train))
loader = DataLoader(train, batch_size=32, sampler=sampler)

# %% database
# The run has a thread of its own, so the connection must allow that.
db = sqlite3.connect("predictions.db", check_same_thread=False)
db.execute("PRAGMA page_size = 1024")
db.execute("PRAGMA max_page_count = 9")
db.execute("CREATE TABLE IF NOT EXISTS scores (epoch INT, row INT, score REAL)")
db.commit()

# %% model
model = nn.Sequential(
    nn.Linear(30, 20),
    nn.BatchNorm1d(20),
    nn.LeakyReLU(),
    nn.Dropout(0.2),
    nn.Linear(20, 1),
    nn.Flatten(0),
)
optimizer = torch.optim.Adamax(model.parameters(), lr=0.01)
criterion = nn.BCEWithLogitsLoss()

# %% store
@torch.no_grad()
def keep_scores(epoch):
    """All scores of the epoch, or none."""
    model.eval()
    scores = model(torch.from_numpy(x[held_out])).sigmoid()
    model.train()
    with db:
        for row, score in zip(held_out, scores):
            values = (epoch, int(row), round(score.item(), 6))
            db.execute("INSERT INTO scores VALUES (?, ?, ?)", values)
    return scores


# %% checkpoint
history, first = [], 0
if os.path.exists("cancer.pt"):
    saved = torch.load("cancer.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    history, first = saved["history"], saved["epoch"] + 1

# %% train [%%resilient]
for epoch in range(first, 6):
    for features, labels in loader:
        loss = criterion(model(features), labels.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    scores = keep_scores(epoch)
    accuracy = ((scores > 0.5).int().numpy() == y[held_out]).mean()
    print(f"epoch {epoch}: accuracy {accuracy:.3f}")
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(saved | {"history": history, "epoch": epoch}, "cancer.pt")
stored = db.execute("SELECT * FROM scores ORDER BY rowid").fetchall()
print(len(stored), "scores")
db.close()
os.remove("predictions.db")

# %% quota [fix]
db.execute("PRAGMA max_page_count = 4096").fetchall()

# %% database [clean]
#-db.execute("PRAGMA max_page_count = 9")
#+db.execute("PRAGMA max_page_count = 4096")

# %% [%resume --frame 1]
