"""The test images have no channel dimension; found when they are first evaluated.

Fix: the caller is edited, so the run goes on there: `%resume --frame 1`.
Saves: every epoch
Progress: len(history)
"""

# %% imports
import copy
import random
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

random.seed(8)
np.random.seed(8)
torch.manual_seed(8)

# %% data
digits = load_digits()
pixels = torch.tensor(digits.images / 16, dtype=torch.float32)
targets = torch.tensor(digits.target)
train = TensorDataset(pixels[:600].unsqueeze(1), targets[:600])
test_images, test_targets = pixels[600:900], targets[600:900]
loader = DataLoader(train, batch_size=50, shuffle=True)

# %% model
class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv(F.relu(self.norm(x)))


class ResNet(nn.Module):
    def __init__(self, width=12, num_blocks=2):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, stride=2)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(num_blocks))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x - 0.3)
        for block in self.blocks:
            x = block(x)
            x = F.dropout2d(x, 0.1, self.training)
        return self.head(x.mean(dim=(2, 3)))


model = ResNet()
average = copy.deepcopy(model)
optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3, momentum=0.5)

# %% helpers
@torch.no_grad()
def follow(average, model, decay=0.9):
    """Exponential moving average of the weights, for evaluation."""
    for slow, fast in zip(average.parameters(), model.parameters()):
        slow.lerp_(fast, 1 - decay)
    for slow, fast in zip(average.buffers(), model.buffers()):
        slow.copy_(fast)


@torch.no_grad()
def test_error(network, images, labels, chunk=100):
    network.eval()
    wrong = 0
    for start in range(0, len(images), chunk):
        batch = images[start : start + chunk]
        logits = network(batch)
        wrong += (logits.argmax(1) != labels[start : start + chunk]).sum().item()
    network.train()
    return wrong / len(images)


# %% checkpoint
history, errors, first = [], [], 0
if Path("resnet.pt").exists():
    state = torch.load("resnet.pt", weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    history, errors, first = state["history"], state["errors"], state["epoch"]

# %% train [%%resilient]
for epoch in range(first, 5):
    for x, y in loader:
        if random.random() < 0.3:
            x = x.flip(-1) * 0.9
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        follow(average, model)
        history.append(loss.item())
    if epoch % 2 == 1:
        errors.append(test_error(average, test_images, test_targets))
        print(f"epoch {epoch}: test error {errors[-1]:.3f}")
    state = {"model": model.state_dict(), "average": average.state_dict()}
    state |= {"optimizer": optimizer.state_dict(), "epoch": epoch + 1}
    torch.save(state | {"history": history, "errors": errors}, "resnet.pt")

# %% helpers [fix]
#-        batch = images[start : start + chunk]
#+        batch = images[start : start + chunk].unsqueeze(1)

# %% [%resume --frame 1]
