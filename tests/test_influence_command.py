"""``rewardsmith influence``: the reward as heads, what is measured of answers, and the command."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from rewardsmith._core import InputError, stacked
from rewardsmith.preferences.attribution import recall_at
from rewardsmith.preferences.models import Judgement
from rewardsmith.preferences.store import Store
from rewardsmith.runs.attribution.cross_fit import cross_fit
from rewardsmith.runs.attribution.heads import (
    Heads,
    fitter,
    make_heads,
    score_all,
    seen_by,
    started,
    with_margin,
)
from rewardsmith.runs.attribution.measure import measure
from rewardsmith.runs.attribution.run import Options
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.experiment import Experiment
from rewardsmith.runs.parts import make_env
from rewardsmith.runs.train import train
from tests.commands import command
from tests.small_runs import settings
from tests.test_people import ASKING, Person
from tests.test_train_pictures import PICTURES, small_networks, worlds  # noqa: F401

pytestmark = [
    pytest.mark.usefixtures("compile_quickly"),
    pytest.mark.filterwarnings("ignore:unclosed file.*ffmpeg:ResourceWarning"),
]
QUICK = ("--folds", 2, "--fit-steps", 20)


def made(count=6, **changes):
    """An experiment, its reward, and `count` pairs of clips of noise with labels."""
    small = {"method": "drlhf", "clip_length": 5, "reward_hidden": (8, 8), "ensemble": 2}
    config = TrainConfig(**small | changes)
    with contextlib.closing(make_env(config, 1)) as env:
        experiment = Experiment(config, env.spec)
    _, leader = experiment.init(jax.random.key(0))
    assert leader is not None
    rng, spec = np.random.default_rng(0), experiment.spec
    if spec.image is None:
        seen = rng.normal(size=(count, 2, 5, *spec.observation_shape)).astype(np.float32)
    else:
        image = spec.image
        frames = (count, 2, image.stack - 1 + 5, image.height, image.width, image.channels)
        seen = rng.integers(256, size=frames, dtype=np.uint8)
    if spec.num_actions is None:
        taken = rng.normal(size=(count, 2, 5, *spec.action_shape)).astype(np.float32)
    else:
        taken = rng.integers(spec.num_actions, size=(count, 2, 5)).astype(np.int32)
    label = rng.integers(2, size=count).astype(np.float32)
    return experiment, leader.x, {"observations": seen, "actions": taken}, label


@pytest.mark.parametrize(
    "changes",
    [
        {"env": "Pendulum-v1", "agreement_margin": 0.3, "label_smoothing": 0.1},
        {"env": "CartPole-v1", "preference_model": "regret", "label_error": 0.1},
        {"env": "CartPole-v1", "preference_model": "general", "embedding": 2},
        {"env": "Pendulum-v1", "preference_model": "mixture"},
        {"env": "Lamps-v0", "preference_model": "thurstone", "frame_stack": 2},
    ],
    ids=lambda changes: changes.get("preference_model", "partial-return"),
)
def test_heads_have_the_loss_of_the_run(changes):
    experiment, x, pairs, label = made(**changes)
    rng, others = np.random.default_rng(1), {"label": label}
    if changes.get("preference_model") == "regret":
        others["offset"] = rng.normal(size=(6, 2)).astype(np.float32)
    if changes.get("preference_model") == "mixture":
        others["groups"] = rng.dirichlet(np.ones(2), size=6).astype(np.float32)
    seen = seen_by(experiment, x)
    heads = with_margin(experiment, seen, make_heads(experiment, x, pairs, others))
    scores = score_all(seen, heads)
    found = np.mean([jax.vmap(seen.loss)(own, heads.others) for own in scores], axis=0)
    told = Judgement(**{name: jnp.asarray(array) for name, array in others.items()})
    arrays = {name: jnp.asarray(array) for name, array in pairs.items()}
    if experiment.spec.image is not None:
        arrays["observations"] = jnp.asarray(stacked(pairs["observations"], experiment.spec.image.stack))
    wanted = jax.jit(jax.vmap(lambda o, a, y: experiment.problem.clip_loss(x, o, a, y)))(
        arrays["observations"], arrays["actions"], told
    )
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)
    # Information is that of an answer drawn by the model; logistic or not, it is never negative.
    weights = jax.vmap(seen.weights)(scores[0], heads.others)
    assert bool(jnp.all(weights >= 0)) and weights.shape == scores[0].shape


def test_wrong_labels_show_and_what_is_left_out_is_foreseen():
    """A linear task: labels by the angle's velocity; a tenth is wrong."""
    experiment, x, pairs, _ = made(150, env="Pendulum-v1", reward_learning_rate=1e-2)
    truth = pairs["observations"][..., 2].sum(axis=2)
    right = (truth[:, 0] > truth[:, 1]).astype(np.float32)
    wrong = np.zeros(150, bool)
    wrong[::10] = True
    label = np.where(wrong, 1 - right, right)
    seen = seen_by(experiment, x)
    heads = make_heads(experiment, x, pairs, {"label": label})
    run = fitter(experiment, seen, 40)
    fit = run(started(experiment, heads.networks), heads, jax.random.key(0))
    heads = Heads(fit.networks, heads.inputs, heads.others)
    exact, told = measure(seen, heads, heads.rows(np.arange(0, 150, 3)), "exact", 0.1, 0)
    cheap, _ = measure(seen, heads, None, "ek-fac", 0.1, 0)
    assert recall_at(exact.self_influence, wrong) >= 0.6 and recall_at(cheap.self_influence, wrong) >= 0.6
    assert np.corrcoef(exact.self_influence, cheap.self_influence)[0, 1] > 0.9
    assert cheap.influence is None and exact.influence is not None
    # Without it an answer is foreseen worse, the more so the more of its fit is its own doing.
    assert np.all(exact.leave_one_out_loss >= exact.loss - 1e-6)
    assert told.damping == pytest.approx(0.1 * told.mean_eigenvalue, rel=1e-4) and told.residual < 0.05
    assert 0.0 <= told.gradient_norm < 1.0
    np.testing.assert_allclose(exact.margin < 0, exact.loss > np.log(2.0))
    crossed, onto = cross_fit(experiment, seen, heads, 3, 200, 0.1, 0)
    assert recall_at(crossed, wrong) >= 0.6
    # More weight on a wrong answer makes the others foreseen worse.
    assert onto[wrong].mean() > onto[~wrong].mean()


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory, compile_quickly):
    config = settings(env="Pendulum-v1", method="drlhf", steps=320)
    return train(config, tmp_path_factory.mktemp("run") / "run").path


