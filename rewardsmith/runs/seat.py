"""One run on the host: its folder, environments, records of clips and metrics, and who it asks."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._core import TrueReward, TrueRewardReader, skipped
from ..agents import Policy, SACState
from ..bilevel import LeaderState
from ..envs import StepResult, VectorEnv
from .collect import Collector
from .config import TrainConfig
from .desks import make_desk
from .evaluate import evaluate
from .experiment import Experiment
from .folder import RunFolder
from .fused import Steps
from .health import SKIPPED, check_seen
from .recorder import Recorder
from .snapshots import save_snapshot, snapshot_steps

# Streams of randomness on the host: each use draws from default_rng((seed, stream, step)), so that no
# generator's state needs saving and a resumed run draws what an uninterrupted one would have.
EXPLORE, CLIPS, RESET, EVALUATE, SESSION, REPLAY, RESIDUAL, SNAPSHOT = range(8)

EARLY_ENDS = (
    "episodes of this environment end early, and when they end tells of the true reward: "
    "read comparisons between methods with care (clips have a fixed length and never cross an end)"
)


class Seat:
    """What one run has of its own on the host; the networks and their memory are in the training loop.

    Args:
        experiment: what all seats of a training share.
        config: this run's settings.
        folder: this run's.
        env: the environments it learns in, not started.
        tell: prints a line.
        stopping: whether the training was asked to stop.
    """

    def __init__(
        self,
        experiment: Experiment,
        config: TrainConfig,
        folder: RunFolder,
        env: VectorEnv,
        tell: Callable[[str], None],
        stopping: Callable[[], bool],
    ):
        self.config, self.folder, self.env, self._tell = config, folder, env, tell
        self._experiment = experiment
        self.observation = env.reset(config.seed)
        self.collector, self.desk = None, None
        if config.learns_reward:
            self.collector = Collector(config, experiment.needs, env)
            self.desk = make_desk(experiment, folder.path, tell, stopping)
        self.recorder = Recorder(folder.metrics_path)
        self._kept = snapshot_steps(config, env.spec)

    def rng(self, stream: int, step: int) -> np.random.Generator:
        """All randomness of one use on the host."""
        return np.random.default_rng((self.config.seed, stream, step))

    @property
    def compared(self) -> int:
        """Comparisons that were answered so far."""
        return 0 if self.collector is None else self.collector.queue.total

    def start(self, step: int) -> None:
        """The run begins, or goes on, at `step`: snapshots of later steps are of what is forgotten."""
        self.folder.forget_snapshots(step)
        self.recorder.start()

    def explore(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Uniformly random actions at `step`, and their log-probabilities or log-densities."""
        return self._experiment.explore(self.rng(EXPLORE, step))

    def explore_ahead(self, step: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The same of `count` iterations from `step` on, (count, N, ...)."""
        drawn = [self.explore(step + index * self.config.num_envs) for index in range(count)]
        return np.stack([action for action, _ in drawn]), np.stack([likely for _, likely in drawn])

    def act(
        self, step: int, action: np.ndarray, log_prob: np.ndarray | None
    ) -> tuple[StepResult, dict[str, np.ndarray]]:
        """Step the environments; what came of it, and the arrays of its transitions by name.

        Args:
            step: of the run, before this one.
            action: (N, ...) of the policy.
            log_prob: (N,), where the leader wants it.

        Raises:
            InputError: an observation or a true reward that is not finite.
        """
        before = {} if self.collector is None else self.collector.before(self.env)
        result = self.env.step(self.env.spec.from_policy(action))
        check_seen(self.env.spec.env_id, step, result.next_observation, result.reward)
        if log_prob is not None and self._experiment.needs.log_prob:
            before["log_prob"] = log_prob
        transitions = self.transitions(action, result)
        self._record(self.observation, action, result.reward, result.terminated, result.truncated, before)
        self.observation = result.observation
        return result, transitions

    def record(self, step: int, steps: Steps | None, count: int) -> None:
        """The first `count` of a fused loop's steps into the record from which clips are cut."""
        if steps is None or self.collector is None:
            return
        reward = steps.reward.sealed()
        extras = self.collector.named(steps.states)
        if steps.log_prob is not None:
            extras["log_prob"] = np.asarray(steps.log_prob)
        seen = (steps.observation, steps.action, steps.terminated, steps.truncated)
        observation, action, terminated, truncated = (np.asarray(array) for array in seen)
        check_seen(self.env.spec.env_id, step, observation[:count], reward[:count])
        for index in range(count):
            own = {name: array[index] for name, array in extras.items()}
            self._record(
                observation[index], action[index], reward[index], terminated[index], truncated[index], own
            )

    def _record(
        self,
        observation: np.ndarray,
        action: np.ndarray,
        reward: TrueReward,
        terminated: np.ndarray,
        truncated: np.ndarray,
        extras: dict[str, np.ndarray],
    ) -> None:
        if self.collector is None:
            return
        self.collector.append(observation, action, terminated | truncated, reward, extras)
        if terminated.any() and self.folder.warn(EARLY_ENDS):
            self._tell(f"warning: {EARLY_ENDS}")

    def transitions(self, action: np.ndarray, result: StepResult) -> dict[str, np.ndarray]:
        """What the learner stores of a step."""
        terminated = result.terminated
        arrays = {
            "observation": self._experiment.seen(self.observation),
            "action": action,
            "next_observation": self._experiment.seen(result.next_observation),
            "terminated": np.zeros_like(terminated) if self.config.ends_hidden else terminated,
        }
        if not self.config.learns_reward:
            arrays["true_reward"] = result.reward.reveal(TrueRewardReader.CEILING).astype(np.float32)
        return arrays

    def evaluate(self, policy: Policy, judged: VectorEnv, step: int) -> dict[str, float]:
        """The policy under the true reward, in environments for it: columns of the metrics."""
        seed = int(self.rng(EVALUATE, step).integers(2**31))
        found = evaluate(policy, judged, seed, sampled=self.config.eval_sampled)
        return {
            "true_return": float(found.returns.mean()),
            "true_return_std": float(found.returns.std()),
            "episode_length": float(found.lengths.mean()),
        }

    def keep_if_due(self, step: int, own: Callable[[], tuple[SACState, LeaderState | None]]) -> None:
        """Write a snapshot where one falls on this step; none before there is a reward to follow.

        Args:
            step: environment steps by now.
            own: this run's follower and leader.
        """
        due = any(step - self.config.num_envs < kept <= step for kept in self._kept)
        if due and (self.collector is None or self.compared > 0):
            follower, leader = own()
            save_snapshot(self.folder, step, follower.policy, None if leader is None else leader.x)

    def start_anew(self, step: int) -> None:
        """Reset environments that cannot be restored, as a resumed run does, so that both go on alike."""
        self.observation = self.env.reset(int(self.rng(RESET, step).integers(2**31)))
        if self.collector is not None:
            self.collector.cut()

    # ---- stop and go on -------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """All that changes, for a checkpoint."""
        state: dict[str, Any] = {"observation": self.observation, "recorder": self.recorder.get_state()}
        if self.env.restorable:
            state["env"] = self.env.get_state()
        if self.collector is not None:
            state["collector"] = self.collector.get_state()
        if self.desk is not None:
            state["desk"] = self.desk.get_state()
        return state

    def set_state(self, state: dict[str, Any], step: int) -> None:
        """Put back what `get_state` gave at `step`, and forget the metrics recorded since.

        Nothing is written or deleted: what does not fit ends the command before anything is lost.
        """
        if self.env.restorable:
            self.observation = state["observation"]
            self.env.set_state(state["env"])
        else:
            # As it was in the checkpoint, but for worlds that do not heed their seed.
            self.observation = self.env.reset(int(self.rng(RESET, step).integers(2**31)))
        if self.collector is not None:
            self.collector.set_state(state["collector"])
        if self.desk is not None:
            self.desk.set_state(state["desk"])
        self.recorder.set_state(state["recorder"])

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint, the metrics and the comparisons."""
        self.recorder.flush()
        self.folder.save_checkpoint(step, state)
        if self.config.skip_not_finite and skipped(state) and self.folder.warn(SKIPPED):
            self._tell(f"warning: {SKIPPED}")
        if self.collector is not None:
            self.collector.queue.write_parquet(self.folder.comparisons_path)

    def close(self) -> None:
        """Release environments and store."""
        for part in (self.env, self.collector, self.desk):
            if part is not None:
                part.close()
