"""Clips by reference, and what may not be put into a store."""

import hashlib
import threading

import numpy as np
import pytest
from safetensors.numpy import load_file

from rewardsmith import InputError
from rewardsmith.preferences.store import Answer, NotYours
from tests.store_databases import Store, add_clips, answer, ask, let_in, new, some_arrays

pytest_plugins = "tests.store_databases"


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as opened:
        yield opened


def film(path):
    path.write_bytes(b"\x00\x00\x00\x18ftypisom")


def test_a_clip_is_two_files_and_a_row(store):
    arrays = some_arrays(7)
    clip = store.clip(store.add_clip(arrays, env="cheetah", length=3, film=film))
    assert (clip.env, clip.length) == ("cheetah", 3)
    assert clip.film == store.clips_folder / f"{clip.id}.mp4" and clip.film.read_bytes()[4:8] == b"ftyp"
    assert clip.arrays == store.clips_folder / f"{clip.id}.safetensors"
    for found in (load_file(clip.arrays), store.load_clip(clip.id)):
        assert found.keys() == arrays.keys()
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert len(list(store.clips_folder.iterdir())) == 2


@pytest.mark.parametrize("kind", ["bool", "uint8", "int64", "float16", ">f4", "float64"])
def test_arrays_come_back_as_they_were(store, kind):
    array = np.arange(12).reshape(4, 3).astype(kind)
    clip = store.add_clip({"a": array[:, ::2], "scalar": np.array(1, kind)}, env="x", length=4, film=None)
    found = store.load_clip(clip)
    assert np.array_equal(found["a"], array[:, ::2]) and found["a"].dtype == np.dtype(kind).newbyteorder("=")
    assert found["scalar"].shape == ()


def test_the_same_clip_is_stored_once_and_gets_its_film_later(store):
    first = store.add_clip(some_arrays(1), env="x", length=3, film=None)
    assert store.clip(first).film is None
    backwards = dict(reversed(some_arrays(1).items()))
    assert store.add_clip(backwards, env="x", length=3, film=film) == first
    assert store.clip(first).film.exists()
    calls = []
    assert store.add_clip(some_arrays(1), env="x", length=3, film=calls.append) == first and not calls
    others = [(some_arrays(2), "x", 3), (some_arrays(1), "y", 3), (some_arrays(1), "x", 2)]
    others.append(({"observations": some_arrays(1)["observations"]}, "x", 3))
    ids = {store.add_clip(arrays, env=env, length=length, film=None) for arrays, env, length in others}
    assert len(ids | {first}) == 5


def test_eight_threads_add_the_same_clip(store):
    ids, threads = [], []
    for _ in range(8):
        add = lambda: ids.append(store.add_clip(some_arrays(5), env="x", length=3, film=film))  # noqa: E731
        threads.append(threading.Thread(target=add))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8 and len(set(ids)) == 1 and len(list(store.clips_folder.iterdir())) == 2


def test_a_film_that_fails_leaves_nothing(store):
    def broken(path):
        path.write_bytes(b"half")
        raise RuntimeError("the renderer died")

    with pytest.raises(RuntimeError, match="renderer"):
        store.add_clip(some_arrays(1), env="x", length=3, film=broken)
    with pytest.raises(InputError, match="film of a clip is empty"):
        store.add_clip(some_arrays(2), env="x", length=3, film=lambda path: None)
    assert not list(store.clips_folder.iterdir())
    with pytest.raises(InputError, match="no clip"):
        store.clip("0" * 64)


@pytest.mark.parametrize("damage", [b"", b"x", b"\xff" * 100])
def test_a_damaged_file_is_noticed(store, damage):
    clip = store.clip(store.add_clip(some_arrays(), env="x", length=3, film=None))
    whole = clip.arrays.read_bytes()
    clip.arrays.write_bytes(damage)
    with pytest.raises(InputError, match="damaged"):
        store.load_clip(clip.id)
    clip.arrays.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="checksum"):
        store.load_clip(clip.id)
    clip.arrays.unlink()
    with pytest.raises(InputError, match="put the file back"):
        store.load_clip(clip.id)


@pytest.mark.parametrize("name", ["true_reward", "True-Reward", "trueReward", "first_true_rewards"])
def test_true_rewards_are_refused(store, name):
    with pytest.raises(InputError, match="true rewards are not stored"):
        store.add_clip({**some_arrays(), name: np.zeros(3)}, env="x", length=3, film=None)
    assert not list(store.clips_folder.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        {"arrays": {}},
        {"arrays": {"a": np.array([object()])}},
        {"arrays": {"a": np.array(["text"])}},
        {"arrays": {"a": np.zeros(2, np.complex64)}},
        {"arrays": {"a": np.zeros(2, "datetime64[s]")}},
        {"arrays": {"a" * 101: np.zeros(2)}},
        {"arrays": {"a\n": np.zeros(2)}},
        {"env": "e" * 10_000_000},
        {"env": "e\x00"},
        {"length": 0},
        {"length": -1},
    ],
)
def test_other_clips_are_refused(store, wrong):
    given = {"arrays": some_arrays(), "env": "x", "length": 3, "film": None} | wrong
    with pytest.raises(InputError) as caught:
        store.add_clip(given.pop("arrays"), **given)
    assert len(str(caught.value)) < 300
    assert not list(store.clips_folder.iterdir())


HOSTILE_IDS = [
    "",
    "../" * 20,
    "/etc/passwd",
    "a" * 63,
    "A" * 64,
    "a" * 64 + "\n",
    "a" * 10_000_000,
    "\x00" * 64,
]


@pytest.mark.parametrize("clip", HOSTILE_IDS)
def test_hostile_ids_of_clips(store, clip):
    (known,) = add_clips(store, 1)
    for use in (store.clip, store.load_clip, lambda one: store.ask([(known, one)])):
        with pytest.raises(InputError) as caught:
            use(clip)
        assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_hostile_answers_change_nothing(store):
    ask(store, 2)
    (ann,) = let_in(store, "Ann")
    store.take(ann)
    good = {"question": 2, "labeller": ann, "answer": Answer.LEFT, "request": new()}
    for wrong in (
        *({"question": number} for number in (0, -1, 99, 2**63, 10**30)),
        *({"labeller": number} for number in (0, -1, 99, 10**30)),
        *(
            {"request": text}
            for text in ("", "x", "a b c d e f g", "../../../etc", "a" * 10_000_000, "é" * 36)
        ),
        *({"response_seconds": value} for value in (-1.0, float("nan"), float("inf"), 1e10)),
    ):
        with pytest.raises(InputError) as caught:
            store.answer(**(good | wrong))
        assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    with pytest.raises(NotYours):
        answer(store, 1, ann)
    assert store.records() == []
    assert store.answer(**good).sequence == 1


def test_other_questions_are_refused(store):
    a, b = add_clips(store, 2)
    other = store.add_clip(some_arrays(), env="hopper", length=3, film=None)
    for pairs, options in [
        ([(a, a)], {}),
        ([(a, hashlib.sha256(b"").hexdigest())], {}),
        ([(a, other)], {}),
        ([(a, b)], {"overlap": 0}),
        ([(a, b)], {"step": -1}),
        ([(a, b)], {"asked_by": "m" * 201}),
        ([(a, b)], {"held_out": [True, False]}),
    ]:
        with pytest.raises(InputError):
            store.ask(pairs, **options)
    for number in (0, 1, 10**30):
        with pytest.raises(InputError):
            store.question(number)
    for count in (0, -1, 10**9):
        with pytest.raises(InputError):
            store.take(1, count=count)
    assert store.open_questions() == []
