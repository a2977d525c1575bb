"""The expected influence of an answer, against gradients of each label and the exact hyper-gradient."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled_tables import networks, table

from rewardsmith import hypergradient
from rewardsmith._core import InputError
from rewardsmith.bilevel import Follower, LabelledClips, OneStep, Suffix
from rewardsmith.bilevel.enumeration import _all_clips, _clip_probability
from rewardsmith.bilevel.sampled import Branch, TablePolicy, exact_follower
from rewardsmith.bilevel.sampled._credits import credited_rewards, fit_credits
from rewardsmith.bilevel.sampled.influence import expected_influence
from rewardsmith.bilevel.sampled.table import draw_clips
from rewardsmith.mdp import MDP
from rewardsmith.preferences.models import Judgement
from rewardsmith.problem import BilevelProblem, PreferenceLoss, SimulatedWorld
from rewardsmith.rewards import RewardEnsemble

BASE, KEY = 0.4, jax.random.key(3)

pytestmark = pytest.mark.usefixtures("compile_quickly")


class CountedPolicy(eqx.Module):
    """A table's policy that tells the chances of its actions, so that fresh ones are expectations."""

    logits: jax.Array

    def sample(self, observation, key):
        return TablePolicy(self.logits).sample(observation, key)

    def log_prob(self, observation, action):
        return TablePolicy(self.logits).log_prob(observation, action)

    def probabilities(self, observation):
        return jax.nn.softmax(self.logits[observation])


def counted(follower):
    return Follower(CountedPolicy(follower.policy.logits), follower.temperature)


@pytest.fixture(scope="module")
def small(compile_quickly):
    """8 pairs of clips of 2 steps, 5 behind each, of the preference table; float64."""
    with jax.enable_x64(True):
        of = table("preference")
        clips = jax.jit(lambda key: draw_clips(of.problem, of.follower, Suffix(5).needs, key, 8))(KEY)
    return of, counted(of.follower), clips


def by_hand(problem, x, clips, follower, estimator, base, weight=1.0):
    """Σ_y P(y) ‖∇(l_y + (1/τ)((l_y − b) now + later))‖ by `jax.grad`, one label of one pair at a time.

    For tables, and policies with chances: they need no random actions.
    """
    horizon = problem.upper_loss.horizon

    def loss(x, clip, label):
        return problem.clip_loss(x, clip.observations[:, :horizon], clip.actions[:, :horizon], label)

    def score(x, clip):
        """Σ_i Σ_h (r(s, a) − Σ_a' π(a'|s) r(s, a'))."""
        rewards = problem.reward(x)
        advantages = rewards - jnp.sum(jax.nn.softmax(follower.policy.logits) * rewards, axis=1)[:, None]
        return jnp.sum(advantages[clip.observations[:, :horizon], clip.actions[:, :horizon]])

    labels = jnp.array([0.0, 1.0])
    losses = jax.vmap(lambda clip: jax.vmap(lambda label: loss(x, clip, label))(labels))(clips)
    preferred = np.asarray(problem.reward(x))[clips.observations, clips.actions][:, :, :horizon].sum(axis=2)
    first = 1 / (1 + np.exp(preferred[:, 1] - preferred[:, 0]))
    chances = np.stack([1 - first, first], axis=1)
    credits = None
    if isinstance(estimator, Suffix):
        weights = jnp.broadcast_to(
            (chances * losses).sum(axis=1)[:, None, None] - base, (clips.count, 2, horizon)
        )
        credits = fit_credits(
            estimator.features,
            clips,
            weights,
            follower.policy,
            KEY,
            num_actions=estimator.num_actions,
            ridge=estimator.ridge,
            shared=estimator.shared,
        )

    @jax.jit
    def gradient(clip, credit, label):
        def added(x):
            held = jax.lax.stop_gradient(loss(x, clip, label)) - base
            total = held * score(x, clip) if estimator is not None else 0.0
            if credit is not None:
                alone = LabelledClips(clip.observations[None], clip.actions[None], clip.valid[None], None)
                total = total + credited_rewards(
                    partial(problem.reward_at, x), alone, credit[None], problem.world.discount, now=False
                )
            return loss(x, clip, label) + weight * total / follower.temperature

        return jax.grad(added)(x)

    rows = [jax.tree.map(lambda leaf: leaf[i], (clips, credits)) for i in range(clips.count)]  # noqa: B023
    lengths = [[np.linalg.norm(gradient(*row, label)) for label in labels] for row in rows]
    return (chances * np.array(lengths)).sum(axis=1)


SUFFIX = Suffix(5, shared=True, features=lambda state, action: jax.nn.one_hot(2 * state + action, 6))


