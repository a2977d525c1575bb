"""Distances between rewards: what the papers prove of them, on random worlds."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith.rewards import (
    dard_canonical,
    dard_distance,
    epic_canonical,
    epic_distance,
    expected_reward,
    minimal,
    pearson_distance,
    shaped,
    starc_distance,
    value_adjusted,
)

pytestmark = pytest.mark.usefixtures("double_precision")

S, A, DISCOUNT = 5, 3, 0.9
DISTANCES = {
    "starc, value-adjusted, l2": {"norm": "l2"},
    "starc, value-adjusted, l1": {"norm": "l1"},
    "starc, value-adjusted, max": {"norm": "max"},
    "starc, minimal, l2": {"canonical": "minimal"},
    "starc, minimal, max": {"canonical": "minimal", "norm": "max"},
    "epic": None,
    "dard": None,
}


def world(rng, *, terminal=False):
    transition = rng.dirichlet(np.full(S, 0.5), (S, A))
    if terminal:
        transition[-1] = 0.0
    return jnp.asarray(transition)


def distance(name, transition):
    if name == "epic":
        return partial(epic_distance, discount=DISCOUNT)
    if name == "dard":
        return partial(dard_distance, transition=transition, discount=DISCOUNT)
    return partial(starc_distance, transition=transition, discount=DISCOUNT, **DISTANCES[name])


def shaped_everywhere(rng, reward):
    """The reward (S, A, S) with a potential, which each distance is blind to."""
    potential = rng.normal(size=S) * 3.0
    return reward + DISCOUNT * potential[None, None, :] - potential[:, None, None]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", DISTANCES)
def test_it_is_blind_to_shaping_and_to_a_positive_factor(name, seed):
    rng = np.random.default_rng(seed)
    apart = distance(name, world(rng))
    first, second = (jnp.asarray(rng.normal(size=(S, A, S))) for _ in range(2))
    same = 4.0 * shaped_everywhere(rng, first)
    assert apart(first, same) == pytest.approx(0.0, abs=1e-6)
    assert apart(first, second) > 0.1
    assert apart(same, second) == pytest.approx(float(apart(first, second)), rel=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_it_is_a_pseudometric(name):
    rng = np.random.default_rng(7)
    apart = distance(name, world(rng))
    for _ in range(20):
        a, b, c = (jnp.asarray(rng.normal(size=(S, A, S))) for _ in range(3))
        assert apart(a, b) == pytest.approx(float(apart(b, a)))
        assert 0.0 <= apart(a, b) <= apart(a, c) + apart(c, b) + 1e-12


@pytest.mark.parametrize("name", DISTANCES)
def test_the_opposite_is_as_far_as_can_be_and_nothing_is_in_between(name):
    rng = np.random.default_rng(3)
    apart, reward = distance(name, world(rng)), jnp.asarray(rng.normal(size=(S, A, S)))
    most = 2.0 if name.startswith("starc") else 1.0
    assert apart(reward, -reward) == pytest.approx(most)
    # What is only shaped from nothing is nothing.
    trivial = jnp.asarray(shaped_everywhere(rng, np.zeros((S, A, S))))
    assert apart(reward, trivial) == pytest.approx(1.0 if most == 2.0 else np.sqrt(0.5))
    assert apart(trivial, jnp.zeros((S, A, S))) == 0.0


@pytest.mark.parametrize("canonical", ["value-adjusted", "minimal"])
def test_starc_is_blind_to_which_successor_is_paid(canonical):
    rng = np.random.default_rng(5)
    transition = world(rng)
    first, second, other = (jnp.asarray(rng.normal(size=(S, A, S))) for _ in range(3))
    # The same in the mean over successors.
    moved = other - expected_reward(other, transition)[:, :, None]
    apart = partial(starc_distance, transition=transition, discount=DISCOUNT, canonical=canonical)
    assert apart(first, first + moved) == pytest.approx(0.0, abs=1e-6)
    table = expected_reward(first, transition)
    assert apart(table, second) == pytest.approx(float(apart(first, second)))
    # EPIC does not know the world, and sees a difference.
    assert epic_distance(first, first + moved, DISCOUNT) > 0.1


def test_value_adjusted_levelling_is_the_advantage_of_the_policy():
    rng = np.random.default_rng(1)
    transition, reward = world(rng, terminal=True), jnp.asarray(rng.normal(size=(S, A)))
    policy = jnp.asarray(rng.dirichlet(np.ones(A), S))
    advantage = value_adjusted(reward, transition, DISCOUNT, policy)
    np.testing.assert_allclose(jnp.sum(policy * advantage, axis=1), 0.0, atol=1e-12)
    potential = jnp.asarray(rng.normal(size=S))
    again = value_adjusted(shaped(reward, transition, DISCOUNT, potential), transition, DISCOUNT, policy)
    np.testing.assert_allclose(again, advantage, atol=1e-12)


def test_the_minimal_form_is_the_least_of_its_orbit():
    rng = np.random.default_rng(2)
    transition, reward = world(rng, terminal=True), jnp.asarray(rng.normal(size=(S, A)))
    least = minimal(reward, transition, DISCOUNT)
    for scale in (1e-3, 1e-1, 1.0):
        moved = shaped(least, transition, DISCOUNT, jnp.asarray(rng.normal(size=S) * scale))
        assert jnp.linalg.norm(moved) > jnp.linalg.norm(least)
    np.testing.assert_allclose(minimal(moved, transition, DISCOUNT), least, atol=1e-10)


def test_epic_and_dard_are_what_sampling_gives():
    """The definitions by drawing S, A, T many times, for one transition."""
    rng = np.random.default_rng(4)
    transition, reward = np.asarray(world(rng)), rng.normal(size=(S, A, S))
    states, actions = rng.dirichlet(np.ones(S)), rng.dirichlet(np.ones(A))
    count, (s, a, t) = 400_000, (1, 2, 3)
    acts = rng.choice(A, count, p=actions)

    def after(state):
        """One successor of each (state, act)."""
        rows = np.cumsum(transition[state, acts], axis=-1)
        return np.minimum((rng.random(count)[:, None] > rows).sum(axis=-1), S - 1)

    drawn, then = (rng.choice(S, count, p=states) for _ in range(2))
    epic = DISCOUNT * reward[t, acts, then] - reward[s, acts, then] - DISCOUNT * reward[drawn, acts, then]
    near, far = after(s), after(t)
    dard = DISCOUNT * reward[t, acts, far] - reward[s, acts, near] - DISCOUNT * reward[near, acts, far]
    forms = (
        epic_canonical(jnp.asarray(reward), DISCOUNT, jnp.asarray(states), jnp.asarray(actions)),
        dard_canonical(jnp.asarray(reward), jnp.asarray(transition), DISCOUNT, jnp.asarray(actions)),
    )
    for form, sampled in zip(forms, (epic, dard), strict=True):
        error = 5.0 * sampled.std() / np.sqrt(count)
        assert form[s, a, t] == pytest.approx(reward[s, a, t] + sampled.mean(), abs=error)


def test_the_pearson_distance_is_that_of_correlations():
    rng = np.random.default_rng(6)
    first, second = rng.normal(size=(2, 40))
    rho = np.corrcoef(first, second)[0, 1]
    found = pearson_distance(jnp.asarray(first), jnp.asarray(second), jnp.full(40, 1 / 40))
    assert found == pytest.approx(np.sqrt((1 - rho) / 2))


def optimal_occupancy(reward, transition, start):
    """Discounted occupancy (S, A) of the best deterministic policy, by value iteration."""
    values = np.zeros(S)
    for _ in range(2000):
        values = np.max(reward + DISCOUNT * transition @ values, axis=1)
    policy = np.eye(A)[np.argmax(reward + DISCOUNT * transition @ values, axis=1)]
    under = np.einsum("sa,sat->st", policy, transition)
    return policy * np.linalg.solve(np.eye(S) - DISCOUNT * under.T, start)[:, None]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("canonical", ["value-adjusted", "minimal"])
def test_starc_bounds_regret(canonical, seed):
    """The best policy for r₂ loses under r₁ at most 2/(1−γ) · ‖c(r₁)‖ · distance, by largest entries."""
    rng = np.random.default_rng(seed)
    transition, start = np.asarray(world(rng)), rng.dirichlet(np.ones(S))
    first = rng.normal(size=(S, A))
    second = first + 0.5 * rng.normal(size=(S, A))
    best, followed = (optimal_occupancy(reward, transition, start) for reward in (first, second))
    regret = np.sum((best - followed) * first)
    arrays = jnp.asarray(first), jnp.asarray(transition), DISCOUNT
    uniform = jnp.full((S, A), 1 / A)
    form = minimal(*arrays) if canonical == "minimal" else value_adjusted(*arrays, uniform)
    apart = starc_distance(
        arrays[0], jnp.asarray(second), arrays[1], DISCOUNT, canonical=canonical, norm="max"
    )
    assert -1e-9 <= regret <= 2.0 / (1.0 - DISCOUNT) * float(jnp.max(jnp.abs(form))) * float(apart)
