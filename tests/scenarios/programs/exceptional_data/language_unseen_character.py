"""A character that the vocabulary does not have: its index is outside the embedding.

Fix: the class is edited to read such characters as the last one.
Saves: never
Progress: len(losses)
"""

# %% imports
import bisect
import inspect
import random
import string

import torch
from torch import nn
from torch.nn import functional as F

random.seed(101)
torch.manual_seed(101)

# %% corpus
alphabet = sorted(string.printable)
index_of = {character: i for i, character in enumerate(alphabet)}
text = inspect.getsource(bisect) + inspect.getsource(string)
name = text.index("Template") + 4000
text = text[:name] + "# \N{LATIN SMALL LETTER E WITH ACUTE}t\n" + text[name:]


def encoded(text):
    return torch.tensor([index_of.get(c, len(alphabet)) for c in text])


tokens = encoded(text)
WINDOW, BATCH = 24, 20
num_windows = (len(tokens) - 1) // WINDOW

# %% model
class CausalConv(nn.Module):
    """A stack of dilated causal convolutions over characters."""

    def __init__(self, vocabulary, width=32, num_layers=3):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.drop = nn.Dropout(0.15)
        self.layers = nn.ModuleList(
            nn.Conv1d(width, 2 * width, 2, dilation=2**i) for i in range(num_layers)
        )
        self.head = nn.Linear(width, vocabulary)
        self.head.weight = self.embed.weight  # tied

    def forward(self, ids):
        h = self.drop(self.embed(ids)).transpose(1, 2)
        for layer in self.layers:
            padded = F.pad(h, (layer.dilation[0], 0))
            h = h + F.glu(layer(padded), dim=1)
        return self.head(h.transpose(1, 2))


# %% setup
model = CausalConv(len(alphabet))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, eps=1e-7)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 20, gamma=0.5)
losses, best = [], {"loss": float("inf"), "weights": None}

# %% loss
def loss_of(model, ids, targets):
    logits = model(ids)
    known = targets.clamp(max=len(alphabet) - 1)
    return F.cross_entropy(logits.flatten(0, 1), known.flatten())


# %% train [%%resilient]
for epoch in range(2):
    order = list(range(num_windows))
    random.shuffle(order)
    for first in range(0, num_windows, BATCH):
        starts = [WINDOW * number for number in order[first : first + BATCH]]
        ids = torch.stack([tokens[i : i + WINDOW] for i in starts])
        targets = torch.stack([tokens[i + 1 : i + WINDOW + 1] for i in starts])
        loss = loss_of(model, ids, targets)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, norm_type=2.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        if losses[-1] < best["loss"]:
            best["loss"] = losses[-1]
            best["weights"] = {k: v.clone() for k, v in model.state_dict().items()}
    print(f"epoch {epoch}: {sum(losses[-10:]) / 10:.3f}, the best {best['loss']:.3f}")

# %% model [fix]
#-        h = self.drop(self.embed(ids)).transpose(1, 2)
#+        ids = ids.clamp(max=self.embed.num_embeddings - 1)
#+        h = self.drop(self.embed(ids)).transpose(1, 2)

# %% [%resume]
