"""A function with its own gradient, hooks on tensors, modules and the optimizer.

Each of the user's functions fails once, called by the library: a forward hook, the
backward of the function inside ``loss.backward()``, a hook on a gradient, a hook on the
optimizer.
Fix: each is edited; the library's call in between goes on.
Saves: never
Progress: len(losses)
"""

# %% imports
import random

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

random.seed(3)
np.random.seed(3)
torch.manual_seed(3)

# %% data
digits = load_digits()
x_all = torch.tensor(digits.data[:480], dtype=torch.float32) / 16
loader = DataLoader(
    TensorDataset(x_all, torch.tensor(digits.target[:480])), 48, shuffle=True
)

# %% function
class ScaledSign(torch.autograd.Function):
    """The sign, with a straight-through gradient that is cut off far from zero."""

    @staticmethod
    def forward(ctx, x, limit):
        ctx.save_for_backward(x)
        ctx.limit = limit
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        passed = gradient * (x.abs() <= ctx.limit)
        if (share := (passed == 0).float().mean().item()) > 0.62:
            passed = passed / share.sqrt()
        shares.append(share)
        return passed, None


# %% hooks
def watch_activations(module, inputs, output):
    """Replaces what the first layer gives: noise, and more of it for small values."""
    spread = output.std().item()
    activations.append(round(spread, 6))
    if len(activations) % 7 == 5:
        return output + 0.01 * torch.randn(output.shap)
    return output


def clip_gradient(gradient):
    norms.append(gradient.norm().item())
    if norms[-1] > norms[0 if len(norms) < 2 else -2]:
        gradient = gradient * torch.rand(()) / norms[-2:].mean()
    return gradient


def before_step(optimizer, args, kwargs):
    for group in optimizer.param_groups:
        group["lr"] = RATES[len(rates) // 8]
    rates.append(group["lr"])


# %% model
class Binary(nn.Module):
    def __init__(self, width=40):
        super().__init__()
        self.first = nn.Linear(64, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.1)
        self.last = nn.Linear(width, 10)

    def forward(self, x):
        h = ScaledSign.apply(self.norm(self.first(x)), 0.6)
        h.register_hook(clip_gradient)
        return self.last(self.drop(h))


# %% setup
RATES = [5e-3, 3e-3]
losses, shares, activations, norms, rates = [], [], [], [], []
model = Binary()
model.first.register_forward_hook(watch_activations)
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
optimizer.register_step_pre_hook(before_step)

# %% train [%%resilient]
for epoch in range(2):
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"epoch {epoch}: {losses[-1]:.4f}")

# %% hooks [fix]
#-        return output + 0.01 * torch.randn(output.shap)
#+        return output + 0.01 * torch.randn(output.shape)

# %% [%resume]

# %% function [fix]
#-            passed = passed / share.sqrt()
#+            passed = passed / share**0.5

# %% [%resume]

# %% hooks [fix]
#-        gradient = gradient * torch.rand(()) / norms[-2:].mean()
#+        gradient = gradient * torch.rand(()) / np.mean(norms[-2:])

# %% [%resume]

# %% rates [fix]
RATES.append(1e-3)

# %% setup [clean]
#-RATES = [5e-3, 3e-3]
#+RATES = [5e-3, 3e-3, 1e-3]

# %% [%resume]
