"""From settings to follower and leader: one line for each method and each estimator."""

from typing import Any

import optax

from .._core import adam
from ..agents import SAC
from ..bilevel import (
    DRLHF,
    Baseline,
    Branch,
    ConstantBaseline,
    Estimator,
    FittedAdjoint,
    Leader,
    LinearBaseline,
    OneStep,
    SampledBCHG,
    SampledHPGD,
    SampledPARL,
    SampledPBRL,
    SampledUnrolled,
    SoBiRL,
    StocSoBiRL,
    Suffix,
)
from ..bilevel.sampled.features import ActionInteractions, Pairs, RandomFeatures
from .config import TrainConfig

# The penalty pushes the same way for thousands of steps, where a second term is mostly noise that averages
# out: as long as the first term it carries the reward away.
_SHARE_OF_PENALTY = 0.3


def reward_optimiser(config: TrainConfig) -> optax.GradientTransformation:
    """What turns a gradient into a step of the reward."""
    return adam(
        config.reward_learning_rate,
        weight_decay=config.reward_weight_decay,
        skip_not_finite=config.skip_not_finite,
    )


def make_sac(config: TrainConfig) -> SAC:
    """The follower of a run."""
    decay = config.decay_steps
    return SAC(
        hidden=config.hidden,
        discount=config.discount,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        temperature=config.temperature,
        target_entropy=config.target_entropy,
        target_every=config.target_every,
        adam_epsilon=config.adam_epsilon,
        skip_not_finite=config.skip_not_finite,
        decay_updates=None if decay is None else max(1, round(decay * config.updates_per_step)),
    )


def make_leader(config: TrainConfig, num_actions: int | None = None) -> Leader | None:
    """The leader that `config.method` names; None where the reward is given.

    Args:
        config: settings.
        num_actions: A, where actions are indices.
    """
    optimiser = reward_optimiser(config)
    mixture: dict[str, Any] = {"weight": config.second_term_weight, "bound": config.second_term_bound}
    along: dict[str, Any] = {"further": config.suffix_length, **mixture}
    # A regression per step would have a few tens of rows; all steps share one.
    fit: dict[str, Any] = {"features": ActionInteractions(num_actions), "shared": True}
    learned = LinearBaseline(shared=True)
    match config.method:
        case "sac":
            return None
        case "drlhf" | "pebble":
            return DRLHF(optimiser)
        case "sobirl":
            estimator, baseline = make_estimator(config, num_actions)
            return SoBiRL(optimiser, estimator, baseline, importance=config.clips == "weighted", **mixture)
        case "stoc-sobirl":
            estimator, baseline = make_estimator(config, num_actions)
            return StocSoBiRL(
                optimiser,
                estimator,
                baseline,
                momentum=config.momentum,
                importance=config.clips == "weighted",
                **mixture,
            )
        case "hpgd":
            return SampledHPGD(optimiser, learned, **fit, **along)
        case "bc-hg":
            return SampledBCHG(optimiser, features=Pairs(num_actions), **along)
        case "parl":
            return SampledPARL(optimiser, learned, damping=config.damping, **along)
        case "itd":
            return SampledUnrolled(optimiser, learned, steps=config.unrolled_steps, **along)
        case "pbrl":
            bound = config.second_term_bound
            return SampledPBRL(
                optimiser,
                learned,
                penalty=config.penalty,
                features=ActionInteractions(num_actions),
                clip=3.0,
                bound=None if bound is None else _SHARE_OF_PENALTY * bound,
            )
        case _:
            raise AssertionError(config.method)


def make_estimator(config: TrainConfig, num_actions: int | None = None) -> tuple[Estimator, Baseline]:
    """The estimator that `config.estimator` names, and the baseline that goes with it."""
    learned = LinearBaseline(shared=True)
    match config.estimator:
        case "one-step":
            return OneStep(), ConstantBaseline()
        case "suffix":
            features = ActionInteractions(num_actions)
            return Suffix(config.suffix_length, features=features, shared=True), learned
        case "branch":
            return Branch(config.branches, config.branch_length), learned
        case "adjoint":
            features = RandomFeatures(num_actions=num_actions)
            return FittedAdjoint(features, visits=config.adjoint_visits), learned
        case _:
            raise AssertionError(config.estimator)
