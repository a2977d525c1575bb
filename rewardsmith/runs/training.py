"""The training loop: environments, follower, teacher, leader; and going on after a stop."""

import contextlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core import InputError
from .._core.serialise import load_tree
from ..agents import SACState, Transition
from .asking import Heard, Moment
from .choosing import Chooser
from .config import TrainConfig
from .experiment import Experiment
from .exploration import with_fresh_critics
from .folder import RunFolder, checked_step, newest_common_checkpoints
from .fused import LONGEST, FusedLoop, make_fused
from .health import check_learned
from .lanes import Lanes
from .memory import DeviceMemory, make_memory
from .parts import check_fits, make_env
from .progress import Progress
from .seat import CLIPS, REPLAY, RESIDUAL, SESSION, SNAPSHOT, Seat
from .session import run_session
from .signals import on_signal


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and saved what it could."""


class Training:
    """Runs in progress, one or several side by side: what changes is here, the mathematics in `Experiment`.

    Args:
        configs: settings of each, which differ in the seed and in `train.VARIED` alone.
        folders: of each.
    """

    def __init__(self, configs: Sequence[TrainConfig], folders: Sequence[RunFolder]):
        self.config = config = configs[0]
        self.lanes = Lanes(len(configs))
        envs = [make_env(own, own.num_envs) for own in configs]
        check_fits(config, envs[0].spec, len(configs))
        self.judged = make_env(config, config.eval_episodes, judged=True)
        self.experiment = Experiment(config, envs[0].spec, self.lanes)
        keys = [jax.random.split(jax.random.key(own.seed), 4) for own in configs]
        self.act_key, self.learn_key, self.lead_key = (
            self.lanes.stack([own[index] for own in keys]) for index in range(1, 4)
        )
        # Beyond all steps, which are folded into the same key.
        self.fork_key, self.residual_key = (
            self.lanes.fold_in(self.lead_key, 2**31 + index) for index in range(2)
        )
        begun = [self.experiment.init(own[0], settings) for own, settings in zip(keys, configs, strict=True)]
        self.followers, self.leader = (self.lanes.stack([own[part] for own in begun]) for part in range(2))
        self.memory = make_memory(self.experiment, folders[0].path)
        self.seats = [
            Seat(self.experiment, own, folder, env, self._tell, lambda: self.stop_requested)
            for own, folder, env in zip(configs, folders, envs, strict=True)
        ]
        self.fused = make_fused(self.experiment, envs[0], self.seats[0].collector)
        self.chooser = None if self.leader is None else Chooser(self.experiment)
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

    @property
    def unsupervised(self) -> bool:
        """Whether the policy explores for its own sake, before there is a reward."""
        return self.config.random_steps <= self.step < self.config.first_session

    # ---- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end."""
        config = self.config
        for seat in self.seats:
            seat.start(self.step)
        with (
            Progress(config.steps, self.step) as self.progress,
            on_signal(self._request_stop),
            contextlib.closing(self.judged),
            contextlib.ExitStack() as held,
        ):
            for seat in self.seats:
                held.callback(seat.close)
            if self.fused is not None:
                self.fused.enter([seat.env for seat in self.seats])
            while self.step < config.steps:
                self._iterate()
                if self._crossed(config.leader_every):
                    self._check()
                if self._crossed(config.eval_every) or self.step >= config.steps:
                    self._evaluate()
                if config.snapshot_every and self.learning and self._crossed(config.snapshot_every):
                    self._snapshot()
                self._keep_if_due()
                if self._crossed(config.checkpoint_every) or self.step >= config.steps:
                    self._checkpoint()
                self.progress.update(self.step)
                if self.stop_requested and self.step < config.steps:
                    self._stop()

    def _iterate(self) -> None:
        """Steps of all environments, the updates that go with them, and a session if one is due."""
        if self.fused is None:
            self._step()
        else:
            self._steps(self.fused)
        self._lead_if_due()

    def _steps(self, fused: FusedLoop) -> None:
        """As many steps as there are until something is due, in one call."""
        started, count, drawn = time.monotonic(), self._until_due(), None
        phase = "exploring" if self.unsupervised else "learning" if self.learning else "random"
        if phase == "random":
            drawn = [seat.explore_ahead(self.step, LONGEST) for seat in self.seats]
        assert isinstance(self.memory, DeviceMemory)
        keys = (self.act_key, self.learn_key)
        self.followers, recorded, stats = fused.advance(
            phase, self.followers, self.memory, self.leader, keys, drawn, self.step, count
        )
        for seat, own in zip(self.seats, recorded, strict=True):
            seat.record(self.step, own, count)
        self.step += count * self.config.num_envs
        if phase != "random":
            self._learned(stats, count)
        self._spend("learner", time.monotonic() - started)

    def _until_due(self) -> int:
        """Iterations until an evaluation, a session, a checkpoint or another phase."""
        config = self.config
        every = (config.eval_every, config.leader_every, config.checkpoint_every, config.snapshot_every)
        due = [often * (self.step // often + 1) for often in every if often]
        due += [end for end in (config.random_steps, config.first_session, config.steps) if end > self.step]
        return min(LONGEST, -(-(min(due) - self.step) // config.num_envs))

    def _step(self) -> None:
        """One step of all environments, and the updates that go with it."""
        unsupervised, at_random = self.unsupervised, not (self.unsupervised or self.learning)
        started = time.monotonic()
        actions, log_probs = self._actions(at_random)
        # Waiting for the action is waiting for the updates before it.
        acted = time.monotonic()
        every = zip(self.seats, actions, log_probs, strict=True)
        acts = (seat.act(self.step, action, likely) for seat, action, likely in every)
        results, arrays = zip(*acts, strict=True)
        self._spend("learner", acted - started)
        self._spend("env", time.monotonic() - acted)
        transitions = Transition(
            **{name: jnp.asarray(array) for name, array in self.lanes.stack(arrays).items()}
        )
        # An end of which the learner is not told is one that might have been cut off there.
        truncated = self.lanes.stack(
            [
                result.truncated | (result.terminated & ~own["terminated"])
                for result, own in zip(results, arrays, strict=True)
            ]
        )
        self.step += self.config.num_envs
        started = time.monotonic()
        if at_random:
            self.memory.add(transitions, truncated)
        else:
            key = self.lanes.fold_in(self.learn_key, self.step)
            if unsupervised:
                self.followers, stats = self.memory.explore(self.followers, transitions, key)
            else:
                rng = self.seats[0].rng(REPLAY, self.step)
                self.followers, stats = self.memory.learn(
                    self.followers, self.leader, transitions, truncated, key, rng
                )
            self._learned(stats, 1)
        self._spend("learner", time.monotonic() - started)

    def _actions(self, at_random: bool) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        """What each run does now, and how likely that was."""
        if at_random:
            drawn = [seat.explore(self.step) for seat in self.seats]
            return [action for action, _ in drawn], [log_prob for _, log_prob in drawn]
        observation = self.lanes.stack([seat.observation for seat in self.seats])
        policies = tuple(follower.policy for follower in self.followers)
        action, log_prob = self.experiment.act(
            policies, self.experiment.seen(observation), self.act_key, np.int32(self.step)
        )
        split = self.lanes.split
        return split(np.asarray(action)), split(None if log_prob is None else np.asarray(log_prob))

    def _learned(self, stats: Any, iterations: int) -> None:
        """Count the updates; their statistics into the metrics where they are due."""
        self.follower_updates += iterations * self.config.updates_per_iteration
        if self._crossed(self.config.eval_every):
            for seat, own in zip(self.seats, self.lanes.split(stats), strict=True):
                self._record(seat, "learner", **vars(own))

    def _lead_if_due(self) -> None:
        if self.leader is None or self.step < self.config.first_session:
            return
        just_begun = self.step - self.config.num_envs < self.config.first_session
        if just_begun or self._crossed(self.config.leader_every):
            started = time.monotonic()
            self._session()
            self._spend("leader", time.monotonic() - started)

    # ---- comparisons and the leader -------------------------------------------------------------

    def _session(self) -> None:
        """Ask for the comparisons that are due by now, then update the reward."""
        config, first = self.config, self.leader_updates == 0
        heard = [self._ask(lane, first) for lane in range(self.lanes.count)]
        self.progress.update(self.step, waiting=heard[0].waiting)
        if min(seat.compared for seat in self.seats) == 0:
            return
        if first and config.exploring_steps:
            keys = self.lanes.split(self.lanes.fold_in(self.learn_key, 2**31))
            each = zip(keys, self.seats, strict=True)
            fresh = self.lanes.stack([self.experiment.init(key, seat.config)[0] for key, seat in each])
            self.followers = (with_fresh_critics(self.follower, fresh[0]), *self.followers[1:])
        residual = None if first else self._residual()
        self.leader, stats, steps = run_session(
            self.experiment,
            self.leader,
            [seat.collector for seat in self.seats if seat.collector is not None],
            self.follower,
            self.memory,
            self.lanes.fold_in(self.lead_key, self.step),
            [seat.rng(SESSION, self.step) for seat in self.seats],
            first=first,
        )
        self.leader_updates += steps
        for lane, (seat, own) in enumerate(zip(self.seats, self.lanes.split(stats), strict=True)):
            second = None if first or config.first_term_only else own
            assert seat.collector is not None
            self._record(
                seat,
                "leader",
                preference_accuracy=heard[lane].accuracy,
                held_out_accuracy=heard[lane].held_out_accuracy,
                waiting=heard[lane].waiting,
                preference_loss=own.loss,
                first_norm=own.first_norm,
                second_norm=None if second is None else second.second_norm,
                cosine=None if second is None else second.cosine,
                effective_share=None if second is None else second.effective_share,
                bellman_residual=self.lanes.of(residual, lane),
                step_ratio=self.follower_updates / self.leader_updates,
                extra_steps=seat.collector.extra_steps,
            )
        self.progress.update(
            self.step, preference_accuracy=heard[0].accuracy, comparisons=self.seats[0].compared
        )

    def _ask(self, lane: int, first: bool) -> Heard:
        """One run's questions, by what it knows now."""
        seat, leader = self.seats[lane], self.lanes.of(self.leader, lane)
        follower = self.lanes.of(self.follower, lane)
        assert seat.collector is not None and seat.desk is not None and self.chooser is not None
        key = self.lanes.of(self.lanes.fold_in(self.fork_key, self.step), lane)
        rng = seat.rng(CLIPS, self.step)
        moment = Moment(
            step=self.step,
            predict=partial(self.experiment.predict, leader.x, follower=None if first else follower),
            act=self.experiment.acting(follower.policy, key),
            rng=rng,
            fresh=self.config.clips == "fresh" and not first,
            choose=self.chooser.at(leader, follower, rng, key),
        )
        return seat.desk.ask(seat.collector, moment)

    def _residual(self) -> Any:
        key = self.lanes.fold_in(self.residual_key, self.step)
        pool = self.memory.pool(self.experiment.judged_states, self.seats[0].rng(RESIDUAL, self.step))
        return self.experiment.residual(self.follower, pool, self.leader, key)

    # ---- what is seen and kept ------------------------------------------------------------------

    def _evaluate(self) -> None:
        found = []
        for seat, policy in zip(self.seats, self.lanes.split(self.follower.policy), strict=True):
            columns = seat.evaluate(policy, self.judged, self.step)
            self._record(seat, "eval", **columns)
            seat.recorder.flush()
            found.append(columns["true_return"])
        self.progress.update(self.step, true_return=float(np.mean(found)))

    def _snapshot(self) -> None:
        """How far the policy is from one that learns on from here for the same reward."""
        key = self.lanes.fold_in(self.lanes.fold_in(self.residual_key, 2**31), self.step)
        rng = self.seats[0].rng(SNAPSHOT, self.step)
        divergence = self.memory.snapshot(self.follower, self.leader, key, rng)
        for seat, own in zip(self.seats, self.lanes.split(divergence), strict=True):
            self._record(seat, "snapshot", kl_to_longer=own)

    def _keep_if_due(self) -> None:
        """The policy and the reward of now, small, for whoever judges the run."""
        for lane, seat in enumerate(self.seats):
            seat.keep_if_due(self.step, partial(self.lanes.of, (self.follower, self.leader), lane))

    def _record(self, seat: Seat, kind: str, **columns: Any) -> None:
        seat.recorder.record(kind, self.step, comparisons=seat.compared, **columns)

    def _spend(self, part: str, seconds: float) -> None:
        for seat in self.seats:
            seat.recorder.clock[part] += seconds

    # ---- stop and go on -------------------------------------------------------------------------

    def _state(self, lane: int) -> dict[str, Any]:
        """Everything that a resumed run needs, as a pytree of arrays."""
        shared = {
            "follower": self.follower,
            "companions": self.followers[1:],
            "replay": self.memory.get_state(),
            "leader": self.leader,
        }
        return {
            **self.lanes.of(shared, lane),
            "step": np.asarray(self.step),
            "updates": np.asarray([self.follower_updates, self.leader_updates]),
            **self.seats[lane].get_state(),
        }

    def restore(self) -> None:
        """Put back the last good checkpoint, and forget the metrics recorded since."""
        folders = [seat.folder for seat in self.seats]
        paths, skipped = newest_common_checkpoints(folders)
        for line in skipped:
            print(line)
        if paths is None and skipped:
            raise InputError(
                f"every checkpoint in {folders[0].path} is damaged: keep the folder for its metrics and "
                "start anew with another --out"
            )
        if paths is None:
            print(f"no checkpoint in {folders[0].path} yet: starting it anew")
            return
        states = [load_tree(path, self._state(lane)) for lane, path in enumerate(paths)]
        self.followers = self.lanes.stack([(state["follower"], *state["companions"]) for state in states])
        self.leader = self.lanes.stack([state["leader"] for state in states])
        self.memory.set_state(self.lanes.stack([state["replay"] for state in states]))
        self.follower_updates, self.leader_updates = (int(count) for count in states[0]["updates"])
        (self.step,) = {checked_step(path, state["step"]) for path, state in zip(paths, states, strict=True)}
        for seat, state in zip(self.seats, states, strict=True):
            seat.set_state(state, self.step)

    def _checkpoint(self) -> None:
        self._check()
        if self.fused is not None:
            stand = self.fused.leave([seat.env for seat in self.seats])
            for seat, observation in zip(self.seats, stand, strict=True):
                seat.observation = observation
        for lane, seat in enumerate(self.seats):
            if not seat.env.restorable:
                self.memory.cut()
                seat.start_anew(self.step)
            seat.save(self.step, self._state(lane))

    def _check(self) -> None:
        # What a fused loop was given was seen by no one on the host.
        given = None if self.fused is None else self.memory.get_state()
        check_learned(self.step, self.followers, self.leader, given)

    def _stop(self) -> None:
        if self.seats[0].env.restorable:
            self._checkpoint()
            told = f"stopped at step {self.step:,}"
        else:
            told = f"stopped at step {self.step:,}, to go on from the last checkpoint"
        path = self.seats[0].folder.path
        raise Stopped(f"{told}: rewardsmith train --resume {path if self.lanes.count == 1 else path.parent}")

    def _request_stop(self, name: str) -> None:
        self.stop_requested = True
        self._tell(f"{name}: finishing this step and saving")

    def _tell(self, line: str) -> None:
        self.progress.message(line)

    def _crossed(self, every: int) -> bool:
        return self.step // every != (self.step - self.config.num_envs) // every
