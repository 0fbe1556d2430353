"""A piece of an episode with one step only: there is no deviation to divide by.

Fix: the function is edited to leave such pieces as they are.
Saves: never
Progress: len(lengths)
"""

# %% imports
import random
import statistics

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Bernoulli

random.seed(111)
np.random.seed(111)
torch.manual_seed(111)
PIECE = 12

# %% environment
class Shaped(gym.RewardWrapper):
    """Less reward far from the middle."""

    def reward(self, reward):
        position = float(self.unwrapped.state[0])
        return reward - abs(position) / 2


env = Shaped(gym.make("CartPole-v1", max_episode_steps=60))
env.reset(seed=111)

# %% policy
class Recurrent(nn.Module):
    """Remembers what it has seen in the episode."""

    def __init__(self, width=24):
        super().__init__()
        self.cell = nn.GRUCell(4, width)
        self.drop = nn.Dropout(0.05)
        self.push = nn.Linear(width, 1)

    def forward(self, observation, memory):
        memory = self.cell(observation, memory)
        return Bernoulli(logits=self.push(self.drop(memory)).squeeze(-1)), memory


# %% setup
policy = Recurrent()
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.2, total_iters=20)
lengths, losses = [], []

# %% advantages
def normalised(rewards):
    """What is left of the episode, in deviations from the mean of the piece."""
    totals, running = [], 0.0
    for reward in reversed(rewards):
        running = reward + 0.95 * running
        totals.insert(0, running)
    mean = statistics.fmean(totals)
    deviation = statistics.stdev(totals)
    return [(total - mean) / (deviation + 1e-6) for total in totals]


# %% episode
def pieces_of_episode():
    """Pieces of at most ``PIECE`` steps, each of which is one step of the optimizer."""
    observation, _ = env.reset()
    memory, is_over = torch.zeros(24), False
    while not is_over:
        log_probs, rewards = [], []
        memory = memory.detach()
        while len(rewards) < PIECE and not is_over:
            distribution, memory = policy(torch.from_numpy(observation), memory)
            action = distribution.sample()
            log_probs.append(distribution.log_prob(action))
            observation, reward, terminated, truncated, _ = env.step(int(action))
            rewards.append(reward)
            is_over = terminated or truncated
        yield log_probs, rewards


# %% train [%%resilient]
for episode in range(30):
    length = 0
    for log_probs, rewards in pieces_of_episode():
        advantages = torch.tensor(normalised(rewards))
        loss = -(torch.stack(log_probs) * advantages).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        length += len(rewards)
    scheduler.step()
    lengths.append(length)
    if episode % 10 == 9:
        print(f"episode {episode}: {np.mean(lengths[-10:]):.1f} steps")

# %% advantages [fix]
#-    deviation = statistics.stdev(totals)
#+    deviation = statistics.stdev(totals) if len(totals) > 1 else 1.0

# %% [%resume]
