"""Distances between rewards: what the papers prove of them, on random worlds."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

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


class Occupancies:
    """The polytope of discounted occupancies of a world, in which returns are linear."""

    def __init__(self, transition, start):
        moves = np.repeat(np.eye(S), A, axis=0) - DISCOUNT * transition.reshape(S * A, S)
        self.flow, self.start = moves.T, start
        # Of the uniform policy: within it lies a ball of its least entry.
        under = transition.mean(axis=1)
        visits = np.linalg.solve(np.eye(S) - DISCOUNT * under.T, start)
        self.radius = visits.min() / A
        self.diameter = np.sqrt(2.0) / (1.0 - DISCOUNT)

    def spread(self, reward):
        """The range of returns."""
        ends = [
            linprog(sign * reward.ravel(), A_eq=self.flow, b_eq=self.start).fun * sign for sign in (-1, 1)
        ]
        return ends[0] - ends[1]

    def worst(self, first, second):
        """The most of J₁ that a policy can lose against one that J₂ likes no better: a linear program."""
        one, two = first.ravel(), second.ravel()
        found = linprog(
            np.concatenate([-one, one]),
            A_ub=np.concatenate([two, -two])[None],
            b_ub=np.zeros(1),
            A_eq=np.kron(np.eye(2), self.flow),
            b_eq=np.tile(self.start, 2),
        )
        return -found.fun


@pytest.mark.parametrize("seed", range(6))
def test_starc_bounds_the_worst_regret_from_both_sides(seed):
    """(ρ/D) d ≤ worst regret / range of returns ≤ (D/2ρ) d, for the minimal form and its L2 norm.

    Sound and complete (Skalse et al.), with constants of our own: the minimal form is the projection onto
    the directions of the polytope of occupancies, of diameter D, which holds a ball of radius ρ. Worst is
    over all pairs of policies of which r₂ does not prefer the first.
    """
    rng = np.random.default_rng(seed)
    transition, start = np.asarray(world(rng)), rng.dirichlet(np.full(S, 5.0))
    polytope, first = Occupancies(transition, start), rng.normal(size=(S, A))
    # Near, somewhere, and opposite.
    for second in (first + 0.2 * rng.normal(size=(S, A)), rng.normal(size=(S, A)), -first):
        arrays = (jnp.asarray(array) for array in (first, second, transition))
        apart = float(starc_distance(*arrays, DISCOUNT, canonical="minimal"))
        regret = polytope.worst(first, second) / polytope.spread(first)
        assert polytope.radius / polytope.diameter * apart <= regret
        assert regret <= polytope.diameter / (2.0 * polytope.radius) * apart
    assert regret == pytest.approx(1.0), "what likes the worst best"
    same = 2.0 * np.asarray(
        shaped(*map(jnp.asarray, (first, transition)), DISCOUNT, jnp.asarray(rng.normal(size=S)))
    )
    assert polytope.worst(first, same) == pytest.approx(0.0, abs=1e-7)


def occupancies_by_time(policy, transition, start, steps):
    """Probabilities (S, A, S) of transitions at each time."""
    for _ in range(steps):
        now = start[:, None, None] * policy[:, :, None] * transition
        yield now
        start = now.sum(axis=(0, 1))


@pytest.mark.parametrize("seed", range(5))
def test_epic_bounds_regret(seed):
    """Gleave et al.: at most 16 K ‖r₁‖₂ · distance / (1 − γ), where K · coverage is no less than
    how often the best policies for either make a transition, at any time."""
    rng = np.random.default_rng(seed)
    transition, start = np.asarray(world(rng)), rng.dirichlet(np.ones(S))
    first = rng.normal(size=(S, A))
    second = first + 0.5 * rng.normal(size=(S, A))
    coverage = np.full((S, A, S), 1.0 / (S * A * S))
    visits = [optimal_occupancy(reward, transition, start) for reward in (first, second)]
    policies = [visit / np.maximum(visit.sum(axis=1, keepdims=True), 1e-300) for visit in visits]
    most = max(
        np.max(now / coverage)
        for policy in policies
        for now in occupancies_by_time(policy, transition, start, 50)
    )
    regret = np.sum((visits[0] - visits[1]) * first)
    size = np.sqrt(np.mean(first**2))
    apart = float(epic_distance(jnp.asarray(first), jnp.asarray(second), DISCOUNT))
    assert -1e-9 <= regret <= 16.0 * most * size / (1.0 - DISCOUNT) * apart


def test_dard_does_not_look_where_the_world_cannot_go():
    """Wulfe et al.: transitions that are neither made nor one act away from what is made do not count."""
    rng = np.random.default_rng(8)
    # A ring: from s to s or s + 1.
    step = rng.dirichlet(np.ones(2), (S, A))
    transition = np.zeros((S, A, S))
    for s in range(S):
        transition[s, :, [s, (s + 1) % S]] = step[s].T
    first, second = rng.normal(size=(2, S, A, S))
    # Successors of s, and of its successors: s … s + 2 from any of them.
    near = {(s, (s + k) % S) for s in range(S) for k in range(3)} | {(s, (s - 1) % S) for s in range(S)}
    impossible = np.asarray([[(s, t) not in near for t in range(S)] for s in range(S)])
    assert impossible.any()
    other = second + 10.0 * rng.normal(size=(S, A, S)) * impossible[:, None, :]
    arrays = [jnp.asarray(array) for array in (first, second, other)]
    apart = partial(dard_distance, transition=jnp.asarray(transition), discount=DISCOUNT)
    assert apart(arrays[1], arrays[2]) == pytest.approx(0.0, abs=1e-6)
    assert apart(arrays[0], arrays[1]) == pytest.approx(float(apart(arrays[0], arrays[2])))
    assert epic_distance(arrays[1], arrays[2], DISCOUNT) > 0.3


@pytest.mark.parametrize("coverage", ["product", "world"])
def test_pearson_distances_take_the_coverage_they_are_given(coverage):
    """Where the coverage has no weight, canonical rewards may differ at will."""
    rng = np.random.default_rng(9)
    transition, first = world(rng), jnp.asarray(rng.normal(size=(S, A, S)))
    second = jnp.asarray(rng.normal(size=(S, A, S)))
    weights = np.asarray(transition) if coverage == "world" else rng.random((S, A, S))
    weights = jnp.asarray(weights / weights.sum())
    uniform = jnp.full(S, 1 / S), jnp.full(A, 1 / A)
    forms = [epic_canonical(reward, DISCOUNT, *uniform) for reward in (first, second)]
    found = epic_distance(first, second, DISCOUNT, coverage=weights)
    assert found == pytest.approx(float(pearson_distance(*forms, weights)))
    forms = [dard_canonical(reward, transition, DISCOUNT, uniform[1]) for reward in (first, second)]
    found = dard_distance(first, second, transition, DISCOUNT, coverage=weights)
    assert found == pytest.approx(float(pearson_distance(*forms, weights)))
