"""Evaluating long texts runs out of memory, since an older experiment holds most of it.

There is no GPU here: the address space that the process may use stands for the memory
of the device. The allocation fails inside the model's attention.
Fix: the leftovers of the older experiment are deleted.
Saves: never
Progress: len(losses)
"""

# %% imports
import gc
import inspect
import math
import random
import resource
import statistics
import tokenize

import torch
from torch import nn
from torch.nn import functional as F

random.seed(23)
torch.manual_seed(23)

# %% corpus
text = inspect.getsource(statistics) + inspect.getsource(tokenize)
alphabet = sorted(set(text))
lookup = {character: i for i, character in enumerate(alphabet)}
data = torch.tensor([lookup[character] for character in text])
held_out, data = data[:3000], data[3000:30_000]

# %% model
class Attention(nn.Module):
    def __init__(self, width, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        parts = self.mix(x).chunk(3, dim=-1)
        q, k, v = (p.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in parts)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        weights = scores.masked_fill_(future, -math.inf).softmax(dim=-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class TinyGPT(nn.Module):
    def __init__(self, vocabulary, width=32):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.norm = nn.LayerNorm(width)
        self.attend = Attention(width, num_heads=8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids):
        h = self.embed(ids)
        h = h + self.drop(self.attend(self.norm(h)))
        return self.head(h)


model = TinyGPT(len(alphabet))
optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1, (k + 1) / 10))

# %% older experiment
with open("/proc/self/statm") as _file:
    _in_use = int(_file.read().split()[0]) * resource.getpagesize()
_, _hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (_in_use + 1400 * 2**20, _hard))
old_activations = [torch.empty(55_000_000) for _ in range(5)]

# %% evaluation
@torch.no_grad()
def perplexity(ids):
    model.eval()
    logits = model(ids[None, :-1])
    loss = F.cross_entropy(logits[0], ids[1:])
    model.train()
    return loss.exp().item()


# %% records
losses, perplexities = [], []

# %% train [%%resilient]
for step in range(45):
    starts = torch.randint(len(data) - 49, (12,)).tolist()
    batch = torch.stack([data[i : i + 49] for i in starts])
    logits = model(batch[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    scheduler.step()
    losses.append(loss.item())
    if step % 15 == 14:
        perplexities.append(perplexity(held_out))
        print(f"step {step + 1}: perplexity {perplexities[-1]:.2f}")

# %% memory [fix]
del old_activations
gc.collect()

# %% older experiment [clean]
pass

# %% [%resume]
