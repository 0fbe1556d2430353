"""Q-learning: values of next states are computed for the states that have one only.

The shapes differ in the first batch with the end of an episode in it.
Fix: the function is edited: zeros for the others. What is edited has run already, so
the user says where to go on: `%resume --at LINE`.
Saves: never
Progress: len(losses)
"""

# %% imports
import random
from collections import deque, namedtuple

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

random.seed(2)
np.random.seed(2)
torch.manual_seed(2)
Transition = namedtuple("Transition", "state action reward next_state")

# %% environment
env = gym.make("CartPole-v1")
env.action_space.seed(2)
observation, _ = env.reset(seed=2)
memory = deque(maxlen=1000)

# %% networks
def make_network():
    return nn.Sequential(
        nn.Linear(4, 48), nn.LayerNorm(48), nn.ReLU(), nn.Linear(48, 2)
    )


online, target = make_network(), make_network()
target.load_state_dict(online.state_dict())
optimizer = torch.optim.AdamW(online.parameters(), lr=2e-3, amsgrad=True)
GAMMA, TAU, BATCH = 0.97, 0.02, 16

# %% acting
def choose(state, step):
    epsilon = max(0.05, 0.9 * 0.99**step)
    if random.random() < epsilon:
        return env.action_space.sample()
    with torch.no_grad():
        return online(state).argmax().item()


# %% learning
def targets_of(batch):
    rewards = torch.tensor([t.reward for t in batch])
    following = [t.next_state for t in batch if t.next_state is not None]
    with torch.no_grad():
        best = target(torch.stack(following)).amax(dim=1)
    return rewards + GAMMA * best


def learn():
    batch = random.sample(memory, BATCH)
    states = torch.stack([t.state for t in batch])
    actions = torch.tensor([t.action for t in batch])
    values = online(states).gather(1, actions.unsqueeze(1)).squeeze(1)
    loss = F.smooth_l1_loss(values, targets_of(batch))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_value_(online.parameters(), 10)
    optimizer.step()
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), online.parameters()):
            slow.lerp_(fast, TAU)
    return loss.item()


# %% records
losses, lengths, length = [], [], 0

# %% train [%%resilient]
for step in range(400):
    state = torch.from_numpy(observation)
    action = choose(state, step)
    observation, reward, terminated, truncated, _ = env.step(action)
    next_state = None if terminated else torch.from_numpy(observation)
    memory.append(Transition(state, action, reward, next_state))
    length += 1
    if terminated or truncated:
        lengths.append(length)
        length = 0
        observation, _ = env.reset()
    if len(memory) >= BATCH:
        losses.append(learn())
print(f"{len(lengths)} episodes, the last of {lengths[-1]} steps")

# %% learning [fix]
#-        best = target(torch.stack(following)).amax(dim=1)
#+        best = torch.zeros(len(batch))
#+        is_running = torch.tensor([t.next_state is not None for t in batch])
#+        best[is_running] = target(torch.stack(following)).amax(dim=1)

# %% [%resume --at 4]
