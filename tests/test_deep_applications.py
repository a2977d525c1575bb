"""The examples with deep followers at small size; their claims are checked by the scripts at full size."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

import rewardsmith as rs
from examples import deep_apprenticeship, halfcheetah, hints
from examples.followers import Walks
from rewardsmith.agents import Transition
from tests.small_runs import settings

PNG = b"\x89PNG"
pytestmark = pytest.mark.usefixtures("compile_quickly")


# ---- halfcheetah --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cheetah(compile_quickly, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cheetah")
    small = settings(env="HalfCheetah-v5", snapshot_every=None)
    outcome = halfcheetah.main(steps=640, out=folder / "curves.png", runs=folder / "runs", settings=small)
    return folder, outcome


def test_cheetah_writes_its_picture_and_keeps_its_runs(cheetah):
    folder, outcome = cheetah
    assert (folder / "curves.png").read_bytes().startswith(PNG)
    assert {path.name for path in (folder / "runs").iterdir()} == {"sobirl-0", "sac-0"}
    assert outcome.steps.tolist() == [128, 256, 384, 512, 640]
    for rows in outcome.returns.values():
        assert rows.shape == (1, 5) and np.isfinite(rows).all()


def test_so_little_training_does_not_make_the_claim_true(cheetah):
    _, outcome = cheetah
    # To stand still earns 0, which is more than acting at random does.
    assert outcome.untrained.shape == (20,) and np.all(outcome.untrained < 0)
    assert 0 <= outcome.accuracy[0] <= 1 and not outcome.claim


# ---- hints --------------------------------------------------------------------------------------


def test_the_pole_is_that_of_gymnasium():
    env = gymnasium.make("CartPole-v1").unwrapped
    rng = np.random.default_rng(0)
    for _ in range(200):
        state, action = rng.uniform(-1, 1, 4) * [2.4, 2.0, 0.21, 2.0], int(rng.integers(2))
        env.reset(seed=0)
        env.state = np.array(state)
        following, _, fell, *_ = env.step(action)
        ours = hints.moved(jnp.asarray(state, jnp.float32), jnp.int32(action))
        np.testing.assert_allclose(ours, following, atol=1e-5)
        assert bool(hints.fallen(ours)) == fell
        paid = hints.task_reward(jnp.asarray(state, jnp.float32), jnp.int32(action))
        assert float(paid) == (-1.0 if fell else 0.0)


def test_a_hint_counts_on_the_side_to_which_the_pole_leans():
    x = {"says": jnp.array([1.0, -1.0]), "weights": jnp.array([0.5, 2.0])}
    left, right = jnp.array([0.0, 0.0, -0.1, 0.0]), jnp.array([0.0, 0.0, 0.1, 0.0])
    push_left, push_right = jnp.int32(0), jnp.int32(1)
    paid = hints.HINT * np.array([0.5, -0.5, 2.0, -2.0])
    steps = [(left, push_left), (left, push_right), (right, push_left), (right, push_right)]
    np.testing.assert_allclose([float(hints.reward(x, *step)) for step in steps], paid, rtol=1e-6)
    # What the hint says is no leader's to move.
    slope = jax.grad(lambda x: hints.reward(x, right, push_right))(x)
    assert np.all(np.asarray(slope["says"]) == 0) and slope["weights"][1] != 0


@pytest.fixture(scope="module")
def hinted(compile_quickly, tmp_path_factory):
    picture = tmp_path_factory.mktemp("hints") / "hints.png"
    outcome = hints.main(steps=9600, seeds=1, out=picture)
    assert picture.read_bytes().startswith(PNG)
    return outcome.agents


def test_a_misleading_hint_that_is_added_up_makes_the_pole_fall(hinted):
    assert hinted["added", "misleading"].falls[0, -1] > 2 * hinted["ignored", "none"].falls[0, -1]
    assert hinted["added", "misleading"].final[0] < hinted["ignored", "none"].final[0] / 2
    assert hinted["added", "helpful"].upright.mean() > hinted["ignored", "none"].upright.mean()


@pytest.mark.parametrize("way", ["HPGD", "BARFI"])
def test_leaders_raise_the_weight_of_right_pushes(hinted, way):
    for name in hints.HINTS:
        weights = hinted[way, name].weights[0]
        begun = 0.5 * np.array(hints.HINTS[name])
        assert np.mean(weights[-1] - begun) > 0.2, name
    assert np.all(np.diff(hinted["added", "mixed"].weights, axis=1) == 0)


# ---- deep apprenticeship ------------------------------------------------------------------------


def test_the_pendulum_is_that_of_gymnasium():
    env = gymnasium.make("Pendulum-v1").unwrapped
    rng = np.random.default_rng(0)
    world, key = deep_apprenticeship.WORLD, jax.random.key(0)
    for _ in range(200):
        state, action = rng.uniform(-1, 1, 2) * [np.pi, 8.0], rng.uniform(-1, 1, 1)
        env.reset(seed=0)
        env.state = np.array(state)
        following, paid, *_ = env.step(2.0 * action)
        before, doing = jnp.asarray(state, jnp.float32), jnp.asarray(action, jnp.float32)
        seen = world.observe(world.step(before, doing, key))
        np.testing.assert_allclose(seen, following, atol=1e-5)
        step = Transition(world.observe(before), doing, seen, jnp.bool_(False))
        assert float(deep_apprenticeship.true_reward(step)) == pytest.approx(float(paid), abs=1e-4)


def test_the_gradient_of_the_likelihood_is_a_difference_of_visits():
    """∇φ of the docstring, against implicit differentiation on a table."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        P, rho = rng.dirichlet(np.ones(5), (5, 3)), rng.dirichlet(np.ones(5))
        world, features = rs.MDP(P, rho, 0.9), jnp.asarray(rng.normal(size=(5, 3, 4)))
        x, wanted = jnp.asarray(rng.normal(size=(2, 4)))

        def visits(x):
            policy = rs.solve_follower(world, features @ x, 0.3).policy
            moves = jnp.einsum("sa,sat->st", policy, P)
            return jnp.linalg.solve(jnp.eye(5) - 0.9 * moves.T, rho)[:, None] * policy

        expert = visits(wanted)
        loss = rs.DemonstrationLoss(np.asarray(expert))
        problem = rs.BilevelProblem(world, lambda x: features @ x, loss, 0.3)
        _, gradient = rs.hypergradient(problem, x)
        difference = jnp.einsum("sa,san->n", visits(x) - expert, features) / 0.3
        # The loss is a mean over visits, of which there are 1/(1 − γ).
        np.testing.assert_allclose(gradient, 0.1 * difference, rtol=1e-6)


