"""`check` of a run: each estimator of the second term against long branches, at its last reward and policy.

On a simulator no exact hyper-gradient is known. But `branch` with long roll-outs has no bias to speak of, so
that its mean over many clips stands for the second term.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..._core import InputError
from ..._core.serialise import load_tree
from ...bilevel import Branch, Follower, LinearBaseline, Needs
from ...bilevel.sampled.baselines import Baseline
from ...bilevel.sampled.data import LabelledClips
from ...bilevel.sampled.estimator import Estimator
from ...bilevel.sampled.table import steps_until
from ...bilevel.sampled.terms import first_term, second_term
from ...envs import VectorEnv
from ..choices import HUMAN
from ..collect import Collector
from ..config import TrainConfig
from ..experiment import Experiment
from ..folder import RunFolder, checked_step
from ..leaders import make_estimator
from ..loading import newest_checkpoint
from ..parts import make_env, make_teacher
from ..programs import labelled
from .agreement import Agreement, agreement
from .worlds import union

REFERENCE, FIRST = "reference", "first term"
# What the reference cuts off of a discounted sum, and the fewest groups that tell a spread.
_CUT, _LEAST_GROUPS = 0.01, 8
_RESET, _CLIPS = range(2)


@dataclasses.dataclass(frozen=True)
class RunChecked:
    """What was measured.

    Attributes:
        step: of the checkpoint.
        group: tuples of clips in one estimate, as in training.
        groups: independent estimates of each kind.
        length: steps of the reference's roll-outs.
        steps: that were simulated in all.
        agreements: of each estimator with the reference, of the reference with itself, and of the first term.
        seconds: of one estimate.
    """

    step: int
    group: int
    groups: int
    length: int
    steps: int
    agreements: dict[str, Agreement]
    seconds: dict[str, float]


class CheckedRun:
    """A run's newest checkpoint, ready to be measured.

    Args:
        path: folder of the run.
        names: estimators.
        pairs: tuples of clips in all.
        length: steps of the reference's roll-outs; None: until γ^T is 0.01.
        seed: of everything drawn.

    Raises:
        InputError: there is nothing to check, or not in this way.
    """

    def __init__(self, path: Path | str, names: tuple[str, ...], pairs: int, length: int | None, seed: int):
        folder = RunFolder.open(path)
        if folder.config.get("command", "train") != "train":
            raise InputError(f"{path} is not a run of rewardsmith train: give one, or names of problems")
        config = TrainConfig.from_json(folder.config)
        if not config.learns_reward:
            raise InputError(
                f"{path} learned no reward ({config.method}): there is no hyper-gradient to check"
            )
        self.group = config.recent_batch_size
        self.groups = pairs // self.group
        if self.groups < _LEAST_GROUPS:
            raise InputError(
                f"--pairs is {pairs}: give at least {_LEAST_GROUPS * self.group}, {_LEAST_GROUPS} batches"
            )
        checkpoint = newest_checkpoint(folder)
        # Clips of the policy of now are drawn here whatever the run took; the queue holds one group.
        # Where people taught the run, an oracle stands for them.
        teacher = "oracle" if config.teacher == HUMAN else config.teacher
        self.config = dataclasses.replace(
            config, clips="queue", queue=self.group, film_clips=False, teacher=teacher, store=None
        )
        self.seed = seed
        with contextlib.closing(self._make()) as env:
            if env.spec.image is not None:
                raise InputError(f"{config.env} shows pictures: check a run whose observations are vectors")
            self.experiment = Experiment(config, env.spec)
            limit = env.spec.max_episode_steps
            if not env.restorable:
                raise InputError(f"{config.env} cannot be restored to a saved state: there is no reference")
        wanted = steps_until(_CUT, config.discount) if length is None else length
        self.length = wanted if limit is None else min(wanted, limit)
        self.episode = max(limit or 1000, config.clip_length)
        self._load(checkpoint)
        self.estimators = self._estimators(names)

    def _make(self) -> VectorEnv:
        return make_env(self.config, self.config.num_envs)

    def _load(self, checkpoint: Path) -> None:
        followers, leader = jax.eval_shape(self.experiment.init, jax.random.key(0))
        replay = jax.eval_shape(self.experiment.empty_replay)
        like = {"follower": followers[0], "replay": replay, "leader": leader, "step": np.asarray(0)}
        state = load_tree(checkpoint, like, allow_extra=True)
        self.sac_state, self.replay, self.x = state["follower"], state["replay"], state["leader"].x
        self.step = checked_step(checkpoint, state["step"])

    def _estimators(self, names: tuple[str, ...]) -> dict[str, tuple[Estimator, Baseline]]:
        chosen = {
            name: make_estimator(
                dataclasses.replace(self.config, method="sobirl", estimator=name),
                self.experiment.spec.num_actions,
            )
            for name in names
        }
        reference = Branch(self.config.branches, self.length)
        return chosen | {REFERENCE: (reference, LinearBaseline(shared=True))}

    @property
    def needs(self) -> Needs:
        """What serves all."""
        return union([estimator.needs for estimator, _ in self.estimators.values()])

    def measure(self, done: Callable[[int], None]) -> RunChecked:
        """Everything.

        Args:
            done: told after each group how many are done.
        """
        rows: dict[str, list[np.ndarray]] = {name: [] for name in (*self.estimators, FIRST)}
        seconds = dict.fromkeys(self.estimators, 0.0)
        programs = {name: eqx.filter_jit(self._second(*pair)) for name, pair in self.estimators.items()}
        first = eqx.filter_jit(lambda clips: first_term(self.experiment.problem, self.x, clips)[1])
        steps = 0
        for index, (clips, simulated) in enumerate(self._groups()):
            key = jax.random.fold_in(jax.random.key(self.seed), index)
            steps += simulated
            rows[FIRST].append(_flat(first(clips)))
            for name, (estimator, _) in self.estimators.items():
                own = _shortened(clips, estimator.needs)
                visits, _ = self.experiment.sample_visits(estimator.needs, self.replay, None, key)
                if index == 0:
                    # So that compiling is not timed.
                    jax.block_until_ready(programs[name](own, visits, key))
                began = time.perf_counter()
                rows[name].append(_flat(programs[name](own, visits, key)))
                seconds[name] += time.perf_counter() - began
            done(index + 1)
        found = {name: np.stack(vectors).astype(np.float64) for name, vectors in rows.items()}
        return RunChecked(
            self.step,
            self.group,
            self.groups,
            self.length,
            steps,
            {name: agreement(vectors, found[REFERENCE]) for name, vectors in found.items()},
            {name: spent / self.groups for name, spent in seconds.items()},
        )

    def _second(self, estimator: Estimator, baseline: Baseline) -> Callable[..., Any]:
        problem, follower = self.experiment.problem, self.sac_state

        def term(clips: LabelledClips, visits: Any, key: Any) -> Any:
            answer = Follower(follower.policy, follower.temperature)
            return second_term(problem, self.x, clips, answer, estimator, baseline, key, visits=visits)

        return term

    def _groups(self) -> Iterator[tuple[LabelledClips, int]]:
        """Each group's clips, from episodes of its own, so that groups are independent; and their cost."""
        key = jax.random.key(self.seed)
        act_key, fork_key = jax.random.split(key)
        policy = self.sac_state.policy
        with contextlib.closing(self._make()) as env, contextlib.ExitStack() as stack:
            env.reset(self.seed)
            collector = stack.enter_context(contextlib.closing(Collector(self.config, self.needs, env)))
            for index in range(self.groups):
                before = collector.extra_steps
                self._play(env, collector, jax.random.fold_in(act_key, index), index)
                act = self.experiment.acting(policy, jax.random.fold_in(fork_key, index))
                collector.ask(
                    self.group,
                    self.step,
                    make_teacher(self.config),
                    act,
                    self._rng(_CLIPS, index),
                    fresh=False,
                )
                arrays = {name: jnp.array(array) for name, array in collector.compared().items()}
                played = self.episode * self.config.num_envs + collector.extra_steps - before
                yield labelled(arrays), played

    def _play(self, env: VectorEnv, collector: Collector, key: Any, index: int) -> None:
        """Whole episodes of the policy, recorded over those of the group before."""
        observation = env.reset(int(self._rng(_RESET, index).integers(2**31)))
        collector.cut()
        for step in range(self.episode):
            action, _ = self.experiment.act(
                (self.sac_state.policy,), observation.astype(np.float32), key, np.int32(step)
            )
            extras = collector.before(env)
            result = env.step(env.spec.from_policy(np.asarray(action)))
            ended = result.terminated | result.truncated
            collector.append(observation, np.asarray(action), ended, result.reward, extras)
            observation = result.observation

    def _rng(self, stream: int, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, stream, index))


def _shortened(clips: LabelledClips, needs: Needs) -> LabelledClips:
    """The clips with roll-outs of the length that is needed, or none."""
    if not needs.branches:
        return dataclasses.replace(clips, branches=None)
    return eqx.tree_at(
        lambda c: (c.branches.observations, c.branches.actions, c.branches.valid),
        clips,
        replace_fn=lambda leaf: leaf[:, :, :, :, : needs.branch_length],
    )


def _flat(tree: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0])
