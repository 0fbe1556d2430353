"""One-hot columns are made from the rows at hand: the test rows lack a category.

Fix: the encoding is edited; the call of it has run already, and is done again inside
the frame that waits: `%%at`.
Saves: every epoch
Progress: len(losses)
"""

# %% imports
import random
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_diabetes
from torch import nn

random.seed(6)
rng = np.random.default_rng(6)
torch.manual_seed(6)

# %% data
diabetes = load_diabetes(as_frame=True)
frame = diabetes.frame.copy()
regions = np.array(["north", "south", "east", "west", "abroad"])
frame["region"] = regions[rng.choice(5, len(frame), p=[0.3, 0.3, 0.2, 0.19, 0.01])]
frame["grade"] = pd.cut(frame["bmi"], 3, labels=["low", "middle", "high"]).astype(str)
frame = frame.sort_values("region", kind="stable", ignore_index=True)
test_rows = frame.iloc[-60:]
train_rows = frame.iloc[:-60].sample(frac=1.0, random_state=6, ignore_index=True)

columns = list(pd.get_dummies(train_rows.drop(columns="target")))

# %% encoding
def encode(rows):
    features = pd.get_dummies(rows.drop(columns="target"), dtype=float)
    return torch.tensor(features.to_numpy(), dtype=torch.float32)


def wanted(rows):
    return torch.tensor(rows["target"].to_numpy(), dtype=torch.float32) / 100


# %% model
x_train, y_train = encode(train_rows), wanted(train_rows)
model = nn.Sequential(
    nn.Linear(len(columns), 24),
    nn.BatchNorm1d(24),
    nn.SiLU(),
    nn.Dropout(0.1),
    nn.Linear(24, 1),
)
optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5], gamma=0.3)

# %% evaluation
def error_of(model, rows):
    model.eval()
    x = encode(rows)
    with torch.no_grad():
        predicted = model(x).squeeze(1)
    model.train()
    return (predicted - wanted(rows)).abs().mean().item()


# %% checkpoint
latest, losses, errors, start = Path("diabetes.pt"), [], [], 0
if latest.exists():
    kept = torch.load(latest, weights_only=True)
    for part, name in ((model, "model"), (optimizer, "adagrad"), (scheduler, "steps")):
        part.load_state_dict(kept[name])
    losses, errors, start = kept["losses"], kept["errors"], kept["epoch"] + 1

# %% train [%%resilient]
for epoch in range(start, 8):
    order = torch.randperm(len(x_train))
    for rows in order.split(32):
        loss = nn.functional.huber_loss(model(x_train[rows]).squeeze(1), y_train[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    scheduler.step()
    if epoch % 2 == 1:
        errors.append(error_of(model, test_rows))
        print(f"epoch {epoch}: mean error {errors[-1]:.4f}")
    kept = {"model": model.state_dict(), "adagrad": optimizer.state_dict()}
    kept |= {"steps": scheduler.state_dict(), "epoch": epoch}
    torch.save(kept | {"losses": losses, "errors": errors}, latest)

# %% encoding [fix]
#-    features = pd.get_dummies(rows.drop(columns="target"), dtype=float)
#+    features = pd.get_dummies(rows.drop(columns="target"), dtype=float)
#+    features = features.reindex(columns=columns, fill_value=0.0)

# %% [%%at]
x = encode(rows)

# %% [%resume]
