"""The peers' side, run by the interpreter of their own environment: their SAC, called as they call it."""

import time

import numpy as np
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

PACKAGES = ("torch", "stable-baselines3", "sbx-rl", "jax", "gymnasium", "mujoco", "numpy")
_ENV = "HalfCheetah-v5"
_REPLAY = 100_000


def build(library: str, task: str, num_envs: str = "1"):
    torch.set_num_threads(1)
    if task == "reward-model":
        return _reward_model()
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
