"""Which of many candidate pairs a run asks about, by the reward and the policy of now."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from ..agents import SACState
from ..bilevel import Follower, LeaderState, SoBiRL, StocSoBiRL
from ..bilevel.sampled import expected_influence
from ..preferences import Clips
from ..preferences.selection import Candidates, make_selection, pair_features
from .collect import Choose
from .experiment import Experiment
from .programs import labelled


class Chooser:
    """The rule of the settings, with its compiled parts.

    Args:
        experiment: settings and programs.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._influence = jax.jit(self._expected)

    def at(
        self, leader: LeaderState, follower: SACState, rng: np.random.Generator, key: PRNGKeyArray
    ) -> Choose | None:
        """How to choose now; None where every pair is asked about."""
        config = self._experiment.config
        if config.selection == "uniform":
            return None
        rule = make_selection(config.selection)

        def choose(count: int, first: Clips, second: Clips) -> np.ndarray:
            candidates = Candidates(
                len(first.valid),
                probabilities=partial(
                    self._experiment.probabilities, leader.x, first, second, follower=follower
                ),
                features=partial(pair_features, first, second, self._experiment.spec.num_actions),
                influence=partial(self._influences, leader, follower, first, second, key),
            )
            return rule(count, candidates, rng)

        return choose

    def _influences(
        self, leader: LeaderState, follower: SACState, first: Clips, second: Clips, key: PRNGKeyArray
    ) -> np.ndarray:
        pairs = {
            name: np.stack([getattr(clips, name) for clips in (first, second)], axis=1)
            for name in ("observations", "actions", "valid")
        }
        return np.asarray(self._influence(leader, follower, pairs, key))

    def _expected(
        self, leader: LeaderState, follower: SACState, pairs: dict[str, jax.Array], key: PRNGKeyArray
    ) -> jax.Array:
        experiment, method = self._experiment, self._experiment.leader
        second = isinstance(method, SoBiRL | StocSoBiRL)
        clips = labelled(pairs | {"label": jnp.zeros(len(pairs["valid"]))}, experiment.spec.image)
        return expected_influence(
            experiment.problem,
            leader.x,
            clips,
            Follower(follower.policy, follower.temperature),
            method.estimator if second else None,
            None,
            key,
            weight=method.weight if second else 1.0,
            bound=method.bound if second else None,
            together=2 if experiment.spec.image is not None else 16,
        )
