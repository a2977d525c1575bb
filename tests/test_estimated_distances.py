"""Distances by Monte-Carlo against the exact ones on tables: value, interval, and what noise does to them."""

import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith._core import InputError
from rewardsmith.rewards import (
    Transitions,
    dard_distance,
    dard_estimate,
    epic_distance,
    epic_estimate,
    return_distance,
    starc_distance,
    starc_estimate,
)

pytestmark = pytest.mark.usefixtures("double_precision")

S, A, DISCOUNT, HORIZON = 6, 3, 0.5, 24
REPLICATES = 200


def drawn(rows, rng):
    """One index of each row of probabilities."""
    return np.minimum((rng.random(len(rows))[:, None] > np.cumsum(rows, axis=-1)).sum(axis=-1), S - 1)


class World:
    """A random table, its exact distances by uniform coverage, and samples as a simulator would give them."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.transition = rng.dirichlet(np.full(S, 0.1), (S, A))
        self.first = rng.normal(size=(S, A, S))
        self.second = self.first + 0.8 * rng.normal(size=(S, A, S))

    def exact(self, first, second):
        arrays = (jnp.asarray(array) for array in (first, second, self.transition))
        return float(starc_distance(*arrays, DISCOUNT))

    def advantages(self, rewards, count, repeats, seed):
        """(n, K) samples of the uniform policy's advantage of each reward, at even state-actions."""
        rng = np.random.default_rng(seed)
        state, action = rng.integers(S, size=count), rng.integers(A, size=count)
        state, action = np.repeat(state, repeats), np.repeat(action, repeats)
        values = np.zeros((len(rewards), 2, count * repeats))
        for side, first in ((0, action), (1, rng.integers(A, size=len(action)))):
            here, act = state, first
            for step in range(HORIZON):
                there = drawn(self.transition[here, act], rng)
                for value, reward in zip(values, rewards, strict=True):
                    value[side] += DISCOUNT**step * reward[here, act, there]
                here, act = there, rng.integers(A, size=len(there))
        return [(value[0] - value[1]).reshape(count, repeats) for value in values]

    def transitions(self, count, rng):
        """Even states and actions, and what the world makes of them."""
        state, action = rng.integers(S, size=count), rng.integers(A, size=count)
        return Transitions(state, action, drawn(self.transition[state, action], rng))

    def successor(self, state, action, rng):
        return drawn(self.transition[state, action], rng)


WORLD = World()


def looked_up(table):
    return lambda state, action, there: table[state, action, there]


@pytest.fixture(scope="module")
def replicates():
    """Advantages of both rewards at 150 state-actions, six samples each, many times over."""
    count = 150
    samples = WORLD.advantages((WORLD.first, WORLD.second), REPLICATES * count, 6, seed=1)
    return [array.reshape(REPLICATES, count, -1) for array in samples]


def test_the_interval_holds_the_exact_starc_distance_as_often_as_it_says(replicates):
    exact = WORLD.exact(WORLD.first, WORLD.second)
    found = [starc_estimate(*pair, resamples=400) for pair in zip(*replicates, strict=True)]
    assert 0.90 <= np.mean([one.low <= exact <= one.high for one in found]) <= 0.99
    values = np.asarray([one.value for one in found])
    assert np.mean(values) == pytest.approx(exact, abs=0.03)
    assert np.mean([any(one.trivial) for one in found]) < 0.15


def test_noise_would_be_taken_for_a_difference(replicates):
    """Cosines of mean samples are off by more than all chance; the interval then misses the distance."""
    exact = WORLD.exact(WORLD.first, WORLD.second)
    first, second = (array.reshape(-1, 6) for array in replicates)
    # Noise of its own in each, as from roll-outs of its own.
    first, second = first[:, :3], second[:, 3:]
    found = starc_estimate(first, second, resamples=400)
    assert found.value == pytest.approx(exact, abs=0.1) and found.low < exact < found.high
    assert cosine_distance(first.mean(axis=1), second.mean(axis=1)) > found.high + 0.2
    # And noise that both share, for agreement.
    rng = np.random.default_rng(2)
    signal, noise = rng.normal(size=(2, 4000, 1)), 2.0 * rng.normal(size=(4000, 4))
    shared = signal + noise
    found = starc_estimate(*shared)
    assert found.low < np.sqrt(2.0) < found.high
    assert cosine_distance(*shared.mean(axis=2)) < found.low - 0.2


