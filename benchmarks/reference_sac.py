"""Stable-Baselines3's SAC on the true reward, for `python -m benchmarks.results --reference FILE`.

Run with a Python that has stable-baselines3, one seed a line of output:
`python benchmarks/reference_sac.py HalfCheetah-v5 100000 SEED >> reference.jsonl`
Its own defaults, except 10,000 random steps (100 and learning rate 0.001 on Pendulum), on one thread.
"""

import json
import sys
import time

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

if __name__ == "__main__":
    env_id, steps, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    pendulum = env_id.startswith("Pendulum")
    torch.set_num_threads(1)
    settings = {"learning_rate": 1e-3} if pendulum else {"learning_starts": 10_000}
    model = SAC("MlpPolicy", env_id, seed=seed, device="cpu", **settings)
    started = time.time()
    model.learn(steps)
    wall = time.time() - started
    env = gymnasium.make(env_id)
    env.reset(seed=seed + 1000)
    returns, _ = evaluate_policy(
        model, Monitor(env), n_eval_episodes=20 if pendulum else 10, return_episode_rewards=True
    )
    entry = {"env": env_id, "steps": steps, "seed": seed, "mean": float(np.mean(returns)), "wall": wall}
    print(json.dumps(entry), flush=True)
