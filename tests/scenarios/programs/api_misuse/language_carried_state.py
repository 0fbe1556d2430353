"""The state of the network is carried from batch to batch, and its graph with it.

backward then goes through the graph of the batch before, which is freed. By that time
it has accumulated some gradients, and dropout has drawn its masks.
Fix: the training cell is edited to detach the state, and the round is run again from
its top: `%%resume --iteration`.
Saves: never
Progress: len(losses)
"""

# %% imports
import calendar
import inspect
import random

import torch
from torch import nn
from torch.nn import functional as F

random.seed(37)
torch.manual_seed(37)

# %% corpus
text = inspect.getsource(calendar)
alphabet = sorted(set(text))
index_of = {character: i for i, character in enumerate(alphabet)}
tokens = torch.tensor([index_of[c] for c in text])
ROWS, LENGTH = 8, 25
rows = tokens[: len(tokens) // ROWS * ROWS].view(ROWS, -1)


def batches(rows):
    """Pieces that follow one another, each row a text of its own."""
    for start in range(0, min(rows.shape[1] - LENGTH - 1, 500), LENGTH):
        piece = rows[:, start : start + LENGTH + 1]
        yield piece[:, :-1], piece[:, 1:]


# %% model
class Writer(nn.Module):
    def __init__(self, vocabulary, width=40):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.drop = nn.Dropout(0.2)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids, state):
        h, state = self.lstm(self.drop(self.embed(ids)), state)
        return self.head(h), state


# %% setup
model = Writer(len(alphabet))
optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.98)
losses = []

# %% settings
EPOCHS = 4
carries_state = False  # the first epochs are easier without

# %% helpers
def perplexity(losses):
    return torch.tensor(losses).mean().exp().item()


# %% train [%%resilient --journal]
for epoch in range(EPOCHS):
    state = None
    for ids, targets in batches(rows):
        logits, new_state = model(ids, state)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
        state = new_state if carries_state else None
    scheduler.step()
    carries_state = epoch >= 1
    print(f"epoch {epoch}: perplexity {perplexity(losses[-10:]):.2f}")

# %% train [%%resume --iteration]
#-        logits, new_state = model(ids, state)
#+        if state is not None:
#+            state = tuple(part.detach() for part in state)
#+        logits, new_state = model(ids, state)
