"""A record without a value makes the loss NaN; an assertion finds it in time.

Fix: the batch is left out, as if it had not been there: `%resume --skip-batch`.
Saves: every epoch
Progress: len(losses)
"""

# %% imports
import os
import random

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

random.seed(68)
np.random.seed(68)
torch.manual_seed(68)

# %% data
x, y = load_diabetes(return_X_y=True, scaled=False)
x = (x - x.mean(0)) / x.std(0)
x[111, 3] = np.nan  # somebody forgot to measure
x = torch.tensor(x, dtype=torch.float32)
y = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)
test = TensorDataset(x[-60:], y[-60:])

# %% loader
class Stream:
    """The rows in the order in which they come in, a day at a time."""

    def __init__(self, dataset, days=2, size=30):
        self.dataset, self.days, self.size = dataset, days, size

    def __iter__(self):
        for _ in range(self.days):
            yield from DataLoader(self.dataset, self.size, shuffle=True)


stream = Stream(TensorDataset(x[:-60], y[:-60]))

# %% model
class Mixture(nn.Module):
    """A mean and a deviation for each patient."""

    def __init__(self, width=24):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(10, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1)
        )
        self.mean, self.log_deviation = nn.Linear(width, 1), nn.Linear(width, 1)

    def forward(self, x):
        h = self.body(x + 0.01 * torch.randn_like(x))
        return self.mean(h).squeeze(1), self.log_deviation(h).squeeze(1).exp()


# %% loss
def loss_of(model, x, y):
    mean, deviation = model(x)
    loss = F.gaussian_nll_loss(mean, y, deviation**2)
    assert torch.isfinite(loss), f"the loss is {loss.item()}"
    return loss


# %% setup
model = Mixture()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
losses, errors, first = [], [], 0
if os.path.exists("mixture.pt"):
    saved = torch.load("mixture.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    losses, errors, first = saved["losses"], saved["errors"], saved["epoch"] + 1

# %% train [%%resilient --journal]
for epoch in range(first, 3):
    model.train()
    for features, targets in stream:
        loss = loss_of(model, features, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        mean, _ = model(test.tensors[0])
        errors.append((mean - test.tensors[1]).abs().mean().item())
    print(f"epoch {epoch}: {len(losses)} steps, error {errors[-1]:.4f}")
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    saved |= {"losses": losses, "errors": errors, "epoch": epoch}
    torch.save(saved, "mixture.pt")

# %% train [clean]
#-        loss = loss_of(model, features, targets)
#+        if not features.isfinite().all():
#+            continue
#+        loss = loss_of(model, features, targets)

# %% [%resume --skip-batch]

# %% [%resume --skip-batch]

# %% [%resume --skip-batch]

# %% [%resume --skip-batch]

# %% [%resume --skip-batch]

# %% [%resume --skip-batch]
