"""P in forms of its own: the same numbers as the table, in the same equations, and right derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import rewardsmith as rs
from rewardsmith.mdp import expect, policy_transition, probability, solve_policy, state_occupancy
from rewardsmith.mdp import policy_system as system

STATES, ACTIONS, SUCCESSORS, TAU = 7, 3, 2, 0.3


pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def matrix_free(monkeypatch):
    """Small worlds solved as large ones are; compiled programs of the other way are forgotten."""
    monkeypatch.setattr(system, "DIRECT_LIMIT", 0)
    monkeypatch.setattr(system, "SPARSE_DIRECT_LIMIT", 0)
    jax.clear_caches()
    yield
    jax.clear_caches()


def sparse_case(seed=0, end=None):
    rng = np.random.default_rng(seed)
    successors = rng.integers(0, STATES, (STATES, ACTIONS, SUCCESSORS))
    weights = rng.dirichlet(np.ones(SUCCESSORS), (STATES, ACTIONS))
    if end is not None:
        weights[end] = 0
    table = np.zeros((STATES, ACTIONS, STATES))
    states, actions = np.indices((STATES, ACTIONS))
    for k in range(SUCCESSORS):
        np.add.at(table, (states, actions, successors[..., k]), weights[..., k])
    return rs.SparseTransition(successors, weights), table


def shared_case():
    rng = np.random.default_rng(1)
    kernel, group = rng.dirichlet(np.ones(STATES), (STATES, 2)), np.array([0, 1, 0])
    return rs.SharedTransition(kernel, group), kernel[:, group]


def worlds(form, table):
    initial = np.random.default_rng(2).dirichlet(np.ones(STATES))
    return [rs.MDP(P, initial, 0.9) for P in (form, table)]


CASES = {
    "sparse": sparse_case,
    "sparse with an end": lambda: sparse_case(3, end=2),
    "shared": shared_case,
}


@pytest.mark.parametrize("case", CASES)
def test_forms_agree_with_the_table(case):
    form, table = CASES[case]()
    compact, dense = worlds(form, table)
    assert (compact.num_states, compact.num_actions) == (STATES, ACTIONS)
    np.testing.assert_array_equal(compact.terminal, dense.terminal)
    rng = np.random.default_rng(4)
    values, policy = (
        jnp.asarray(rng.normal(size=STATES)),
        jnp.asarray(rng.dirichlet(np.ones(ACTIONS), STATES)),
    )
    np.testing.assert_allclose(expect(form, values), expect(jnp.asarray(table), values), atol=1e-14)
    np.testing.assert_allclose(
        policy_transition(compact, policy), policy_transition(dense, policy), atol=1e-14
    )
    everywhere = jnp.asarray(np.indices((STATES, ACTIONS, STATES)).reshape(3, -1))
    np.testing.assert_allclose(probability(form, *everywhere), table.ravel(), atol=1e-14)
    reward = jnp.asarray(rng.normal(size=(STATES, ACTIONS)))
    answers = [rs.solve_follower(world, reward, TAU) for world in (compact, dense)]
    np.testing.assert_allclose(answers[0].policy, answers[1].policy, atol=1e-12)


def hypergradients(form, table):
    rng = np.random.default_rng(5)
    own, features = (jnp.asarray(rng.normal(size=s)) for s in ((STATES, ACTIONS), (STATES, ACTIONS, 4)))
    for world in worlds(form, table):
        loss = rs.LeaderReturn(world, lambda x: own - 0.1 * x @ x, discount=0.7)
        problem = rs.BilevelProblem(world, lambda x: features @ x, loss, TAU)
        yield rs.hypergradient(problem, jnp.asarray([0.3, -0.2, 0.5, 0.1]))


@pytest.mark.parametrize("case", CASES)
def test_matrix_free_agrees_with_the_factorisation(case, matrix_free):
    form, table = CASES[case]()
    (phi, gradient), _ = hypergradients(form, table)
    system.DIRECT_LIMIT = system.SPARSE_DIRECT_LIMIT = 1000
    jax.clear_caches()
    _, (phi_dense, gradient_dense) = hypergradients(form, table)
    np.testing.assert_allclose(phi, phi_dense, rtol=1e-9)
    np.testing.assert_allclose(gradient, gradient_dense, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_free_solves_and_their_derivatives(transposed, matrix_free):
    form, table = sparse_case(6)
    compact, dense = worlds(form, table)
    rng = np.random.default_rng(7)
    policy, target = (
        jnp.asarray(rng.dirichlet(np.ones(ACTIONS), STATES)),
        jnp.asarray(rng.normal(size=STATES)),
    )
    matrix = np.eye(STATES) - 0.9 * np.asarray(policy_transition(dense, policy))
    found, products = solve_policy(compact, policy, target, transposed=transposed, tolerance=0.0)
    np.testing.assert_allclose((matrix.T if transposed else matrix) @ found, target, atol=1e-11)
    assert products > 1

    def solved(policy, target):
        return jnp.sum(
            jnp.sin(solve_policy(compact, policy, target, transposed=transposed, tolerance=0.0)[0])
        )

    gradients = jax.grad(solved, argnums=(0, 1))(policy, target)
    for i, (move, slope) in enumerate(zip((policy, target), gradients, strict=True)):
        direction, step = jnp.asarray(rng.normal(size=move.shape)), 1e-6
        ends = []
        for sign in (1, -1):
            arguments = [policy, target]
            arguments[i] = move + sign * step * direction
            ends.append(solved(*arguments))
        np.testing.assert_allclose(jnp.sum(slope * direction), (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("uniform", [True, False])
def test_matrix_free_where_krylov_methods_break_down(uniform, matrix_free):
    # A ring walked in one direction: I − γP is far from normal, and ones are its left eigenvector.
    ring = rs.SparseTransition((np.arange(40)[:, None, None] + 1) % 40, np.ones((40, 1, 1)))
    initial = np.full(40, 1 / 40) if uniform else np.eye(40)[0]
    world = rs.MDP(ring, initial, 0.95)
    visits = state_occupancy(world, jnp.ones((40, 1)), tolerance=0.0)
    expected = np.full(40, 0.5) if uniform else 0.95 ** np.arange(40) / (1 - 0.95**40)
    np.testing.assert_allclose(visits, expected, rtol=1e-10)


def test_large_world_takes_the_iterative_way():
    # 2,500 states: no table of their square is ever made. r = 1 everywhere gives V = (1 + τ log A)/(1 − γ).
    rng = np.random.default_rng(8)
    form = rs.SparseTransition(rng.integers(0, 2500, (2500, 3, 4)), rng.dirichlet(np.ones(4), (2500, 3)))
    world = rs.MDP(form, np.full(2500, 1 / 2500), 0.95)
    answer = rs.solve_follower(world, jnp.ones((2500, 3)), TAU, tolerance=1e-9)
    np.testing.assert_allclose(answer.values, (1 + TAU * np.log(3)) / 0.05, rtol=1e-9)
    assert answer.linear_iterations > answer.steps
    graph = str(jax.make_jaxpr(lambda r: rs.solve_follower(world, r, TAU).values)(jnp.ones((2500, 3))))
    assert "2500,2500" not in graph


def test_from_scipy_and_triplets():
    form, table = sparse_case(9, end=4)
    matrix = scipy.sparse.csr_array(table.reshape(-1, STATES))
    rebuilt = rs.SparseTransition.from_scipy(matrix, ACTIONS)
    rows, columns = np.nonzero(table.reshape(-1, STATES))
    shuffled = np.random.default_rng(10).permutation(len(rows))
    listed = rs.SparseTransition.from_triplets(
        rows[shuffled],
        columns[shuffled],
        table.reshape(-1, STATES)[rows, columns][shuffled],
        num_states=STATES,
        num_actions=ACTIONS,
    )
    everywhere = jnp.asarray(np.indices((STATES, ACTIONS, STATES)).reshape(3, -1))
    for other in (form, rebuilt, listed):
        np.testing.assert_allclose(probability(other, *everywhere), table.ravel(), atol=1e-15)
    assert rs.MDP(listed, np.full(STATES, 1 / STATES), 0.9).terminal[4]


def test_vmap_over_sparse_worlds():
    pairs = [worlds(*sparse_case(seed)) for seed in (11, 12)]
    reward = jnp.asarray(np.random.default_rng(13).normal(size=(STATES, ACTIONS)))
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[compact for compact, _ in pairs])
    together = jax.vmap(lambda world: rs.solve_follower(world, reward, TAU).values)(batch)
    for values, (_, dense) in zip(together, pairs, strict=True):
        np.testing.assert_allclose(values, rs.solve_follower(dense, reward, TAU).values, atol=1e-11)


def test_bad_transitions():
    ones = np.ones((2, 1, 1))
    with pytest.raises(rs.InputError, match="give both as"):
        rs.SparseTransition(np.zeros((2, 1), int), ones)
    with pytest.raises(rs.InputError, match="successors holds 2; give state indices 0 to 1"):
        rs.SparseTransition(np.full((2, 1, 1), 2), ones)
    with pytest.raises(rs.InputError, match="successors holds -1"):
        rs.SparseTransition(np.full((2, 1, 1), -1), ones)
    with pytest.raises(rs.InputError, match="sums to 0.5, not 1"):
        rs.MDP(rs.SparseTransition(np.zeros((2, 1, 1), int), ones / 2), [0.5, 0.5], 0.9)
    with pytest.raises(rs.InputError, match="finite and >= 0"):
        rs.MDP(rs.SparseTransition(np.zeros((2, 1, 1), int), ones * np.nan), [0.5, 0.5], 0.9)
    with pytest.raises(rs.InputError, match="equal lengths"):
        rs.SparseTransition.from_triplets([0, 1], [0], [1.0], num_states=2, num_actions=1)
    with pytest.raises(rs.InputError, match="rows holds 0 to 2"):
        rs.SparseTransition.from_triplets([0, 2], [0, 1], [1.0, 1.0], num_states=2, num_actions=1)
    with pytest.raises(rs.InputError, match="states·actions, states"):
        rs.SparseTransition.from_scipy(scipy.sparse.eye_array(3), 2)
    with pytest.raises(rs.InputError, match="group holds 0 to 1"):
        rs.SharedTransition(np.ones((1, 1, 1)), [0, 1])
    with pytest.raises(rs.InputError, match="give .states, groups, states."):
        rs.SharedTransition(np.ones((2, 1, 1)), [0])
