"""The folder for the checkpoints was never made; found when the first one is saved.

Fix: the folder is made in a cell; the same statement then succeeds.
Saves: every second epoch
Progress: len(history)
"""

# %% imports
import random
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset
from tqdm import tqdm

random.seed(51)
np.random.seed(51)
torch.manual_seed(51)
CHECKPOINTS = Path("checkpoints/digits")

# %% data
digits = load_digits()
everything = TensorDataset(
    torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
)
order = np.random.permutation(len(everything))
train = DataLoader(
    Subset(everything, order[:640]), batch_size=64, shuffle=True, num_workers=2
)
validation = DataLoader(Subset(everything, order[640:1000]), batch_size=120)

# %% model
class Mixer(nn.Module):
    """Mixes the rows of an image, then its columns."""

    def __init__(self, width=24):
        super().__init__()
        self.rows = nn.Linear(8, width)
        self.norm1 = nn.LayerNorm(width)
        self.columns = nn.Linear(8, 4)
        self.norm2 = nn.BatchNorm1d(4 * width)
        self.drop = nn.Dropout(0.25)
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x):
        h = self.norm1(F.gelu(self.rows(x.unflatten(1, (8, 8)))))
        h = F.gelu(self.columns(h.transpose(1, 2))).flatten(1)
        return self.head(self.drop(self.norm2(h)))


model = Mixer()
optimizer = torch.optim.Adam(
    [
        {"params": model.head.parameters(), "lr": 5e-3},
        {"params": [p for n, p in model.named_parameters() if "head" not in n]},
    ],
    lr=2e-3,
)
scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=20)

# %% early stopping
class EarlyStopping:
    def __init__(self, patience):
        self.best, self.patience, self.num_bad = float("inf"), patience, 0

    def should_stop(self, loss):
        self.num_bad = 0 if loss < self.best else self.num_bad + 1
        self.best = min(self.best, loss)
        return self.num_bad > self.patience


def validation_loss():
    model.eval()
    with torch.no_grad():
        parts = [F.cross_entropy(model(x), y, reduction="sum") for x, y in validation]
    model.train()
    return torch.stack(parts).sum().item() / len(validation.dataset)


def save(epoch):
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    state |= {"scheduler": scheduler.state_dict(), "history": history, "epoch": epoch}
    torch.save(state, CHECKPOINTS / f"epoch-{epoch:02}.pt")


# %% start
history, first, stopping = [], 0, EarlyStopping(patience=1)
saved = sorted(CHECKPOINTS.glob("*.pt"))
if saved:
    state = torch.load(saved[-1], weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    history, first = state["history"], state["epoch"] + 1

# %% train [%%resilient]
for epoch in range(first, 4):
    for x, y in tqdm(train, desc=f"epoch {epoch}", leave=False):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x + 0.1 * torch.rand_like(x)), y)
        loss.backward()
        optimizer.step()
        scheduler.step()
        history.append((loss.item(), scheduler.get_last_lr()[0]))
    found = validation_loss()
    print(f"epoch {epoch}: validation loss {found:.4f}")
    if epoch % 2 == 1:
        save(epoch)
    if stopping.should_stop(found):
        print("no progress any more")
        break

# %% folder [fix]
CHECKPOINTS.mkdir(parents=True)

# %% early stopping [clean]
#-    torch.save(state, CHECKPOINTS / f"epoch-{epoch:02}.pt")
#+    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
#+    torch.save(state, CHECKPOINTS / f"epoch-{epoch:02}.pt")

# %% [%resume]
