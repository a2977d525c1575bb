"""Search: many starts, cooling, easing; finds the deeper of two basins where one descent does not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rewardsmith as rs

pytestmark = pytest.mark.usefixtures("double_precision")


def two_basins(temperature=0.05):
    """One state; action 0 pays by the shallow bump at x = −1, action 1 by the deep one at x = 1."""
    world = rs.MDP(np.ones((1, 2, 1)), [1.0], 0.0)

    def upper(x, policy):
        return -(
            1.0 * policy[0, 0] * jnp.exp(-((x + 1) ** 2)) + 2.0 * policy[0, 1] * jnp.exp(-((x - 1) ** 2))
        )

    return rs.BilevelProblem(world, lambda x: jnp.array([[-x, x]]), upper, temperature)


METHOD = rs.ImplicitGradient(0.05, optimiser=optax.adam(1.0))


def test_finds_the_deeper_basin():
    problem = two_basins()
    shallow = rs.solve(problem, METHOD, jnp.asarray(-1.0), 200)
    assert rs.hypergradient(problem, shallow.value)[0] > -1.01
    found = rs.search(problem, METHOD, lambda key: 2.0 * jax.random.normal(key, ()), steps=150)
    assert rs.hypergradient(problem, found.value)[0] < -1.99


def test_cost_is_that_of_all_runs():
    told = []
    found = rs.search(
        two_basins(),
        METHOD,
        lambda key: jax.random.normal(key, ()),
        rungs=3,
        keep=2,
        steps=20,
        hold=5,
        polish=10,
        progress=lambda step, stats: told.append(step),
    )
    total = 3 * 25 + 2 * 10
    assert found.num_steps == total and found.stats.loss.shape == found.seconds.shape == (total,)
    assert np.all(np.diff(found.seconds) > 0) and told == sorted(told) and told[-1] == total


def test_one_rung_without_polish_is_an_eased_run():
    seen = []

    def ease(problem, t):
        seen.append(0)
        return problem

    found = rs.search(
        two_basins(),
        METHOD,
        lambda key: jnp.asarray(0.9),
        rungs=1,
        keep=1,
        steps=40,
        hold=0,
        polish=0,
        ease=ease,
    )
    plain = rs.solve(two_basins(), METHOD, jnp.asarray(0.9), 40)
    np.testing.assert_allclose(found.value, plain.value, atol=1e-12)
    assert seen


def test_the_same_key_the_same_answer():
    def once(key):
        return rs.search(
            two_basins(), METHOD, lambda k: jax.random.normal(k, ()), key=key, rungs=2, steps=10, polish=5
        ).value

    assert once(jax.random.key(1)) == once(jax.random.key(1)) != once(jax.random.key(2))


def test_bad_searches():
    problem = two_basins()
    for wrong in ({"rungs": 0}, {"keep": 9}, {"steps": 0}, {"hold": -1}, {"polish": -1}):
        with pytest.raises(rs.InputError, match="rungs >= keep >= 1"):
            rs.search(problem, METHOD, lambda key: jnp.asarray(0.0), **wrong)
    with pytest.raises(rs.InputError, match="ratio"):
        rs.search(problem, METHOD, lambda key: jnp.asarray(0.0), ratio=0.5)
    with pytest.raises(rs.InputError, match="x0 holds NaN"):
        rs.search(problem, METHOD, lambda key: jnp.asarray(jnp.nan), rungs=2, steps=2)
    too_far = rs.ImplicitGradient(1e308, optimiser=optax.adam(1.0))
    with pytest.raises(rs.InputError, match="no run of the search ended well"):
        rs.search(problem, too_far, lambda key: jnp.asarray(0.3), rungs=2, steps=5)
