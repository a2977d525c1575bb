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
