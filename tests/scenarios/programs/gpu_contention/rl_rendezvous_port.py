"""The port at which the learner meets its actors is held by another job of the machine.

Fix: the other job ends; the port is free again.
Saves: never
Progress: len(returns)
"""

# %% imports
import io
import random
import socket

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributed import TCPStore
from torch.distributions import Categorical
from torch.optim.swa_utils import AveragedModel

random.seed(19)
np.random.seed(19)
torch.manual_seed(19)

# %% cluster
# The other job: a socket that has the port, as a training that hangs.
_other_job = socket.create_server(("127.0.0.1", 0))
_port = _other_job.getsockname()[1]

# %% policy
class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 24), nn.Mish(), nn.Linear(24, 3))

    def forward(self, observation):
        *logits, value = self.layers(observation).unbind(-1)
        return Categorical(logits=torch.stack(logits, -1)), value


policy = Policy()
average = AveragedModel(policy)
optimizer = torch.optim.RMSprop(policy.parameters(), lr=5e-3, alpha=0.95)
env = gym.make("CartPole-v1", max_episode_steps=60)
env.reset(seed=19)

# %% publishing
_served = {}


def publish(weights, version):
    """Give the newest weights to the actors."""
    if "store" not in _served:
        _served["store"] = TCPStore("127.0.0.1", _port, 1, True, wait_for_workers=False)
    file = io.BytesIO()
    torch.save(weights, file)
    _served["store"].set(f"weights/{version}", file.getvalue())
    return len(file.getvalue()) > 0


def fetch(version):
    """What an actor does."""
    received = _served["store"].get(f"weights/{version}")
    return torch.load(io.BytesIO(received), weights_only=True)


# %% episodes
def play(network):
    observation, _ = env.reset()
    rewards, log_probs, values, is_over = [], [], [], False
    while not is_over:
        distribution, value = network(torch.from_numpy(observation))
        action = distribution.sample()
        observation, reward, terminated, truncated, _ = env.step(int(action))
        is_over = terminated or truncated
        rewards.append(reward)
        log_probs.append(distribution.log_prob(action))
        values.append(value)
    return rewards, torch.stack(log_probs), torch.stack(values)


def update(rewards, log_probs, values, gamma=0.95, trace=0.9):
    """Actor and critic with generalised advantages."""
    advantages, running, following = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards), values.detach().flip(0)):
        running = reward + gamma * following - value + gamma * trace * running
        following = value
        advantages.insert(0, running)
    advantages = torch.stack(advantages)
    critic = nn.functional.smooth_l1_loss(values, advantages + values.detach())
    loss = critic - (log_probs * advantages).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average.update_parameters(policy)


# %% records
returns, actor_returns = [], []

# %% train [%%resilient]
for episode in range(20):
    rewards, log_probs, values = play(policy)
    update(rewards, log_probs, values)
    returns.append(sum(rewards))
    if episode >= 8 and episode % 4 == 0:
        publish(average.module.state_dict(), episode)
        actor = Policy()
        actor.load_state_dict(fetch(episode))
        with torch.no_grad():
            actor_returns.append(sum(play(actor)[0]))
        print(f"episode {episode}: the actor reached {actor_returns[-1]:.0f}")
_served.clear()

# %% other job [fix]
_other_job.close()

# %% cluster [clean]
_port = 0

# %% [%resume]
