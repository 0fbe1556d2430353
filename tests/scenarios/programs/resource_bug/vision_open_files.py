"""The data set keeps every file open that it reads: the process may open no more.

Fix: the class is edited to close what it opens; what it kept open is closed in a cell.
Saves: every epoch
Progress: len(history)
"""

# %% imports
import random
import resource
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

random.seed(31)
np.random.seed(31)
torch.manual_seed(31)

# %% limit
# What a login shell of a shared machine allows, on a small scale.
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))

# %% data
folder = Path("images")
folder.mkdir(exist_ok=True)
digits = load_digits()
for number in range(600):
    file = folder / f"{digits.target[number]}-{number:04}.npy"
    if not file.exists():
        np.save(file, digits.images[number].astype("float32"))

# %% dataset
class ImageFolder(Dataset):
    def __init__(self, folder):
        self.paths = sorted(folder.glob("*.npy"))
        self.handles = []

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        path = self.paths[i]
        handle = open(path, "rb")
        self.handles.append(handle)
        image = torch.from_numpy(np.load(handle)) / 16
        if random.random() < 0.5:
            image = torch.roll(image, random.choice([-1, 1]), dims=0)
        return image.unsqueeze(0), int(path.name.partition("-")[0])


# %% model
train_set = ImageFolder(folder)
loader = DataLoader(train_set, batch_size=50, shuffle=True)
model = nn.Sequential(
    nn.Conv2d(1, 12, 3, padding=1),
    nn.BatchNorm2d(12),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(12, 24, 3, padding=1),
    nn.GroupNorm(4, 24),
    nn.ReLU(),
    nn.Flatten(),
    nn.Dropout(0.4),
    nn.Linear(24 * 16, 10),
)
optimizer = torch.optim.SGD(
    model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3
)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=36)

# %% checkpoint
saved, history, first_epoch = Path("digits.pt"), [], 0
if saved.exists():
    state = torch.load(saved, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    history, first_epoch = state["history"], state["epoch"] + 1

# %% train [%%resilient]
for epoch in range(first_epoch, 3):
    correct = 0
    for x, y in loader:
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        history.append(loss.item())
        correct += (logits.argmax(1) == y).sum().item()
    print(f"epoch {epoch}: {correct / len(train_set):.3f} of the training images")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    state |= {"scheduler": scheduler.state_dict()}
    torch.save(state | {"history": history, "epoch": epoch}, saved)

# %% handles [fix]
for handle in train_set.handles:
    handle.close()
train_set.handles.clear()

# %% dataset [fix]
#-        handle = open(path, "rb")
#-        self.handles.append(handle)
#-        image = torch.from_numpy(np.load(handle)) / 16
#+        with open(path, "rb") as handle:
#+            image = torch.from_numpy(np.load(handle)) / 16

# %% [%resume]
