"""Episodes of many policies side by side, recorded with the true reward for the audit alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from ..._core import TrueRewardReader, stacked
from ...agents import Policy, act
from ...envs import VectorEnv
from ...preferences import unstacked
from ...rewards import LearnedReward
from ..experiment import Experiment


@dataclass(frozen=True)
class Block:
    """H steps of N copies of an environment, from the same step of each.

    Attributes:
        observations: (N, H, *obs); of pictures the frames (N, stack − 1 + H, ...), each once.
        actions: (N, H, *act), in [−1, 1] or indices.
        true: (N, H) true reward of each step.
        valid: (N, H), false behind the end of the first episode.
        states: the simulator before the first step, (N, ...) by name; empty where it cannot be restored.
    """

    observations: np.ndarray
    actions: np.ndarray
    true: Float[np.ndarray, "N H"]
    valid: Bool[np.ndarray, "N H"]
    states: dict[str, np.ndarray]


@dataclass(frozen=True)
class Played:
    """One episode in each of N copies.

    Attributes:
        blocks: of H steps each, one after another.
        terminated: (N,) whether the episode came to an end of its own.
    """

    blocks: tuple[Block, ...]
    terminated: Bool[np.ndarray, " N"]

    @property
    def valid(self) -> Bool[np.ndarray, "N L"]:
        """Steps of the episodes."""
        return np.concatenate([block.valid for block in self.blocks], axis=1)

    @property
    def true(self) -> Float[np.ndarray, "N L"]:
        """True rewards, 0 behind the end."""
        return np.concatenate([block.true * block.valid for block in self.blocks], axis=1)

    @property
    def clips(self) -> Int[np.ndarray, "n 2"]:
        """(block, copy) of each stretch of H steps that lies in its episode."""
        return np.argwhere(np.stack([block.valid.all(axis=1) for block in self.blocks]))


@jax.jit
def _act_each(policies: Policy, observation: Shaped[Array, "p e *o"], key: Key[Array, " p"]) -> Array:
    """Actions of each policy for its own copies, one policy after another: pictures are large."""
    return jax.lax.map(lambda own: act(*own), (policies, observation, key))


def play(
    experiment: Experiment,
    env: VectorEnv,
    policies: Sequence[Policy],
    longest: int,
    seed: int,
    tell: Callable[[int], None],
) -> Played:
    """One episode in each copy of `env`: as many of each policy, and behind them of uniformly random actions.

    Actions are sampled from the policies, as while they learned.

    Args:
        experiment: of the run.
        env: (p + 1) e copies; it is reset.
        policies: p of them.
        longest: steps after which an episode is cut off, up to whole clips.
        seed: of starts and actions.
        tell: called with the number of steps done, of all copies together.
    """
    count, length, spec = env.num_envs, experiment.config.clip_length, env.spec
    each = count // (len(policies) + 1)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *policies)
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    observation = env.reset(seed)
    alive, terminated = np.ones(count, bool), np.zeros(count, bool)
    blocks: list[Block] = []
    for begin in range(0, longest, length):
        states = env.get_state() if env.restorable else {}
        steps: list[tuple[np.ndarray, ...]] = []
        for step in range(begin, begin + length):
            seen = experiment.seen(observation)
            own = seen[:-each].reshape(len(policies), each, *seen.shape[1:])
            keys = jax.random.split(jax.random.fold_in(key, step), len(policies))
            chosen = np.asarray(_act_each(together, own, keys)).reshape(-1, *spec.action_shape)
            action = np.concatenate([chosen, experiment.explore(rng, each)[0]])
            result = env.step(spec.from_policy(action))
            steps.append((seen, action, result.reward.reveal(TrueRewardReader.EVALUATOR), alive))
            terminated |= alive & result.terminated
            alive = alive & ~(result.terminated | result.truncated)
            observation = result.observation
        seen, action, true, valid = (np.stack(column, axis=1) for column in zip(*steps, strict=True))
        kept = seen if spec.image is None else unstacked(seen, spec.image)
        blocks.append(Block(kept, action, true, valid, states))
        tell((begin + length) * count)
        if not alive.any():
            break
    return Played(tuple(blocks), terminated)


@partial(jax.jit, static_argnums=3)
def _reward_steps(
    x: LearnedReward, observations: Array, actions: Array, together: int
) -> Float[Array, "n H"]:
    def clip(pair: tuple[Array, Array]) -> Float[Array, " H"]:
        return jax.vmap(x)(*pair)

    return jax.lax.map(clip, (observations, actions), batch_size=together)


def rewards(x: LearnedReward, observations: np.ndarray, actions: np.ndarray, stack: int) -> np.ndarray:
    """(n, H) learned rewards of the steps of n clips, the form of `Block`.

    Args:
        x: the reward.
        observations, actions: of the clips.
        stack: frames of one observation.
    """
    together = 1 if stack > 1 or observations.ndim > 3 else 64
    seen: Any = stacked(observations, stack)
    return np.asarray(_reward_steps(x, seen, actions, together), np.float64)


def learned(x: LearnedReward, played: Played, stack: int) -> Float[np.ndarray, "N L"]:
    """The learned reward of every step, 0 behind the end."""
    every = [rewards(x, block.observations, block.actions, stack) for block in played.blocks]
    return np.concatenate(every, axis=1) * played.valid
