"""A native environment that needs no package: a random walk along a line, which ends beyond 1."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rewardsmith._core import TracedTrueReward
from rewardsmith.envs import EnvSpec
from rewardsmith.envs.native import NativeEnv, NativeTransition


class Place(NamedTuple):
    x: jax.Array
    visits: dict[str, jax.Array]


class Walk(NativeEnv):
    """Observes (x, steps ever made); starts within ±0.5; moves by its action plus noise; is paid x."""

    def __init__(self, noise=0.01, limit=20):
        self.noise = noise
        self.spec = EnvSpec(
            env_id="walk",
            observation_shape=(2,),
            observation_dtype=np.dtype(np.float32),
            action_shape=(1,),
            action_low=np.array([-0.5], np.float32),
            action_high=np.array([1.5], np.float32),
            num_actions=None,
            max_episode_steps=limit,
            can_terminate=True,
        )

    def reset(self, key):
        # A Python number: its weak type must not reach a loop.
        place = Place(jax.random.uniform(key, minval=-0.5, maxval=0.5), {"count": 0})
        return place, self._observe(place)

    def step(self, state, action, key):
        moved = state.x + action[0] + self.noise * jax.random.normal(key)
        place = Place(moved, {"count": state.visits["count"] + 1})
        return NativeTransition(place, self._observe(place), TracedTrueReward(moved), moved > 1.0)

    def _observe(self, place):
        return jnp.stack([jnp.asarray(place.x, float), jnp.asarray(place.visits["count"], float)])
