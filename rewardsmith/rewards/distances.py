"""How far apart two rewards are in what they ask of a policy, exact on tables.

Each distance is 0 for rewards that differ by potential shaping and a positive factor alone, symmetric, and
obeys the triangle inequality: a pseudometric. None needs an optimal policy.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .canonical import Reward, Transition, dard_canonical, epic_canonical, minimal, value_adjusted

Norm = Literal["l1", "l2", "max"]
_ORDERS = {"l1": 1, "l2": 2, "max": jnp.inf}


def starc_distance(
    first: Reward,
    second: Reward,
    transition: Transition,
    discount: float,
    *,
    canonical: Literal["value-adjusted", "minimal"] = "value-adjusted",
    norm: Norm = "l2",
    policy: Float[Array, "S A"] | None = None,
) -> Float[Array, ""]:
    """STARC: ‖c(r₁)/‖c(r₁)‖ − c(r₂)/‖c(r₂)‖‖, between 0 and 2.

    Sound: following a reward at distance d costs at most a constant times d of the range of returns under the
    other; and complete: rewards that are far apart can cost that much.

    Source: Skalse et al., "STARC: a general framework for quantifying differences between reward functions",
    ICLR 2024.

    Args:
        first, second: r₁ and r₂, (S, A) or (S, A, S).
        transition: P (S, A, S), terminal rows zero.
        discount: γ < 1.
        canonical: c: value-adjusted levelling, or the least norm among shaped rewards.
        norm: of tables (S, A).
        policy: π (S, A) of the levelling; None: uniform.

    Returns:
        The distance; 1 where one of the rewards alone is trivial (every policy is as good), 0 where both are.

    Examples:
        A reward, the same thrice as large and shaped by a potential, and its opposite:

        >>> import jax.numpy as jnp
        >>> from rewardsmith.rewards import shaped, starc_distance
        >>> P = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
        >>> r = jnp.array([[0.0, 0.0], [1.0, 0.0]])
        >>> other = 3.0 * shaped(r, P, 0.9, jnp.array([0.0, 2.0]))
        >>> bool(starc_distance(r, other, P, 0.9) < 1e-5)
        True
        >>> round(float(starc_distance(r, -r, P, 0.9)), 3)
        2.0
    """
    if policy is None:
        policy = jnp.full(transition.shape[:2], 1.0 / transition.shape[1])

    def standard(reward: Reward) -> Float[Array, "S A"]:
        if canonical == "minimal":
            form = minimal(reward, transition, discount)
        else:
            form = value_adjusted(reward, transition, discount, policy)
        form = _without_rounding(form, reward)
        size = _size(form, norm)
        return form / jnp.where(size == 0.0, 1.0, size)

    return _size(standard(first) - standard(second), norm)


def epic_distance(
    first: Reward,
    second: Reward,
    discount: float,
    *,
    states: Float[Array, " S"] | None = None,
    actions: Float[Array, " A"] | None = None,
    coverage: Float[Array, "S A S"] | None = None,
) -> Float[Array, ""]:
    """EPIC: the Pearson distance √((1 − ρ)/2) of the canonical rewards, between 0 and 1.

    Source: Gleave et al., "Quantifying differences in reward functions", ICLR 2021.

    Args:
        first, second: r₁ and r₂, (S, A) or (S, A, S).
        discount: γ.
        states, actions: what the canonical form draws from; None: uniform.
        coverage: probabilities of the transitions (s, a, t) on which rewards are compared; None: the product
            of states, actions and states.
    """
    num_states, num_actions = first.shape[:2]
    states = jnp.full(num_states, 1.0 / num_states) if states is None else states
    actions = jnp.full(num_actions, 1.0 / num_actions) if actions is None else actions
    if coverage is None:
        coverage = jnp.einsum("s,a,t->sat", states, actions, states)
    forms = [
        _without_rounding(epic_canonical(reward, discount, states, actions), reward)
        for reward in (first, second)
    ]
    return pearson_distance(forms[0], forms[1], coverage)


def dard_distance(
    first: Reward,
    second: Reward,
    transition: Transition,
    discount: float,
    *,
    actions: Float[Array, " A"] | None = None,
    coverage: Float[Array, "S A S"] | None = None,
) -> Float[Array, ""]:
    """DARD: as `epic_distance`, on transitions that the world can make alone.

    Source: Wulfe et al., "Dynamics-aware comparison of learned reward functions", ICLR 2022.

    Args:
        first, second: r₁ and r₂, (S, A) or (S, A, S).
        transition: P (S, A, S), with rows that sum to 1; a terminal state stays where it is and pays nothing.
        discount: γ.
        actions: what the canonical form draws from; None: uniform.
        coverage: probabilities of the transitions on which rewards are compared; None: each (s, a) alike,
            then P.
    """
    if actions is None:
        actions = jnp.full(transition.shape[1], 1.0 / transition.shape[1])
    if coverage is None:
        coverage = transition / jnp.sum(transition)
    forms = [
        _without_rounding(dard_canonical(reward, transition, discount, actions), reward)
        for reward in (first, second)
    ]
    return pearson_distance(forms[0], forms[1], coverage)


def pearson_distance(
    first: Float[Array, "*shape"], second: Float[Array, "*shape"], weights: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """√((1 − ρ)/2) of two arrays under probability weights; √½ if one alone does not vary, 0 if both.

    Args:
        first, second: of one shape.
        weights: of that shape too; probabilities, which sum to 1.
    """
    first_unit, first_still = _standard_score(first, weights)
    second_unit, second_still = _standard_score(second, weights)
    # ‖u − v‖²/4 is (1 − ρ)/2 for unit vectors, without the digits that 1 − ρ loses where ρ is nearly 1.
    apart = jnp.sum(weights * (first_unit - second_unit) ** 2) / 4.0
    apart = jnp.where(first_still | second_still, 0.5, apart)
    return jnp.sqrt(jnp.where(first_still & second_still, 0.0, apart))


def _standard_score(
    array: Float[Array, "*shape"], weights: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Bool[Array, ""]]:
    """The array with mean 0 and deviation 1, and whether it did not vary (then it is 0)."""
    centred = array - jnp.sum(weights * array)
    size = jnp.sqrt(jnp.sum(weights * centred**2))
    still = size <= _rounding(array) * jnp.max(jnp.abs(array))
    return jnp.where(still, 0.0, centred / jnp.where(still, 1.0, size)), still


def _size(array: Array, norm: Norm) -> Float[Array, ""]:
    return jnp.linalg.norm(array.ravel(), ord=_ORDERS[norm])


def _without_rounding(form: Array, reward: Reward) -> Array:
    """0 where a trivial reward left nothing but rounding, which must not be blown up."""
    trivial = jnp.max(jnp.abs(form)) <= _rounding(form) * jnp.max(jnp.abs(reward))
    return jnp.where(trivial, 0.0, form)


def _rounding(array: Array) -> float:
    return float(jnp.finfo(array.dtype).eps) * array.size
