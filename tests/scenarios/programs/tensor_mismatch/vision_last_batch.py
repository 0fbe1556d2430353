"""forward reshapes to a fixed batch size; the last batch of an epoch is shorter.

Fix: the class is edited: `x.flatten(1)`. The model in use gets the new method.
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
from torch.utils.data import DataLoader, Dataset, random_split

torch.manual_seed(21)
np.random.seed(21)
random.seed(21)
BATCH_SIZE = 64

# %% data
class Digits(Dataset):
    def __init__(self, limit=500):
        digits = load_digits()
        self.images = digits.images[:limit].astype("float32") / 16
        self.labels = digits.target[:limit]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = torch.from_numpy(self.images[i]).unsqueeze(0)
        if torch.rand(()) < 0.5:
            image = image + 0.05 * torch.randn_like(image)
        return image, self.labels[i]


split = torch.Generator().manual_seed(1)
train_set, val_set = random_split(Digits(), [420, 80], generator=split)
train_loader = DataLoader(train_set, BATCH_SIZE, shuffle=True, num_workers=2)
val_loader = DataLoader(val_set, BATCH_SIZE // 2)

# %% model
class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.3)
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        x = x.view(BATCH_SIZE, 64) if self.training else x.flatten(1)
        x = self.drop(F.relu(self.fc1(x)))
        return self.fc2(x)


# %% setup
model = LeNet()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=21)
history = []

# %% loops
def train_epoch(loader):
    model.train()
    seen = 0
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=2.0)
        optimizer.step()
        scheduler.step()
        history.append(loss.item())
        seen += len(x)
    return seen


@torch.inference_mode()
def accuracy(loader):
    model.eval()
    right = [(model(x).argmax(1) == y).float().mean().item() for x, y in loader]
    return sum(right) / len(right)


# %% train [%%resilient]
for epoch in range(3):
    seen = train_epoch(train_loader)
    print(f"epoch {epoch}: {seen} images, accuracy {accuracy(val_loader):.3f}")

# %% model [fix]
#-        x = x.view(BATCH_SIZE, 64) if self.training else x.flatten(1)
#+        x = x.flatten(1)

# %% [%resume]
