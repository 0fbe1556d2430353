"""One of the scanned pages is blank: its contrast cannot be stretched.

Fix: the class is edited; the run goes on inside the item that failed.
Saves: every epoch
Progress: len(history)
"""

# %% imports
import os
import random

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

random.seed(171)
np.random.seed(171)
torch.manual_seed(171)

# %% pages
digits = load_digits()
pages = np.rint(digits.images[:400] * 12).astype("uint8")
pages[300] = 0

# %% dataset
class Pages(Dataset):
    """Pairs of pages; are they of the same digit?"""

    def __init__(self, pages, labels):
        self.pages, self.labels = pages, labels

    def __len__(self):
        return len(self.pages)

    def stretched(self, i):
        page = self.pages[i]
        factor = 255 // int(page.max())
        return torch.from_numpy(page * factor).float().div(255).unsqueeze(0)

    def __getitem__(self, i):
        other = random.randrange(len(self))
        is_same = float(self.labels[i] == self.labels[other])
        return self.stretched(i), self.stretched(other), is_same


# %% loader
dataset = Pages(pages, digits.target)
batches = BatchSampler(RandomSampler(dataset), batch_size=32, drop_last=True)
loader = DataLoader(dataset, batch_sampler=batches)

# %% model
class Siamese(nn.Module):
    def __init__(self, width=24, patch=2):
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.place = nn.Parameter(0.02 * torch.randn(16, width))
        self.attend = nn.MultiheadAttention(width, 3, dropout=0.1, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.distance = nn.Bilinear(width, width, 1)

    def embed(self, x):
        h = self.patches(x).flatten(2).transpose(1, 2) + self.place
        h = self.norm(h + self.attend(h, h, h, need_weights=False)[0])
        return F.normalize(h.mean(1), dim=1)

    def forward(self, left, right):
        return self.distance(self.embed(left), self.embed(right)).squeeze(1)


# %% setup
model = Siamese()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(9.0))
history, first = [], 0
if os.path.exists("siamese.pt"):
    saved = torch.load("siamese.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    history, first = saved["history"], saved["epoch"] + 1

# %% train [%%resilient]
for epoch in range(first, 3):
    seen = 0
    for left, right, is_same in loader:
        loss = criterion(model(left, right), is_same.float())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append(loss.item())
        seen += len(left)
    print(f"epoch {epoch}: {seen} pairs, loss {np.mean(history[-12:]):.4f}")
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(saved | {"history": history, "epoch": epoch}, "siamese.pt")

# %% dataset [fix]
#-        factor = 255 // int(page.max())
#+        factor = 255 // max(1, int(page.max()))

# %% [%resume]
