"""What ``rewardsmith label`` opens and manages."""

import warnings

import gymnasium
import imageio.v2 as imageio
import numpy as np
import pytest
from small_runs import settings

from rewardsmith._core import InputError
from rewardsmith.envs import film_excerpt
from rewardsmith.preferences.store import Answer, Role, Store
from rewardsmith.runs.labels import ask_minari, manage, open_for_labels
from rewardsmith.runs.train import train

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*ffmpeg:ResourceWarning")
QUICK = {"env": "Pendulum-v1", "method": "drlhf", "steps": 240, "snapshot_every": None, "comparisons": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(settings(**QUICK, film_clips=True), tmp_path_factory.mktemp("runs") / "taught").path


def test_a_taught_run_asks_people_about_its_newest_comparisons(run, capsys):
    store, folder = open_for_labels(str(run), 3)
    with store:
        assert folder == run and store.counts().open == 3
        question = store.open_questions()[0]
        assert question.asked_by == "taught@240" and question.step == 240
        film = store.clip(question.first).film
        assert film is not None and film.read_bytes()[4:8] == b"ftyp"
        assert {number for number, _, _ in store.predictions()} == {q.id for q in store.open_questions()}
    assert "3 questions from the newest comparisons" in capsys.readouterr().out
    # A second look asks nothing anew.
    store, _ = open_for_labels(str(run), 3)
    with store:
        assert store.counts().open == 3


def test_what_there_is_to_open(run, tmp_path):
    with pytest.raises(InputError, match="no run at"):
        open_for_labels(str(tmp_path / "nothing"), 3)
    with pytest.raises(InputError, match="--count is 0"):
        open_for_labels(str(run), 0)
    with pytest.raises(InputError, match="needs --clips"):
        open_for_labels("postgresql://localhost/answers", 3)
    blind = train(settings(**QUICK), tmp_path / "blind").path
    with pytest.raises(InputError, match="train with --film-clips"):
        open_for_labels(str(blind), 3)
    assert not (blind / "answers").exists()
    with Store.open(tmp_path / "store"):
        pass
    store, folder = open_for_labels(str(tmp_path / "store"), 3)
    with store:
        assert folder is None


def test_a_store_is_managed(run, tmp_path, capsys):
    store, _ = open_for_labels(str(run), 3)
    with store, Store.open(tmp_path / "other") as other:
        assert not manage(store, instruction="Which swings higher?")
        assert store.get_setting("instruction") == "Which swings higher?"
        assert manage(store, add_labeller="ann", role="owner")
        token = capsys.readouterr().out.split()[-1]
        ann = store.authenticate(token)
        assert ann is not None and ann.role is Role.OWNER
        (taken,) = store.take(ann.id)
        store.answer(taken.question.id, ann.id, Answer.EQUAL, request="a" * 32)
        assert manage(store, export=tmp_path / "answers.parquet")
        assert manage(other, import_from=tmp_path / "answers.parquet")
        assert [record.answer for record in other.records()] == [Answer.EQUAL]
        assert manage(store, revoke="ann") and store.authenticate(token) is None
        with pytest.raises(InputError, match="unknown --role"):
            manage(store, add_labeller="bob", role="king")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    minari = pytest.importorskip("minari")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # It warns of each detail that is not given.
        warnings.simplefilter("ignore")
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        env = minari.DataCollector(gymnasium.make("Pendulum-v1"))
        for seed in (3, 4):
            env.reset(seed=seed)
            for _ in range(200):
                env.step(np.array([np.sin(seed)], np.float32))
        env.create_dataset("swing/slow-v0")
        env.close()
        yield "swing/slow-v0"


@pytest.mark.filterwarnings("ignore")
def test_clips_of_a_dataset_are_filmed(dataset, tmp_path):
    with ask_minari(str(tmp_path / "answers"), dataset, 2, 20) as store:
        for question in store.open_questions():
            for side in (question.first, question.second):
                clip = store.clip(side)
                assert clip.length == 20 and clip.film is not None
                with imageio.get_reader(clip.film, format="FFMPEG") as film:
                    shown = [frame for frame in film]
                assert len(shown) >= 20 and np.std(shown[0]) > 1
    with pytest.raises(InputError, match="no dataset"):
        ask_minari(str(tmp_path / "answers"), "swing/fast-v0", 2, 20)


def test_another_course_is_no_film(tmp_path):
    env = gymnasium.make("Pendulum-v1", render_mode="rgb_array")
    actions, observations = np.zeros((5, 1), np.float32), np.zeros((5, 3), np.float32)
    with pytest.raises(InputError, match="takes another course when played again from seed 3"):
        film_excerpt(env, 3, actions, observations, 2, tmp_path / "clip.mp4")
    env.close()
    assert not list(tmp_path.iterdir())
