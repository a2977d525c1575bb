"""The settings of a training run: one dataclass, which is the command line, the file and the check."""

import dataclasses
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .._core import InputError
from ..envs.options import EnvOptions
from .choices import (
    CLIPS,
    ESTIMATORS,
    HUMAN,
    METHODS,
    PREFERENCE_MODELS,
    REWARD_NORMS,
    REWARD_OUTPUTS,
    SELECTIONS,
    TEACHERS,
)
from .typed import fitted_fields


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run. Everything random follows from `seed`."""

    env: str = "HalfCheetah-v5"
    """Any Gymnasium id with vectors or pictures to see and continuous or discrete actions; or a world in JAX:
    gymnax/ID, brax/NAME or playground/NAME."""
    method: str = "sobirl"
    """sobirl, stoc-sobirl, drlhf, hpgd, bc-hg, pbrl, parl, itd or sac."""
    steps: int = 100_000
    """Environment steps in all."""
    comparisons: int = 1000
    """Pairs of clips the teacher is asked about in all; none for sac."""
    seed: int = 0
    """Source of all randomness."""

    estimator: str = "one-step"
    """sobirl and stoc-sobirl: how the second term of the hyper-gradient is estimated; one-step, suffix,
    branch or adjoint."""
    clips: str = "queue"
    """Where the second term's clips come from: queue, fresh, or (sobirl and stoc-sobirl) weighted."""
    second_term_weight: float = 1.0
    """Weight of the second term; 1 is the hyper-gradient, 0 is drlhf. Not for pbrl."""
    second_term_bound: float | None = 1.0
    """Before it is weighed, the second term is scaled down to at most so many times the norm of the first;
    none leaves it as it is, and its noise may carry the reward away. pbrl: the penalty's gradient, to 0.3 of
    that."""
    suffix_length: int = 100
    """suffix, hpgd, bc-hg, parl, itd: steps of the trajectory used behind each clip."""
    branches: int = 1
    """branch only: steps of each clip from which roll-outs start."""
    branch_length: int = 100
    """branch only: steps of each roll-out."""
    adjoint_visits: int = 1024
    """adjoint only: replayed transitions for each gradient step on the reward."""
    momentum: float = 0.1
    """stoc-sobirl only: share of the new gradient in the running one; 1 is sobirl."""
    penalty: float = 1.0
    """pbrl only: weight of the gap to the follower's best, in units of loss per unit of return."""
    damping: float = 0.1
    """parl only: added to the curvature, relative to its mean."""
    unrolled_steps: int = 5
    """itd only: steps of the actor that are differentiated."""
    clip_length: int = 25
    """Steps in a clip; clips never cross the end of an episode."""
    teacher: str = "oracle"
    """Who compares: human, oracle, or a synthetic teacher with faults; rewardsmith list shows them."""
    teacher_temperature: float = 1.0
    """bradley-terry only: in units of true reward; larger is more often wrong."""
    selection: str = "uniform"
    """Which of many candidate pairs are asked about: uniform, disagreement, entropy, k-centre,
    k-centre-disagreement, k-centre-entropy or influence."""
    candidates: int = 10
    """Candidate pairs for each that is asked about; not for uniform."""
    preference_model: str = "partial-return"
    """How answers follow from rewards: partial-return, thurstone, regret, general or mixture."""
    label_smoothing: float = 0.0
    """Share of each answer that is spread over both clips, from 0 up to, but not, 1."""
    label_error: float = 0.0
    """Share of answers taken to be given at random by the preference model, from 0 up to, but not, 1."""
    agreement_margin: float = 0.0
    """Weight of the margin by which the members' mean preference shifts each comparison; 0: none."""
    embedding: int = 4
    """general only: half the numbers that stand for a clip."""
    groups: int = 2
    """mixture only: groups of labellers."""
    store: str | None = None
    """human only: folder or postgresql:// URL of the questions and answers; none: answers in the run's
    folder. Answers that are there already are learned from."""
    max_waiting: int = 32
    """human only: questions that wait for an answer at once, at most."""
    answer_wait: float = 60.0
    """human only: a session waits for the answers to its questions as long as one has come within so many
    seconds; without anyone it waits so long once."""
    answer_deadline: float | None = None
    """human only: seconds after which a question is withdrawn; none: never."""
    fallback_teacher: str = "none"
    """human only: a synthetic teacher for questions withdrawn at the deadline; none: they are dropped."""
    overlap: int = 1
    """human only: different people who are asked each question."""
    held_out: float = 0.1
    """human only: share of the questions whose answers judge the reward and never train it."""
    queue: int = 3000
    """Comparisons kept; the oldest leave first."""

    leader_every: int = 2000
    """Environment steps between two sessions of comparing clips and updating the reward."""
    leader_steps: int = 50
    """Gradient steps on the reward in one session."""
    leader_warmup_steps: int = 400
    """Gradient steps on the first comparisons, before the policy learns; first term only. Done in whole
    sessions of --leader-steps."""
    leader_batch_size: int = 64
    """Comparisons in a gradient step on the reward."""
    recent_batch_size: int = 32
    """Comparisons a step for the second term."""
    recent: int = 100
    """The second term draws from so many of the newest comparisons; with fresh clips, from those of the
    session, or from --recent-batch-size if they are fewer."""
    reward_learning_rate: float = 3e-4
    """Adam's, for the reward."""
    reward_hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of each reward network."""
    ensemble: int = 3
    """Reward networks; the policy maximises their mean."""
    reward_output: str = "normalise"
    """What the policy gets of the networks' mean: normalise, clamp or raw."""
    reward_norm: str = "none"
    """Of pictures, behind each convolution of the reward: none, group or batch."""
    reward_dropout: bool = False
    """Of pictures: half of what the convolutions say is left out, another half each gradient step."""
    reward_weight_decay: float = 0.0
    """AdamW's, for the reward."""

    temperature: float | None = None
    """A fixed temperature of the policy, in units of reward; none tunes it to --target-entropy."""
    target_entropy: float | None = None
    """Nats; none means −1 for each dimension of an action, or 0.89 log of the number of discrete actions."""
    discount: float = 0.99
    """Per step of the policy's return."""
    learning_rate: float = 3e-4
    """Adam's, for policy, critics and temperature."""
    adam_epsilon: float = 1e-8
    """Adam's ε, for the same."""
    decay_steps: int | None = None
    """Environment steps over which the learning rate falls to 0 along a line; none: it stays."""
    skip_not_finite: bool = False
    """Leave out updates of policy and reward whose gradients are not finite, up to ten in a row; else the run
    stops at the first."""
    target_every: int | None = None
    """Updates between two copies of the critics into their targets; none: they follow smoothly."""
    batch_size: int = 256
    """Transitions in an update of the policy."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of policy and critics; of pictures, behind the convolutions."""
    updates_per_step: float = 1.0
    """Updates of the policy for each environment step."""
    pretrain_steps: int | None = None
    """pebble only: steps of unsupervised exploration behind the random ones; none means 9 % of all steps, at
    most 9,000."""
    neighbours: int = 5
    """pebble only: exploration is paid by the distance to the k-th nearest of the states visited, this k."""
    learning_starts: int | None = None
    """Steps of uniformly random actions first; none means 5 % of all steps, at most 10,000, and at least
    one clip in each environment."""
    replay: int = 1_000_000
    """Transitions kept."""
    replay_on_disk: bool = False
    """Pictures only: keep the frames in a file of the run's folder instead of in memory."""

    frame_stack: int | None = None
    """Pictures: frames that make one observation; none: 4 for Atari, else 1."""
    image_layout: str = "auto"
    """Of the environment's own pictures: hwc, chw, or auto, told from the shape."""
    flatten_observations: bool = False
    """Make one vector of Dict, Tuple and other observations."""
    clip_rewards: bool = False
    """Cut the true reward to its sign, for the teacher and for sac; never for the evaluation."""
    episodic_life: bool = False
    """Atari: a lost life ends the episode; never in the evaluation."""
    hide: str = "none"
    """What the reward and people are not shown of a picture: none; score, for games whose counters are
    known; or boxes of the screen, top:bottom,left:right and a semicolon between two."""
    film_clips: bool = False
    """Keep where the simulator stood at the start of each clip, so that rewardsmith clips can film it."""
    hide_ends: bool = False
    """Do not tell the policy that learns from a learned reward where episodes end; an end tells of the true
    reward."""

    num_envs: int = 8
    """Copies of the environment stepped together."""
    backend: str = "auto"
    """mujoco (one batch of simulations), ale (Atari's own threads), native (worlds in JAX), gymnasium, or
    auto."""
    fused: bool = True
    """Environments written in JAX: step, act and learn in one compiled program; else step from the host."""
    eval_every: int = 5000
    """Environment steps between two evaluations under the true reward."""
    eval_episodes: int = 5
    """Episodes of an evaluation."""
    eval_sampled: bool = False
    """Evaluate with sampled actions, not with the policy's mode."""
    checkpoint_every: int = 25_000
    """Environment steps between two checkpoints."""
    snapshot_every: int | None = 25_000
    """Environment steps between two measurements of how far the policy is from one that was trained longer
    for the same reward; none: never."""
    snapshot_updates: int = 1000
    """How many updates longer."""

    def __post_init__(self) -> None:
        _one_of("method", self.method, METHODS)
        _one_of("estimator", self.estimator, ESTIMATORS)
        _one_of("teacher", self.teacher, TEACHERS)
        _one_of("clips", self.clips, CLIPS)
        _one_of("selection", self.selection, SELECTIONS)
        _one_of("preference-model", self.preference_model, PREFERENCE_MODELS)
        _one_of("fallback-teacher", self.fallback_teacher, ("none", *(t for t in TEACHERS if t != HUMAN)))
        _one_of("backend", self.backend, ("auto", "mujoco", "gymnasium", "ale", "native"))
        _one_of("image_layout", self.image_layout, ("auto", "hwc", "chw"))
        _one_of("reward_output", self.reward_output, REWARD_OUTPUTS)
        _one_of("reward_norm", self.reward_norm, REWARD_NORMS)
        for field in dataclasses.fields(self):
            value, most = getattr(self, field.name), _MOST_SEED if field.name == "seed" else _MOST
            parts = value if isinstance(value, tuple) else (value,)
            if any(isinstance(part, int) and part > most for part in parts):
                raise InputError(f"--{_flag(field.name)} is {value}: give whole numbers up to {most}")
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"--{_flag(field.name)} is {value}: give a finite number")
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{_flag(name)} is {value}: give a whole number of at least 1")
        for name in ("seed", "suffix_length", "pretrain_steps"):
            if (getattr(self, name) or 0) < 0:
                raise InputError(
                    f"--{_flag(name)} is {getattr(self, name)}: give 0 or a positive whole number"
                )
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise InputError(f"--{_flag(name)} is {value}: give a positive number")
        for name in ("second_term_weight", "reward_weight_decay", "answer_wait"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InputError(f"--{_flag(name)} is {getattr(self, name)}: give 0 or a positive number")
        for name in ("discount", "label_smoothing", "label_error", "agreement_margin", "held_out"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InputError(
                    f"--{_flag(name)} is {getattr(self, name)}: give a number from 0 up to, but not, 1"
                )
        if not self.hidden or min((*self.hidden, *self.reward_hidden)) < 1:
            raise InputError("--hidden and --reward-hidden need widths of at least 1")
        if self.learning_starts is not None and not 1 <= self.learning_starts < self.steps:
            raise InputError(f"--learning-starts must lie between 1 and --steps, got {self.learning_starts}")
        if self.learns_reward and not self.num_envs * self.clip_length <= self.random_steps < self.steps:
            raise InputError(
                f"--learning-starts is {self.random_steps}: give at least --num-envs × --clip-length "
                f"({self.num_envs * self.clip_length}) and less than --steps ({self.steps})"
            )
        if not 0.0 < self.momentum <= 1.0:
            raise InputError(f"--momentum is {self.momentum}: give a number above 0 and up to 1")
        if self.method == "pbrl" and self.num_envs % 2:
            raise InputError(f"--num-envs is {self.num_envs}: pbrl has two policies, give an even number")
        if self.clips == "weighted" and self.method not in ("sobirl", "stoc-sobirl"):
            raise InputError(
                f"--clips weighted is for sobirl and stoc-sobirl: give {self.method} queue or fresh"
            )
        if self.learns_reward and self.comparisons < 1:
            raise InputError(f"--comparisons is {self.comparisons}: {self.method} needs at least 1")
        if self.learns_reward and self.first_session >= self.steps:
            raise InputError(f"--pretrain-steps is {self.pretrain_steps}: leave some of --steps to learn in")
        if self.selection != "uniform" and self.clips == "fresh":
            raise InputError("--selection has fresh clips to choose from only at a price: give --clips queue")
        if self.store is not None and self.teacher != HUMAN:
            raise InputError("--store is where people answer: give --teacher human with it")
        if self.store is not None and "://" in self.store and urlsplit(self.store).password:
            raise InputError("--store is kept in the run's folder: give its password as PGPASSWORD instead")

    def env_options(self, *, judged: bool = False) -> EnvOptions:
        """How environments are presented to the learner, or where it is `judged`."""
        return EnvOptions(
            frame_stack=self.frame_stack,
            clip_rewards=self.clip_rewards and not judged,
            episodic_life=self.episodic_life and not judged,
            image_layout=self.image_layout,  # pyright: ignore[reportArgumentType]
            flatten_observations=self.flatten_observations,
        )

    @property
    def learns_reward(self) -> bool:
        """Whether the reward is learned from comparisons; if not, the learner is given the true one."""
        return self.method != "sac"

    @property
    def ends_hidden(self) -> bool:
        """Whether the learner is not told where episodes end."""
        return self.hide_ends and self.learns_reward

    @property
    def films(self) -> bool:
        """Whether clips will be filmed, for which the simulator's states are kept."""
        return self.film_clips or self.teacher == HUMAN

    @property
    def random_steps(self) -> int:
        """Steps of random actions at the start: `learning_starts`, or its default."""
        if self.learning_starts is not None:
            return self.learning_starts
        return max(self.num_envs * self.clip_length, min(10_000, self.steps // 20))

    @property
    def exploring_steps(self) -> int:
        """Steps of unsupervised exploration behind the random ones."""
        if self.method != "pebble":
            return 0
        return min(9000, self.steps * 9 // 100) if self.pretrain_steps is None else self.pretrain_steps

    @property
    def first_session(self) -> int:
        """Steps before the first comparisons."""
        return self.random_steps + self.exploring_steps

    @property
    def first_term_only(self) -> bool:
        """Whether the method leaves out how clips move when the reward moves."""
        return self.method in ("drlhf", "pebble")

    @property
    def updates_per_iteration(self) -> int:
        """Updates after each step of all environments."""
        return max(1, round(self.num_envs * self.updates_per_step))

    @staticmethod
    def from_json(config: Mapping[str, Any]) -> "TrainConfig":
        """The settings that `config.json` of a run folder holds; `InputError` if they do not fit."""
        names = {field.name for field in dataclasses.fields(TrainConfig)}
        values = fitted_fields(TrainConfig, config, "config.json")
        if missing := sorted(names - values.keys() - _ADDED):
            raise InputError(
                f"config.json lacks {missing[0]!r}: it was written by another version; start anew"
            )
        _check_trusted(values["env"])
        return TrainConfig(**values)


# Modules, with commas between, that environments named in files may be imported from.
_MODULES = "REWARDSMITH_MODULES"
_trusted: set[str] = set()
# Steps and places in a replay are counted in 32 bits on a device, seeds in 64.
_MOST, _MOST_SEED = 2**31 - 2**16, 2**63 - 1
# Settings that runs of earlier versions lack, whose defaults are what those did.
_ADDED = {"skip_not_finite"}
_AT_LEAST_ONE = (
    "steps num_envs clip_length queue leader_every leader_steps leader_warmup_steps "
    "leader_batch_size recent_batch_size recent "
    "ensemble batch_size replay eval_every eval_episodes checkpoint_every "
    "branches branch_length adjoint_visits unrolled_steps snapshot_updates "
    "decay_steps target_every frame_stack candidates embedding groups max_waiting overlap neighbours"
).split()
_POSITIVE = (
    "second_term_bound teacher_temperature reward_learning_rate temperature learning_rate updates_per_step "
    "penalty damping snapshot_every adam_epsilon answer_deadline"
).split()


def trust_module(env: str) -> None:
    """Let files of this process name the environment `env`, which its user gave: see `_check_trusted`."""
    _trusted.add(env.partition(":")[0])


def _check_trusted(env: str) -> None:
    """`InputError` where a file names an environment for which Python would import a module unasked.

    ``MODULE:ID`` runs that module's code. Who types it wants that; a folder from someone else may name any
    module, such as one that lies beside it.
    """
    module, colon, _ = env.partition(":")
    trusted = _trusted.union(os.environ.get(_MODULES, "").split(","))
    if colon and module not in sys.modules and module not in trusted:
        raise InputError(
            f"config.json names the environment {env}, for which code of the module {module} would run: "
            f"if you trust it, set {_MODULES}={module}"
        )


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _one_of(name: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise InputError(f"unknown --{name} {value!r}: choose one of {', '.join(choices)}")
