"""A line longer than the table of positions: the sum of embeddings does not fit.

Fix: the class is edited to read the beginning of a long line only.
Saves: every 20 steps
Progress: len(losses)
"""

# %% imports
import argparse
import ast
import inspect
import json.decoder
import os
import random
import textwrap

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

random.seed(13)
torch.manual_seed(13)
MODULES = (argparse, ast, textwrap, json.decoder)
MAX_LENGTH = 80

# %% corpus
lines = []
for label, module in enumerate(MODULES):
    source = inspect.getsource(module).splitlines()[:200]
    lines += [(line, label) for line in source if line.strip()]
lines.append(("    # " + "-" * 90, 0))  # a ruler, wider than any line of code
random.shuffle(lines)
alphabet = sorted({character for line, _ in lines for character in line})
index_of = {character: i + 1 for i, character in enumerate(alphabet)}


def collate(batch):
    ids = [torch.tensor([index_of[c] for c in line]) for line, _ in batch]
    return pad_sequence(ids, batch_first=True), torch.tensor([y for _, y in batch])


sampler = torch.utils.data.RandomSampler(lines)
loader = torch.utils.data.DataLoader(
    lines, batch_size=24, sampler=sampler, collate_fn=collate, drop_last=True
)

# %% model
class LineReader(nn.Module):
    """Tells from a line which module it comes from."""

    def __init__(self, vocabulary, width=32):
        super().__init__()
        self.embed = nn.Embedding(vocabulary + 1, width, padding_idx=0)
        self.position = nn.Parameter(0.02 * torch.randn(MAX_LENGTH, width))
        self.block = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=64, dropout=0.1, batch_first=True
        )
        self.head = nn.Linear(width, len(MODULES))

    def forward(self, ids):
        h = self.embed(ids) + self.position[: ids.shape[1]]
        is_padding = ids == 0
        h = self.block(h, src_key_padding_mask=is_padding)
        h = h.masked_fill(is_padding.unsqueeze(-1), 0).sum(1)
        return self.head(h / (~is_padding).sum(1, keepdim=True))


# %% setup
model = LineReader(len(alphabet))
optimizer = torch.optim.NAdam(model.parameters(), lr=3e-3)
losses, step = [], 0
if os.path.exists("reader.pt"):
    saved = torch.load("reader.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    losses, step = saved["losses"], saved["step"]

# %% train [%%resilient]
ACCUMULATE = 2
while step < 60:
    for ids, labels in loader:
        loss = F.cross_entropy(model(ids), labels) / ACCUMULATE
        loss.backward()
        step += 1
        losses.append(loss.item() * ACCUMULATE)
        if step % ACCUMULATE == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step}: {sum(losses[-20:]) / 20:.3f}")
            saved = {"model": model.state_dict(), "step": step, "losses": losses}
            torch.save(saved | {"optimizer": optimizer.state_dict()}, "reader.pt")
        if step == 60:
            break

# %% model [fix]
#-        h = self.embed(ids) + self.position[: ids.shape[1]]
#+        ids = ids[:, :MAX_LENGTH]
#+        h = self.embed(ids) + self.position[: ids.shape[1]]

# %% [%resume]
