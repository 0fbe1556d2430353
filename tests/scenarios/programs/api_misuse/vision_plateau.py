"""ReduceLROnPlateau is stepped without the metric that it needs, after an epoch.

Fix: the training cell is edited: `scheduler.step(val_loss)`.
Saves: every epoch
Progress: len(history)
"""

# %% imports
import os
import random

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

SEED = 3
random.seed(SEED)
np.random.seed(SEED)
torch.manual_seed(SEED)

# %% data
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)
train_x, val_x, train_y, val_y = train_test_split(
    images, labels, test_size=0.25, stratify=labels, random_state=SEED
)
train_loader = DataLoader(TensorDataset(train_x, train_y), batch_size=64, shuffle=True)
val_loader = DataLoader(TensorDataset(val_x, val_y), batch_size=256)

# %% model
class ConvNet(nn.Module):
    def __init__(self, channels=16, num_classes=10):
        super().__init__()
        self.block1 = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.block2 = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Linear(channels * 16, num_classes)

    def forward(self, x):
        x = self.block2(self.block1(x))
        return self.head(self.dropout(x.flatten(1)))


model = ConvNet()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)

# %% helpers
def augment(x):
    """Shift each batch by a pixel or two and add a little noise."""
    shift = random.randint(-1, 1)
    return torch.roll(x, shift, dims=-1) + 0.02 * torch.randn_like(x)


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    loss, correct = 0.0, 0
    for x, y in loader:
        logits = model(x)
        loss += F.cross_entropy(logits, y, reduction="sum").item()
        correct += (logits.argmax(1) == y).sum().item()
    model.train()
    return loss / len(loader.dataset), correct / len(loader.dataset)


# %% checkpoint
CHECKPOINT = "plateau.pt"
history = []
first_epoch = 0
if os.path.exists(CHECKPOINT):
    saved = torch.load(CHECKPOINT, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    history, first_epoch = saved["history"], saved["epoch"] + 1

# %% train [%%resilient]
for epoch in range(first_epoch, 4):
    for x, y in train_loader:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(augment(x)), y, label_smoothing=0.05)
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    val_loss, accuracy = evaluate(model, val_loader)
    print(f"epoch {epoch}: validation loss {val_loss:.4f}, accuracy {accuracy:.3f}")
    scheduler.step()
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": history,
            "epoch": epoch,
        },
        CHECKPOINT,
    )

# %% train [%%resume]
#-    scheduler.step()
#+    scheduler.step(val_loss)
