"""Exported folders that were changed, with checksums made right: refused, or read as they stand; no hang."""

import functools
import json
import shutil

import hypothesis.strategies as st
import pytest
from hypothesis import given

import rewardsmith as rs
from rewardsmith.agents import TanhGaussianPolicy
from rewardsmith.exported import standalone
from rewardsmith.exported.layout import _checksum, file_checksum
from tests.fuzzing import examples, json_texts, refused, spoilt_bytes
from tests.test_export import KEY, made_reward, spaces, steps, write

pytestmark = pytest.mark.usefixtures("compile_quickly")

LOADERS = {"reward": rs.load_reward, "policy": rs.load_policy}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    of = spaces()
    policy = TanhGaussianPolicy(of.observation, of.action_size, (8,), key=KEY)
    return write(tmp_path_factory.mktemp("good") / "made", of, made_reward("ensemble", of), policy)


def read_both(folder):
    """Load reward and policy, by the package and without it, and use what was loaded."""
    for name, load in LOADERS.items():
        refused(functools.partial(load, folder), gigabytes=4)
        refused(functools.partial(read_alone, folder, name), gigabytes=4)


def read_alone(folder, name):
    """The file for other programs says ValueError for whatever is wrong, and OSError for no file."""
    try:
        getattr(standalone, f"load_{name}")(folder)
    except (ValueError, OSError):
        return


@examples(40, 4000)
@given(data=st.data())
def test_a_forged_description_is_refused_or_read(tmp_path, good, data):
    """The checksums are those of what was changed: anyone can compute them."""
    folder = tmp_path / "made"
    shutil.copytree(good, folder, dirs_exist_ok=True)
    config = json.loads((good / "config.json").read_text())
    config.pop("sha256")
    text = data.draw(json_texts(config))
    try:
        changed = json.loads(text)
        changed["sha256"] = _checksum(changed)
        text = json.dumps(changed)
    # What no checksum can be computed of is read as it is.
    except (ValueError, RecursionError, TypeError):
        pass
    (folder / "config.json").write_text(text)
    read_both(folder)


@examples(20, 2000)
@given(data=st.data())
def test_spoilt_arrays_under_right_checksums_are_refused(tmp_path, good, data):
    folder = tmp_path / "made"
    shutil.copytree(good, folder, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(sorted(LOADERS)))
    path = folder / f"{name}.safetensors"
    path.write_bytes(data.draw(spoilt_bytes(path.read_bytes())))
    config = json.loads((good / "config.json").read_text())
    config.pop("sha256")
    config[name]["sha256"] = file_checksum(path)
    config["sha256"] = _checksum(config)
    (folder / "config.json").write_text(json.dumps(config))
    read_both(folder)


@pytest.mark.parametrize("name", ["../../outside.safetensors", "/etc/hostname", "x\0y", ".."])
def test_only_the_files_of_the_folder_are_read(tmp_path, good, name):
    folder = tmp_path / "a" / "made"
    shutil.copytree(good, folder)
    shutil.copy(good / "reward.safetensors", tmp_path / "outside.safetensors")
    config = json.loads((good / "config.json").read_text())
    config.pop("sha256")
    config["reward"]["file"] = name
    config["sha256"] = _checksum(config)
    (folder / "config.json").write_text(json.dumps(config))
    assert refused(lambda: rs.load_reward(folder)) is not None
    read_alone(folder, "reward")


def test_what_is_not_changed_is_read(good):
    assert rs.load_reward(good)(*steps(spaces(), 3)).shape == (3,)
    assert rs.load_policy(good).act(steps(spaces(), 3)[0]).shape == (3, 2)
