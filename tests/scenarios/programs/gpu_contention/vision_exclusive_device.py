"""The device that evaluates is taken by another person's job.

There is no GPU here: an exclusive lock on a file stands for the device, as in the
queue of a small laboratory. The other job is a process of its own.
Fix: wait for the other job to end.
Saves: every epoch
Progress: len(history)
"""

# %% imports
import contextlib
import fcntl
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

random.seed(41)
np.random.seed(41)
torch.manual_seed(41)

# %% device
@contextlib.contextmanager
def exclusive(path="gpu0.lock"):
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path
    used.append(path)


used = []

# %% neighbour
_job = """
import fcntl
file = open("gpu0.lock", "w")
fcntl.flock(file, fcntl.LOCK_EX)
input("has the device\\n")
"""
_pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
_neighbour = subprocess.Popen([sys.executable, "-c", _job], **_pipes)
_neighbour.stdout.readline()

# %% data
digits = load_digits()
x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
y = torch.tensor(digits.target)
train = DataLoader(TensorDataset(x[:700], y[:700]), batch_size=70, shuffle=True)
validation = DataLoader(TensorDataset(x[700:1000], y[700:1000]), batch_size=150)

# %% model
class Separable(nn.Module):
    def __init__(self, width=20):
        super().__init__()
        self.up = nn.Conv2d(1, width, 1)
        self.spatial = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width * 16, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.spatial(self.up(x))))
        x = F.dropout(F.avg_pool2d(x, 2), 0.2, self.training)
        return self.head(x.flatten(1))


model = Separable()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.8, 0.99))
scheduler = torch.optim.lr_scheduler.CyclicLR(
    optimizer, base_lr=1e-3, max_lr=8e-3, step_size_up=15, cycle_momentum=False
)

# %% evaluation
def evaluate():
    model.eval()
    correct = 0
    with exclusive(), torch.no_grad():
        for images, labels in validation:
            correct += (model(images).argmax(1) == labels).sum().item()
    model.train()
    return correct / len(validation.dataset)


# %% checkpoint
latest, history, scores, start = Path("separable.pt"), [], [], 0
if latest.exists():
    kept = torch.load(latest, weights_only=True)
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    history, scores, start = kept["history"], kept["scores"], kept["epoch"]

# %% train [%%resilient]
for epoch in range(start, 4):
    for images, labels in train:
        mixed = 0.9 * images + 0.1 * images[torch.randperm(len(images))]
        loss = F.cross_entropy(model(mixed), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        history.append(loss.item())
    if epoch >= 1:
        scores.append(evaluate())
        print(f"epoch {epoch}: {scores[-1]:.3f}")
    kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    kept |= {"history": history, "scores": scores, "epoch": epoch + 1}
    torch.save(kept, latest)

# %% waiting [fix]
_neighbour.communicate(b"\n")

# %% neighbour [clean]
pass

# %% [%resume]
