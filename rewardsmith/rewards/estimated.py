"""Distances between rewards where the world can only be sampled: Monte-Carlo, each with a 95 % interval.

What is compared are canonical rewards c₁, c₂ at transitions of a coverage distribution, by ρ, the cosine
(STARC) or correlation (EPIC, DARD) of the two under it. c is an expectation, of which samples are to be had,
and noise would count as size: E ĉ² = c² + Var ĉ, so that ρ came out nearer to 0 than it is. Noise of c₁ and
c₂ from the same draws is not independent either. Therefore all products are of different samples,
Σ_{j≠k} ĉ₁ⱼ ĉ₂ₖ / K(K − 1): U-statistics, without bias whatever the noise.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from .._core import InputError
from ._resampled import RESAMPLES, Samples, estimate
from ._resampled import DistanceEstimate as DistanceEstimate

Batch = Shaped[np.ndarray, "_ ..."]
TransitionReward = Callable[[Batch, Batch, Batch], Float[np.ndarray, " N"]]
"""r(observations, actions, next observations), n at once -> (n,)."""
Successor = Callable[[Batch, Batch, np.random.Generator], Batch]
"""successor(observations, actions, rng) -> what the world makes of each, one draw."""


class Transitions(NamedTuple):
    """N transitions (o, a, o′) of a coverage distribution, arrays with leading axis N.

    Attributes:
        observation: o, (N, ...).
        action: a, (N, ...).
        next_observation: o′, (N, ...).
    """

    observation: Batch
    action: Batch
    next_observation: Batch


def starc_estimate(
    first: Samples,
    second: Samples,
    *,
    weights: Float[np.ndarray, " N"] | None = None,
    groups: Int[np.ndarray, " N"] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> DistanceEstimate:
    """STARC, value-adjusted, in the L2 norm of the coverage distribution: √(2 − 2ρ), between 0 and 2.

        ρ = ⟨c₁, c₂⟩ / √(⟨c₁, c₁⟩⟨c₂, c₂⟩),   ⟨f, g⟩ = Σ_i w_i f_i g_i,   c(r) = A^π_r

    Source: Skalse et al., "STARC", ICLR 2024.

    Args:
        first, second: (N, K): at each of N state-actions K independent samples of r's advantage
            A^π(s, a) = Q^π(s, a) − V^π(s), discounted, of the same π for both. The two rewards may be
            evaluated on the same roll-outs; the K samples may not share any.
        weights: w (N,), not negative; None: all alike, for state-actions drawn from the coverage.
        groups: (N,) state-actions of the same number are not independent of each other (one episode): they
            are resampled together. None: each its own.
        seed: of the resampling.
        resamples: of the bootstrap.

    Raises:
        InputError: fewer than two samples or groups, or numbers that do not fit.
    """
    return estimate(
        first,
        second,
        weights=weights,
        groups=groups,
        seed=seed,
        resamples=resamples,
        centred=False,
        unit=1.0,
        alone=1.0,
        least=2,
    )


def epic_estimate(
    first: TransitionReward,
    second: TransitionReward,
    coverage: Transitions,
    discount: float,
    *,
    states: Batch,
    actions: Batch,
    draws: int = 8,
    groups: Int[np.ndarray, " N"] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> DistanceEstimate:
    """EPIC: √((1 − ρ)/2) of the canonical rewards, between 0 and 1.

    Each of the K draws of (A, S′) gives one sample r(s,a,t) + γ r(t,A,S′) − r(s,A,S′) of the canonical form,
    up to a number that all transitions share, which a correlation does not see.

    Source: Gleave et al., "Quantifying differences in reward functions", ICLR 2021.

    Args:
        first, second: r₁ and r₂ as functions of batches.
        coverage: transitions on which rewards are compared.
        discount: γ.
        states, actions: (M, ...) and (M′, ...): what S′ and A are drawn from, with replacement; these pools
            are the distributions that the distance is about.
        draws: K, for each transition.
        groups: see `starc_estimate`.
        seed: of the draws and the resampling.
        resamples: of the bootstrap.

    Raises:
        InputError: fewer than two draws or groups, or arrays that do not fit.
    """
    rng = np.random.default_rng((seed, 0))
    here, _, there = coverage

    def sample(reward: TransitionReward, action: Batch, state: Batch) -> np.ndarray:
        return discount * _paid(reward, there, action, state) - _paid(reward, here, action, state)

    def draw(count: int) -> tuple[Batch, ...]:
        return _drawn(actions, count, rng), _drawn(states, count, rng)

    return _canonical((first, second), coverage, draws, draw, sample, groups, seed, resamples)


def dard_estimate(
    first: TransitionReward,
    second: TransitionReward,
    coverage: Transitions,
    discount: float,
    *,
    successor: Successor,
    actions: Batch,
    draws: int = 8,
    groups: Int[np.ndarray, " N"] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> DistanceEstimate:
    """DARD: as `epic_estimate`, with successors that the world makes.

    Each of the K draws of A, T′ after (s, A) and T″ after (t, A) gives one sample
    r(s,a,t) + γ r(t,A,T″) − r(s,A,T′) − γ r(T′,A,T″) of the canonical form.

    Source: Wulfe et al., "Dynamics-aware comparison of learned reward functions", ICLR 2022.

    Args:
        successor: draws what the world makes of observations and actions; where episodes end, the
            observation stays and rewards there are 0.
        actions: (M, ...) what A is drawn from, with replacement.

    The other arguments, and errors, are those of `epic_estimate`.
    """
    rng = np.random.default_rng((seed, 0))
    here, _, there = coverage

    def draw(count: int) -> tuple[Batch, ...]:
        action = _drawn(actions, count, rng)
        return action, np.asarray(successor(here, action, rng)), np.asarray(successor(there, action, rng))

    def sample(reward: TransitionReward, action: Batch, near: Batch, far: Batch) -> np.ndarray:
        onward = _paid(reward, there, action, far) - _paid(reward, near, action, far)
        return discount * onward - _paid(reward, here, action, near)

    return _canonical((first, second), coverage, draws, draw, sample, groups, seed, resamples)


def return_distance(
    first: Float[np.ndarray, " E"],
    second: Float[np.ndarray, " E"],
    *,
    groups: Int[np.ndarray, " E"] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> DistanceEstimate:
    """√((1 − ρ)/2) of the returns of E episodes under two rewards, between 0 and 1.

    All that is left where the world cannot be restored to a state. It takes no notice of shaping only as far
    as episodes start alike, and says nothing of steps: rewards that pay at other times are at distance 0.

    Source: the ERC baseline of Gleave et al., ICLR 2021.

    Args:
        first, second: (E,) discounted returns of the same episodes.
        groups: see `starc_estimate`.
        seed: of the resampling.
        resamples: of the bootstrap.

    Raises:
        InputError: fewer than two episodes or groups, or numbers that do not fit.
    """
    return _pearson((first[:, None], second[:, None]), groups, seed, resamples)


# ---- samples of canonical forms -----------------------------------------------------------------


def _canonical(
    rewards: tuple[TransitionReward, TransitionReward],
    coverage: Transitions,
    draws: int,
    draw: Callable[[int], tuple[Batch, ...]],
    sample: Callable[..., np.ndarray],
    groups: np.ndarray | None,
    seed: int,
    resamples: int,
) -> DistanceEstimate:
    """From K samples of each reward's canonical form at each transition, both from the same draws."""
    if draws < 2:
        raise InputError(f"draws is {draws}: give at least 2, so that noise can be told from size")
    count = len(coverage.action)
    if len(coverage.observation) != count or len(coverage.next_observation) != count:
        raise InputError(
            f"coverage has {len(coverage.observation)} observations, {count} actions and "
            f"{len(coverage.next_observation)} next observations: give as many of each"
        )
    plain = [_paid(reward, *coverage) for reward in rewards]
    found = [np.empty((count, draws)) for _ in rewards]
    for k in range(draws):
        drawn = draw(count)
        for reward, own, samples in zip(rewards, plain, found, strict=True):
            samples[:, k] = own + sample(reward, *drawn)
    scales = tuple(float(np.max(np.abs(own))) for own in plain)
    return _pearson((found[0], found[1]), groups, seed, resamples, (scales[0], scales[1]))


def _paid(reward: TransitionReward, here: Batch, action: Batch, there: Batch) -> Float[np.ndarray, " N"]:
    paid = np.asarray(reward(here, action, there), np.float64)
    if paid.shape != (len(action),):
        raise InputError(
            f"a reward gave an array of shape {paid.shape} for {len(action)} transitions: return "
            f"({len(action)},)"
        )
    return paid


def _drawn(pool: Batch, count: int, rng: np.random.Generator) -> Batch:
    if len(pool) == 0:
        raise InputError("there are no states or actions to draw from: give at least 1 of each")
    return pool[rng.integers(len(pool), size=count)]


def _pearson(
    samples: tuple[Samples, Samples],
    groups: np.ndarray | None,
    seed: int,
    resamples: int,
    scales: tuple[float, float] = (0.0, 0.0),
) -> DistanceEstimate:
    return estimate(
        *samples,
        weights=None,
        groups=groups,
        seed=seed,
        resamples=resamples,
        centred=True,
        unit=0.5,
        alone=float(np.sqrt(0.5)),
        least=1,
        scales=scales,
    )
