"""The peers' side, run by the interpreter of their own environment: their SAC, called as they call it.

Where a method has no package to call, it is written here in torch, from its mathematics.
"""

import time

import numpy as np
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from . import random_world

PACKAGES = ("torch", "stable-baselines3", "sbx-rl", "jax", "gymnasium", "mujoco", "numpy")
_ENV = "HalfCheetah-v5"
_REPLAY = 100_000


def build(library: str, task: str, num_envs: str = "1"):
    torch.set_num_threads(1)
    if task == "reward-model":
        return _reward_model()
    if task == "m-sobirl":
        return _m_sobirl()
    if library == "sb3":
        from stable_baselines3 import SAC
    else:
        from sbx import SAC
    copies = int(num_envs)
    # One update for each environment step; all else is their default (batch 256, two layers of 256).
    model = SAC(
        "MlpPolicy",
        make_vec_env(_ENV, n_envs=copies),
        buffer_size=_REPLAY,
        train_freq=1,
        gradient_steps=copies,
        device="cpu",
        seed=0,
    )
    model.set_logger(Logger(None, []))
    return _learner(model) if task == "learner" else _end_to_end(model)


def _learner(model):
    rng = np.random.default_rng(0)
    memory = model.replay_buffer
    for array in (memory.observations, memory.next_observations, memory.rewards):
        array[:] = rng.standard_normal(array.shape)
    memory.actions[:] = rng.uniform(-1.0, 1.0, memory.actions.shape)
    memory.full = True

    def measure(count: int, fused: int) -> float:
        started = time.perf_counter()
        for _ in range(count // fused):
            model.train(gradient_steps=fused, batch_size=model.batch_size)
        return time.perf_counter() - started

    return measure


def _end_to_end(model):
    def measure(count: int) -> float:
        started = time.perf_counter()
        model.learn(count, reset_num_timesteps=False)
        return time.perf_counter() - started

    measure(2 * model.learning_starts)  # Their first steps are random, without updates.
    return measure


def _reward_model(size: int = 17 + 6, steps: int = 25, queue: int = 3000, batch: int = 64):
    def network():
        layers = torch.nn.Linear(size, 128), torch.nn.Linear(128, 128), torch.nn.Linear(128, 1)
        return torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])

    members = [network() for _ in range(3)]
    optimiser = torch.optim.Adam([p for member in members for p in member.parameters()], lr=3e-4)
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(queue, 2, steps, size, generator=generator)
    labels = torch.randint(0, 2, (queue,), generator=generator).float()

    def measure(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            losses = []
            for i in torch.randint(0, queue, (batch,), generator=generator).tolist():
                for member in members:
                    first, second = member(clips[i]).sum(dim=(1, 2))
                    losses.append(
                        torch.nn.functional.binary_cross_entropy_with_logits(first - second, labels[i])
                    )
            optimiser.zero_grad()
            torch.stack(losses).mean().backward()
            optimiser.step()
        return time.perf_counter() - started

    return measure


def _m_sobirl():
    """M-SoBiRL on the random world. "loop": one call of autograd for each state and action, kept as a table
    (n, S, A) of ∇r; "backward": one call an iteration, of what the table is summed with."""
    worlds = {}

    def measure(count: int, states: int, how: str) -> float:
        if (states, how) not in worlds:
            world = random_world.make(states)
            x, policy = _iterate(world, random_world.CHECKED, how)
            random_world.check_same(world, x.numpy(), random_world.upper_loss(x.numpy(), policy.numpy()))
            worlds[states, how] = world
        started = time.perf_counter()
        _iterate(worlds[states, how], count, how)
        return time.perf_counter() - started

    return measure


def _iterate(world, steps: int, how: str):
    gamma, tau, sweeps = random_world.DISCOUNT, random_world.TEMPERATURE, random_world.SWEEPS
    P, c, M = (torch.from_numpy(a) for a in (world.transition, world.coefficients, world.matrix))
    num_states, num_actions = c.shape
    eye = torch.eye(num_states, dtype=P.dtype)
    x = torch.from_numpy(world.start.copy()).requires_grad_()
    values, w = torch.zeros(num_states, dtype=P.dtype), torch.zeros(num_states, dtype=P.dtype)
    policy = torch.softmax((c * (x.detach() @ M @ x.detach())) / tau, 1)
    for _ in range(steps):
        reward = c * (x @ M @ x)
        with torch.no_grad():
            weighed = policy * policy
            A = (eye - gamma * torch.einsum("sa,sat->st", policy, P)).T
            b = weighed.sum(1) - gamma * torch.einsum("sat,sa->t", P, weighed)
            w = w - random_world.ADJOINT_STEP_SIZE * (A.T @ (A @ w - b))
            held = torch.softmax((reward + gamma * P @ values) / tau, 1)
            weight = (weighed - held * w[:, None]) / tau
        if how == "loop":
            table = torch.empty(len(x), num_states, num_actions, dtype=P.dtype)
            for s in range(num_states):
                for a in range(num_actions):
                    table[:, s, a] = torch.autograd.grad(reward[s, a], x, retain_graph=True)[0]
            indirect = torch.einsum("nsa,sa->n", table, weight)
        else:
            indirect = torch.autograd.grad(torch.sum(weight * reward), x)[0]
        with torch.no_grad():
            x -= world.step_size * (x + indirect)
            reward = c * (x @ M @ x)
            for _ in range(sweeps):
                values = tau * torch.logsumexp((reward + gamma * P @ values) / tau, 1)
            policy = torch.softmax((reward + gamma * P @ values) / tau, 1)
    return x.detach(), policy