@pytest.fixture(scope="module")
def learned(compile_quickly, tmp_path_factory):
    picture = tmp_path_factory.mktemp("apprentice") / "apprentice.png"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deep_apprenticeship, "UPDATES", 300)
        patch.setattr(deep_apprenticeship, "CLONE_STEPS", 500)
        outcome = deep_apprenticeship.main(steps=16_000, seeds=1, out=picture)
    assert picture.read_bytes().startswith(PNG)
    return outcome


def test_the_apprentice_leaves_chance_behind(learned):
    assert learned.returns["expert"][0] > -400
    assert learned.returns["apprentice"][0] > learned.returns["random"][0] + 200


def test_the_learned_reward_tells_states_apart(learned):
    assert learned.landscape.shape == (61, 61) and np.isfinite(learned.landscape).all()
    # λ keeps it within some multiples of 1/λ.
    assert 0.5 < np.ptp(learned.landscape) < 1000


def test_mismatch_pushes_towards_the_expert():
    x = deep_apprenticeship.RewardEnsemble(3, 1, (8,), 1, output="raw", key=jax.random.key(0))
    rng = np.random.default_rng(0)

    def steps(rate):
        seen = jnp.asarray(rng.normal(size=(1, 64, 3)) * 0.1 + [1.0, 0.0, rate], jnp.float32)
        return Walks(seen, jnp.zeros((1, 64, 1)), seen).transitions

    own, expert = steps(-1.0), steps(1.0)
    before = deep_apprenticeship.mismatch(x, own, expert)
    gradient = jax.grad(deep_apprenticeship.mismatch)(x, own, expert)
    moved = jax.tree.map(lambda a, b: a - 0.01 * b, x, gradient)
    assert deep_apprenticeship.mismatch(moved, own, expert) < before
    # Where both do the same, only the square is left.
    assert deep_apprenticeship.mismatch(x, own, own) > 0


# ---- all ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", [halfcheetah, hints, deep_apprenticeship])
def test_options_are_explained(example, capsys):
    with pytest.raises(SystemExit) as ended:
        tyro.cli(example.main, args=["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(option in shown for option in ("--seed", "--seeds", "--steps", "--out"))
    assert f"examples.{example.__name__.split('.')[-1]} " in example.__doc__
