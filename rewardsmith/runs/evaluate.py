"""Evaluation under the true reward: what no learner sees."""

from dataclasses import dataclass

import jax
import numpy as np

from .._core import TrueRewardReader
from ..agents import TanhGaussianPolicy, act_greedily
from ..envs import VectorEnv

_LONGEST_EPISODE = 10_000
_act_greedily = jax.jit(act_greedily)


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted true returns and lengths (steps) of the episodes of one evaluation."""

    returns: np.ndarray
    lengths: np.ndarray


def evaluate(policy: TanhGaussianPolicy, env: VectorEnv, seed: int) -> Evaluation:
    """Run one whole episode in every copy of `env` with the policy's mode.

    Args:
        policy: π; its mode acts.
        env: as many copies as episodes are wanted; it is reset.
        seed: of the starts.

    Returns:
        One return per copy, in the environment's units. An episode without a time limit is cut after
        10,000 steps.
    """
    observation = env.reset(seed)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    running = np.ones(env.num_envs, bool)
    for _ in range(env.spec.max_episode_steps or _LONGEST_EPISODE):
        action = np.asarray(_act_greedily(policy, observation.astype(np.float32)))
        result = env.step(env.spec.from_unit(action))
        returns += running * result.reward.reveal(TrueRewardReader.EVALUATOR)
        lengths += running
        running &= ~(result.terminated | result.truncated)
        observation = result.observation
        if not running.any():
            break
    return Evaluation(returns, lengths)
