"""f1_score is asked for the binary average of three classes, after the first epoch.

Fix: the metrics function is edited: `average="macro"`.
Saves: every epoch
Progress: len(losses)
"""

# %% imports
import random
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_wine
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

random.seed(0)
np.random.seed(0)
torch.manual_seed(0)

# %% data
wine = load_wine(as_frame=True)
frame = wine.frame
frame["alcohol_by_hue"] = frame["alcohol"] / frame["hue"]
features = frame.drop(columns="target")
x_train, x_test, y_train, y_test = train_test_split(
    features, frame["target"], test_size=0.3, stratify=frame["target"], random_state=0
)
scaler = StandardScaler().fit(x_train)


def tensors(x, y):
    scaled = scaler.transform(x).astype("float32")
    return TensorDataset(torch.from_numpy(scaled), torch.tensor(y.to_numpy()))


train_set, test_set = tensors(x_train, y_train), tensors(x_test, y_test)
loader = DataLoader(train_set, batch_size=16, shuffle=True, drop_last=True)

# %% model
model = nn.Sequential(
    nn.Linear(features.shape[1], 32),
    nn.BatchNorm1d(32),
    nn.GELU(),
    nn.Dropout(0.3),
    nn.Linear(32, 3),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
criterion = nn.CrossEntropyLoss()

# %% metrics
def metrics(model, dataset):
    model.eval()
    x, y = dataset.tensors
    with torch.no_grad():
        predicted = model(x).argmax(dim=1)
    model.train()
    return {
        "accuracy": accuracy_score(y, predicted),
        "f1": f1_score(y, predicted),
    }


# %% checkpoint
latest = Path("wine.pt")
losses, table, start = [], [], 0
if latest.exists():
    saved = torch.load(latest, weights_only=False)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    losses, table, start = saved["losses"], saved["table"], saved["epoch"] + 1

# %% train [%%resilient]
for epoch in range(start, 10):
    for x, y in tqdm(loader, desc=f"epoch {epoch}", leave=False):
        loss = criterion(model(x + 0.05 * torch.randn_like(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    scheduler.step()
    table.append({"epoch": epoch, "loss": loss.item(), **metrics(model, test_set)})
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    saved |= {"scheduler": scheduler.state_dict(), "epoch": epoch}
    torch.save(saved | {"losses": losses, "table": table}, latest)
results = pd.DataFrame(table).set_index("epoch")
print(results.tail(3).round(3))

# %% metrics [fix]
#-        "f1": f1_score(y, predicted),
#+        "f1": f1_score(y, predicted, average="macro"),

# %% [%resume]