@pytest.mark.parametrize("estimator", [None, OneStep(), SUFFIX], ids=["none", "one-step", "suffix"])
def test_gradient_of_each_label(small, estimator):
    of, follower, clips = small
    with jax.enable_x64(True):
        found = expected_influence(of.problem, of.x, clips, follower, estimator, BASE, KEY)
        wanted = by_hand(of.problem, of.x, clips, follower, estimator, BASE)
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_the_second_term_is_weighed(small):
    of, follower, clips = small
    with jax.enable_x64(True):
        influence = partial(expected_influence, of.problem, of.x, clips, follower)
        found = influence(OneStep(), BASE, KEY, weight=0.3)
        wanted = by_hand(of.problem, of.x, clips, follower, OneStep(), BASE, weight=0.3)
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
        none = influence(None, BASE, KEY)
        np.testing.assert_allclose(influence(OneStep(), BASE, KEY, weight=0.0), none, rtol=1e-12)
        # A bound far away does nothing; one of 0⁺ leaves the first term; where it binds, together.
        free = influence(OneStep(), BASE, KEY)
        np.testing.assert_allclose(influence(OneStep(), BASE, KEY, bound=1e6), free, rtol=1e-12)
        np.testing.assert_allclose(influence(OneStep(), BASE, KEY, bound=1e-9), none, rtol=1e-6, atol=1e-8)
        bound = influence(OneStep(), BASE, KEY, bound=0.1)
        assert not np.allclose(bound, none) and not np.allclose(bound, free)
        with pytest.raises(InputError, match="bound of the second term"):
            influence(OneStep(), BASE, KEY, bound=-1.0)
        with pytest.raises(InputError, match="together is 0"):
            influence(None, BASE, KEY, together=0)


def test_without_a_baseline_it_is_the_mean_expected_loss(small):
    of, follower, clips = small
    with jax.enable_x64(True):

        def loss(clip, label):
            return of.problem.clip_loss(
                of.x, clip.observations[:, :2], clip.actions[:, :2], jnp.asarray(label)
            )

        losses = jax.vmap(lambda clip: jnp.stack([loss(clip, 0.0), loss(clip, 1.0)]))(clips)
        mean = jnp.mean(jnp.sum(jax.nn.softmax(-losses, axis=1) * losses, axis=1))
        influence = partial(expected_influence, of.problem, of.x, clips, follower, SUFFIX)
        np.testing.assert_allclose(influence(None, KEY), influence(mean, KEY), rtol=1e-12)
        assert not np.allclose(influence(None, KEY), influence(0.0, KEY))


def test_estimators_that_need_more_are_scored_by_the_first_term(small):
    of, follower, clips = small
    with jax.enable_x64(True):
        none, branch = (
            expected_influence(of.problem, of.x, clips, follower, estimator, BASE, KEY)
            for estimator in (None, Branch())
        )
        np.testing.assert_array_equal(none, branch)


def test_labels_and_blocks_change_nothing(small):
    of, follower, clips = small
    with jax.enable_x64(True):
        influence = partial(expected_influence, of.problem, of.x)
        found = influence(clips, follower, SUFFIX, BASE, KEY)
        labelled = eqx.tree_at(lambda c: c.label, clips, jnp.ones(8), is_leaf=lambda leaf: leaf is None)
        np.testing.assert_array_equal(influence(labelled, follower, SUFFIX, BASE, KEY), found)
        for together in (3, 64):
            again = influence(clips, follower, SUFFIX, BASE, KEY, together=together)
            np.testing.assert_allclose(again, found, rtol=1e-9)


def test_what_the_answers_add_is_the_hypergradient():
    """Over all pairs of clips as π* draws them, Σ_y P(y) g_y is ∇φ of the loss whose labels are P's.

    γ = 0, where one step is all there is; the baseline does not matter.
    """
    with jax.enable_x64(True):
        of = table("preference")
        world = MDP(of.exact.world.transition, of.exact.world.initial, 0.0)
        held = of.problem.reward(of.x)

        def own_answer(states, actions):
            sums = held[states, actions].sum(axis=1)
            return jax.nn.sigmoid(sums[0] - sums[1])

        problem = BilevelProblem(world, of.problem.reward, PreferenceLoss(2, own_answer), of.problem.tau)
        _, exact = hypergradient(problem, of.x)
        follower = counted(exact_follower(problem, held))
        states, actions = _all_clips(world.num_states, world.num_actions, 2)
        chance = _clip_probability(world, jax.nn.softmax(follower.policy.logits), states, actions)
        pairs = np.indices((len(states),) * 2).reshape(2, -1).T
        clips = LabelledClips(
            states[pairs], actions[pairs], jnp.ones((len(pairs), 2, 2), bool), jnp.zeros(len(pairs))
        )

        @jax.jit
        def total(x):
            """E[Σ_y P(y) (l_y + (l_y − b) N/τ)] with P and l_y − b held still."""

            def of_pair(observations, actions):
                losses = jnp.stack(
                    [problem.clip_loss(x, observations, actions, jnp.asarray(y)) for y in (0.0, 1.0)]
                )
                now = OneStep().surrogate(
                    partial(problem.reward_at, x),
                    LabelledClips(observations[None], actions[None], jnp.ones((1, 2, 2), bool), None),
                    jnp.ones((1, 2, 2)),
                    None,
                    follower.policy,
                    0.0,
                    KEY,
                )
                still = jax.lax.stop_gradient(losses)
                chances = jax.nn.softmax(-still)
                return chances @ (losses + (still - BASE) * now / follower.temperature)

            values = jax.vmap(of_pair)(clips.observations, clips.actions)
            return jnp.prod(chance[pairs], axis=1) @ values

        np.testing.assert_allclose(jax.grad(total)(of.x), exact, rtol=1e-8, atol=1e-12)
        # And no pair's expected length is shorter than that of what it is expected to add.
        found = expected_influence(problem, of.x, clips, follower, OneStep(), BASE, KEY)
        assert np.prod(chance[pairs], axis=1) @ found >= np.linalg.norm(exact) * (1 - 1e-12)


