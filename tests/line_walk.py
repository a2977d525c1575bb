"""A world in which rewards and policies can be written down, so that audits of planted ones are known."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import equinox as eqx
import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith.runs.audit import subject as subjects
from rewardsmith.runs.audit.run import audit_run
from rewardsmith.runs.audit.subject import Budget, Subject
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.train import train
from tests.small_runs import settings

STEPS = 40
BUDGET = Budget(12, 2, 2, STEPS, 200, 100, 4, 16, 2, 10)


class LineWalk(gymnasium.Env):
    """An action leads to the place of its name, and the reward of a step is the place where it began.

    With `lasting` an episode ends by itself the sooner, the lower that place is.
    """

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, lasting=False):
        self.lasting, self.place, self.age = lasting, 0.0, 0

    def _seen(self):
        return np.array([self.place], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.age = float(self.np_random.uniform(-0.1, 0.1)), 0
        return self._seen(), {}

    def step(self, action):
        reward, self.place = self.place, float(action[0])
        self.age += 1
        ended = self.lasting and self.age > 20 * (1.5 + self.place)
        return self._seen(), reward, bool(ended), False, {}


MAKER = f"{__name__}:LineWalk"
if "LineWalk-v0" not in gymnasium.registry:
    gymnasium.register("LineWalk-v0", MAKER, max_episode_steps=STEPS)
    gymnasium.register("LineWalkLasting-v0", MAKER, max_episode_steps=STEPS, kwargs={"lasting": True})


def linear(x, weight):
    """A linear reward: `weight` times the place."""
    head = x.networks.head
    matrix = jnp.zeros_like(head.weights[0]).at[:, 0, 0].set(weight)
    return eqx.tree_at(
        lambda r: (r.networks.head.weights[0], r.networks.head.biases[0], r.mean, r.deviation),
        x,
        (matrix, jnp.zeros_like(head.biases[0]), jnp.zeros(()), jnp.ones(())),
    )


def heading(policy, place):
    """A policy that always goes to `place`, or nearly."""
    trunk = policy.trunk
    last = jnp.array([np.arctanh(place), -3.0], jnp.float32)
    flat = eqx.tree_at(lambda p: p.trunk.weights[-1], policy, jnp.zeros_like(trunk.weights[-1]))
    return eqx.tree_at(lambda p: p.trunk.biases[-1], flat, last)


def planted(subject: Subject, places, weights, budget=BUDGET) -> Subject:
    """`subject` with policies that go to `places`, one after another, and rewards of `weights`."""
    policy, x = subject.policies[-1], subject.rewards[-1]
    count = len(places)
    return Subject(
        subject.folder,
        subject.config,
        subject.experiment,
        subject.spec,
        tuple(range(100, 100 * count + 1, 100)),
        tuple(heading(policy, place) for place in places),
        tuple(linear(x, weight) for weight in weights),
        subject.follower,
        tuple(range(10, 10 * count + 1, 10)),
        budget,
        subject.seed,
    )


@functools.cache
def audited_pendulum() -> RunFolder:
    """A small run of a world that can be restored and drawn, with its audit; once a process: leave it."""
    place = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    folder = train(settings(env="Pendulum-v1", method="drlhf"), place / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subjects, "OF_VECTORS", BUDGET)
        audit_run(folder.path)
    return folder
