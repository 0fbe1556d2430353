"""A replay buffer in a file of fixed size is full: it never begins again at its start.

Fix: the class is edited: the position is taken modulo the capacity.
Saves: never
Progress: steps
"""

# %% imports
import random

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

random.seed(9)
np.random.seed(9)
torch.manual_seed(9)

# %% buffer
class ReplayFile:
    """Transitions in a file that is mapped into memory."""

    def __init__(self, path, capacity, width):
        self.capacity, self.total = capacity, 0
        self.rows = np.memmap(path, "float32", "w+", shape=(capacity, 2 * width + 3))
        self.width = width

    def __len__(self):
        return min(self.total, self.capacity)

    def push(self, state, action, reward, following, terminated):
        at = self.total
        self.rows[at, : self.width] = state
        self.rows[at, self.width : -3] = following
        self.rows[at, -3:] = action, reward, terminated
        self.total += 1

    def sample(self, rng, size):
        chosen = rng.integers(len(self), size=size)
        rows = torch.from_numpy(np.array(self.rows[chosen]))
        states, following = rows[:, : self.width], rows[:, self.width : -3]
        return states, following, rows[:, -3].long(), rows[:, -2], rows[:, -1]


# %% agent
class Dueling(nn.Module):
    def __init__(self, width=40):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(0.05))
        self.value, self.advantage = nn.Linear(width, 1), nn.Linear(width, 2)

    def forward(self, state):
        h = self.body(state)
        advantage = self.advantage(h)
        return self.value(h) + advantage - advantage.mean(-1, keepdim=True)


def optimise(online, frozen, optimizer, batch, gamma=0.98):
    states, following, actions, rewards, ends = batch
    with torch.no_grad():
        chosen = online(following).argmax(1, keepdim=True)
        best = frozen(following).gather(1, chosen).squeeze(1)
    wanted = rewards + gamma * best * (1 - ends)
    found = online(states).gather(1, actions.unsqueeze(1)).squeeze(1)
    loss = F.mse_loss(found, wanted)
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(online.parameters(), 5.0)
    optimizer.step()
    return loss.item(), norm.item()


# %% setup
env = gym.make("CartPole-v1")
env.action_space.seed(9)
rng = np.random.default_rng(9)
replay = ReplayFile("replay.dat", capacity=300, width=4)
online, frozen = Dueling(), Dueling()
frozen.load_state_dict(online.state_dict())
optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
curve, episodes, steps = [], [], 0
state, _ = env.reset(seed=9)

# %% train [%%resilient]
while steps < 500:
    explore = rng.random() < max(0.1, 1 - steps / 300)
    if explore:
        action = int(env.action_space.sample())
    else:
        action = online(torch.from_numpy(state)).argmax().item()
    following, reward, terminated, truncated, _ = env.step(action)
    replay.push(state, action, reward, following, terminated)
    steps += 1
    state = following
    if terminated or truncated:
        episodes.append(steps - sum(episodes))
        state, _ = env.reset()
    if steps >= 64 and steps % 2 == 0:
        curve.append(optimise(online, frozen, optimizer, replay.sample(rng, 32)))
    if steps % 50 == 0:
        frozen.load_state_dict(online.state_dict())
print(len(replay), "transitions,", len(episodes), "episodes")

# %% buffer [fix]
#-        at = self.total
#+        at = self.total % self.capacity

# %% [%resume]
