"""What is not finite ends a run within a session, is named, and reaches no checkpoint."""

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rewardsmith._core import InputError, TrueReward, adam, skipped
from rewardsmith._core.optimiser import SKIPPED_IN_A_ROW
from rewardsmith._core.serialise import load_tree
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.fused import FusedLoop
from rewardsmith.runs.health import check_learned, check_seen
from rewardsmith.runs.train import resume, train
from rewardsmith.runs.training import Training
from tests.small_runs import settings

pytestmark = pytest.mark.usefixtures("compile_quickly")

BROKEN_AT = 60


class Breaking(gymnasium.Env):
    """A simulator that gives what it should not, from one of its steps on; `mended` once somebody did."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    what, value, mended = "observation", np.nan, False

    def __init__(self):
        self.count = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        observation = self.np_random.normal(size=2).astype(np.float32)
        reward = -float(observation[0] ** 2)
        if self.count >= BROKEN_AT and not Breaking.mended:
            if self.what == "observation":
                observation[1] = self.value
            else:
                reward = self.value
        return observation, reward, False, False, {}


@pytest.fixture
def breaking(monkeypatch):
    gymnasium.register("Breaking-v0", Breaking, max_episode_steps=20)
    monkeypatch.setattr(Breaking, "mended", False)
    yield
    gymnasium.registry.pop("Breaking-v0")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["observation", "true reward"])
def test_an_environment_that_breaks_ends_the_run_at_that_step(tmp_path, monkeypatch, breaking, what, value):
    monkeypatch.setattr(Breaking, "what", what)
    monkeypatch.setattr(Breaking, "value", value)
    config = settings(env="Breaking-v0", method="drlhf", learning_starts=80, checkpoint_every=120)
    with pytest.raises(InputError, match=f"an? {what} of Breaking-v0 is not finite at step 2[34]"):
        train(config, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.checkpoints()
    monkeypatch.setattr(Breaking, "mended", True)
    assert resume(folder.path).steps() >= {config.steps}


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (lambda self: (self.followers, "critic"), "follower.critic"),
        (lambda self: (self.followers, "policy"), "follower.policy|an action is not finite; the policy"),
        (lambda self: (self.leader, "x"), "leader.x"),
        (lambda self: (self.leader, "optimiser"), "leader"),
    ],
)
def test_what_breaks_in_a_session_is_named_and_not_kept(tmp_path, monkeypatch, part, named):
    session = Training._session

    def spoil(self):
        session(self)
        if self.step >= 400:
            state, name = part(self)
            spoilt = jax.tree.map(
                lambda leaf: leaf * np.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf, state
            )
            if name in ("critic", "policy"):
                old = self.followers[0]
                new = _with(old, **{name: getattr(spoilt[0], name)})
                self.followers = (new, *self.followers[1:])
            elif name == "x":
                self.leader = _with(self.leader, x=spoilt.x)
            else:
                self.leader = spoilt

    monkeypatch.setattr(Training, "_session", spoil)
    config = settings(env="Pendulum-v1", method="drlhf")
    with pytest.raises(InputError, match=named) as stopped:
        train(config, tmp_path / "run")
    assert "\n" not in str(stopped.value)
    monkeypatch.undo()
    folder = RunFolder.open(tmp_path / "run")
    assert max(folder.steps()) <= 400
    training = Training([TrainConfig.from_json(folder.config)], [folder])
    for path in folder.checkpoints():
        state = load_tree(path, training._state(0))
        check_learned(0, [state["follower"], *state["companions"]], state["leader"], state["replay"])
    assert resume(folder.path).steps() >= {config.steps}


def _with(module, **changes):
    for name, value in changes.items():
        module = eqx.tree_at(lambda m, name=name: getattr(m, name), module, value)
    return module


def test_finite_numbers_are_no_matter():
    check_seen("X-v0", 1, np.ones((2, 3), np.float32), TrueReward([1.0, -1e300]))
    check_seen("X-v0", 1, np.full((2, 4, 4, 1), 255, np.uint8), TrueReward([0.0, 0.0]))
    whole, broken = jnp.ones(2), jnp.array([1.0, jnp.inf])
    check_learned(1, [(whole, jnp.arange(3))], None)
    with pytest.raises(InputError, match=r"leader\['x'\]\[1\] is not finite at step 7"):
        check_learned(7, [whole], {"x": (whole, broken)})
    with pytest.raises(InputError, match=r"companions\[0\] is not finite at step 7"):
        check_learned(7, [whole, broken], None)
    with pytest.raises(InputError, match=r"replay\['reward'\] is not finite at step 7: .* mend"):
        check_learned(7, [whole], None, {"reward": broken})


def test_what_a_fused_loop_was_given_reaches_no_checkpoint(tmp_path, monkeypatch):
    pytest.importorskip("gymnax")
    advance = FusedLoop.advance

    def spoil(self, phase, followers, memory, leader, keys, drawn, step, count):
        found = advance(self, phase, followers, memory, leader, keys, drawn, step, count)
        if step >= 400:
            replay = memory.replay
            broken = replay.data.observation.at[0, 0].set(jnp.nan)
            memory.replay = eqx.tree_at(lambda r: r.data.observation, replay, broken)
        return found

    monkeypatch.setattr(FusedLoop, "advance", spoil)
    with pytest.raises(InputError, match="replay.*observation is not finite at step .* mend the environment"):
        train(settings(env="gymnax/Pendulum-v1", method="sac"), tmp_path / "run")
    assert max(RunFolder.open(tmp_path / "run").steps()) <= 400


def test_a_skipped_update_moves_nothing_and_is_counted():
    optimiser = adam(0.1, skip_not_finite=True)
    x = jnp.array([1.0, 2.0])
    state = optimiser.init(x)
    for gradient in ([1.0, 1.0], [jnp.nan, 1.0], [1.0, jnp.inf]):
        before = x
        updates, state = optimiser.update(jnp.array(gradient), state, x)
        x = optax.apply_updates(x, updates)
        assert bool(jnp.all(x == before)) == (not np.isfinite(gradient).all())
    assert skipped({"any": (state, None)}) == 2
    # What goes on for long is no accident.
    for _ in range(SKIPPED_IN_A_ROW):
        updates, state = optimiser.update(jnp.array([jnp.nan, 0.0]), state, x)
        x = optax.apply_updates(x, updates)
    assert not np.isfinite(x).all()


def test_a_run_that_skips_goes_on_and_says_so(tmp_path, monkeypatch):
    config = settings(env="Pendulum-v1", method="drlhf", skip_not_finite=True)
    session = Training._session

    def spoil(self):
        labels = self.seats[0].collector.queue._arrays["label"]
        kept = labels.copy()
        if 300 <= self.step < 380:
            labels[:] = np.nan
        session(self)
        if 300 <= self.step < 380:
            labels[:] = kept

    monkeypatch.setattr(Training, "_session", spoil)
    folder = train(config, tmp_path / "run")
    assert any("left out" in line for line in folder.warnings())
    assert folder.steps() >= {config.steps}
