"""The third part of a table that is read in parts has another name than the others.

Fix: the file is renamed in a cell.
Saves: after every part
Progress: len(losses)
"""

# %% imports
import os
import random
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from tqdm.auto import trange

random.seed(81)
np.random.seed(81)
torch.manual_seed(81)

# %% parts
folder = Path("table")
folder.mkdir(exist_ok=True)
NAMES = ["part-0.csv", "part-1.csv", "part_2.csv", "part-3.csv"]
if not any(folder.iterdir()):
    cancer = load_breast_cancer(as_frame=True).frame.sample(frac=1, random_state=81)
    for number, name in enumerate(NAMES):
        cancer.iloc[number::4].to_csv(folder / name, index=False)

# %% reading
def read_part(number):
    rows = pd.read_csv(folder / f"part-{number}.csv")
    x = torch.tensor(rows.drop(columns="target").to_numpy(), dtype=torch.float32)
    y = torch.tensor(rows["target"].to_numpy(), dtype=torch.float32)
    return x.log1p(), y


# %% model
class Network(nn.Module):
    """Input statistics are learnt while the parts stream by."""

    def __init__(self):
        super().__init__()
        self.scale = nn.BatchNorm1d(30, affine=False, momentum=0.2)
        self.hidden = nn.utils.parametrizations.weight_norm(nn.Linear(30, 24))
        self.drop = nn.AlphaDropout(0.1)
        self.last = nn.Linear(24, 1)

    def forward(self, x):
        return self.last(self.drop(torch.selu(self.hidden(self.scale(x))))).squeeze(1)


network = Network()
optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.8)
criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(0.6))

# %% checkpoint
losses, correct, first = [], [], 0
if os.path.exists("stream.pt"):
    kept = torch.load("stream.pt", weights_only=True)
    network.load_state_dict(kept["network"])
    optimizer.load_state_dict(kept["optimizer"])
    losses, correct, first = kept["losses"], kept["correct"], kept["part"]

# %% train [%%resilient]
ACCUMULATE = 3
for part in trange(first, 8, leave=False):  # twice through the four parts
    x, y = read_part(part % 4)
    network.eval()
    with torch.no_grad():  # test first, then train
        correct.append(((network(x) > 0) == y.bool()).float().mean().item())
    network.train()
    for i, rows in enumerate(torch.randperm(len(x)).split(12)):
        loss = criterion(network(x[rows]), y[rows]) / ACCUMULATE
        loss.backward()
        losses.append(loss.item())
        if i % ACCUMULATE == ACCUMULATE - 1:
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    optimizer.zero_grad()
    kept = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(
        kept | {"losses": losses, "correct": correct, "part": part + 1}, "stream.pt"
    )
    print(f"part {part}: {correct[-1]:.3f}")

# %% rename [fix]
os.rename(folder / "part_2.csv", folder / "part-2.csv")
NAMES[2] = "part-2.csv"

# %% parts [clean]
#-NAMES = ["part-0.csv", "part-1.csv", "part_2.csv", "part-3.csv"]
#+NAMES = ["part-0.csv", "part-1.csv", "part-2.csv", "part-3.csv"]

# %% [%resume]
