"""From settings to the parts of an experiment that never change: problem, teacher, reward."""

from typing import Any

import jax
from jaxtyping import Array, PRNGKeyArray

from .._core import REWARD, ImageSpec, InputError
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
    options = config.env_options(judged=judged)
    return make(config.env, num_envs, config.backend, options=options)  # pyright: ignore[reportArgumentType]


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