def test_the_command_tells_the_worst_and_writes_a_table(pendulum, capsys):
    assert command("influence", pendulum, *QUICK, "--top", 3, "--polish", 4) == 0
    out = capsys.readouterr().out
    assert "reward  of step 320, polished by 4 steps; all its networks" in out
    assert "exact Gauss–Newton, λ = " in out and "‖∇J‖ is" in out and "by cross-fit-loss" in out
    table = pl.read_parquet(pendulum / "influence.parquet")
    stored = pl.read_parquet(pendulum / "comparisons.parquet")
    assert table["label"].to_list() == stored["label"].to_list()
    assert table["step"].to_list() == stored["step"].to_list()
    assert sorted(table["suspected_rank"]) == list(range(1, len(table) + 1))
    worst = table.sort("cross_fit_loss", descending=True)["comparison"][0]
    assert table.filter(suspected_rank=1)["comparison"][0] == worst
    assert set(table["answered_by"]) == {"oracle"} and set(table["first_clip"]) == {""}
    numbers = table.select(pl.selectors.float())
    assert len(numbers.columns) == 9
    assert all(column.is_finite().all() and column.null_count() == 0 for column in numbers)
    assert not any("true" in name for name in table.columns)


def test_scores_seeds_and_the_newest(pendulum):
    assert command("influence", pendulum, "--folds", 0, "--newest", 7, "--by", "loss") == 0
    table = pl.read_parquet(pendulum / "influence.parquet")
    assert len(table) == 7 and table["influence"].null_count() == 7 == table["cross_fit_loss"].null_count()
    assert table.filter(suspected_rank=1)["loss"][0] == table["loss"].max()
    stored = pl.read_parquet(pendulum / "comparisons.parquet")
    assert table["label"].to_list() == stored["label"].to_list()[-7:]
    assert np.all(np.diff(table["comparison"]) == 1)


def test_answers_of_people_have_names_and_clips(tmp_path, capsys):
    run = tmp_path / "run"
    with Person(run / "answers"):
        train(settings(**ASKING | {"steps": 480, "held_out": 0.5}), run)
    assert command("influence", run, "--folds", 0) == 0
    out = capsys.readouterr().out
    table = pl.read_parquet(run / "influence.parquet")
    assert set(table["answered_by"]) == {"ann"}
    with Store.open(run / "answers") as store:
        records = [record for record in store.records() if not record.held_out]
        asked = [store.question(record.question) for record in records]
        some_held_out = any(record.held_out for record in store.records())
    pairs = {(question.first, question.second) for question in asked}
    assert set(zip(table["first_clip"], table["second_clip"], strict=True)) <= pairs
    assert asked[0].first[:8] in out or table["first_clip"][0][:8] in out
    assert some_held_out and "on the mean loss of the answers held out" in out
    assert table["influence"].null_count() == 0


def test_pictures_are_looked_at_behind_their_encoders(tmp_path, capsys):
    config = settings(env="Lamps-v0", method="drlhf", steps=320, **PICTURES)
    run = train(config, tmp_path / "run").path
    assert command("influence", run, *QUICK) == 0
    assert "the heads behind the encoders, which are held still" in capsys.readouterr().out
    assert pl.read_parquet(run / "influence.parquet")["self_influence"].is_finite().all()


def test_what_is_refused(pendulum, tmp_path, capsys):
    for options, text in (
        (("--by", "true-reward"), 'unknown --by "true-reward": choose one of cross-fit-loss, loss'),
        (("--folds", 1), "--folds is 1: give at least 2"),
        (("--folds", 4000), "--folds is 4000, but there are"),
        (("--damping", 0), "--damping is 0"),
        (("--newest", 1), "--newest is 1"),
        (("--by", "cross-fit-loss", "--folds", 0), "give --folds 5"),
    ):
        assert command("influence", pendulum, *options) == 2
        assert text in capsys.readouterr().err
    assert command("influence", tmp_path / "none") == 2
    sac = train(settings(env="Pendulum-v1", method="sac", steps=240), tmp_path / "sac").path
    assert command("influence", sac) == 2
    assert "learned no reward (sac)" in capsys.readouterr().err
    with pytest.raises(InputError, match="--top must be at least 1"):
        Options(top=0)
