"""Evaluation under the true reward: what no learner sees."""

from dataclasses import dataclass

import jax
import numpy as np

from .._core import TrueRewardReader
from ..agents import Policy, act, act_greedily
from ..envs import VectorEnv

_LONGEST_EPISODE = 10_000
_act_greedily, _act = jax.jit(act_greedily), jax.jit(act)


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted true returns and lengths (steps) of the episodes of one evaluation."""

    returns: np.ndarray
    lengths: np.ndarray


def evaluate(policy: Policy, env: VectorEnv, seed: int, *, sampled: bool = False) -> Evaluation:
    """Run one whole episode in every copy of `env` with the policy's mode, or with `sampled` actions.

    Args:
        policy: π.
        env: as many copies as episodes are wanted; it is reset.
        seed: of the starts, and of the actions if they are sampled.
        sampled: act by a ~ π(·|s) instead of by the mode.

    Returns:
        One return per copy, in the environment's units. An episode without a time limit is cut after
        10,000 steps.
    """
    observation = env.reset(seed)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    running = np.ones(env.num_envs, bool)
    key = jax.random.key(seed)
    for step in range(env.spec.max_episode_steps or _LONGEST_EPISODE):
        seen = observation if env.spec.image else observation.astype(np.float32)
        action = _act(policy, seen, jax.random.fold_in(key, step)) if sampled else _act_greedily(policy, seen)
        result = env.step(env.spec.from_policy(np.asarray(action)))
        returns += running * result.reward.reveal(TrueRewardReader.EVALUATOR)
        lengths += running
        running &= ~(result.terminated | result.truncated)
        observation = result.observation
        if not running.any():
            break
    return Evaluation(returns, lengths)
