"""The last batch of an epoch holds one image: BatchNorm1d wants more than one value.

The layer counts the batch before it refuses it, and noise was drawn before.
Fix: the class is edited to leave the normalisation out for a single image, and the
round is run again from its top: `%resume --iteration`.
Saves: never
Progress: len(history)
"""

# %% imports
import random

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

random.seed(4)
np.random.seed(4)
torch.manual_seed(4)

# %% data
digits = load_digits()
x_all = torch.tensor(digits.data, dtype=torch.float32) / 16
y_all = torch.tensor(digits.target)
# 385 = 6 * 64 + 1 images
loader = DataLoader(TensorDataset(x_all[:385], y_all[:385]), 64, shuffle=True)

# %% model
class Autoencoder(nn.Module):
    """Reconstructs an image and names the digit."""

    def __init__(self, width=32):
        super().__init__()
        self.encode1 = nn.Linear(64, width)
        self.norm1 = nn.BatchNorm1d(width)
        self.encode2 = nn.Linear(width, 16)
        self.drop = nn.Dropout(0.2)
        self.decode = nn.Linear(16, 64)
        self.classify = nn.Linear(16, 10)

    def forward(self, x):
        h = self.encode1(x + 0.1 * torch.randn_like(x))
        h = F.relu(self.norm1(h))
        code = self.drop(torch.tanh(self.encode2(h)))
        return torch.sigmoid(self.decode(code)), self.classify(code)


# %% setup
model = Autoencoder()
optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, decay], [5])

# %% loss
def objective(model, x, y):
    rebuilt, logits = model(x)
    reconstruction = F.mse_loss(rebuilt, x)
    return reconstruction + 0.5 * F.cross_entropy(logits, y)


history, accuracies = [], []

# %% train [%%resilient --journal]
for epoch in range(4):
    model.train()
    bar = tqdm(loader, leave=False)
    for x, y in bar:
        optimizer.zero_grad()
        loss = objective(model, x, y)
        loss.backward()
        optimizer.step()
        scheduler.step()
        history.append(loss.item())
        bar.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()
    with torch.no_grad():
        found = model(x_all[385:])[1].argmax(1)
    accuracies.append((found == y_all[385:]).float().mean().item())
    print(f"epoch {epoch}: accuracy {accuracies[-1]:.3f}")

# %% model [fix]
#-        h = F.relu(self.norm1(h))
#+        h = F.relu(self.norm1(h) if len(h) > 1 else h)

# %% [%resume --iteration]
