"""Runs on pictures: every method, discrete and continuous actions, Atari; resumed runs equal whole ones."""

import gc

import ale_py
import equinox as eqx
import gymnasium
import imageio.v2 as imageio
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from rewardsmith._core import ImageSpec, InputError, Layer, TrueReward, stacked
from rewardsmith._core.serialise import load_arrays
from rewardsmith.cli import main
from rewardsmith.envs import AtariBatchEnv, GymnasiumEnv, clip_frames
from rewardsmith.preferences import Teacher
from rewardsmith.rewards import RewardEnsemble
from rewardsmith.runs.clips import film_comparisons
from rewardsmith.runs.config import METHODS, TrainConfig
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.loading import newest_checkpoint
from rewardsmith.runs.presets import atari, expanded
from rewardsmith.runs.seat import Seat
from rewardsmith.runs.train import resume, train
from tests.small_runs import assert_same, killed_at, learned, measured, settings

pytestmark = pytest.mark.usefixtures("compile_quickly")

SIDE, FRAME_SKIP = 24, 4
PICTURES = {"hidden": (16,), "leader_steps": 2, "leader_warmup_steps": 4, "frame_stack": 2}


class Lamps(gymnasium.Env):
    """One side of the picture is bright; pointing there pays. Cannot be restored."""

    observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def _show(self):
        self.bright = int(self.np_random.integers(2))
        picture = self.np_random.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
        half = slice(0, SIDE // 2) if self.bright == 0 else slice(SIDE // 2, SIDE)
        picture[:, half] += 150
        return picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._show(), {}

    def step(self, action):
        reward = float(self._points(action) == self.bright)
        return self._show(), reward, bool(self.np_random.random() < 0.02), False, {}

    def _points(self, action):
        return int(action)

    def render(self):
        return np.zeros((SIDE, SIDE, 3), np.uint8)


class Dimmers(Lamps):
    """The same with a continuous action."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def _points(self, action):
        return int(action[0] > 0)


class Told(gymnasium.Env):
    """Dict observations."""

    observation_space = gymnasium.spaces.Dict(
        {"where": gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32), "what": gymnasium.spaces.Discrete(3)}
    )
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), float(action), False, False, {}


@pytest.fixture(scope="module", autouse=True)
def worlds():
    for name, world in (("Lamps-v0", Lamps), ("Dimmers-v0", Dimmers), ("Told-v0", Told)):
        gymnasium.register(name, world, max_episode_steps=40)
    yield
    for name in ("Lamps-v0", "Dimmers-v0", "Told-v0"):
        gymnasium.registry.pop(name)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    layers = (Layer(4, 6, 4), Layer(4, 3, 2))
    monkeypatch.setattr("rewardsmith.agents.networks.NATURE", layers)
    monkeypatch.setattr("rewardsmith.runs.parts.REWARD", layers)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "pebble"])
def test_every_method_trains_on_pictures(tmp_path, method):
    folder = train(settings(env="Lamps-v0", method=method, **PICTURES), tmp_path / "run")
    rows = measured(folder)
    assert rows["step"].max() == 640 and rows["true_return"].drop_nulls().len() == 4
    assert rows["kl_to_longer"].drop_nulls().is_finite().all()
    if method != "sac":
        assert rows["preference_loss"].drop_nulls().is_finite().all()


@pytest.mark.parametrize(
    "changes", [{"estimator": "suffix"}, {"estimator": "adjoint"}, {"clips": "weighted"}]
)
def test_estimators_and_clips_on_pictures(tmp_path, changes):
    folder = train(settings(env="Lamps-v0", **PICTURES | changes), tmp_path / "run")
    assert measured(folder)["second_norm"].drop_nulls().is_finite().all()


@pytest.mark.parametrize(
    ("env", "changes"),
    [
        ("Lamps-v0", {"reward_norm": "batch", "reward_output": "clamp", "reward_dropout": True}),
        ("Dimmers-v0", {"estimator": "suffix", "reward_norm": "group", "reward_output": "raw"}),
        ("Lamps-v0", {"method": "sac", "replay_on_disk": True, "clip_rewards": True}),
    ],
)
def test_a_resumed_run_on_pictures_equals_an_uninterrupted_one(tmp_path, env, changes):
    config = settings(env=env, **PICTURES | changes)
    whole = train(config, tmp_path / "whole")
    with killed_at(520):
        train(config, tmp_path / "cut")
    assert_same(whole, resume(tmp_path / "cut"))
    assert (tmp_path / "cut" / "replay-frames.bin").exists() == config.replay_on_disk


def test_dropout_leaves_out_half_for_a_gradient_step_and_nothing_afterwards():
    key, picture = jax.random.key(0), jnp.full((SIDE, SIDE, 1), 100, jnp.uint8)
    layers = (Layer(4, 6, 4), Layer(4, 3, 2))
    x = RewardEnsemble(ImageSpec(SIDE, SIDE, 1), 2, (8,), 3, discrete=True, layers=layers, key=key)
    thinned = [x.thinned(own) for own in jax.random.split(key, 200)]
    kept = np.stack([one.networks.kept for one in thinned])
    assert set(np.unique(kept)) == {0, 2} and abs(kept.mean() - 1) < 0.05
    assert len({str(row) for row in kept[0]}) == 3, "each member its own"
    values = {float(one(picture, jnp.int32(0))) for one in thinned[:20]}
    assert len(values) == 20
    assert eqx.tree_equal(thinned[0].whole(), x)


def test_no_learner_on_pictures_can_tell_true_rewards_apart(tmp_path, monkeypatch):
    """Other true rewards, same answers: every array a learner holds must stay what it was, bit for bit."""

    class Blind(Teacher):
        def answer(self, first, second, rng):
            return rng.integers(0, 2, first.shape[0]).astype(float)

    monkeypatch.setattr("rewardsmith.runs.experiment.make_teacher", lambda config: Blind())
    config = settings(env="Lamps-v0", **PICTURES)
    plain = train(config, tmp_path / "plain")
    step = GymnasiumEnv.step

    def poisoned(self, action):
        return step(self, action)._replace(reward=TrueReward(np.full(self.num_envs, 1e6)))

    monkeypatch.setattr(GymnasiumEnv, "step", poisoned)
    other = train(config, tmp_path / "other")
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), learned(plain), learned(other))
    assert all(jax.tree.leaves(same))
    returns = [measured(run)["true_return"].drop_nulls()[-1] for run in (plain, other)]
    assert returns[0] != returns[1], "the poison must have reached the evaluator"


def test_soft_actor_critic_learns_from_pictures(tmp_path):
    config = settings(
        env="Lamps-v0",
        method="sac",
        steps=2000,
        learning_rate=2e-3,
        temperature=0.05,
        discount=0.5,
        eval_episodes=8,
        eval_every=2000,
        checkpoint_every=2000,
        **PICTURES | {"hidden": (64,), "snapshot_every": None},
    )
    returns = measured(train(config, tmp_path / "run")).filter(pl.col("kind") == "eval")
    # At random a third of the steps pay, of some 28 in an episode; with the eyes open all.
    share = returns["true_return"][-1] / returns["episode_length"][-1]
    assert share > 0.9


def test_ends_can_be_hidden_from_the_learner(tmp_path, monkeypatch):
    seen = {True: 0, False: 0}
    transitions = Seat.transitions
    for hidden in seen:

        def counted(self, action, result, hidden=hidden):
            steps = transitions(self, action, result)
            seen[hidden] += int(np.sum(steps["terminated"]))
            return steps

        monkeypatch.setattr(Seat, "transitions", counted)
        config = settings(env="Lamps-v0", method="drlhf", hide_ends=hidden, **PICTURES)
        train(config, tmp_path / str(hidden))
    assert seen[True] == 0 < seen[False]


def test_dict_observations_are_refused_or_flattened(tmp_path):
    with pytest.raises(InputError, match="--flatten-observations"):
        train(settings(env="Told-v0"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    folder = train(settings(env="Told-v0", flatten_observations=True), tmp_path / "run")
    assert measured(folder)["step"].max() == 640


# ---- Atari --------------------------------------------------------------------------------------

ATARI = {
    "env": "ALE/BeamRider-v5",
    "hidden": (16,),
    "steps": 320,
    "eval_every": 320,
    "snapshot_every": None,
    "leader_steps": 2,
    "leader_warmup_steps": 4,
}


@pytest.fixture
def short_episodes(monkeypatch):
    """Games end after 60 steps instead of 27,000."""
    gymnasium.register_envs(ale_py)
    monkeypatch.setitem(
        gymnasium.spec("ALE/BeamRider-v5").kwargs, "max_num_frames_per_episode", 60 * FRAME_SKIP
    )


def test_the_command_for_atari(tmp_path, monkeypatch, capsys, short_episodes):
    monkeypatch.setattr("rewardsmith.runs.finish._FINAL_EPISODES", 1)
    command = "train --env ALE/BeamRider-v5 --method sobirl --preset atari --steps 2000".split()
    # Fewer updates than the preset's; all else is as it is told.
    command += ["--updates-per-step", "0.02", "--leader-batch-size", "4", "--recent-batch-size", "4"]
    main([*command, "--out", str(tmp_path / "run")])
    assert "true return" in capsys.readouterr().out
    config = TrainConfig.from_json(RunFolder.open(tmp_path / "run").config)
    assert (config.learning_rate, config.reward_output, config.batch_size) == (1e-4, "clamp", 64)
    assert config.clip_rewards and config.snapshot_every is None
    for name in ("film.mp4", "curves.png", "report.html", "comparisons.parquet", "metrics.parquet"):
        assert (tmp_path / "run" / name).stat().st_size > 0


def test_what_is_given_beside_a_preset_stands(capsys):
    given = "--preset atari --steps=2000 --batch-size 3 --no-clip-rewards".split()
    found = expanded(given, 10)
    assert found[-len(given) :] == given and capsys.readouterr().out == ""
    assert found.count("--batch-size") == 1 and "--clip-rewards" not in found
    assert found[found.index("--comparisons") + 1] == "40"
    assert "--hidden 512\n" in (expanded([*given, "--help"], 10), capsys.readouterr().out)[1]
    assert expanded(["--steps", "7"], 10) == ["--steps", "7"]
    assert atari(4_300_000)["--comparisons"] == "9000" and atari(4_300_000)["--leader-every"] == "10000"
    assert atari(4_300_000)["--learning-starts"] == "20000"
    assert atari(4_300_000)["--leader-warmup-steps"] == "4800"


# The reader of films leaks its pipes.
@pytest.mark.filterwarnings("ignore:unclosed file <_io:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_atari_run_resumes_and_its_clips_are_films_of_what_the_reward_saw(
    tmp_path, monkeypatch, short_episodes
):
    config = settings(**ATARI | {"film_clips": True, "hide": "score", "clip_length": 12})
    whole = train(config, tmp_path / "whole")
    with killed_at(280):
        train(config, tmp_path / "cut")
    assert_same(whole, resume(tmp_path / "cut"))

    queue = load_arrays(newest_checkpoint(whole), "['collector']['queue']")
    slot = (int(queue["total"]) - 1) % len(queue["label"])
    row = {name[6:]: array[slot, 0] for name, array in queue.items() if name.startswith("start ")}
    actions = queue["actions"][slot, 0]
    observations = stacked(queue["observations"][slot, 0], 4)
    assert np.array_equal(row["observation"], observations[0]), "the film starts where the clip does"
    colour = clip_frames(config.env, row, actions, options=config.env_options())
    assert colour.shape == (12, 210, 160, 3)
    # What an action led to is what is seen before the next: the same picture, shrunk and grey.
    for step in range(11):
        newest = observations[step + 1, :, :, -1].astype(float)
        small = colour[step].mean(axis=2)[::5, ::4][:42, :40].ravel()
        grey = newest[np.arange(42) * 2][:, np.linspace(0, 83, 40).astype(int)].ravel()
        assert np.corrcoef(small, grey)[0, 1] > 0.5

    films = film_comparisons(whole.path, 1)
    first = next(iter(sorted(films.glob("*-first.mp4"))))
    with imageio.get_reader(first) as film:
        shown = np.stack([frame for frame in film])
    del film
    gc.collect()
    assert len(shown) >= 12 and shown[:, :30].max() < 40 < shown[:, 60:170].max(), "the score is hidden"


def test_games_that_cannot_be_restored_say_so(tmp_path):
    with pytest.raises(InputError, match="--film-clips"):
        train(settings(**ATARI | {"backend": "ale", "film_clips": True}), tmp_path / "run")
    with pytest.raises(InputError, match="suffix"):
        train(settings(**ATARI | {"backend": "ale", "estimator": "branch"}), tmp_path / "run")
    assert AtariBatchEnv.__name__ and not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{"estimator": "branch"}, {"clips": "fresh"}, {"backend": "ale"}])
def test_roll_outs_and_threads_on_atari(tmp_path, short_episodes, changes):
    folder = train(settings(**ATARI | changes), tmp_path / "run")
    rows = measured(folder)
    assert rows["second_norm"].drop_nulls().is_finite().all()
    assert (rows["extra_steps"].max() > 0) is ("backend" not in changes)
