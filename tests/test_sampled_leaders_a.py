"""Stoc-SoBiRL, HPGD and BC-HG with sampled followers, held against the exact hyper-gradient on tables.

Everything random is seeded. Bounds in standard errors say how surprising another seed may be; bounds on
cosines are for the stated budget of clips.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rewardsmith.bilevel import ConstantBaseline, LinearBaseline, OneStep, SoBiRL, Suffix, hypergradient, lead
from rewardsmith.bilevel.sampled._credits import credited_rewards
from rewardsmith.bilevel.sampled._ridge import left_out_predictions
from rewardsmith.bilevel.sampled.bchg import SampledBCHG
from rewardsmith.bilevel.sampled.data import Evidence, LabelledClips, with_log_prob
from rewardsmith.bilevel.sampled.features import OneHotPairs, OneHotStates
from rewardsmith.bilevel.sampled.hpgd import SampledHPGD
from rewardsmith.bilevel.sampled.stoc_sobirl import StocSoBiRL
from rewardsmith.bilevel.sampled.table import (
    draw_clips,
    draw_evidence,
    exact_follower,
    on_clips,
    step_on_table,
)
from rewardsmith.bilevel.sampled.terms import both_terms, drawn_by, importance_weights
from rewardsmith.problems import make

pytestmark = pytest.mark.usefixtures("double_precision")

FURTHER, RUNS, STEPS = 40, 4, 30
# The step size is part of the state: at 0 a run gives many estimates at one x, otherwise it descends.
ADAM = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
COUNTS = {"preference": 256, "contract": 64}
CONTRACT = {"levels": 5, "efforts": 3}


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    """Every program here runs a few times: compiling it well would take longer than it saves."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class Setting:
    """A table as its clips, a start, one-hot features of it, and the three leaders."""

    def __init__(self, name, options):
        self.task = make(name, **options)
        self.problem = on_clips(self.task.problem)
        self.x = self.task.start(jax.random.key(0))
        world = self.problem.world
        self.pairs = OneHotPairs(world.num_states, world.num_actions)
        self.baseline = LinearBaseline(OneHotStates(world.num_states), 1e-6)
        self.suffix = Suffix(FURTHER, features=self.pairs, ridge=1e-6)
        # A fit for each of the 66 steps of `contract` would have fewer rows than features.
        shared = name == "contract"
        self.leaders = {
            "stoc": StocSoBiRL(ADAM, self.suffix, self.baseline),
            "hpgd": SampledHPGD(ADAM, self.baseline, FURTHER, self.pairs, 1e-6, shared=shared),
            "bchg": SampledBCHG(ADAM, (12,), 1e-2, further=FURTHER, features=self.pairs),
        }
        self.count, self.runners = COUNTS[name], {}
        self.exact = tuple(np.asarray(part) for part in hypergradient(self.task.problem, self.x))

    def follower(self, x):
        return exact_follower(self.problem, self.problem.reward(x))

    def begun(self, leader, follower=None):
        state = leader.init(self.x, jnp.int32(0), jnp.int32(0), jax.random.key(7))
        return state if follower is None else leader.meet(state, follower)

    def run(self, method, step_size, state=None):
        """The states after each of STEPS steps of RUNS runs, and their stats."""
        leader = self.leaders[method]
        state = self.begun(leader) if state is None else state
        state.optimiser.hyperparams["learning_rate"] = jnp.asarray(step_size)

        def one(state, key):
            def body(state, key):
                state, stats = step_on_table(leader, self.problem, state, key, self.count)
                return state, (state, stats)

            return jax.lax.scan(body, state, jax.random.split(key, STEPS))[1]

        run = self.runners.setdefault(method, jax.jit(jax.vmap(one, (None, 0))))
        return run(state, jax.random.split(jax.random.key(1), RUNS))

    def estimates(self, method, state=None):
        """(RUNS, STEPS, n) estimates of ∇φ at the start, which Adam's running mean of them tells."""
        states, _ = self.run(method, 0.0, state)
        np.testing.assert_array_equal(states.x[:, -1], np.broadcast_to(self.x, states.x[:, -1].shape))
        means = np.asarray(states.optimiser.inner_state[0].mu)
        before = np.concatenate([np.zeros_like(means[:, :1]), means[:, :-1]], axis=1)
        return (means - 0.9 * before) / 0.1


@pytest.fixture(scope="module")
def preference():
    with jax.enable_x64(True):
        return Setting("preference", {})


@pytest.fixture(scope="module")
def contract():
    with jax.enable_x64(True):
        return Setting("contract", CONTRACT)


def cosines(estimates, exact):
    return estimates @ exact / np.linalg.norm(estimates, axis=-1) / np.linalg.norm(exact)


