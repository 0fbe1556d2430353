"""Settings are read again before each epoch, while another process is writing them.

Fix: none, but the text that was read must be read again: a plain `%resume` keeps the
value of a call that was done, so the user says `%resume --at LINE`.
Saves: never
Progress: len(losses)
"""

# %% imports
import inspect
import json
import random
import string
import subprocess
import sys
import zipfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

random.seed(141)
torch.manual_seed(141)

# %% settings
SETTINGS = Path("settings.json")
SETTINGS.write_text(json.dumps({"lr": 0.004, "dropout": 0.2, "clip": 1.0}))

# %% texts
class Snippets(IterableDataset):
    """Pieces of source text in a random order, as numbers."""

    def __init__(self, text, length=20):
        self.codes = [string.printable.index(c) for c in text if c in string.printable]
        self.length = length

    def __iter__(self):
        starts = list(range(0, len(self.codes) - self.length - 1, self.length))
        random.shuffle(starts)
        for start in starts[:400]:
            yield torch.tensor(self.codes[start : start + self.length + 1])


loader = DataLoader(Snippets(inspect.getsource(zipfile)), batch_size=25)

# %% model
class BagOfNgrams(nn.Module):
    """Sums over the last characters, weighted by how far back they are."""

    def __init__(self, width=40, reach=6):
        super().__init__()
        self.embed = nn.Embedding(len(string.printable), width)
        self.weights = nn.Parameter(torch.ones(reach, width) / reach)
        self.drop = nn.Dropout()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), self.drop
        )
        self.head = nn.Linear(width, len(string.printable))

    def forward(self, ids):
        reach = len(self.weights)
        h = F.pad(self.embed(ids), (0, 0, reach - 1, 0)).unfold(1, reach, 1)
        return self.head(self.layers((h * self.weights.T).sum(-1)))


model = BagOfNgrams()
optimizer = torch.optim.Adam(model.parameters())
losses, used = [], []

# %% helpers
def settle(model, optimizer):
    """What a person has changed in the file takes effect."""
    settings = json.loads(SETTINGS.read_text())
    for group in optimizer.param_groups:
        group["lr"] = settings["lr"]
    model.drop.p = settings["dropout"]
    used.append(settings)
    return settings


# %% editor
# Writes the file in two pieces; something that is not atomic, seen half-way.
_code = """
from pathlib import Path
text = Path("settings.json").read_text()
input()
with open("settings.json", "w") as file:
    file.write(text[:25])
    file.flush()
    input("half\\n")
    file.write(text[25:])
"""
_pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
_editor = subprocess.Popen([sys.executable, "-c", _code], **_pipes)


def someone_saves_the_settings():
    _editor.stdin.write(b"\n")
    _editor.stdin.flush()
    _editor.stdout.readline()


# %% train [%%resilient]
for epoch in range(4):
    settings = settle(model, optimizer)
    for batch in loader:
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
        optimizer.step()
        losses.append(loss.item())
    print(f"epoch {epoch}: {loss.item():.3f}")
    if epoch == 1:
        someone_saves_the_settings()

# %% a moment later [fix]
_editor.communicate(b"\n")

# %% editor [clean]
def someone_saves_the_settings():
    """Nobody does."""


# %% [%resume]

# %% [%resume --at 3]
