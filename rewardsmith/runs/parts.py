"""From settings to the parts of an experiment that never change: problem, teacher, reward."""

import itertools
import math
from typing import Any

import jax
from jaxtyping import Array, PRNGKeyArray

from .._core import REWARD, ImageSpec, InputError, memory_there
from ..envs import EnvSpec, VectorEnv, make
from ..envs.hide import Box, hidden_boxes, parse_boxes, visible_mask
from ..preferences import BradleyTerryTeacher, Teacher
from ..preferences.models import PreferenceModel, make_preference_model, skew_product
from ..preferences.teachers import make_teacher as named_teacher
from ..problem import BilevelProblem, PreferenceLoss, SimulatedWorld
from ..rewards import (
    EmbeddingEnsemble,
    GroupEnsemble,
    LearnedReward,
    RewardEnsemble,
    make_networks,
    visible_pixels,
)
from .config import TrainConfig

# Bytes that one copy of an environment takes at least.
_LEAST_OF_A_COPY = 2**12
# Height and width of Atari's screen, in which boxes are given.
_SCREEN = (210, 160)


def _reward(x: LearnedReward, observation: Array, action: Array) -> Array:
    return x(observation, action)


def _members(x: LearnedReward, observation: Array, action: Array) -> Array:
    return x.members(observation, action)


def make_problem(config: TrainConfig, spec: EnvSpec) -> BilevelProblem[SimulatedWorld]:
    """The bilevel problem of a run: its simulator, the ensemble's reward, the preference loss on clips."""
    return BilevelProblem(
        world=SimulatedWorld(config.env, config.discount, spec.max_episode_steps),
        reward=_reward,
        upper_loss=PreferenceLoss(config.clip_length, members=_members, model=model_of(config)),
        temperature="auto" if config.temperature is None else config.temperature,
    )


def model_of(config: TrainConfig) -> PreferenceModel:
    """The preference model that the settings describe."""
    return make_preference_model(
        config.preference_model,
        smoothing=config.label_smoothing,
        error=config.label_error,
        margin=config.agreement_margin,
        groups=config.groups,
    )


def make_teacher(config: TrainConfig, name: str | None = None) -> Teacher:
    """The synthetic teacher of that name; None: the one that `config.teacher` names."""
    name = name or config.teacher
    if name == "bradley-terry":
        return BradleyTerryTeacher(config.teacher_temperature)
    return named_teacher(name)


def make_env(config: TrainConfig, num_envs: int, *, judged: bool = False) -> VectorEnv:
    """Copies of the environment to learn in, or to be judged in: under the true reward, as it is."""
    least = num_envs * _LEAST_OF_A_COPY
    if least > memory_there():
        raise InputError(
            f"{num_envs:,} copies of {config.env} do not fit into this machine's memory: give fewer "
            "--num-envs or --eval-episodes"
        )
    options = config.env_options(judged=judged)
    return make(config.env, num_envs, config.backend, options=options)  # pyright: ignore[reportArgumentType]


def check_fits(config: TrainConfig, spec: EnvSpec, together: int = 1) -> None:
    """`InputError` where what a run keeps is certain to be larger than all memory there is.

    Counted from below: some of the copies of networks, the replay, and the clips that are compared.

    Args:
        config: settings.
        spec: of the environment.
        together: runs side by side.
    """
    seen = math.prod(spec.observation_shape)
    acts = spec.num_actions or math.prod(spec.action_shape)
    # Policy, two critics and their targets, and Adam's two moments of all but the targets.
    needed = {"--hidden": 4 * 11 * _weights((seen, *config.hidden)) if spec.image is None else 0}
    needed["--num-envs and --eval-episodes"] = _LEAST_OF_A_COPY * (config.num_envs + config.eval_episodes)
    rows, frame = min(config.replay, config.steps), seen // (spec.image.stack if spec.image else 1)
    if not config.replay_on_disk:
        needed["--replay"] = rows * (4 * (2 * seen + acts) if spec.image is None else frame)
    if config.learns_reward:
        needed["--reward-hidden and --ensemble"] = (
            12 * config.ensemble * _weights((acts, *config.reward_hidden))
        )
        kept = min(config.queue, config.comparisons) if spec.image else config.queue
        needed["--queue and --clip-length"] = 2 * kept * config.clip_length * frame * (1 if spec.image else 4)
    total, most = together * sum(needed.values()), memory_there()
    if total > most:
        flag = max(needed, key=lambda name: needed[name])
        raise InputError(
            f"these settings take {total / 2**30:,.0f} GiB or more and this machine has {most / 2**30:,.0f}: "
            f"lower {flag}"
        )


def _weights(widths: tuple[int, ...]) -> int:
    return sum(before * behind for before, behind in itertools.pairwise(widths))


def check_spec(config: TrainConfig, spec: EnvSpec) -> None:
    """`InputError` unless soft actor-critic can learn in this environment."""
    if spec.image is None and len(spec.observation_shape) != 1:
        raise InputError(
            f"{config.env} has observations of shape {spec.observation_shape}: give an --env with vectors or "
            "pictures, or --flatten-observations"
        )
    if spec.num_actions is None and len(spec.action_shape) != 1:
        raise InputError(
            f"{config.env} has actions of shape {spec.action_shape}: give an --env where they are flat"
        )
    if spec.image is None and (config.hide != "none" or config.replay_on_disk or config.reward_dropout):
        raise InputError(
            f"{config.env} has no pictures: leave out --hide, --replay-on-disk and --reward-dropout"
        )
    boxes_to_hide(config)
    limit = spec.max_episode_steps
    if config.learns_reward and limit is not None and config.clip_length > limit:
        raise InputError(
            f"--clip-length is {config.clip_length} but episodes last {limit} steps: give a shorter one"
        )


def boxes_to_hide(config: TrainConfig) -> tuple[Box, ...]:
    """What `config.hide` names, in pixels of the screen."""
    if config.hide == "none":
        return ()
    return hidden_boxes(config.env) if config.hide == "score" else parse_boxes(config.hide)


def seen_by_networks(config: TrainConfig, spec: EnvSpec) -> tuple[int | ImageSpec, int]:
    """What networks are made for: the size of a vector or the look of a picture, and that of an action."""
    check_spec(config, spec)
    return spec.image or spec.observation_shape[0], spec.num_actions or spec.action_shape[0]


def make_reward(config: TrainConfig, spec: EnvSpec, key: PRNGKeyArray) -> LearnedReward:
    """A fresh reward, of the kind that the preference model explains answers by."""
    observation, action_size = seen_by_networks(config, spec)
    boxes = boxes_to_hide(config)
    visible = visible_mask(boxes, _SCREEN, *spec.observation_shape[:2]) if boxes else None
    networks: dict[str, Any] = {
        "hidden": config.reward_hidden,
        "num_members": config.ensemble,
        "discrete": spec.num_actions is not None,
        "layers": REWARD,
        "norm": config.reward_norm,
    }
    output: Any = config.reward_output
    if config.preference_model not in ("general", "mixture"):
        return RewardEnsemble(observation, action_size, **networks, output=output, visible=visible, key=key)
    shown = visible_pixels(observation, visible)
    if config.preference_model == "mixture":
        of_groups = make_networks(observation, action_size, **networks, width=config.groups, key=key)
        return GroupEnsemble(of_groups, output=output, visible=shown)
    networks_key, key = jax.random.split(key)
    vectors = make_networks(
        observation, action_size, **networks, width=2 * config.embedding, key=networks_key
    )
    return EmbeddingEnsemble(vectors, skew_product, output=output, visible=shown, key=key)
