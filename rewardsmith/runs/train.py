"""The training loop: environments, follower, teacher, leader; and going on after a stop."""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core import InputError, TrueReward, TrueRewardReader
from .._core.serialise import load_tree
from ..agents import Transition
from ..envs import StepResult, make
from ..preferences import ComparisonQueue, Trajectories, comparisons_due
from .config import TrainConfig
from .evaluate import evaluate
from .experiment import Experiment
from .folder import RunFolder
from .metrics import Metrics
from .progress import Progress

# Streams of randomness on the host: each use draws from default_rng((seed, stream, step)), so that no
# generator's state needs saving and a resumed run draws what an uninterrupted one would have.
_EXPLORE, _CLIPS, _RESET, _EVALUATE = range(4)


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and saved what it could."""


def train(config: TrainConfig, out: Path | str) -> RunFolder:
    """Run a new experiment in the folder `out`.

    Raises:
        InputError: the folder is taken, or the settings do not fit the environment. Nothing was written
            then, or only the new folder.
        Stopped: interrupted; the text says how to go on.
    """
    with contextlib.closing(make(config.env, config.num_envs, config.backend)) as env:  # pyright: ignore
        Experiment(config, env.spec)
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
        self.env = make(config.env, config.num_envs, config.backend)  # pyright: ignore[reportArgumentType]
        self.eval_env = make(config.env, config.eval_episodes, config.backend)  # pyright: ignore
        spec = self.env.spec
        self.experiment = Experiment(config, spec)
        init_key, self.act_key, self.learn_key, self.lead_key = jax.random.split(
            jax.random.key(config.seed), 4
        )
        self.follower, self.replay, self.leader = self.experiment.init(init_key)
        leader = self.experiment.leader
        self.trajectories = self.queue = None
        if leader is not None:
            shapes = (spec.observation_shape, spec.action_shape)
            # Room for one episode of each environment, or the stretch between two sessions if longer.
            wanted = max(spec.max_episode_steps or 1000, config.leader_every // config.num_envs)
            room = max(wanted, config.clip_length + leader.further)
            self.trajectories = Trajectories(config.num_envs, room, *shapes)
            self.queue = ComparisonQueue(config.queue, config.clip_length, leader.further, *shapes)
        self.observation = self.env.reset(config.seed)
        self.metrics = Metrics(folder.metrics_path)
        self.step = 0
        self.seconds_before = 0.0
        self.clock = {"env": 0.0, "learner": 0.0, "leader": 0.0}
        self.stop_requested = False
        self.started = time.monotonic()

    # ---- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        config = self.config
        self.started = time.monotonic()
        start = self.step
        with (
            Progress(config.steps, start) as self.progress,
            self._stop_on_signal(),
            contextlib.closing(self.env),
            contextlib.closing(self.eval_env),
        ):
            while self.step < config.steps:
                self._iterate()
                if self._crossed(config.eval_every) or self.step >= config.steps:
                    self._evaluate()
                if self._crossed(config.checkpoint_every) or self.step >= config.steps:
                    self._checkpoint()
                self.progress.update(self.step)
                if self.stop_requested and self.step < config.steps:
                    self._stop()

    def _iterate(self) -> None:
        config, spec = self.config, self.env.spec
        exploring = self.step < config.random_steps
        started = time.monotonic()
        if exploring:
            shape = (config.num_envs, *spec.action_shape)
            action = self._rng(_EXPLORE).uniform(-1.0, 1.0, shape).astype(np.float32)
        else:
            action = np.asarray(
                self.experiment.act(
                    self.follower.policy,
                    self.observation.astype(np.float32),
                    self.act_key,
                    np.int32(self.step),
                )
            )
        # Waiting for the action is waiting for the updates before it.
        acted = time.monotonic()
        result = self.env.step(spec.from_unit(action))
        self.clock["learner"] += acted - started
        self.clock["env"] += time.monotonic() - acted
        transitions = self._transitions(action, result)
        if self.trajectories is not None:
            ended = result.terminated | result.truncated
            self.trajectories.append(self.observation, action, ended, result.reward)
            if result.terminated.any():
                self._warn_of_termination()
        self.observation = result.observation
        self.step += config.num_envs
        started = time.monotonic()
        if exploring:
            self.replay = self.experiment.store(self.replay, transitions)
        else:
            x = None if self.leader is None else self.leader.x
            key = jax.random.fold_in(self.learn_key, self.step)
            self.follower, self.replay, stats = self.experiment.learn(
                self.follower, self.replay, x, transitions, key
            )
            if self._crossed(config.eval_every):
                self._record_learner(stats)
        self.clock["learner"] += time.monotonic() - started
        if self.queue is not None and self.step >= config.random_steps:
            first = self.step - config.num_envs < config.random_steps
            if first or self._crossed(config.leader_every):
                started = time.monotonic()
                self._session(first)
                self.clock["leader"] += time.monotonic() - started

    def _transitions(self, action: np.ndarray, result: StepResult) -> Transition:
        true_reward = None
        if not self.config.learns_reward:
            true_reward = jnp.asarray(result.reward.reveal(TrueRewardReader.CEILING), jnp.float32)
        return Transition(
            observation=jnp.asarray(self.observation, jnp.float32),
            action=jnp.asarray(action),
            next_observation=jnp.asarray(result.next_observation, jnp.float32),
            terminated=jnp.asarray(result.terminated),
            true_reward=true_reward,
        )

    # ---- comparisons and the leader -------------------------------------------------------------

    def _session(self, first: bool) -> None:
        """Ask the teacher what is due by now, then update the reward."""
        assert self.queue is not None and self.leader is not None
        config, accuracy = self.config, self._ask()
        program = self.experiment.warm_up if first else self.experiment.lead
        repeats = max(1, round(config.leader_warmup_steps / config.leader_steps)) if first else 1
        stats = None
        for repeat in range(repeats):
            key = jax.random.fold_in(jax.random.fold_in(self.lead_key, self.step), repeat)
            self.leader, stats = program(
                self.leader,
                {name: array for name, array in self.queue.arrays().items() if name != "step"},
                np.int32(self.queue.total),
                self.follower.policy,
                self.follower.temperature,
                self.replay,
                key,
            )
        assert stats is not None
        self._check_finite("the leader's loss", stats.loss)
        second = None if first or config.method != "sobirl" else stats
        self._record(
            "leader",
            preference_accuracy=accuracy,
            preference_loss=stats.loss,
            first_norm=stats.first_norm,
            second_norm=None if second is None else second.second_norm,
            cosine=None if second is None else second.cosine,
        )
        self.progress.update(self.step, preference_accuracy=accuracy, comparisons=self.queue.total)

    def _ask(self) -> float | None:
        """Ask for the comparisons that are due; how many of the answers the reward foresaw."""
        assert self.queue is not None and self.trajectories is not None and self.leader is not None
        config = self.config
        last_session = config.steps // config.leader_every * config.leader_every
        due = comparisons_due(self.step, last_session, config.comparisons) - self.queue.total
        if due <= 0:
            return None
        rng, horizon, further = self._rng(_CLIPS), config.clip_length, self.queue.further
        first = self.trajectories.sample(due, horizon, further, rng)
        second = self.trajectories.sample(due, horizon, further, rng)
        label = self.experiment.teacher.answer(first.true_reward, second.true_reward, rng)
        self.queue.append(first, second, label, self.step)
        return self.experiment.accuracy(self.leader.x, first, second, label)

    # ---- what is seen and kept ------------------------------------------------------------------

    def _evaluate(self) -> None:
        result = evaluate(self.follower.policy, self.eval_env, int(self._rng(_EVALUATE).integers(2**31)))
        mean = float(result.returns.mean())
        self._record(
            "eval",
            true_return=mean,
            true_return_std=float(result.returns.std()),
            episode_length=float(result.lengths.mean()),
        )
        self.metrics.flush()
        self.progress.update(self.step, true_return=mean)

    def _record_learner(self, stats: Any) -> None:
        self._check_finite("the critic's loss", stats.critic_loss)
        self._record(
            "learner",
            critic_loss=stats.critic_loss,
            actor_loss=stats.actor_loss,
            temperature=stats.temperature,
            entropy=stats.entropy,
            q_mean=stats.q_mean,
        )

    def _record(self, kind: str, **columns: Any) -> None:
        seconds = self._seconds()
        shares = {f"share_{name}": spent / max(seconds, 1e-9) for name, spent in self.clock.items()}
        self.metrics.record(
            step=self.step,
            kind=kind,
            seconds=seconds,
            steps_per_second=self.step / max(seconds, 1e-9),
            comparisons=0 if self.queue is None else self.queue.total,
            **shares,
            **columns,
        )

    def _check_finite(self, what: str, value: Any) -> None:
        if not np.isfinite(np.asarray(value)):
            raise InputError(
                f"{what} is not finite at step {self.step}: the last checkpoint is kept; "
                "start anew with a lower --learning-rate or --reward-learning-rate"
            )

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
            "replay": self.replay,
            "leader": self.leader,
            "observation": self.observation,
            "step": np.asarray(self.step),
            "seconds": np.asarray(self._seconds()),
            "clock": {name: np.asarray(spent) for name, spent in self.clock.items()},
            "metrics_rows": np.asarray(len(self.metrics)),
        }
        if self.env.restorable:
            state["env"] = self.env.get_state()
        if self.trajectories is not None and self.queue is not None:
            sealed = self.trajectories.true_reward.reveal(TrueRewardReader.CHECKPOINT)
            state["trajectories"] = self.trajectories.get_state() | {"true_reward": sealed}
            state["queue"] = self.queue.get_state()
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
        self.follower, self.replay, self.leader = state["follower"], state["replay"], state["leader"]
        self.step, self.seconds_before = int(state["step"]), float(state["seconds"])
        self.clock = {name: float(spent) for name, spent in state["clock"].items()}
        self.observation = state["observation"]
        if self.env.restorable:
            self.env.set_state(state["env"])
        else:
            # As the uninterrupted run did when it wrote this checkpoint.
            self.env.reset(self._reset_seed())
        if self.trajectories is not None and self.queue is not None:
            sealed = state["trajectories"].pop("true_reward")
            self.trajectories.set_state(state["trajectories"], TrueReward(sealed))
            self.queue.set_state(state["queue"])
        self.metrics = Metrics.load(self.folder.metrics_path)
        self.metrics.truncate(int(state["metrics_rows"]))

    def _checkpoint(self) -> None:
        if not self.env.restorable:
            # What cannot be restored is started anew, here and when resumed, so that both go on alike.
            self.observation = self.env.reset(self._reset_seed())
            if self.trajectories is not None:
                self.trajectories.cut()
        self.metrics.flush()
        self.folder.save_checkpoint(self.step, self._state())
        if self.queue is not None:
            self.queue.write_parquet(self.folder.comparisons_path)

    def _stop(self) -> None:
        if self.env.restorable:
            self._checkpoint()
            told = f"stopped at step {self.step:,}"
        else:
            told = f"stopped at step {self.step:,}, to go on from the last checkpoint"
        raise Stopped(f"{told}: rewardsmith train --resume {self.folder.path}")

    @contextlib.contextmanager
    def _stop_on_signal(self) -> Iterator[None]:
        """Finish the iteration first, then stop; a second signal stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def request(signum: int, frame: Any) -> None:
            del frame
            if self.stop_requested:
                raise KeyboardInterrupt
            self.stop_requested = True
            self.progress.message(f"{signal.Signals(signum).name}: finishing this step and saving")

        before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _crossed(self, every: int) -> bool:
        return self.step // every != (self.step - self.config.num_envs) // every

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, stream, self.step))

    def _reset_seed(self) -> int:
        return int(self._rng(_RESET).integers(2**31))

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started
