"""Exported rewards and policies: equal to the run's, readable without us, and closed to damaged files."""

import copy
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rewardsmith as rs
from rewardsmith._core import ImageSpec, InputError, Layer
from rewardsmith.agents import CategoricalPolicy, TanhGaussianPolicy
from rewardsmith.exported import (
    Spaces,
    describe_policy,
    describe_reward,
    read_config,
    save_module,
    standalone,
    write_config,
)
from rewardsmith.preferences.models import skew_product
from rewardsmith.rewards import EmbeddingEnsemble, GroupEnsemble, RewardEnsemble, make_networks

pytestmark = pytest.mark.usefixtures("compile_quickly")

KEY = jax.random.key(0)
IMAGE = ImageSpec(12, 10, 1, 2)
LAYERS = (Layer(4, 4, 2), Layer(6, 3, 1))
LOW, HIGH = np.float32([-2.0, 0.0]), np.float32([2.0, 5.0])
OBSERVED = {"vector": 3, "picture": IMAGE}
COUNTED = {"box": None, "discrete": 4}


@pytest.fixture(autouse=True)
def small_convolutions(monkeypatch):
    monkeypatch.setattr("rewardsmith.agents.networks.NATURE", LAYERS)


def spaces(observed="vector", acted="box"):
    bounds = (LOW, HIGH) if acted == "box" else (None, None)
    return Spaces("Made-v0", OBSERVED[observed], *bounds, COUNTED[acted])


def steps(of, count, seed=0):
    """Observations and actions in the environment's units, some beyond the bounds."""
    rng = np.random.default_rng(seed)
    if isinstance(of.observation, ImageSpec):
        seen = rng.integers(256, size=(count, *IMAGE.shape), dtype=np.uint8)
    else:
        seen = rng.normal(size=(count, 3))
    if of.discrete:
        return seen, rng.integers(4, size=count)
    return seen, rng.uniform(-1, 6, size=(count, 2)).astype(np.float32)


def made_reward(kind, of, output="normalise", norm="none", visible=False):
    options = {"discrete": of.discrete, "layers": LAYERS, "norm": norm}
    mask = np.arange(12)[:, None] >= np.zeros(10) + 6 if visible else None
    sizes = of.observation, of.action_size, (8, 5), 3
    if kind == "ensemble":
        x = RewardEnsemble(*sizes, **options, output=output, visible=mask, key=KEY)
    else:
        networks = make_networks(*sizes, **options, width=4, key=KEY)
        x = GroupEnsemble(networks, output=output)
        if kind == "embedding":
            x = EmbeddingEnsemble(networks, skew_product, output=output, key=KEY)
    seen, acted = steps(of, 16, seed=1)
    x = x.normalise(jnp.asarray(of.observations(seen)), jnp.asarray(of.to_networks(acted, 16)))
    return x.weighed(jnp.asarray([1.0, 3.0, 0.0, 2.0])) if kind == "groups" else x


def write(folder, of, learned=None, policy=None):
    folder.mkdir(exist_ok=True)
    described = {"environment": {"id": of.env_id}, **of.to_json(), "reward": None, "policy": None}
    if learned is not None:
        described["reward"] = save_module(folder, "reward.safetensors", learned, describe_reward(learned))
    if policy is not None:
        described["policy"] = save_module(folder, "policy.safetensors", policy, describe_policy(policy))
    write_config(folder, described)
    return folder


CASES = [
    ("ensemble", "vector", "box", {}),
    ("ensemble", "vector", "discrete", {"output": "clamp"}),
    ("ensemble", "picture", "box", {"output": "raw", "norm": "group"}),
    ("ensemble", "picture", "discrete", {"norm": "batch", "visible": True}),
    ("groups", "vector", "box", {}),
    ("groups", "picture", "discrete", {"output": "clamp"}),
    ("embedding", "vector", "discrete", {}),
    ("embedding", "picture", "box", {"norm": "batch"}),
]