def cosine_distance(first, second):
    return np.sqrt(2.0 - 2.0 * first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_more_of_both_comes_nearer():
    exact = WORLD.exact(WORLD.first, WORLD.second)
    found = starc_estimate(*WORLD.advantages((WORLD.first, WORLD.second), 10_000, 8, seed=2))
    assert found.value == pytest.approx(exact, abs=0.03) and found.high - found.low < 0.06
    assert found.low < found.value < found.high and found.num_samples == found.num_groups == 10_000
    assert min(found.noise) > 0.3


def test_shaped_scaled_and_opposite_rewards():
    rng = np.random.default_rng(3)
    potential = rng.normal(size=S) * 2.0
    same = 3.0 * (WORLD.first + DISCOUNT * potential[None, None, :] - potential[:, None, None])
    # In the mean over successors only: equal advantages, other noise.
    table = np.einsum("sat,sat->sa", WORLD.transition, same)
    moved = np.broadcast_to(table[:, :, None], (S, A, S))
    first, shaped_copy, redistributed = WORLD.advantages((WORLD.first, same, moved), 2000, 8, seed=4)
    assert starc_estimate(first, shaped_copy).high < 1e-4, "what is cut off is γ^T"
    # Evaluated on the same roll-outs, cut into halves: noise of their own, and still the same direction.
    halves = starc_estimate(first[:, :4], redistributed[:, 4:])
    assert halves.low < 0.1 and halves.value < 0.3
    opposite = starc_estimate(first, -2.0 * first)
    assert opposite.value == opposite.low == opposite.high == 2.0


def test_weights_are_the_coverage():
    """Half the state-actions with three times the weight is drawing them three times as often."""
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(2, 400, 3)) + rng.normal(size=(2, 400, 1))
    weights = np.where(np.arange(400) < 200, 3.0, 1.0)
    rows = np.repeat(np.arange(400), weights.astype(int))
    weighted = starc_estimate(first, second, weights=weights)
    drawn_often = starc_estimate(first[rows], second[rows], groups=rows)
    assert weighted.value == pytest.approx(drawn_often.value)
    assert weighted.low == pytest.approx(drawn_often.low)
    # No weight, no evidence.
    half = np.where(np.arange(400) < 200, 2.0, 0.0)
    without = starc_estimate(first, second, weights=half)
    assert without == starc_estimate(first[:200], second[:200]) and without.num_samples == 200


def test_state_actions_of_one_episode_are_resampled_together():
    rng = np.random.default_rng(6)
    episodes, each = 40, 10
    common = rng.normal(size=(2, episodes)).repeat(each, axis=1)
    signal = common + 0.3 * rng.normal(size=(2, episodes * each))
    first, second = signal[:, :, None] + 0.5 * rng.normal(size=(2, episodes * each, 4))
    groups = np.arange(episodes).repeat(each)
    grouped, alone = starc_estimate(first, second, groups=groups), starc_estimate(first, second)
    assert grouped.value == alone.value and (grouped.num_groups, alone.num_groups) == (40, 400)
    assert grouped.high - grouped.low > 1.8 * (alone.high - alone.low)


def test_a_reward_without_size_has_no_direction():
    rng = np.random.default_rng(7)
    first, nothing, noise = rng.normal(size=(80, 1)) + np.zeros((80, 4)), np.zeros((80, 4)), None
    found = starc_estimate(first, nothing)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0) and found.trivial == (False, True)
    both = starc_estimate(nothing, nothing)
    assert (both.value, both.low, both.high) == (0.0, 0.0, 0.0) and both.trivial == (True, True)
    # Noise alone could be any reward: nothing is known, and it never passes for agreement.
    noise = rng.normal(size=(80, 4))
    for other, trivial in ((first, (True, False)), (noise, (True, True))):
        lost = starc_estimate(noise, other)
        assert (lost.value, lost.low, lost.high) == (1.0, 0.0, 2.0) and lost.trivial == trivial
        assert lost.noise[0] > 0.7


EPIC, DARD = "epic", "dard"


def by_pools(kind, first, second, rng, count, draws, seed=0):
    """An estimate by either distance; EPIC's coverage is the product of even states, actions and states."""
    actions = np.arange(A)
    rewards = looked_up(first), looked_up(second)
    if kind == DARD:
        coverage, more = WORLD.transitions(count, rng), {"successor": WORLD.successor}
        return dard_estimate(
            *rewards, coverage, DISCOUNT, actions=actions, draws=draws, seed=seed, resamples=400, **more
        )
    coverage = Transitions(*(rng.integers(size, size=count) for size in (S, A, S)))
    return epic_estimate(
        *rewards,
        coverage,
        DISCOUNT,
        states=np.arange(S),
        actions=actions,
        draws=draws,
        seed=seed,
        resamples=400,
    )


def exactly(kind, first, second):
    first, second, transition = (jnp.asarray(array) for array in (first, second, WORLD.transition))
    if kind == DARD:
        return float(dard_distance(first, second, transition, DISCOUNT))
    return float(epic_distance(first, second, DISCOUNT))


