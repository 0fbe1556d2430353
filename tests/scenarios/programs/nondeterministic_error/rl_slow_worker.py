"""The environment runs in a process of its own, which once answers too late.

Fix: none; the answer has come by then, and the same statement receives it.
Saves: never
Progress: len(returns)
"""

# %% imports
import multiprocessing
import os
import random
import signal

import gymnasium as gym
import numpy as np
import torch
from torch import nn

random.seed(151)
np.random.seed(151)
torch.manual_seed(151)

# %% worker
def serve(commands, answers):
    """Steps an environment; runs in another process."""
    env = gym.make("CartPole-v1", max_episode_steps=50)
    env.reset(seed=151)
    while (action := commands.get()) is not None:
        if action == "reset":
            answers.put(env.reset()[0])
        else:
            answers.put(env.step(action)[:4])


class RemoteEnv:
    def __init__(self, timeout=2.0):
        context = multiprocessing.get_context("fork")
        self.commands, self.answers = context.Queue(), context.Queue()
        queues = (self.commands, self.answers)
        self.process = context.Process(target=serve, args=queues, daemon=True)
        self.process.start()
        self.timeout = timeout

    def ask(self, command):
        self.commands.put(command)
        return self.answers.get(timeout=self.timeout)

    def close(self):
        self.commands.put(None)
        self.process.join()


# %% network
class Noisy(nn.Module):
    """A linear policy with learnt noise on its weights."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(4, 16)
        self.log_deviation = nn.Parameter(torch.full((16, 4), -3.0))
        self.out = nn.Linear(16, 2)

    def forward(self, x):
        weight = self.mean.weight
        if self.training:
            noise = torch.randn_like(weight)
            weight = weight + noise * self.log_deviation.exp()
        h = nn.functional.linear(x, weight, self.mean.bias)
        return torch.log_softmax(self.out(torch.tanh(h)), dim=-1)


# %% setup
_env = RemoteEnv()
policy = Noisy()
optimizer = torch.optim.SGD(policy.parameters(), lr=0.02, momentum=0.9, nesterov=True)
baseline, returns, evaluations = 0.0, [], []

# %% episodes
def play(policy):
    observation = _env.ask("reset")
    log_probs, rewards, is_over = [], [], False
    while not is_over:
        scores = policy(torch.from_numpy(observation))
        action = torch.multinomial(scores.exp(), 1)
        log_probs.append(scores.gather(0, action))
        answer = _env.ask(action.item())
        observation, reward, terminated, truncated = answer
        rewards.append(reward)
        is_over = terminated or truncated
    return torch.cat(log_probs), rewards


# %% machine
def hiccup(process):
    """The machine is busy with something else: the worker gets no time for a while."""
    os.kill(process.pid, signal.SIGSTOP)


# %% train [%%resilient]
for episode in range(20):
    log_probs, rewards = play(policy)
    total = float(np.sum(rewards))
    loss = -(log_probs * (total - baseline) / 10).mean()
    baseline = 0.9 * baseline + 0.1 * total
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    returns.append(total)
    if episode % 5 == 4:
        policy.eval()
        with torch.no_grad():
            evaluations.append(len(play(policy)[1]))
        policy.train()
        print(f"episode {episode}: {np.mean(returns[-5:]):.1f}, {evaluations[-1]}")
    if episode == 11:
        hiccup(_env.process)
_env.close()

# %% machine [clean]
def hiccup(process):
    """The machine has nothing else to do."""


# %% a while later [fix]
os.kill(_env.process.pid, signal.SIGCONT)

# %% [%resume]
