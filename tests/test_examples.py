"""Each example keeps what it promises: its main is run with few steps and its numbers are looked at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

import rewardsmith as rs
from examples import data_poisoning, hyperparameter_selection, tolls

PNG = b"\x89PNG"


def slope(loss, x, direction, step=1e-5):
    """Central difference of φ along a direction."""
    return (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    picture = tmp_path_factory.mktemp("weights") / "weights.png"
    result = hyperparameter_selection.main(seed=0, steps=25, out=picture)
    assert picture.read_bytes().startswith(PNG)
    return result


def test_sixty_weights_beat_the_best_single_one(comparison):
    for name, outcome in comparison.methods.items():
        assert outcome.score.held_out_loss < comparison.single.held_out_loss - 0.1, name
        # On examples that nobody chose by: not by overfitting the held-out ones.
        assert outcome.score.fresh_loss < comparison.single.fresh_loss - 0.05, name
        assert outcome.score.fresh_accuracy > comparison.single.fresh_accuracy + 0.03, name
        assert outcome.score.fresh_loss < comparison.pooled.fresh_loss, name


def test_useless_features_are_shrunk_and_others_kept(comparison):
    informative = hyperparameter_selection.INFORMATIVE
    weights = np.exp(comparison.methods["AID, Exact"].log_weights)
    assert np.median(weights[:informative]) < comparison.single_weight / 3
    assert np.median(weights[informative:]) > comparison.single_weight * 3


def test_gradient_errors_fall_with_what_is_spent(comparison):
    methods = comparison.methods
    exact, short, long = (methods[name] for name in ("AID, Exact", "ITD, 20 sweeps", "ITD, 100 sweeps"))
    assert max(exact.first_error, exact.last_error) < 1e-7
    assert exact.first_error < long.first_error < 1e-2 * short.first_error
    for name in methods.keys() - {"AID, Exact"}:
        assert exact.first_error < methods[name].first_error < 0.5, name
        assert methods[name].sweeps < exact.sweeps, name


def test_direct_gradient_against_differences():
    with jax.enable_x64(True):
        data = hyperparameter_selection.draw_data(3)
        problem = hyperparameter_selection.selection_problem(data)
        rng = np.random.default_rng(0)
        x, direction = jnp.asarray(rng.uniform(-4, 0, (2, hyperparameter_selection.FEATURES)))
        gradient = hyperparameter_selection.direct_gradient(x, data)
        phi = jax.jit(lambda x: problem.upper(x, problem.solve(x, problem.start(), 1e-14).y))
        assert float(gradient @ direction) == pytest.approx(float(slope(phi, x, direction)), rel=1e-6)


def test_poison_does_more_harm_than_chance(tmp_path):
    picture = tmp_path / "poisoning.png"
    attack = data_poisoning.main(seed=0, steps=40, out=picture)
    assert picture.read_bytes().startswith(PNG)
    for reached in (attack.implicit, attack.unrolled):
        assert reached.validation_loss > attack.strongest_random.validation_loss + 0.02
        assert reached.fresh_accuracy < attack.random.fresh_accuracy - 0.05
        assert reached.fresh_accuracy < attack.clean.fresh_accuracy - 0.1
    assert attack.random.validation_loss > attack.clean.validation_loss
    distances = np.linalg.norm(attack.after - attack.before, axis=1)
    assert np.all(distances < data_poisoning.RADIUS) and np.all(distances > 0)


def test_poisoning_gradient_against_differences():
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        problem = data_poisoning.poisoning_problem(data_poisoning.draw_data(rng))
        x, direction = jnp.asarray(rng.normal(size=(2, data_poisoning.MOVED, 2)))
        phi, gradient = rs.hypergradient(problem, x)
        at = jax.jit(lambda x: problem.upper(x, problem.solve(x, problem.start(), 1e-14).y))
        assert float(phi) == pytest.approx(float(at(x)), abs=1e-10)
        assert float(jnp.sum(gradient * direction)) == pytest.approx(float(slope(at, x, direction)), rel=1e-6)


def test_tolls_bring_the_courier_to_the_shop(tmp_path):
    picture = tmp_path / "tolls.png"
    outcome = tolls.main(seed=0, steps=200, out=picture)
    assert picture.read_bytes().startswith(PNG)
    before, after = outcome.visits
    # Four moves away at γ = 0.95: there is no more to have.
    assert before < 0.05 and 0.7 < after <= 0.95**4
    assert np.all(outcome.tolls >= 0)
    # Down the first column.
    assert np.all(outcome.moves[1][:-1, 0] == tolls.ARROWS.index("↓"))
    assert np.any(outcome.moves[0][:-1, 0] != tolls.ARROWS.index("↓"))


@pytest.mark.parametrize("example", [hyperparameter_selection, data_poisoning, tolls])
def test_options_are_explained(example, capsys):
    with pytest.raises(SystemExit) as ended:
        tyro.cli(example.main, args=["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(option in shown for option in ("--seed", "--steps", "--out"))
    assert example.__name__.split(".")[-1] + ".py" in example.__doc__
