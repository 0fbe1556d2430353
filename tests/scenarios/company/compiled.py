"""A compiled model and a compiled loss, each with a bug.

The model's bug is met when a new part of it is compiled, the bug of the loss when its
code runs. What is compiled has no frame to be held in: the run is held at its caller.
Fix: the class and the function are edited, and compiled again by themselves.
Saves: never
Progress: len(losses)
"""

# %% imports
import random

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

random.seed(8)
np.random.seed(8)
torch.manual_seed(8)

# %% data
digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32) / 16
y = torch.tensor(digits.target)
loader = DataLoader(TensorDataset(x[:512], y[:512]), batch_size=64, shuffle=True)

# %% model
class Experts(nn.Module):
    """A few small networks; how much each has to say depends on the input."""

    def __init__(self, width=16, num_experts=3):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(64, width) for _ in range(num_experts))
        self.gate = nn.Linear(64, num_experts)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        shares = self.gate(x).softmax(dim=-1)
        parts = []
        for i, expert in enumerate(self.experts):
            parts.append(shares[:, i : i + 1] * torch.tanh(expert(x)))
        if not self.training:
            return self.head(torch.cat(parts, 1))
        return self.head(torch.stack(parts).sum(0))


# %% loss
def focal(logits, targets, table):
    """Hard classes count for more, once it is known which these are."""
    log_probs = logits.log_softmax(1)
    chosen = log_probs.gather(1, targets[:, None])[:, 0]
    weights = table.index_select(0, targets % 10)
    return -(weights * (1 - chosen.exp()) * chosen).mean()


# %% setup
model = Experts()
_network = torch.compile(model, backend="aot_eager")
_criterion = torch.compile(focal, backend="eager", fullgraph=True)
optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
losses, accuracies = [], []

# %% tables
tables = [torch.ones(10), torch.linspace(1.5, 0.5, 10)[:9]]

# %% train [%%resilient]
for epoch in range(3):
    model.train()
    for features, targets in loader:
        loss = _criterion(_network(features), targets, tables[min(epoch, 1)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        found = _network(x[512:768]).argmax(1)
    accuracies.append((found == y[512:768]).float().mean().item())
    print(f"epoch {epoch}: {losses[-1]:.4f}, {accuracies[-1]:.3f}")

# %% model [fix]
#-            return self.head(torch.cat(parts, 1))
#+            return self.head(torch.stack(parts).sum(0))

# %% [%resume]

# %% loss [fix]
#-    weights = table.index_select(0, targets % 10)
#+    weights = table.index_select(0, targets.clamp(max=len(table) - 1))

# %% [%resume]
