"""From settings to the parts of an experiment that never change: problem, teacher, reward."""

from jaxtyping import Array, PRNGKeyArray

from .._core import REWARD, ImageSpec, InputError
from ..envs import EnvSpec, VectorEnv, make
from ..envs.hide import Box, hidden_boxes, parse_boxes, visible_mask
from ..preferences import BradleyTerryTeacher, Oracle, Teacher
from ..problem import BilevelProblem, PreferenceLoss, SimulatedWorld
from ..rewards import RewardEnsemble
from .config import TrainConfig

# Height and width of Atari's screen, in which boxes are given.
_SCREEN = (210, 160)


def _reward(x: RewardEnsemble, observation: Array, action: Array) -> Array:
    return x(observation, action)


def _members(x: RewardEnsemble, observation: Array, action: Array) -> Array:
    return x.members(observation, action)


def make_problem(config: TrainConfig, spec: EnvSpec) -> BilevelProblem[SimulatedWorld]:
    """The bilevel problem of a run: its simulator, the ensemble's reward, the preference loss on clips."""
    return BilevelProblem(
        world=SimulatedWorld(config.env, config.discount, spec.max_episode_steps),
        reward=_reward,
        upper_loss=PreferenceLoss(horizon=config.clip_length, members=_members),
        temperature="auto" if config.temperature is None else config.temperature,
    )


def make_teacher(config: TrainConfig) -> Teacher:
    """The synthetic teacher that `config.teacher` names."""
    return Oracle() if config.teacher == "oracle" else BradleyTerryTeacher(config.teacher_temperature)


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


def make_reward(config: TrainConfig, spec: EnvSpec, key: PRNGKeyArray) -> RewardEnsemble:
    """A fresh reward."""
    observation, action_size = seen_by_networks(config, spec)
    boxes = boxes_to_hide(config)
    return RewardEnsemble(
        observation,
        action_size,
        config.reward_hidden,
        config.ensemble,
        discrete=spec.num_actions is not None,
        output=config.reward_output,  # pyright: ignore[reportArgumentType]
        layers=REWARD,
        norm=config.reward_norm,  # pyright: ignore[reportArgumentType]
        visible=visible_mask(boxes, _SCREEN, *spec.observation_shape[:2]) if boxes else None,
        key=key,
    )
