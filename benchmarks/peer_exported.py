"""Stable-Baselines3's SAC on an exported reward, run by the interpreter of the peers' environment."""

import sys

PACKAGES = ("stable-baselines3", "torch", "gymnasium", "jax", "numpy")
_ENV = "Pendulum-v1"


def build(folder: str, ours: str):
    # Rewardsmith's own needs behind theirs: what both have is theirs.
    sys.path.append(ours)
    import torch
    from gymnasium.wrappers import TransformReward
    from stable_baselines3 import SAC
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    import rewardsmith as rs
    from rewardsmith.envs import LearnedRewardWrapper

    torch.set_num_threads(1)
    reward = rs.load_reward(folder)
    wrappers = {
        "learned": {"wrapper_class": LearnedRewardWrapper, "wrapper_kwargs": {"reward": reward}},
        "nothing": {"wrapper_class": TransformReward, "wrapper_kwargs": {"func": lambda paid: 0.0}},
        "true": {},
    }

    def measure(paid: str, steps: int, seed: int, episodes: int) -> tuple[float, float]:
        """Mean and deviation of the true return over episodes, once SAC was paid so for so many steps."""
        model = SAC("MlpPolicy", make_vec_env(_ENV, seed=seed, **wrappers[paid]), seed=seed, device="cpu")
        model.learn(steps)
        returns, _ = evaluate_policy(
            model, make_vec_env(_ENV, seed=10_000 + seed), episodes, return_episode_rewards=True
        )
        mean = sum(returns) / episodes
        return mean, (sum((one - mean) ** 2 for one in returns) / episodes) ** 0.5

    return measure