@pytest.mark.parametrize("kind", [EPIC, DARD])
def test_the_interval_holds_the_exact_pearson_distance_as_often_as_it_says(kind):
    rng = np.random.default_rng(8)
    exact = exactly(kind, WORLD.first, WORLD.second)
    found = [by_pools(kind, WORLD.first, WORLD.second, rng, 100, 3, seed) for seed in range(REPLICATES)]
    assert 0.90 <= np.mean([one.low <= exact <= one.high for one in found]) <= 0.99
    assert np.mean([one.value for one in found]) == pytest.approx(exact, abs=0.01)
    assert min(min(one.noise) for one in found) > 0.05
    many = by_pools(kind, WORLD.first, WORLD.second, rng, 20_000, 4)
    assert many.value == pytest.approx(exact, abs=0.01) and many.high - many.low < 0.02


@pytest.mark.parametrize("kind", [EPIC, DARD])
def test_pearson_distances_are_blind_to_shaping(kind):
    rng = np.random.default_rng(9)
    potential = rng.normal(size=S) * 5.0
    added = DISCOUNT * potential[None, None, :] - potential[:, None, None]
    same = by_pools(kind, WORLD.first, 2.0 * WORLD.first + added + 1.0, rng, 4000, 6)
    assert same.low < 0.03 and same.value < 0.1
    if kind == DARD:
        assert same.high < 1e-6, "each draw of it cancels the potential"
    opposite = by_pools(kind, WORLD.first, -WORLD.first, rng, 200, 4)
    assert opposite.value == opposite.low == opposite.high == 1.0
    nothing = by_pools(kind, WORLD.first, np.broadcast_to(added, (S, A, S)), rng, 4000, 6)
    assert nothing.value == np.sqrt(0.5) and nothing.trivial == (False, True)
    # DARD knows that it is nothing, EPIC only that it cannot be told from nothing.
    assert (nothing.low, nothing.high) == ((nothing.value,) * 2 if kind == DARD else (0.0, 1.0))


def test_returns_of_episodes():
    rng = np.random.default_rng(10)
    first, other = rng.normal(size=(2, 300))
    assert return_distance(first, 3.0 * first + 7.0).high < 1e-6
    assert return_distance(first, -first).value == 1.0
    mixed = 0.6 * first + 0.8 * other
    found, rho = return_distance(first, mixed), np.corrcoef(first, mixed)[0, 1]
    assert found.value == pytest.approx(np.sqrt((1.0 - rho) / 2.0)) and found.noise == (0.0, 0.0)
    assert found.low < found.value < found.high < found.low + 0.15
    apart = return_distance(first, other)
    assert apart.low < np.sqrt(0.5) < apart.high
    still = return_distance(first, np.full(300, 4.0))
    assert still.trivial == (False, True) and still.low == still.high == np.sqrt(0.5)
    assert str(found) == f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(11)
    first, second = rng.normal(size=(2, 50, 1)) + 0.1 * rng.normal(size=(2, 50, 3))
    again = starc_estimate(first, second, seed=4)
    assert again == starc_estimate(first, second, seed=4)
    assert again != starc_estimate(first, second, seed=5)
    assert again.value == starc_estimate(first, second, seed=5).value


@pytest.mark.parametrize(
    ("repeats", "options", "says"),
    [
        (1, {}, "give at least 2, to tell noise"),
        (3, {"weights": -np.ones(8)}, "none negative"),
        (3, {"weights": np.zeros(8)}, "fewer than 2 groups"),
        (3, {"groups": np.zeros(8, int)}, "fewer than 2 groups"),
        (3, {"resamples": 10}, "at least 100"),
    ],
)
def test_what_does_not_fit(repeats, options, says):
    samples = np.random.default_rng(0).normal(size=(8, repeats))
    with pytest.raises(InputError, match=says):
        starc_estimate(samples, samples, **options)


def test_rewards_that_do_not_fit():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="not finite"):
        return_distance(np.asarray([1.0, np.nan, 2.0]), np.ones(3))
    with pytest.raises(InputError, match="draws is 1"):
        by_pools(EPIC, WORLD.first, WORLD.second, rng, 10, 1)
    coverage, actions = WORLD.transitions(10, rng), np.arange(A)
    more = {"discount": DISCOUNT, "actions": actions, "states": np.arange(S)}
    with pytest.raises(InputError, match=r"shape \(10, 1\) for 10"):
        epic_estimate(lambda s, a, t: WORLD.first[s, a, t][:, None], looked_up(WORLD.first), coverage, **more)
    both = looked_up(WORLD.first), looked_up(WORLD.second)
    with pytest.raises(InputError, match="no states or actions"):
        epic_estimate(*both, coverage, **(more | {"states": np.arange(0)}))
    with pytest.raises(InputError, match="as many of each"):
        epic_estimate(*both, coverage._replace(action=coverage.action[:4]), **more)
