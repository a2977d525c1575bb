"""The applications on tables keep their claims at small size; their hyper-gradients have three witnesses."""

import runpy

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

import rewardsmith as rs
from examples import apprenticeship, contract, model_choice, navigation, security, shaping, tax

PNG = b"\x89PNG"
pytestmark = pytest.mark.usefixtures("compile_quickly")

# Small enough for a few seconds each, large enough for every claim.
SMALL = {
    contract: {"steps": 200, "starts": 1},
    tax: {"steps": 80, "starts": 1},
    security: {"steps": 300, "draws": 1},
    apprenticeship: {"steps": 200, "draws": 1, "walks": (10, 40)},
    shaping: {"steps": 110, "draws": 0},
    model_choice: {"steps": 60, "draws": 1},
    navigation: {"steps": 250, "starts": 1},
}
EXAMPLES = pytest.mark.parametrize("example", SMALL, ids=lambda example: example.__name__.split(".")[-1])


@pytest.fixture
def coarse(monkeypatch):
    """Grids and starts of the examples, thinned out."""
    monkeypatch.setattr(tax, "FLAT_RATES", tax.FLAT_RATES[::4])
    monkeypatch.setattr(tax, "TRANSFERS", tax.TRANSFERS[::4])
    monkeypatch.setattr(security, "STARTS", 2)
    monkeypatch.setattr(contract, "GRID", 41)
    monkeypatch.setattr(navigation, "CHARGES", navigation.CHARGES[::2])


@EXAMPLES
@pytest.mark.usefixtures("coarse")
def test_the_claim_holds_at_small_size(example, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    outcome = example.main(**SMALL[example], out=picture)
    broken = [claim for claim, holds in example.claims(outcome).items() if not holds]
    assert not broken
    assert picture.read_bytes().startswith(PNG)
    assert len(capsys.readouterr().out.splitlines()) > 3


@EXAMPLES
def test_options_are_explained(example, capsys):
    with pytest.raises(SystemExit) as ended:
        tyro.cli(example.main, args=["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(option in shown for option in ("--seed", "--steps", "--out"))
    assert example.__name__.split(".")[-1] + ".py" in example.__doc__
    assert all(part in example.__doc__ for part in ("Idea.", "Equation.", "Claim.", "Source"))


def patrol():
    site = security.draw_site(np.random.default_rng(0))
    return security.patrol_problem(site, security.SOFT), jnp.asarray(np.random.default_rng(1).normal(size=10))


def household_tax():
    return tax.tax_problem(), jnp.asarray([-0.5, 0.2, 1.0, -1.0, -1.3])


def hint():
    x = shaping.first_guess(shaping.hinted("helpful"))
    return shaping.exact_problem(shaping.hinted("helpful")), {**x, "hint": jnp.asarray([0.4, 0.7])}


def demand():
    records = model_choice.draw_records(np.random.default_rng(0))
    recorded = jnp.asarray(records / records.sum(axis=1, keepdims=True))
    return model_choice.choice_problem(recorded), jnp.asarray([1.6, 2.2])


def demonstrations():
    known = apprenticeship.places()
    world = known.worlds["corner"]
    policy = rs.solve_follower(world, known.true_reward, apprenticeship.TEMPERATURE).policy
    counts = apprenticeship.record(world, policy, jax.random.key(0), (10,))[0]
    problem = apprenticeship.demonstration_problem(world, known.features, jnp.asarray(counts))
    return problem, jnp.asarray([-0.1, -0.2, -0.4, 0.3])


@pytest.mark.parametrize("build", [patrol, household_tax, hint, demand, demonstrations])
@pytest.mark.usefixtures("double_precision")
def test_three_witnesses(build):
    """Implicit, unrolled and by differences, where the example builds its own problem."""
    problem, x = build()
    loss, gradient = rs.hypergradient(problem, x)
    # γ^300 is 2·10⁻⁷ at γ = 0.95.
    unrolled = rs.solve(problem, rs.UnrolledGradient(0.1, sweeps=300), x, 1)
    assert float(unrolled.stats.loss[0]) == pytest.approx(float(loss), rel=1e-6)
    flat, unravel = jax.flatten_util.ravel_pytree(x)
    exact, other = (jax.flatten_util.ravel_pytree(g)[0] for g in (gradient, unrolled.state.gradient))
    np.testing.assert_allclose(other, exact, atol=1e-4 * float(jnp.linalg.norm(exact)))
    direction = jnp.asarray(np.random.default_rng(2).normal(size=flat.shape))
    ends = [float(rs.hypergradient(problem, unravel(flat + step * direction))[0]) for step in (1e-5, -1e-5)]
    assert float(exact @ direction) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.usefixtures("double_precision")
def test_barfi_tends_to_the_exact_hypergradient():
    """With its table θ at rest and all terms of the series, up to the decay of θ."""
    case = shaping.hinted("helpful")
    x = shaping.first_guess(case)
    exact = rs.hypergradient(shaping.exact_problem(case), x)
    for terms, tolerance in ((2000, 0.02), (5, 1.0)):
        method = rs.ImplicitGradient(0.1, adjoint=rs.Neumann(terms), sweeps=1000)
        step = rs.solve(shaping.barfi_problem(case), method, x, 1)
        assert float(step.stats.loss[0]) == pytest.approx(float(exact[0]), rel=0.02)
        flat = [jax.flatten_util.ravel_pytree(g)[0] for g in (step.state.gradient, exact[1])]
        error = float(jnp.linalg.norm(flat[0] - flat[1]) / jnp.linalg.norm(flat[1]))
        assert error < tolerance and (terms > 5 or error > 0.02)


def test_the_equilibrium_is_one():
    """The value is what the guard gets there, and no commitment of a sample gets more; so for maximin."""
    rng = np.random.default_rng(3)
    site = security.draw_site(rng)
    q, value = security.equilibrium(site)
    assert q.min() > -1e-9 and q.sum() == pytest.approx(1)

    def guard(q, slack=0.0):
        cover = q @ site.rounds
        intruder = site.discounts * (cover * site.caught + (1 - cover) * site.gain)
        own = site.discounts * (cover * site.catch - (1 - cover) * site.loss)
        if intruder.max() < -slack:
            return 0.0
        return own[intruder >= intruder.max() - slack].max()

    assert guard(q, 1e-7) == pytest.approx(value)
    assert all(guard(other) <= value + 1e-9 for other in rng.dirichlet(np.full(len(q), 0.3), 2000))
    worst = site.discounts * (site.rounds.T @ security.maximin(site) * (site.catch + site.loss) - site.loss)
    assert worst.min() >= max(
        (site.discounts * (site.rounds.T @ other * (site.catch + site.loss) - site.loss)).min()
        for other in rng.dirichlet(np.full(len(q), 0.3), 500)
    )


def test_a_claim_can_fail():
    plan = model_choice.Plan(1.0, 1.0, -3.0, np.zeros(2), np.zeros(7))
    better = model_choice.Plan(2.0, 2.0, -3.0, np.zeros(0), np.zeros(7))
    same = model_choice.Draw(plan, plan, better, better)
    assert not any(model_choice.claims([same]).values())


def test_a_claim_that_fails_ends_the_script(monkeypatch):
    monkeypatch.setattr("sys.argv", ["model_choice.py", "--steps", "1", "--draws", "1"])
    with pytest.raises(SystemExit, match="not so at these settings: the hyper-gradient's model closes"):
        runpy.run_path(model_choice.__file__, run_name="__main__")
