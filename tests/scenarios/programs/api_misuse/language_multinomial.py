"""The text sampler hands logits to torch.multinomial, which wants probabilities.

Fix: the sampling function is edited: softmax with a temperature.
Saves: never
Progress: len(losses)
"""

# %% imports
import argparse
import inspect
import random
import textwrap

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(11)
random.seed(11)

# %% corpus
text = inspect.getsource(argparse) + inspect.getsource(textwrap)
text = text[:40_000]
alphabet = sorted(set(text))
index_of = {character: i for i, character in enumerate(alphabet)}
tokens = torch.tensor([index_of[character] for character in text])
split = int(0.9 * len(tokens))
train_tokens, val_tokens = tokens[:split], tokens[split:]
SEQUENCE, BATCH = 32, 16


def batch_of(tokens):
    starts = torch.randint(len(tokens) - SEQUENCE - 1, (BATCH,))
    x = torch.stack([tokens[i : i + SEQUENCE] for i in starts])
    y = torch.stack([tokens[i + 1 : i + SEQUENCE + 1] for i in starts])
    return x, y


# %% model
class CharGRU(nn.Module):
    def __init__(self, vocabulary, width=48):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.drop = nn.Dropout(0.1)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, x, state=None):
        h, state = self.gru(self.drop(self.embed(x)), state)
        return self.head(self.norm(h)), state


model = CharGRU(len(alphabet))
optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=60)

# %% sampling
def sample(model, prompt, length):
    model.eval()
    written, state = list(prompt), None
    x = torch.tensor([[index_of[character] for character in prompt]])
    with torch.no_grad():
        for _ in range(length):
            logits, state = model(x, state)
            choice = torch.multinomial(logits[:, -1], num_samples=1)
            written.append(alphabet[choice.item()])
            x = choice
    model.train()
    return "".join(written)


# %% evaluation
@torch.no_grad()
def validation_loss(model, num_batches=4):
    model.eval()
    total = 0.0
    for _ in range(num_batches):
        x, y = batch_of(val_tokens)
        total += F.cross_entropy(model(x)[0].flatten(0, 1), y.flatten()).item()
    model.train()
    return total / num_batches


# %% records
losses, samples = [], []

# %% train [%%resilient]
for step in range(60):
    x, y = batch_of(train_tokens)
    logits, _ = model(x)
    loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    scheduler.step()
    losses.append(loss.item())
    if step % 20 == 19:
        print(f"step {step + 1}: validation {validation_loss(model):.3f}")
        samples.append(sample(model, "def ", random.randint(20, 40)))
        print(repr(samples[-1]))

# %% sampling [fix]
#-            choice = torch.multinomial(logits[:, -1], num_samples=1)
#+            weights = F.softmax(logits[:, -1] / 0.8, dim=-1)
#+            choice = torch.multinomial(weights, num_samples=1)

# %% [%resume]