def test_sure_of_the_answer_is_no_influence():
    """l_y moves by (σ(D) − y) ∇D: with D far out the expected length vanishes, at D = 0 it is ½ ‖∇D‖."""
    problem = BilevelProblem(
        SimulatedWorld("none", 0.9),
        lambda x, observation, action: x @ observation,
        PreferenceLoss(1),
        0.1,
    )
    observations = jnp.zeros((3, 2, 1, 2)).at[:, 0, 0].set(jnp.array([[1.0, 0.0], [1.0, 3.0], [1.0, 60.0]]))
    clips = LabelledClips(observations, jnp.zeros((3, 2, 1, 1)), jnp.ones((3, 2, 1), bool), None)
    follower = networks().evidence.follower
    found = expected_influence(problem, jnp.array([0.0, 1.0]), clips, follower, None, None, KEY)
    D = np.array([0.0, 3.0, 60.0])
    chance = 1 / (1 + np.exp(-D))
    np.testing.assert_allclose(found, 2 * chance * (1 - chance) * np.sqrt(1 + D**2), rtol=1e-5, atol=1e-20)


@pytest.mark.parametrize("estimator", [None, OneStep(2), Suffix(8, 2)], ids=["none", "one-step", "suffix"])
def test_networks(estimator):
    of = networks()
    clips = of.evidence.clips
    influence = eqx.filter_jit(partial(expected_influence, of.problem, together=4))
    found = influence(of.x, clips, of.evidence.follower, estimator, BASE, KEY)
    assert found.shape == (6,) and found.dtype == jnp.float32
    assert np.isfinite(found).all() and (found > 0).all()


def test_an_ensemble_is_scored_by_all_its_members():
    of = networks()
    clips = LabelledClips(
        of.evidence.clips.observations[:, :, :4],
        of.evidence.clips.actions[:, :, :4],
        of.evidence.clips.valid[:, :, :4],
        None,
    )
    x = RewardEnsemble(3, 2, (8,), 3, key=jax.random.key(2))
    problem = BilevelProblem(
        SimulatedWorld("none", 0.9),
        lambda x, observation, action: x(observation, action),
        PreferenceLoss(4, members=lambda x, observation, action: x.members(observation, action)),
        "auto",
    )
    found = expected_influence(problem, x, clips, of.evidence.follower, None, None, KEY)
    members = jax.vmap(jax.vmap(jax.vmap(x.members)))(clips.observations, clips.actions).sum(axis=2)
    chance = np.asarray(jax.nn.sigmoid(jnp.mean(members[:, 0] - members[:, 1], axis=1)))

    @jax.jit
    @jax.vmap
    def lengths(observations, actions):
        def length(label):
            gradient = eqx.filter_grad(lambda x: problem.clip_loss(x, observations, actions, label))(x)
            return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))

        return jnp.stack([length(jnp.float32(label)) for label in (0.0, 1.0)])

    wanted = np.sum(
        np.stack([1 - chance, chance], axis=1) * lengths(clips.observations, clips.actions), axis=1
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_what_else_is_known_of_an_answer_counts():
    """A clip's offset moves D, and with it the chances of an answer."""
    clips = networks().evidence.clips
    problem, x, follower = networks().problem, networks().x, networks().evidence.follower
    plain = expected_influence(problem, x, clips, follower, None, None, KEY)
    for offset, same in ((jnp.zeros((6, 2)), True), (jnp.zeros((6, 2)).at[:, 0].set(5.0), False)):
        told = eqx.tree_at(lambda c: c.label, clips, Judgement(jnp.ones(6), offset))
        found = expected_influence(problem, x, told, follower, None, None, KEY)
        assert np.allclose(found, plain, rtol=1e-5) is same
    assert (found < plain).all(), "sure of what the offset decides"
