"""Samples are weighted by how rare their class is in the batch; one class is absent.

Fix: the function is edited: a class that is absent counts as one sample.
Saves: every second epoch
Progress: len(history)
"""

# %% imports
import json
import random
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import StratifiedKFold
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

random.seed(121)
np.random.seed(121)
torch.manual_seed(121)

# %% data
wine = load_wine()
x = torch.tensor((wine.data - wine.data.mean(0)) / wine.data.std(0)).float()
y = torch.tensor(wine.target)
folds = StratifiedKFold(5, shuffle=True, random_state=121)
train_rows, test_rows = next(iter(folds.split(x, y)))
generator = torch.Generator().manual_seed(121)
loader = DataLoader(
    TensorDataset(x[train_rows], y[train_rows]),
    batch_size=10,
    shuffle=True,
    generator=generator,
    drop_last=True,
)

# %% model
network = nn.Sequential(
    nn.BatchNorm1d(13),
    nn.Linear(13, 32),
    nn.PReLU(),
    nn.Dropout(0.25),
    nn.Linear(32, 3),
)
optimizer = torch.optim.Rprop(network.parameters(), lr=1e-3)
average = torch.optim.swa_utils.AveragedModel(network)

# %% weights
def balanced(labels, num_classes=3):
    """A weight for each class, as in a balanced random forest."""
    counts = [labels.tolist().count(k) for k in range(num_classes)]
    return torch.tensor([len(labels) / (num_classes * count) for count in counts])


# %% mixup
def mixed(x, labels, alpha=0.3):
    share = np.random.beta(alpha, alpha)
    other = torch.randperm(len(x))
    targets = F.one_hot(labels, 3).float()
    return share * x + (1 - share) * x[other], (
        share * targets + (1 - share) * targets[other]
    )


# %% log
class Log:
    """One line for each epoch."""

    def __init__(self, path):
        self.path, self.records = Path(path), []

    def write(self, **record):
        self.records.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


# %% start
log, history, start = Log("wine.jsonl"), [], 0
if Path("wine-classes.pt").exists():
    kept = torch.load("wine-classes.pt", weights_only=True)
    network.load_state_dict(kept["network"])
    average.load_state_dict(kept["average"])
    optimizer.load_state_dict(kept["optimizer"])
    history, start = kept["history"], kept["epoch"] + 1

# %% train [%%resilient]
for epoch in range(start, 6):
    for features, labels in loader:
        features, targets = mixed(features, labels)
        weights = balanced(labels)
        loss = F.cross_entropy(network(features), targets, weight=weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(network)
        history.append(loss.item())
    network.eval()
    average.eval()
    with torch.no_grad():
        right = average(x[test_rows]).argmax(1) == y[test_rows]
    network.train()
    log.write(epoch=epoch, loss=history[-1], accuracy=right.float().mean().item())
    print(f"epoch {epoch}: accuracy {log.records[-1]['accuracy']:.3f}")
    if epoch % 2 == 1:
        kept = {"network": network.state_dict(), "average": average.state_dict()}
        kept |= {"optimizer": optimizer.state_dict(), "history": history}
        torch.save(kept | {"epoch": epoch}, "wine-classes.pt")

# %% weights [fix]
#-    counts = [labels.tolist().count(k) for k in range(num_classes)]
#+    counts = [max(1, labels.tolist().count(k)) for k in range(num_classes)]

# %% [%%at]
counts = [max(1, count) for count in counts]

# %% [%resume]
