"""The folder of the held-out texts is in an environment variable that is not set.

Fix: the variable is set in a cell.
Saves: every epoch
Progress: len(losses)
"""

# %% imports
import configparser
import csv
import inspect
import os
import random
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

random.seed(61)
torch.manual_seed(61)

# %% settings
SETTINGS = {"width": 28, "epochs": 4, "lr": 6e-3}

# %% texts
held_out = Path("texts/held-out")
held_out.mkdir(parents=True, exist_ok=True)
for module in (configparser, csv):
    tail = inspect.getsource(module).splitlines()[-60:]
    (held_out / f"{module.__name__}.txt").write_text("\n".join(tail))

# %% words
def words_of(source):
    return [word for line in source.splitlines() for word in line.split()[:6]]


train_words = []
for label, module in enumerate((configparser, csv)):
    found = words_of("\n".join(inspect.getsource(module).splitlines()[:-60]))
    train_words += [(word[:16], label) for word in found[:350]]
letters = sorted({letter for word, _ in train_words for letter in word})
number_of = {letter: i + 2 for i, letter in enumerate(letters)}


def as_batch(words):
    """Words, longest first, as numbers; 0 pads, 1 stands for an unknown letter."""
    words = sorted(words, key=lambda pair: -len(pair[0]))
    ids = torch.zeros(len(words), len(words[0][0]), dtype=torch.long)
    for row, (word, _) in enumerate(words):
        ids[row, : len(word)] = torch.tensor([number_of.get(c, 1) for c in word])
    return ids, [len(word) for word, _ in words], torch.tensor([y for _, y in words])


# %% model
class WordLSTM(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed = nn.Embedding(len(letters) + 2, width, padding_idx=0)
        self.lstm = nn.LSTM(width, width, 2, batch_first=True, dropout=0.2)
        self.head = nn.Linear(width, 2)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.embed(ids), lengths, batch_first=True)
        _, (hidden, _) = self.lstm(packed)
        return self.head(hidden[-1])


model = WordLSTM(SETTINGS["width"])
optimizer = torch.optim.Adam(model.parameters(), lr=SETTINGS["lr"])

# %% evaluation
@torch.no_grad()
def held_out_accuracy():
    model.eval()
    folder = Path(os.environ["HELD_OUT_TEXTS"])
    right = total = 0
    for label, path in enumerate(sorted(folder.glob("*.txt"))):
        words = [(word[:16], label) for word in words_of(path.read_text())]
        ids, lengths, y = as_batch(words)
        right += (model(ids, lengths).argmax(1) == y).sum().item()
        total += len(words)
    model.train()
    return right / total


# %% checkpoint
losses, start = [], 0
if os.path.exists("words.pt"):
    kept = torch.load("words.pt", weights_only=True)
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    losses, start = kept["losses"], kept["epoch"] + 1

# %% train [%%resilient]
for epoch in range(start, SETTINGS["epochs"]):
    random.shuffle(train_words)
    for first in range(0, len(train_words), 50):
        ids, lengths, y = as_batch(train_words[first : first + 50])
        loss = F.cross_entropy(model(ids, lengths), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(kept | {"losses": losses, "epoch": epoch}, "words.pt")
    if epoch % 2 == 1:
        print(f"epoch {epoch}: {held_out_accuracy():.3f}")

# %% environment [fix]
os.environ["HELD_OUT_TEXTS"] = "texts/held-out"

# %% settings [clean]
SETTINGS = {"width": 28, "epochs": 4, "lr": 6e-3}
os.environ["HELD_OUT_TEXTS"] = "texts/held-out"

# %% [%resume]