def errors_in_deviations(estimates, exact):
    deviation = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    return abs(estimates.mean(axis=0) - exact) / deviation


def relative_error(estimates, exact):
    return np.linalg.norm(estimates.mean(axis=0) - exact) / np.linalg.norm(exact)


# ---- Stoc-SoBiRL --------------------------------------------------------------------------------


def test_momentum_of_one_is_sobirl(preference):
    options = {"bound": 0.5, "weight": 0.7, "importance": True}
    plain = SoBiRL(optax.adam(0.03), OneStep(), ConstantBaseline(), **options)
    leader = StocSoBiRL(plain.optimiser, OneStep(), ConstantBaseline(), momentum=1.0, **options)
    assert leader.needs == plain.needs

    @jax.jit
    def both(pair, key):
        def body(pair, key):
            (state, stats), (other, other_stats) = (
                step_on_table(method, preference.problem, held, key, 16)
                for method, held in zip((leader, plain), pair, strict=True)
            )
            return (state, other), ((state.x, stats), (other.x, other_stats))

        return jax.lax.scan(body, pair, jax.random.split(key, 3))[1]

    state = preference.begun(leader, preference.follower(preference.x))
    (x, stats), expected = both((state, preference.begun(plain)), jax.random.key(1))
    assert (x[1:] != x[:-1]).any()
    for told, wanted in zip(jax.tree.leaves((x, stats)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(told, wanted)


@pytest.mark.parametrize("importance", [False, True])
def test_recursion_by_hand(preference, importance):
    problem, sizes = preference.problem, [0.7, 0.3, 0.2]
    leader = StocSoBiRL(
        optax.sgd(0.1),
        OneStep(),
        ConstantBaseline(),
        momentum=lambda k: jnp.asarray(sizes)[k],
        bound=0.8,
        importance=importance,
    )
    draw = jax.jit(lambda follower, key: draw_evidence(leader.needs, problem, [follower], key, 32))
    state, step = preference.begun(leader), eqx.filter_jit(leader.step)

    @eqx.filter_jit
    def g(x, evidence, follower, key):
        first_weights = None
        if importance:
            first_weights, _ = importance_weights(
                follower.policy, drawn_by(evidence.follower.policy, evidence.clips)
            )
        _, first, second, _ = both_terms(
            problem,
            x,
            evidence,
            follower,
            leader.estimator,
            leader.baseline,
            key,
            importance=importance,
            first_importance=first_weights,
        )
        shrink = jnp.minimum(1.0, 0.8 * jnp.linalg.norm(first) / jnp.linalg.norm(second))
        return first + shrink * second

    h = before = None
    for k in range(3):
        x, key, now = state.x, jax.random.key(k), preference.follower(state.x)
        evidence = draw(now, jax.random.key(10 + k))
        expected = g(x, evidence, now, key)
        if before is not None:
            then = before[1] if importance else now
            expected = expected + (1 - sizes[k]) * (h - g(before[0], evidence, then, key))
        state, _ = step(problem, state, evidence, key)
        np.testing.assert_allclose((x - state.x) / 0.1, expected, rtol=1e-9)
        h, before = expected, (x, now)
    assert state.memory.count == 3 and (state.memory.follower is not None) == importance


def test_variance_falls_where_x_moves_slowly(preference):
    states, _ = preference.run("stoc", 1e-3)
    drawn = states.memory.direction
    variance = drawn.var(axis=0, ddof=1).sum(axis=1)
    # The first direction is g itself. In the limit ρ/(2 − ρ) = 0.05 of its variance is left where x stands.
    assert variance[-1] < 0.25 * variance[0]
    assert relative_error(drawn[:, -1], preference.exact[1]) < 0.15


def test_importance_weights_give_the_gradient_before(preference):
    """g_k(x_{k−1}) from clips of the follower of x_k. At γ = 0 nothing is drawn from behind the clip."""
    then, estimator = preference.x, preference.suffix
    now = then + 0.3 * jax.random.normal(jax.random.key(5), then.shape)

    @jax.jit
    def estimates(discount):
        problem = eqx.tree_at(lambda p: p.world.discount, preference.problem, discount)
        before, follower = (exact_follower(problem, problem.reward(x)) for x in (then, now))

        def one(pair):
            key, importance = pair
            draw, own = jax.random.split(key)
            evidence = draw_evidence(with_log_prob(estimator.needs, True), problem, [follower], draw, 512)
            # As if the follower before had drawn them, where they are not to be weighed.
            unweighted = drawn_by(before.policy, evidence.recent)
            clips = jax.tree.map(lambda a, b: jnp.where(importance, a, b), evidence.recent, unweighted)
            weights, _ = importance_weights(before.policy, clips)
            _, first, second, _ = both_terms(
                problem,
                then,
                Evidence(clips, clips, follower),
                before,
                estimator,
                preference.baseline,
                own,
                importance=True,
                first_importance=weights,
            )
            return first + second

        keys = jax.random.split(jax.random.key(3), 60)
        return jax.lax.map(
            lambda importance: jax.lax.map(lambda key: one((key, importance)), keys), jnp.array([True, False])
        )

    for discount, largest_error, unweighted_error in ((0.0, 0.06, 0.1), (0.8, 0.1, 0.5)):
        problem = eqx.tree_at(lambda p: p.world.discount, preference.problem, jnp.asarray(discount))
        exact = np.asarray(hypergradient(problem, then)[1])
        weighted, unweighted = np.asarray(estimates(jnp.asarray(discount)))
        assert relative_error(weighted, exact) < largest_error
        assert relative_error(unweighted, exact) > unweighted_error
        assert errors_in_deviations(unweighted, exact).max() > 10
        if discount == 0.0:
            assert errors_in_deviations(weighted, exact).max() < 4


def test_weighted_predictions_against_refitting():
    rng = np.random.default_rng(1)
    batch, clips, size, ridge = 7, 2, 3, 0.05
    features, targets = rng.normal(size=(batch, clips, size)), rng.normal(size=(batch, clips))
    importance = rng.random(batch)
    actual = left_out_predictions(
        jnp.asarray(features),
        jnp.asarray(importance[:, None] * targets),
        ridge,
        intercept=False,
        noise_share=0.2,
        importance=jnp.asarray(importance),
    )
    scaled = features / features.std(axis=(0, 1))
    for left_out in range(batch):
        rest = np.arange(batch) != left_out
        rows, wanted = scaled[rest].reshape(-1, size), targets[rest].ravel()
        weighted = np.repeat(importance[rest], clips)[:, None] * rows
        gram = 0.8 * weighted.T @ rows + ridge * batch * clips * np.eye(size)
        expected = scaled[left_out] @ np.linalg.solve(gram, weighted.T @ wanted)
        np.testing.assert_allclose(actual[left_out], expected, rtol=1e-9)


# ---- HPGD ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, mean", [("preference", 0.9), ("contract", 0.85)])
def test_hpgd_is_the_hypergradient(name, mean, request):
    setting = request.getfixturevalue(name)
    estimates = setting.estimates("hpgd").reshape(RUNS * STEPS, -1)
    exact = setting.exact[1]
    assert cosines(estimates, exact).mean() > mean
    assert errors_in_deviations(estimates, exact).max() < 4
    assert relative_error(estimates, exact) < 0.08


def test_credited_rewards_against_a_double_loop():
    rng, discount, horizon, length = np.random.default_rng(0), 0.7, 2, 5
    rewards, credits = rng.normal(size=(3, 2, length)), rng.normal(size=(3, 2, horizon))
    valid = np.arange(length) < rng.integers(horizon, length + 1, size=(3, 2, 1))
    clips = LabelledClips(jnp.asarray(rewards), jnp.zeros((3, 2, length)), jnp.asarray(valid), None)
    for now in (True, False):
        expected = sum(
            discount ** (k - h) * (valid * rewards)[:, :, k] * credits[:, :, h]
            for h in range(horizon)
            for k in range(h if now else h + 1, length)
        ).sum()
        actual = credited_rewards(lambda o, a: o, clips, jnp.asarray(credits), discount, now=now)
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


# ---- BC-HG --------------------------------------------------------------------------------------


def exact_leader_values(setting):
    """E[l | s_h = s, a_h = a] − E[l] of either clip, (S·A, H), by enumeration of all pairs of clips."""
    problem, world = setting.problem, setting.problem.world
    policy = np.asarray(setting.follower(setting.x).policy.table)
    pairs = world.num_states * world.num_actions
    steps = np.indices((pairs, pairs)).reshape(2, -1).T
    states, actions = np.divmod(steps, world.num_actions)
    P = np.asarray(world.transition)
    chance = np.asarray(world.initial)[states[:, 0]] * P[states[:, 0], actions[:, 0], states[:, 1]]
    chance = chance * policy[states, actions].prod(axis=1)
    first, second = np.indices((len(steps),) * 2).reshape(2, -1)
    both = np.stack([first, second], axis=1)
    losses = jax.jit(jax.vmap(lambda s, a: problem.clip_loss(setting.x, s, a)))(states[both], actions[both])
    expected = (np.asarray(losses).reshape(len(steps), -1) * chance).sum(axis=1)
    here = steps[:, :, None] == np.arange(pairs)
    weight = chance[:, None, None] * here
    return ((weight * expected[:, None, None]).sum(axis=0) / weight.sum(axis=0)).T - chance @ expected


def with_values(state, values):
    """The critic whose hidden units tell the pairs of both steps apart, h/H being 0 or ½."""
    pairs = len(values)
    first = np.hstack([np.eye(pairs), -2 * np.ones((pairs, 1))])
    second = np.hstack([np.eye(pairs), 2 * np.ones((pairs, 1))])
    network = state.memory.network
    network = eqx.tree_at(
        lambda n: (n.weights, n.biases),
        network,
        (
            [jnp.asarray(np.vstack([first, second])), jnp.asarray(values.T.reshape(1, -1))],
            [jnp.asarray(np.repeat([0.0, -1.0], pairs)), jnp.zeros(1)],
        ),
    )
    return eqx.tree_at(lambda s: s.memory.network, state, network)


def test_bchg_is_unbiased_with_the_right_critic(preference):
    state = with_values(preference.begun(preference.leaders["bchg"]), exact_leader_values(preference))
    estimates = preference.estimates("bchg", state)
    exact = preference.exact[1]
    # Whatever the critic has learned since is of other clips than those it weighs.
    means = estimates.mean(axis=1)
    assert errors_in_deviations(means, exact).max() < 4
    assert relative_error(means, exact) < 0.05


@pytest.mark.parametrize("name, mean", [("preference", 0.9), ("contract", 0.95)])
def test_bchg_with_a_learned_critic(name, mean, request):
    setting = request.getfixturevalue(name)
    told = cosines(setting.estimates("bchg"), setting.exact[1])
    assert told[:, -10:].mean() > mean


def test_bchg_weighs_with_the_critic_of_the_step_before(preference):
    _, stats = preference.run("bchg", 0.05)
    assert (stats.second_norm[:, 0] == 0.0).all() and (stats.second_norm[:, 1:] > 0.0).all()


# ---- all three ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["stoc", "hpgd", "bchg"])
@pytest.mark.parametrize("name", ["preference", "contract"])
def test_thirty_steps_descend(name, method, request):
    setting = request.getfixturevalue(name)
    states, _ = setting.run(method, 0.05)
    after = [float(hypergradient(setting.task.problem, x)[0]) for x in states.x[:, -1]]
    assert np.mean(after) < setting.exact[0] - 0.3 * abs(setting.exact[0])
    assert np.max(after) < setting.exact[0]


@pytest.mark.parametrize(
    "leader",
    [
        StocSoBiRL(optax.adam(0.01), OneStep(), ConstantBaseline(), importance=True),
        SampledBCHG(optax.adam(0.01), (4,), 1e-2, further=2),
    ],
)
def test_a_session_on_a_queue(preference, leader):
    follower = preference.follower(preference.x)
    draw = jax.jit(lambda key: draw_clips(preference.problem, follower, leader.needs, key, 24))
    state, stats = eqx.filter_jit(lead)(
        leader,
        preference.problem,
        preference.begun(leader),
        draw(jax.random.key(0)),
        jnp.int32(24),
        follower,
        jax.random.key(1),
        num_steps=3,
        batch_size=8,
        recent_batch_size=8,
        recent=16,
    )
    assert np.isfinite(state.x).all() and (state.x != preference.x).any()
    assert np.isfinite(jax.tree.leaves(stats)).all() and stats.second_norm > 0
    if isinstance(leader, StocSoBiRL):
        assert state.memory.count == 3
        jax.tree.map(np.testing.assert_array_equal, state.memory.follower, follower)
        # A state that has met a follower keeps its form.
        assert jax.tree.structure(leader.meet(state, follower)) == jax.tree.structure(state)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: StocSoBiRL(ADAM, OneStep(), momentum=0.0),
        lambda: StocSoBiRL(ADAM, OneStep(), momentum=1.5),
        lambda: StocSoBiRL(ADAM, OneStep(), bound=0.0),
        lambda: SampledHPGD(ADAM, further=-1),
        lambda: SampledHPGD(ADAM, num_actions=0),
        lambda: SampledHPGD(ADAM, ridge=0.0),
        lambda: SampledHPGD(ADAM, weight=-1.0),
        lambda: SampledBCHG(ADAM, hidden=(64, 0)),
        lambda: SampledBCHG(ADAM, critic_learning_rate=0.0),
        lambda: SampledBCHG(ADAM, critic_steps=0),
        lambda: SampledBCHG(ADAM, num_actions=0),
        lambda: SampledBCHG(ADAM, bound=-1.0),
    ],
)
def test_bad_settings(bad):
    with pytest.raises(ValueError, match="give|must"):
        bad()
