"""The oldest checkpoint is to be deleted, but it became the best one: it was renamed.

Fix: the function is edited for the next time, and the deletion is skipped this time:
`%resume --skip`.
Saves: every 4 episodes
Progress: len(returns)
"""

# %% imports
import os
import random
from collections import deque
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

random.seed(71)
np.random.seed(71)
torch.manual_seed(71)

# %% agent
class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 32)
        self.actor = nn.Linear(32, 2)
        self.critic = nn.Linear(32, 1)

    def forward(self, x):
        h = torch.tanh(self.shared(x))
        return F.log_softmax(self.actor(h), dim=-1), self.critic(h)[..., 0]


agent = Agent()
optimizer = torch.optim.Adam(agent.parameters(), lr=7e-3)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)
env = gym.make("CartPole-v1", max_episode_steps=80)
env.reset(seed=71)

# %% collection
@torch.no_grad()
def collect():
    observation, _ = env.reset()
    states, actions, rewards, old = [], [], [], []
    is_over = False
    while not is_over:
        log_probs, _ = agent(torch.from_numpy(observation))
        action = torch.multinomial(log_probs.exp(), 1).item()
        states.append(torch.from_numpy(observation))
        actions.append(action)
        old.append(log_probs[action])
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(reward)
        is_over = terminated or truncated
    return torch.stack(states), torch.tensor(actions), rewards, torch.stack(old)


# %% update
def improve(states, actions, rewards, old, num_passes=2, clip=0.2):
    """Proximal policy optimisation on one episode."""
    returns, running = [], 0.0
    for reward in reversed(rewards):
        running = reward + 0.97 * running
        returns.append(running)
    returns = torch.tensor(returns[::-1]) / 10
    for _ in range(num_passes):
        for rows in torch.randperm(len(states)).split(16):
            log_probs, values = agent(states[rows])
            chosen = log_probs.gather(1, actions[rows, None])[:, 0]
            ratio = (chosen - old[rows]).exp()
            gain = returns[rows] - values.detach()
            policy = torch.min(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
            entropy = -(log_probs.exp() * log_probs).sum(1).mean()
            loss = F.mse_loss(values, returns[rows]) - policy.mean() - 0.01 * entropy
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
    scheduler.step()


# %% checkpoints
folder = Path("agents")
folder.mkdir(exist_ok=True)


def checkpoint(episode, score):
    path = folder / f"episode-{episode:03}.pt"
    state = {"agent": agent.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state | {"returns": returns, "episode": episode}, path)
    recent.append(path)
    if len(recent) > 2:
        oldest = recent.popleft()
        os.remove(oldest)
    if score > best["score"]:
        best.update(score=score)
        os.replace(recent[-1], folder / "best.pt")
    return path.name


# %% start
returns, recent, best, first = [], deque(), {"score": 0.0}, 0
saved = sorted(folder.glob("episode-*.pt"))
if saved:
    state = torch.load(saved[-1], weights_only=True)
    agent.load_state_dict(state["agent"])
    optimizer.load_state_dict(state["optimizer"])
    returns, first = state["returns"], state["episode"] + 1
    recent.extend(saved)

# %% train [%%resilient]
for episode in range(first, 24):
    states, actions, rewards, old = collect()
    improve(states, actions, rewards, old)
    returns.append(sum(rewards))
    if episode % 4 == 3:
        name = checkpoint(episode, np.mean(returns[-4:]))
        print(f"{name}: {np.mean(returns[-4:]):.2f}, the best {best['score']:.2f}")

# %% checkpoints [fix]
#-        os.remove(oldest)
#+        oldest.unlink(missing_ok=True)

# %% [%resume --skip]
