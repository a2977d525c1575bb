"""Regret as the preference model: gradients on a table, shaping, values held still beside a deep follower."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith.agents import SAC
from rewardsmith.bilevel import hypergradient
from rewardsmith.bilevel.enumeration import exact_upper_loss
from rewardsmith.bilevel.regret import table_advantage
from rewardsmith.follower import solve_follower
from rewardsmith.mdp import MDP, q_values, soft_bellman, soft_policy
from rewardsmith.preferences.models import Judgement, PartialReturn, Regret
from rewardsmith.problem import BilevelProblem, PreferenceLoss
from rewardsmith.rewards import RewardEnsemble
from rewardsmith.runs.programs import value_offsets

TAU, DISCOUNT = 0.5, 0.8


@pytest.fixture
def regret_problem(double_precision):
    """Three states, two actions, clips of two steps; labels by the regret of another reward."""
    rng = np.random.default_rng(3)
    world = MDP(rng.dirichlet(np.ones(3), (3, 2)), rng.dirichlet(np.ones(3)), DISCOUNT)
    truth, features = jnp.asarray(rng.normal(size=(3, 2))), jnp.asarray(rng.normal(size=(3, 2, 4)))
    judged = solve_follower(world, truth, TAU)

    def target(states, actions):
        sums = (judged.q_values[states, actions] - judged.values[states]).sum(axis=1)
        return jax.nn.sigmoid(sums[0] - sums[1])

    def reward(x):
        return features @ x

    loss = PreferenceLoss(2, target, table_advantage(world, reward, TAU), Regret())
    return BilevelProblem(world, reward, loss, TAU), jnp.asarray(rng.normal(size=4))


def test_three_witnesses_of_the_gradient(regret_problem):
    problem, x = regret_problem
    value, implicit = hypergradient(problem, x)

    @jax.jit
    def unrolled(x):
        """f with all values by 200 sweeps, policy and advantages alike."""
        reward = problem.reward(x)

        def sweep(values, _):
            return soft_bellman(problem.world, reward, problem.tau, values, problem.regulariser), None

        values = jax.lax.scan(sweep, jnp.zeros(3), None, length=200)[0]
        q = q_values(problem.world, reward, values)
        policy = soft_policy(q, problem.tau, problem.regulariser)
        loss = problem.upper_loss
        swept = PreferenceLoss(2, loss.target, lambda x, s, a: (q[s, a] - values[s])[None], Regret())
        moved = eqx.tree_at(lambda p: p.upper_loss, problem, swept, is_leaf=lambda leaf: leaf is loss)
        return exact_upper_loss(moved, x, policy)

    np.testing.assert_allclose(unrolled(x), value, rtol=1e-10)
    np.testing.assert_allclose(jax.grad(unrolled)(x), implicit, rtol=1e-8, atol=1e-10)
    step = 1e-5
    differences = [
        (hypergradient(problem, x + step * e)[0] - hypergradient(problem, x - step * e)[0]) / (2 * step)
        for e in np.eye(4)
    ]
    np.testing.assert_allclose(implicit, differences, rtol=1e-6, atol=1e-9)
    # Values have a share in it.
    held = PreferenceLoss(2, problem.upper_loss.target, model=PartialReturn())
    other = BilevelProblem(problem.world, problem.reward, held, TAU)
    assert abs(hypergradient(other, x)[1] - implicit).max() > 0.01


def test_the_planted_reward_has_no_gradient_in_its_first_term(double_precision):
    """Where labels follow A*, the loss is least at r*, and at r* shaped by anything."""
    rng = np.random.default_rng(1)
    world = MDP(rng.dirichlet(np.ones(3), (3, 2)), rng.dirichlet(np.ones(3)), DISCOUNT)
    truth, potential = jnp.asarray(rng.normal(size=(3, 2))), jnp.asarray(rng.normal(size=3))
    shaped = truth + DISCOUNT * world.transition @ potential - potential[:, None]
    states, actions = (jnp.asarray(rng.integers(n, size=(200, 2, 3))) for n in (3, 2))
    answer = solve_follower(world, truth, TAU)
    sums = (answer.q_values - answer.values[:, None])[states, actions].sum(axis=2)
    label = jax.nn.sigmoid(sums[:, 0] - sums[:, 1])
    by_regret = PreferenceLoss(3, members=table_advantage(world, lambda x: x, TAU), model=Regret())
    by_return = PreferenceLoss(3)

    def mean(loss, x):
        one = lambda s, a, y: loss(x, lambda s, a: x[s, a], s, a, y)  # noqa: E731
        return jnp.mean(jax.vmap(one)(states, actions, label))

    of_regret = jax.jit(jax.value_and_grad(lambda x: mean(by_regret, x)))
    of_return = jax.jit(jax.value_and_grad(lambda x: mean(by_return, x)))
    for x in (truth, shaped):
        np.testing.assert_allclose(of_regret(x)[1], 0.0, atol=1e-10)
        assert abs(of_return(x)[1]).max() > 1e-3
    np.testing.assert_allclose(of_regret(truth)[0], of_regret(shaped)[0], rtol=1e-10)
    assert abs(of_return(truth)[0] - of_return(shaped)[0]) > 1e-3


# ---- beside a deep follower ---------------------------------------------------------------------

STATES, ACTIONS, STEPS = 5, 3, 4


def table_of(network, table):
    """A network without hidden layers that says `table` (S, ...) of one-hot states."""
    head = eqx.tree_at(
        lambda m: (m.weights[0], m.biases[0]),
        network,
        (jnp.asarray(table, jnp.float32).T, jnp.zeros(table.shape[1])),
    )
    return head


@pytest.fixture(scope="module")
def solved():
    """A deterministic world, a reward ensemble and a follower that is exact for its normalised reward."""
    rng = np.random.default_rng(0)
    leads = np.stack([rng.permutation(STATES) for _ in range(ACTIONS)], axis=1)
    world = MDP(np.eye(STATES)[leads], np.full(STATES, 1 / STATES), 0.9)
    table, mean, deviation = rng.normal(size=(STATES, ACTIONS)), 0.3, 2.5
    answer = solve_follower(world, (table - mean) / deviation, TAU, tolerance=1e-6)
    x = RewardEnsemble(STATES, ACTIONS, (), 1, discrete=True, key=jax.random.key(0))
    x = eqx.tree_at(
        lambda r: (r.networks.head.weights[0], r.networks.head.biases[0], r.mean, r.deviation),
        x,
        (
            jnp.asarray(table.T, jnp.float32)[None],
            jnp.zeros((1, ACTIONS)),
            jnp.float32(mean),
            jnp.float32(deviation),
        ),
    )
    state = SAC(hidden=(), temperature=TAU).init(STATES, ACTIONS, discrete=True, key=jax.random.key(1))
    q = np.asarray(answer.q_values)
    state = eqx.tree_at(
        lambda s: (s.policy.trunk, s.critic.first.head, s.critic.second.head),
        state,
        (
            table_of(state.policy.trunk, q / TAU),
            table_of(state.critic.first.head, q),
            table_of(state.critic.second.head, q + 1.0),
        ),
    )
    return leads, table, deviation * (q - np.asarray(answer.values)[:, None]), x, state


def clips_of(leads, rng, count=6):
    actions = rng.integers(ACTIONS, size=(count, 2, STEPS))
    states = np.zeros_like(actions)
    states[..., 0] = rng.integers(STATES, size=(count, 2))
    for step in range(1, STEPS):
        states[..., step] = leads[states[..., step - 1], actions[..., step - 1]]
    return states, actions


def test_rewards_and_offsets_make_the_advantage(solved):
    """Σ r_x + offset differs between two clips as Σ A does, where critics are exact and nothing is random."""
    leads, table, advantage, x, state = solved
    states, actions = clips_of(leads, np.random.default_rng(2))
    offsets = jax.jit(value_offsets, static_argnums=2)(
        x, state, 0.9, jax.nn.one_hot(states, STATES), jnp.asarray(actions), jax.random.key(0)
    )
    judged = table[states, actions].sum(axis=2) + np.asarray(offsets)
    exact = advantage[states, actions].sum(axis=2)
    np.testing.assert_allclose(judged[:, 0] - judged[:, 1], exact[:, 0] - exact[:, 1], rtol=1e-4, atol=1e-4)
    assert abs(offsets[:, 0] - offsets[:, 1]).max() > 0.5


def test_the_gradient_with_offsets_is_that_of_rewards_alone(solved):
    """D has the advantage's value, and ∇D that of the sums of r_x: values are held still."""
    leads, _, _, x, state = solved
    states, actions = clips_of(leads, np.random.default_rng(4))
    seen, taken = jax.nn.one_hot(states, STATES), jnp.asarray(actions)
    loss = PreferenceLoss(STEPS, members=lambda x, o, a: x.members(o, a), model=Regret())
    offset = value_offsets(x, state, 0.9, seen, taken, jax.random.key(0))

    @jax.jit
    def gradient(x, label, offset):
        told = Judgement(label, offset)
        return eqx.filter_grad(lambda x: loss(x, lambda o, a: x(o, a), seen[0], taken[0], told))(x)

    with_offset = gradient(x, jnp.float32(1.0), offset[0]).networks.head.weights[0]
    without = gradient(x, jnp.float32(1.0), jnp.zeros(2)).networks.head.weights[0]
    ratio = with_offset[without != 0] / without[without != 0]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert abs(ratio[0] - 1.0) > 0.05
