"""The evaluation still unpacks four values from env.step, as the old gym gave them.

Fix: the function is edited to unpack five. The step that failed had been taken: the
environment must not take it again.
Saves: never
Progress: len(returns)
"""

# %% imports
import random

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

random.seed(5)
np.random.seed(5)
torch.manual_seed(5)

# %% environments
train_env = gym.make("CartPole-v1", max_episode_steps=100)
eval_env = gym.make("CartPole-v1", max_episode_steps=100)
train_env.reset(seed=5)
eval_env.reset(seed=6)

# %% policy
class Policy(nn.Module):
    def __init__(self, hidden=32):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Dropout(0.05))
        self.actor = nn.Linear(hidden, 2)
        self.critic = nn.Linear(hidden, 1)

    def forward(self, observation):
        h = self.body(observation)
        return Categorical(logits=self.actor(h)), self.critic(h).squeeze(-1)


policy = Policy()
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
GAMMA = 0.98

# %% rollout
def play_episode(env):
    """One episode: log-probabilities, values and rewards of its steps."""
    observation, _ = env.reset()
    log_probs, values, rewards = [], [], []
    is_over = False
    while not is_over:
        distribution, value = policy(torch.from_numpy(observation))
        action = distribution.sample()
        observation, reward, terminated, truncated, _ = env.step(action.item())
        is_over = terminated or truncated
        log_probs.append(distribution.log_prob(action))
        values.append(value)
        rewards.append(reward)
    return torch.stack(log_probs), torch.stack(values), rewards


def discounted(rewards):
    found, running = [], 0.0
    for reward in reversed(rewards):
        running = reward + GAMMA * running
        found.insert(0, running)
    return torch.tensor(found)


# %% evaluation
def evaluate(env, num_episodes=2):
    policy.eval()
    total = 0.0
    for _ in range(num_episodes):
        observation, _ = env.reset()
        done = False
        while not done:
            with torch.no_grad():
                distribution, _ = policy(torch.from_numpy(observation))
            action = distribution.sample().item()
            observation, reward, done, info = env.step(action)
            total += reward
    policy.train()
    return total / num_episodes


# %% records
returns, scores = [], []

# %% train [%%resilient]
for episode in range(24):
    log_probs, values, rewards = play_episode(train_env)
    targets = discounted(rewards)
    advantages = targets - values.detach()
    loss = -(log_probs * advantages).mean() + nn.functional.mse_loss(values, targets)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
    optimizer.step()
    returns.append(sum(rewards))
    if episode % 8 == 7:
        scores.append(evaluate(eval_env))
        print(f"episode {episode + 1}: {np.mean(returns[-8:]):.1f}, {scores[-1]:.1f}")

# %% evaluation [fix]
#-            observation, reward, done, info = env.step(action)
#+            observation, reward, terminated, truncated, info = env.step(action)
#+            done = terminated or truncated

# %% [%resume]