@pytest.mark.parametrize(("kind", "observed", "acted", "options"), CASES)
def test_a_reward_comes_back_bit_for_bit_and_in_numpy(tmp_path, kind, observed, acted, options):
    of = spaces(observed, acted)
    x = made_reward(kind, of, **options)
    folder = write(tmp_path / "made", of, learned=x)
    found = rs.load_reward(folder)
    assert jax.tree.structure(found.learned) == jax.tree.structure(x)
    assert bool(eqx.tree_equal(found.learned, x))
    seen, actions = steps(of, 7)
    expected = jax.vmap(x)(of.observations(seen), of.to_networks(actions, 7))
    rewards = found(seen, actions)
    assert rewards.shape == (7,) and rewards.dtype == np.float32 and np.ptp(rewards) > 1e-3
    np.testing.assert_allclose(rewards, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(standalone.load_reward(folder)(seen, actions), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("observed", OBSERVED)
@pytest.mark.parametrize("acted", COUNTED)
def test_a_policy_comes_back_bit_for_bit_and_in_numpy(tmp_path, observed, acted):
    of = spaces(observed, acted)
    make = CategoricalPolicy if of.discrete else TanhGaussianPolicy
    policy = make(of.observation, of.action_size, (8,), key=KEY)
    folder = write(tmp_path / "made", of, policy=policy)
    found, seen = rs.load_policy(folder, seed=3), steps(of, 6)[0]
    assert bool(eqx.tree_equal(found.network, policy))
    actions = found.act(seen)
    modes = np.asarray(jax.vmap(policy.mode)(of.observations(seen)))
    expected = modes if of.discrete else LOW + (modes + 1) * (HIGH - LOW) / 2
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(standalone.load_policy(folder)(seen), expected, rtol=1e-4, atol=1e-5)
    first, second = (found.act(np.repeat(seen[:1], 32, 0), deterministic=False) for _ in range(2))
    assert not np.array_equal(first, second) and len(np.unique(first, axis=0)) > 2
    assert first.dtype == (np.int64 if of.discrete else np.float32)
    if not of.discrete:
        assert (first >= LOW).all() and (first <= HIGH).all()
    again = rs.load_policy(folder, seed=3).act(np.repeat(seen[:1], 32, 0), deterministic=False)
    np.testing.assert_array_equal(again, first)
    with pytest.raises(InputError, match="seed is -1"):
        rs.load_policy(folder, seed=-1)


def test_a_step_is_worth_the_same_in_any_batch(tmp_path, monkeypatch):
    of = spaces()
    found = rs.load_reward(write(tmp_path / "made", of, learned=made_reward("ensemble", of)))
    seen, actions = steps(of, 21)
    whole = found(seen, actions)
    monkeypatch.setattr("rewardsmith.exported.reward.most_at_once", lambda spaces: 8)
    np.testing.assert_allclose(found(seen, actions), whole, rtol=1e-6, atol=1e-6)
    one = [found(seen[i : i + 1], actions[i : i + 1])[0] for i in range(21)]
    np.testing.assert_allclose(one, whole, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(copy.deepcopy(found)(seen, actions), found(seen, actions))
    with jax.enable_x64(True):
        np.testing.assert_allclose(rs.load_reward(tmp_path / "made")(seen, actions), whole, atol=1e-5)


def test_actions_beyond_the_bounds_count_as_those_on_them(tmp_path):
    of = spaces()
    found = rs.load_reward(write(tmp_path / "made", of, learned=made_reward("ensemble", of)))
    seen = np.zeros((2, 3))
    inside, beyond = np.float32([[2.0, 0.0]] * 2), np.float32([[2.0, 0.0], [7.0, -9.0]])
    np.testing.assert_array_equal(found(seen, beyond), found(seen, inside))
    # A bound that leaves nothing to choose.
    still = Spaces("Made-v0", 3, LOW, LOW, None)
    assert not still.to_networks(inside, 2).any()


@pytest.mark.parametrize(
    ("observed", "acted", "seen", "actions", "told"),
    [
        ("vector", "box", np.zeros((2, 4)), np.zeros((2, 2)), "observations have shape"),
        ("vector", "box", np.zeros(3), np.zeros(2), "give a batch"),
        ("vector", "box", np.zeros((0, 3)), np.zeros((0, 2)), "at least 1"),
        ("vector", "box", np.full((2, 3), 1e300), np.zeros((2, 2)), "finite float32"),
        ("vector", "box", np.zeros((2, 3)), np.zeros(2), "actions have shape"),
        ("vector", "box", np.zeros((2, 3)), np.full((2, 2), np.nan), "not finite"),
        ("vector", "discrete", np.zeros((2, 3)), np.zeros(2), "give 2 indices"),
        ("vector", "discrete", np.zeros((2, 3)), np.asarray([0, 4]), "0 to 3"),
        ("picture", "discrete", np.zeros((1, 2, 12, 10), np.uint8), np.asarray([0]), r"\(n, 12, 10, 2\)"),
        ("picture", "discrete", np.zeros((1, 12, 10, 2), np.float32), np.asarray([0]), "uint8"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_what_does_not_fit_is_refused(observed, acted, seen, actions, told):
    of = spaces(observed, acted)
    with pytest.raises(InputError, match=told) as refused:
        of.to_networks(actions, len(of.observations(seen)))
    assert "\n" not in str(refused.value)


# ---- damaged and hostile folders ----------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    of = spaces()
    policy = TanhGaussianPolicy(3, 2, (4,), key=KEY)
    return write(tmp_path_factory.mktemp("whole") / "made", of, made_reward("ensemble", of), policy)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


LOADERS = [rs.load_reward, rs.load_policy]


@pytest.mark.parametrize("load", [*LOADERS, standalone.load_reward, standalone.load_policy])
@pytest.mark.parametrize("at", [40, 300, -40])
def test_one_flipped_bit_is_noticed(tmp_path, whole, load, at):
    for file in ("config.json", "reward.safetensors", "policy.safetensors"):
        folder = shutil.copytree(whole, tmp_path / f"{file}-{at}")
        flip(folder / file, at)
        if file.split(".")[0] in ("config", load.__name__.removeprefix("load_")):
            with pytest.raises(ValueError, match=r"damaged|changed|delimiter|Expecting|quotes|format"):
                load(folder)
        else:
            load(folder)


def changed(whole, folder, change):
    """The folder with a setting changed by someone who knows how the checksum is made."""
    shutil.copytree(whole, folder)
    config = read_config(folder)
    change(config)
    write_config(folder, {name: value for name, value in config.items() if name != "format"})
    return folder


HOSTILE = [
    lambda c: c["reward"].update(hidden=[10**30]),
    lambda c: c["reward"].update(hidden=[10**9, 10**9]),
    lambda c: c["reward"].update(hidden="8"),
    lambda c: c["reward"].update(members=0),
    lambda c: c["reward"].update(members=10**12),
    lambda c: c["reward"].update(kind="__import__('os')"),
    lambda c: c["reward"].update(output="eval"),
    lambda c: c["reward"].update(file="../../etc/passwd"),
    lambda c: c["reward"].update(file=None),
    lambda c: c["reward"].update(width=7),
    lambda c: c["reward"].update(norm="batch"),
    lambda c: c["reward"].update(slope=0.5),
    lambda c: c["reward"].update(sha256="0" * 64),
    lambda c: c["reward"].clear(),
    lambda c: c.update(reward=[]),
    lambda c: c.pop("environment"),
    lambda c: c.pop("observation"),
    lambda c: c["observation"].update(size=-1),
    lambda c: c["observation"].update(size=10**40),
    lambda c: c.update(observation={"kind": "picture", "height": 10**9, "width": 10**9, "channels": 1}),
    lambda c: c["action"].update(low=[None, 0]),
    lambda c: c["action"].update(low=[0.0]),
    lambda c: c.update(action=[]),
]


@pytest.mark.parametrize("which", range(len(HOSTILE)))
def test_hostile_settings_end_in_one_line(tmp_path, whole, which):
    folder = changed(whole, tmp_path / "changed", HOSTILE[which])
    with pytest.raises(InputError) as refused:
        rs.load_reward(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("load", LOADERS)
def test_files_that_are_no_export_end_in_one_line(tmp_path, whole, load):
    (tmp_path / "config.json").write_text("[" * 100_000)
    name = load.__name__.removeprefix("load_")
    lacking = shutil.copytree(whole, tmp_path / "lacking")
    (lacking / f"{name}.safetensors").unlink()
    swapped = shutil.copytree(whole, tmp_path / "swapped")
    other = "policy" if name == "reward" else "reward"
    shutil.copyfile(whole / f"{other}.safetensors", swapped / f"{name}.safetensors")
    for folder, told in (
        (tmp_path, "damaged"),
        (tmp_path / "nothing", "rewardsmith export"),
        (lacking, "export the run again"),
        (swapped, "damaged or was changed"),
    ):
        with pytest.raises(InputError, match=told) as refused:
            load(folder)
        assert "\n" not in str(refused.value)


def test_code_in_the_folder_is_never_run(tmp_path, whole):
    folder = shutil.copytree(whole, tmp_path / "armed")
    (folder / "standalone.py").write_text("raise SystemExit('ran')")
    (folder / "__init__.py").write_text("raise SystemExit('ran')")
    assert rs.load_reward(folder)(np.zeros((1, 3)), np.zeros((1, 2))).shape == (1,)


def test_kinds_of_ones_own_are_refused():
    networks = make_networks(3, 2, (4,), 2, width=2, key=KEY)
    own = EmbeddingEnsemble(networks, lambda u, v: u @ v, key=KEY)
    with pytest.raises(InputError, match="of your own"):
        describe_reward(own)

    class Own(RewardEnsemble):
        pass

    with pytest.raises(InputError, match="cannot be exported"):
        describe_reward(Own(3, 2, (4,), 2, key=KEY))


def test_a_reward_that_diverged_is_refused(tmp_path):
    of = spaces()
    broken = eqx.tree_at(lambda x: x.mean, made_reward("ensemble", of), jnp.asarray(np.nan))
    with pytest.raises(InputError, match="not finite"):
        write(tmp_path / "made", of, learned=broken)
