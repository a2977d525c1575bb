"""Questions from a Minari dataset of this machine."""

import sys
import warnings

import gymnasium
import numpy as np
import pytest

from rewardsmith import InputError
from rewardsmith.preferences.store import Store, pairs_from_minari

LENGTHS = (4, 9, 2, 6)
DATASET = "tests/line/random-v0"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Episodes whose observations tell which episode and step they are of."""
    minari = pytest.importorskip("minari")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        episodes = [
            minari.data_collector.EpisodeBuffer(
                id=number,
                observations=[np.array([number, step], np.float32) for step in range(length + 1)],
                actions=[np.array([-step], np.float32) for step in range(length)],
                rewards=[1.0] * length,
                terminations=[False] * length,
                truncations=[False] * (length - 1) + [True],
            )
            for number, length in enumerate(LENGTHS)
        ]
        box = gymnasium.spaces.Box(-100, 100, (2,), np.float32)
        action = gymnasium.spaces.Box(-100, 100, (1,), np.float32)
        # It warns of each detail that is not given.
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(DATASET, episodes, observation_space=box, action_space=action)
        yield


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as opened:
        yield opened


def starts(store, numbers):
    """Episode and first step of both clips of each question."""
    for number in numbers:
        question = store.question(number)
        yield tuple(
            tuple(store.load_clip(clip)["observations"][0]) for clip in (question.first, question.second)
        )


def test_clips_stay_within_their_episodes(store, dataset):
    numbers = pairs_from_minari(store, DATASET, count=60, length=4, seed=0)
    assert len(numbers) == 60 == store.counts().open
    found = set()
    for number in numbers:
        question = store.question(number)
        assert question.first != question.second
        for clip in (question.first, question.second):
            arrays = store.load_clip(clip)
            (episode, start), steps = arrays["observations"][0], np.arange(4)
            assert np.array_equal(arrays["observations"][:, 0], np.full(4, episode))
            assert np.array_equal(arrays["observations"][:, 1], start + steps)
            assert np.array_equal(arrays["actions"][:, 0], -(start + steps))
            assert set(arrays) == {"observations", "actions"}
            assert store.clip(clip).env == DATASET and store.clip(clip).film is None
            found.add((int(episode), int(start)))
    assert found == {(0, 0), *((1, start) for start in range(6)), *((3, start) for start in range(3))}


def test_the_seed_decides(tmp_path, dataset):
    found = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        with Store.open(tmp_path / folder) as store:
            numbers = pairs_from_minari(store, DATASET, count=5, length=3, seed=seed)
            found.append(list(starts(store, numbers)))
    assert found[0] == found[1] != found[2]


def test_a_film_can_be_made_of_what_is_there(store, dataset):
    def film(excerpt, path):
        # What an action led to is the observation behind it.
        np.testing.assert_array_equal(excerpt.observations[:, 1], 1 - excerpt.actions[:, 0])
        path.write_bytes(f"{excerpt.start} {len(excerpt.actions)} {excerpt.seed}".encode())

    (number,) = pairs_from_minari(store, DATASET, count=1, length=3, seed=0, film=film)
    clip = store.question(number).first
    start = int(store.load_clip(clip)["observations"][0, 1])
    assert store.clip(clip).film.read_text() == f"{start} {start + 3} None"


@pytest.mark.parametrize("name", ["tests/line/other-v0", "nothing-v1"])
def test_nothing_is_downloaded(store, dataset, name, monkeypatch):
    monkeypatch.setattr(
        "minari.storage.hosting.download_dataset", lambda *_: pytest.fail("asked the network")
    )
    with pytest.raises(InputError, match=f"no dataset {name} on this machine.*minari download"):
        pairs_from_minari(store, name, count=1, length=3, seed=0)


@pytest.mark.parametrize("name", ["../../etc/passwd-v0", "/etc-v0", "", "a/../b-v0", "line", "a b-v0"])
def test_ids_that_are_paths_are_refused(store, name):
    with pytest.raises(InputError, match="give an id such as"):
        pairs_from_minari(store, name, count=1, length=3, seed=0)


@pytest.mark.parametrize("wrong", [{"length": 9}, {"length": 10}, {"length": 0}, {"count": 0}, {"seed": -1}])
def test_what_does_not_fit_is_refused(store, dataset, wrong):
    with pytest.raises(InputError):
        pairs_from_minari(store, DATASET, **({"count": 1, "length": 3, "seed": 0} | wrong))
    assert store.open_questions() == []


def test_without_minari_the_extra_is_named(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(InputError, match=r'pip install "rewardsmith\[minari\]"'):
        pairs_from_minari(store, DATASET, count=1, length=3, seed=0)
