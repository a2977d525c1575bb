"""The training loop: environments, follower, teacher, leader; and going on after a stop."""

import contextlib
import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core import InputError, TrueRewardReader
from .._core.serialise import load_tree
from ..agents import SACState, Transition
from ..envs import StepResult
from .asking import Moment
from .choosing import Chooser
from .collect import Collector, check_roll_outs
from .config import TrainConfig
from .desks import make_desk
from .evaluate import evaluate
from .experiment import Experiment
from .exploration import with_fresh_critics
from .folder import RunFolder
from .memory import make_memory
from .parts import make_env
from .progress import Progress
from .recorder import Recorder
from .session import run_session
from .signals import on_signal

# Streams of randomness on the host: each use draws from default_rng((seed, stream, step)), so that no
# generator's state needs saving and a resumed run draws what an uninterrupted one would have.
_EXPLORE, _CLIPS, _RESET, _EVALUATE, _SESSION, _REPLAY, _RESIDUAL, _SNAPSHOT = range(8)


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and saved what it could."""


def train(config: TrainConfig, out: Path | str) -> RunFolder:
    """Run a new experiment in the folder `out`.

    Raises:
        InputError: the folder is taken, or the settings do not fit the environment. Nothing was written
            then, or only the new folder.
        Stopped: interrupted; the text says how to go on.
    """
    with contextlib.closing(make_env(config, config.num_envs)) as env:
        check_roll_outs(config, Experiment(config, env.spec).needs, env)
        if config.exploring_steps and env.spec.image is not None:
            raise InputError(f"pebble explores among vectors, {config.env} has pictures: give --method drlhf")
    folder = RunFolder.create(out, dataclasses.asdict(config))
    with folder.lock():
        _Training(config, folder).run()
    return folder


def resume(path: Path | str) -> RunFolder:
    """Go on with the run in folder `path` from its last good checkpoint.

    On a CPU the metrics become those of a run that was never stopped. Where no checkpoint was written yet
    the run starts anew. A run that is finished stays as it is.
    """
    folder = RunFolder.open(path)
    config = TrainConfig.from_json(folder.config)
    with folder.lock():
        training = _Training(config, folder)
        training.restore()
        training.run()
    return folder


class _Training:
    """One run in progress: what changes lives here, the mathematics in `Experiment`."""

    def __init__(self, config: TrainConfig, folder: RunFolder):
        self.config, self.folder = config, folder
        self.env = make_env(config, config.num_envs)
        self.eval_env = make_env(config, config.eval_episodes, judged=True)
        spec = self.env.spec
        self.experiment = Experiment(config, spec)
        init_key, self.act_key, self.learn_key, self.lead_key = jax.random.split(
            jax.random.key(config.seed), 4
        )
        # Beyond all steps, which are folded into the same key.
        self.fork_key, self.residual_key = (
            jax.random.fold_in(self.lead_key, 2**31 + index) for index in range(2)
        )
        self.followers, self.leader = self.experiment.init(init_key)
        self.memory = make_memory(self.experiment, folder.path)
        self.observation = self.env.reset(config.seed)
        self.collector, self.desk = None, None
        if self.leader is not None:
            self.collector = Collector(config, self.experiment.needs, self.env)
            self.chooser = Chooser(self.experiment)
            self.desk = make_desk(
                self.experiment, folder.path, lambda line: self.progress.message(line), self._stopping
            )
        self.recorder = Recorder(folder.metrics_path)
        self.step = self.follower_updates = self.leader_updates = 0
        self.stop_requested = False

    @property
    def follower(self) -> SACState:
        """The policy that is evaluated and whose clips are compared."""
        return self.followers[0]

    @property
    def learning(self) -> bool:
        """Whether the policy has something to learn from: the random steps are over, and there is a reward.

        Without answers there is none: then it goes on at random.
        """
        started = self.step >= self.config.first_session
        return started and (self.leader is None or self.leader_updates > 0)

    # ---- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        config = self.config
        self.recorder.start()
        start = self.step
        with (
            Progress(config.steps, start) as self.progress,
            on_signal(self._request_stop),
            contextlib.closing(self.env),
            contextlib.closing(self.eval_env),
            contextlib.closing(self.collector) if self.collector else contextlib.nullcontext(),
            contextlib.closing(self.desk) if self.desk else contextlib.nullcontext(),
        ):
            while self.step < config.steps:
                self._iterate()
                if self._crossed(config.eval_every) or self.step >= config.steps:
                    self._evaluate()
                if config.snapshot_every and self.learning and self._crossed(config.snapshot_every):
                    self._snapshot()
                if self._crossed(config.checkpoint_every) or self.step >= config.steps:
                    self._checkpoint()
                self.progress.update(self.step)
                if self.stop_requested and self.step < config.steps:
                    self._stop()

    def _iterate(self) -> None:
        config, spec = self.config, self.env.spec
        unsupervised = config.random_steps <= self.step < config.first_session
        at_random = not (unsupervised or self.learning)
        started = time.monotonic()
        if at_random:
            action, log_prob = self.experiment.explore(self._rng(_EXPLORE))
        else:
            action, log_prob = self.experiment.act(
                tuple(follower.policy for follower in self.followers),
                self.experiment.seen(self.observation),
                self.act_key,
                np.int32(self.step),
            )
            action, log_prob = np.asarray(action), np.asarray(log_prob)
        # Waiting for the action is waiting for the updates before it.
        acted = time.monotonic()
        before = {} if self.collector is None else self.collector.before(self.env)
        result = self.env.step(spec.from_policy(action))
        self.recorder.clock["learner"] += acted - started
        self.recorder.clock["env"] += time.monotonic() - acted
        transitions = self._transitions(action, result)
        # An end of which the learner is not told is one that might have been cut off there.
        truncated = result.truncated | (result.terminated & ~np.asarray(transitions.terminated))
        if self.collector is not None:
            ended = result.terminated | result.truncated
            extras = before | {"log_prob": log_prob} if self.experiment.needs.log_prob else before
            self.collector.append(self.observation, action, ended, result.reward, extras)
            if result.terminated.any():
                self._warn_of_termination()
        self.observation = result.observation
        self.step += config.num_envs
        started = time.monotonic()
        if at_random:
            self.memory.add(transitions, truncated)
        else:
            key = jax.random.fold_in(self.learn_key, self.step)
            if unsupervised:
                self.followers, stats = self.memory.explore(self.followers, transitions, key)
            else:
                self.followers, stats = self.memory.learn(
                    self.followers, self.leader, transitions, truncated, key, self._rng(_REPLAY)
                )
            self.follower_updates += config.updates_per_iteration
            if self._crossed(config.eval_every):
                self.recorder.check_finite(self.step, "the critic's loss", stats.critic_loss)
                self._record("learner", **vars(stats))
        self.recorder.clock["learner"] += time.monotonic() - started
        if self.collector is not None and self.step >= config.first_session:
            if self.step - config.num_envs < config.first_session or self._crossed(config.leader_every):
                started = time.monotonic()
                self._session()
                self.recorder.clock["leader"] += time.monotonic() - started

    def _transitions(self, action: np.ndarray, result: StepResult) -> Transition:
        true_reward = None
        if not self.config.learns_reward:
            true_reward = jnp.asarray(result.reward.reveal(TrueRewardReader.CEILING), jnp.float32)
        hidden = self.config.hide_ends and self.config.learns_reward
        terminated = np.zeros_like(result.terminated) if hidden else result.terminated
        return Transition(
            jnp.asarray(self.experiment.seen(self.observation)),
            jnp.asarray(action),
            jnp.asarray(self.experiment.seen(result.next_observation)),
            jnp.asarray(terminated),
            true_reward,
        )

    # ---- comparisons and the leader -------------------------------------------------------------

    def _session(self) -> None:
        """Ask for the comparisons that are due by now, then update the reward."""
        assert self.collector is not None and self.leader is not None and self.desk is not None
        config, first = self.config, self.leader_updates == 0
        heard = self.desk.ask(self.collector, self._moment(first))
        self.progress.update(self.step, waiting=heard.waiting)
        if self.collector.queue.total == 0:
            return
        if first and config.exploring_steps:
            fresh, _ = self.experiment.init(jax.random.fold_in(self.learn_key, 2**31))
            self.followers = (with_fresh_critics(self.follower, fresh[0]), *self.followers[1:])
        residual = None if first else self._residual()
        self.leader, stats, steps = run_session(
            self.experiment,
            self.leader,
            self.collector,
            self.follower,
            self.memory,
            jax.random.fold_in(self.lead_key, self.step),
            self._rng(_SESSION),
            first=first,
        )
        self.leader_updates += steps
        self.recorder.check_finite(self.step, "the leader's loss", stats.loss)
        second = None if first or config.first_term_only else stats
        self._record(
            "leader",
            preference_accuracy=heard.accuracy,
            held_out_accuracy=heard.held_out_accuracy,
            waiting=heard.waiting,
            preference_loss=stats.loss,
            first_norm=stats.first_norm,
            second_norm=None if second is None else second.second_norm,
            cosine=None if second is None else second.cosine,
            effective_share=None if second is None else second.effective_share,
            bellman_residual=residual,
            step_ratio=self.follower_updates / self.leader_updates,
            extra_steps=self.collector.extra_steps,
        )
        self.progress.update(
            self.step, preference_accuracy=heard.accuracy, comparisons=self.collector.queue.total
        )

    def _moment(self, first: bool) -> Moment:
        """What the session of now knows when it asks."""
        assert self.collector is not None and self.leader is not None
        key, rng = jax.random.fold_in(self.fork_key, self.step), self._rng(_CLIPS)
        predict = partial(self.experiment.predict, self.leader.x, follower=None if first else self.follower)
        return Moment(
            step=self.step,
            predict=predict,
            act=self.experiment.acting(self.follower.policy, key),
            rng=rng,
            fresh=self.config.clips == "fresh" and not first,
            choose=self.chooser.at(self.leader, self.follower, rng, key),
        )

    def _residual(self) -> Any:
        key = jax.random.fold_in(self.residual_key, self.step)
        pool = self.memory.pool(self.experiment.judged_states, self._rng(_RESIDUAL))
        return self.experiment.residual(self.follower, pool, self.leader, key)

    # ---- what is seen and kept ------------------------------------------------------------------

    def _evaluate(self) -> None:
        seed = int(self._rng(_EVALUATE).integers(2**31))
        result = evaluate(self.follower.policy, self.eval_env, seed, sampled=self.config.eval_sampled)
        mean = float(result.returns.mean())
        self._record(
            "eval",
            true_return=mean,
            true_return_std=float(result.returns.std()),
            episode_length=float(result.lengths.mean()),
        )
        self.recorder.flush()
        self.progress.update(self.step, true_return=mean)

    def _snapshot(self) -> None:
        """How far the policy is from one that learns on from here for the same reward."""
        key = jax.random.fold_in(jax.random.fold_in(self.residual_key, 2**31), self.step)
        divergence = self.memory.snapshot(self.follower, self.leader, key, self._rng(_SNAPSHOT))
        self._record("snapshot", kl_to_longer=divergence)

    def _record(self, kind: str, **columns: Any) -> None:
        count = 0 if self.collector is None else self.collector.queue.total
        self.recorder.record(kind, self.step, comparisons=count, **columns)

    def _warn_of_termination(self) -> None:
        text = (
            "episodes of this environment end early, and when they end tells of the true reward: "
            "read comparisons between methods with care (clips have a fixed length and never cross an end)"
        )
        if self.folder.warn(text):
            self.progress.message(f"warning: {text}")

    # ---- stop and go on -------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """Everything a resumed run needs, as a pytree of arrays."""
        state: dict[str, Any] = {
            "follower": self.follower,
            "companions": self.followers[1:],
            "replay": self.memory.get_state(),
            "leader": self.leader,
            "observation": self.observation,
            "step": np.asarray(self.step),
            "recorder": self.recorder.get_state(),
            "updates": np.asarray([self.follower_updates, self.leader_updates]),
        }
        if self.env.restorable:
            state["env"] = self.env.get_state()
        if self.collector is not None:
            state["collector"] = self.collector.get_state()
        if self.desk is not None:
            state["desk"] = self.desk.get_state()
        return state

    def restore(self) -> None:
        """Put back the last good checkpoint, and forget the metrics recorded since."""
        path, skipped = self.folder.latest_valid_checkpoint()
        for line in skipped:
            print(line)
        if path is None and skipped:
            raise InputError(
                f"every checkpoint in {self.folder.path} is damaged: keep the folder for its metrics and "
                "start anew with another --out"
            )
        if path is None:
            print(f"no checkpoint in {self.folder.path} yet: starting it anew")
            return
        state = load_tree(path, self._state())
        self.followers = (state["follower"], *state["companions"])
        self.leader = state["leader"]
        self.memory.set_state(state["replay"])
        self.follower_updates, self.leader_updates = (int(count) for count in state["updates"])
        self.step = int(state["step"])
        self.observation = state["observation"]
        if self.env.restorable:
            self.env.set_state(state["env"])
        else:
            # As the uninterrupted run did when it wrote this checkpoint.
            self.env.reset(self._reset_seed())
        if self.collector is not None:
            self.collector.set_state(state["collector"])
        if self.desk is not None:
            self.desk.set_state(state["desk"])
        self.recorder.set_state(state["recorder"])

    def _checkpoint(self) -> None:
        if not self.env.restorable:
            # What cannot be restored is started anew, here and when resumed, so that both go on alike.
            self.memory.cut()
            self.observation = self.env.reset(self._reset_seed())
            if self.collector is not None:
                self.collector.cut()
        self.recorder.flush()
        self.folder.save_checkpoint(self.step, self._state())
        if self.collector is not None:
            self.collector.queue.write_parquet(self.folder.comparisons_path)

    def _stop(self) -> None:
        if self.env.restorable:
            self._checkpoint()
            told = f"stopped at step {self.step:,}"
        else:
            told = f"stopped at step {self.step:,}, to go on from the last checkpoint"
        raise Stopped(f"{told}: rewardsmith train --resume {self.folder.path}")

    def _request_stop(self, name: str) -> None:
        self.stop_requested = True
        self.progress.message(f"{name}: finishing this step and saving")

    def _stopping(self) -> bool:
        return self.stop_requested

    def _crossed(self, every: int) -> bool:
        return self.step // every != (self.step - self.config.num_envs) // every

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, stream, self.step))

    def _reset_seed(self) -> int:
        return int(self._rng(_RESET).integers(2**31))
