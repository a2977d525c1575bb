"""From settings to a leader: one line for each method and each estimator."""

import optax

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
from ..bilevel.sampled.features import ActionInteractions, RandomFeatures
from .config import TrainConfig

# The penalty pushes the same way for thousands of steps, where a second term is mostly noise that averages
# out: as long as the first term it carries the reward away.
_SHARE_OF_PENALTY = 0.3


def make_leader(config: TrainConfig) -> Leader | None:
    """The leader that `config.method` names; None where the reward is given."""
    optimiser = optax.adam(config.reward_learning_rate)
    mixture = {"weight": config.second_term_weight, "bound": config.second_term_bound}
    along = {"further": config.suffix_length, **mixture}
    # A regression per step would have a few tens of rows; all steps share one.
    fit = {"features": ActionInteractions(), "shared": True}
    learned = LinearBaseline(shared=True)
    match config.method:
        case "sac":
            return None
        case "drlhf":
            return DRLHF(optimiser)
        case "sobirl":
            estimator, baseline = make_estimator(config)
            return SoBiRL(optimiser, estimator, baseline, importance=config.clips == "weighted", **mixture)
        case "stoc-sobirl":
            estimator, baseline = make_estimator(config)
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
            return SampledBCHG(optimiser, **along)
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
                features=ActionInteractions(),
                clip=3.0,
                bound=None if bound is None else _SHARE_OF_PENALTY * bound,
            )
        case _:
            raise AssertionError(config.method)


def make_estimator(config: TrainConfig) -> tuple[Estimator, Baseline]:
    """The estimator that `config.estimator` names, and the baseline that goes with it."""
    learned = LinearBaseline(shared=True)
    match config.estimator:
        case "one-step":
            return OneStep(), ConstantBaseline()
        case "suffix":
            return Suffix(config.suffix_length, features=ActionInteractions(), shared=True), learned
        case "branch":
            return Branch(config.branches, config.branch_length), learned
        case "adjoint":
            return FittedAdjoint(RandomFeatures(), visits=config.adjoint_visits), learned
        case _:
            raise AssertionError(config.estimator)
