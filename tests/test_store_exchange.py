"""Answers as a parquet file: out of one store, into another, and nothing by halves."""

import shutil
import uuid
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from safetensors.numpy import load, save

from rewardsmith import InputError
from rewardsmith.preferences.store import Answer, NotYours, Store, exchange, export_parquet, import_parquet
from tests.store_databases import add_clips, answer, ask, let_in, new, some_arrays, taken

pytest_plugins = "tests.store_databases"


def film(path):
    path.write_bytes(b"\x00\x00\x00\x18ftypisom")


def fill(store):
    """Six lines: answers of two people, one taken back and given anew."""
    a, b, c = add_clips(store, 3, film)
    store.ask([(a, b)], asked_by="m@1", step=1, overlap=2, held_out=[True])
    store.ask([(b, c), (c, a)], asked_by="m@2", step=2)
    ann, bob = let_in(store, "Ann", "Bob O'Neil")
    store.take(ann, count=3)
    store.take(bob, count=3)
    answer(store, 1, ann, Answer.RIGHT, response_seconds=0.1)
    answer(store, 1, bob, Answer.EQUAL)
    answer(store, 2, ann, Answer.LEFT)
    store.undo(ann, request=new())
    answer(store, 2, ann, Answer.CANNOT_TELL, response_seconds=2.5)
    store.undo(bob, request=new())


@pytest.fixture
def full(tmp_path):
    with Store.open(tmp_path / "full") as store:
        fill(store)
        yield store


@pytest.fixture
def file(full, tmp_path):
    path = tmp_path / "answers.parquet"
    assert export_parquet(full, path, films=True) == 6
    return path


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    """The same, made once, for those who change nothing else."""
    folder = tmp_path_factory.mktemp("exchange")
    with Store.open(folder) as store:
        fill(store)
        export_parquet(store, folder / "answers.parquet", films=True)
    return pl.read_parquet(folder / "answers.parquet")


def seen(store):
    """All that an import could change."""
    files = {path.name: path.read_bytes() for path in store.clips_folder.iterdir()}
    return store.records(), store.counts(), store.labellers(), store.open_questions(), files


def test_the_columns_are_as_documented(full, tmp_path):
    path = tmp_path / "answers.parquet"
    export_parquet(full, path)
    frame = pl.read_parquet(path)
    documented = [line.split("|")[1] for line in exchange.__doc__.splitlines() if line.startswith("| ")][1:]
    assert [name.strip() for names in documented for name in names.split(",")] != []
    assert sorted(frame.columns) == sorted(name.strip() for names in documented for name in names.split(","))
    assert frame["sequence"].to_list() == [1, 2, 3, 4, 5, 6] and frame["question"].to_list() == [
        1,
        1,
        2,
        2,
        2,
        1,
    ]
    assert frame["answer"].to_list() == ["right", "equal", "left", None, "cannot tell", None]
    assert frame["undoes"].to_list() == [None, None, None, 3, None, 2]
    assert frame["labeller"].to_list() == ["Ann", "Bob O'Neil", "Ann", "Ann", "Ann", "Bob O'Neil"]
    assert frame["held_out"].to_list() == [True, True, False, False, False, True]
    assert frame["response_seconds"].to_list() == [0.1, None, None, None, 2.5, None]
    assert frame["at"].to_list() == [record.at for record in full.records()]
    assert frame["step"].to_list() == [1, 1, 2, 2, 2, 1] and set(frame["env"]) == {"cheetah"}
    assert frame["first_film"].null_count() == 6
    arrays = load(frame["second_arrays"][0])
    expected = full.load_clip(full.question(1).second)
    assert arrays.keys() == expected.keys() and np.array_equal(arrays["actions"], expected["actions"])


def test_there_and_back_it_is_the_same(place, full, file, tmp_path):
    with place.open() as other:
        assert import_parquet(other, file) == 6
        again = tmp_path / "again.parquet"
        export_parquet(other, again, films=True)
        assert_frame_equal(pl.read_parquet(file), pl.read_parquet(again))
        assert [one.answer for one in other.records()] == [one.answer for one in full.records()]
        # What was asked elsewhere is not asked here.
        assert other.open_questions() == [] and other.counts().answers == full.counts().answers == 2
        clip = other.question(1).first
        assert other.clip(clip).film.read_bytes() == full.clip(clip).film.read_bytes()
        assert np.array_equal(other.load_clip(clip)["actions"], full.load_clip(clip)["actions"])


def test_a_line_is_never_there_twice(place, full, file, tmp_path):
    with place.open() as other:
        assert (import_parquet(other, file), import_parquet(other, file)) == (6, 0)
        before = seen(other)
        # Its own lines come home again, and nothing changes.
        home = tmp_path / "home.parquet"
        export_parquet(other, home)
        assert import_parquet(full, home) == 0 and import_parquet(other, home) == 0
        assert seen(other) == before
        answer(full, 3, 1)
        export_parquet(full, file)
        assert import_parquet(other, file) == 1
        assert [one.sequence for one in other.records()] == [1, 2, 3, 4, 5, 6, 7]


def test_people_known_by_name_go_on_where_they_were(place, file):
    with place.open() as other:
        (ann,) = let_in(other, "Ann")
        import_parquet(other, file)
        assert [(one.name, one.active) for one in other.labellers()] == [("Ann", True), ("Bob O'Neil", False)]
        undone = other.undo(ann, request=new())
        assert undone.undoes == 5
        (bob,) = let_in(other, "Bob O'Neil")
        assert bob == 2 and other.undo(bob, request=new()) is None


def test_a_third_store_gets_both(place, full, file, tmp_path):
    with place.open() as other:
        (dan,) = let_in(other, "Dan")
        import_parquet(other, file)
        ask(other, 2)
        answer(other, *taken(other, dan), dan)
        path = tmp_path / "both.parquet"
        assert export_parquet(other, path) == 7
        with Store.open(tmp_path / "third") as third:
            assert import_parquet(third, path) == 7
            assert import_parquet(third, file) == 0
            # The same file can be had from the third.
            export_parquet(third, tmp_path / "third.parquet")
            assert_frame_equal(pl.read_parquet(path), pl.read_parquet(tmp_path / "third.parquet"))


def test_lost_lines_come_back_from_a_file(tmp_path):
    with Store.open(tmp_path / "a") as store:
        ask(store, 3)
        (ann,) = let_in(store, "Ann")
        store.take(ann, count=3)
        answer(store, 3, ann)
    shutil.copytree(tmp_path / "a", tmp_path / "backup")
    with Store.open(tmp_path / "a") as store:
        answer(store, 2, ann)
        ask(store, 1)
        answer(store, *taken(store, ann, 2)[1:], ann)
        export_parquet(store, tmp_path / "all.parquet")
        lines = store.records()
    with Store.open(tmp_path / "backup") as store:
        (bob,) = let_in(store, "Bob")
        store.release(ann)
        assert taken(store, bob) == [2]
        assert import_parquet(store, tmp_path / "all.parquet") == 2
        assert store.records() == lines
        # What was lent of it to others meanwhile is theirs no more.
        with pytest.raises(NotYours):
            answer(store, 2, bob)
        assert taken(store, ann) == [1]
    shutil.copytree(tmp_path / "backup", tmp_path / "fork2")
    with Store.open(tmp_path / "fork2") as store:
        store.undo(ann, request=new())
        export_parquet(store, tmp_path / "fork2.parquet")
    with Store.open(tmp_path / "backup") as store:
        answer(store, 1, ann)
        before = seen(store)
        with pytest.raises(InputError, match="gone different ways"):
            import_parquet(store, tmp_path / "fork2.parquet")
        assert seen(store) == before


def changed(**columns):
    return lambda frame: frame.with_columns(**columns)


def in_row(row, **values):
    """Change cells of one row; None makes them null."""

    def change(frame):
        here = pl.int_range(pl.len()) == row
        new_values = {
            name: pl.when(here).then(pl.lit(value, frame.schema[name])).otherwise(pl.col(name))
            for name, value in values.items()
        }
        return frame.with_columns(**new_values)

    return change


def other_arrays(name="observations", value=9.0):
    return save({name: np.full((3, 2), value, np.float32)})


BAD = {
    "no column": (lambda frame: frame.drop("answer"), "column answer is missing"),
    "a column more": (changed(extra=pl.lit(1)), "column 'extra' is not known"),
    "a column of true rewards": (changed(true_reward=pl.lit(1.0)), "not known"),
    "another type": (changed(question=pl.lit("1")), "column question is String, not Int64"),
    "naive time": (changed(at=pl.col("at").dt.replace_time_zone(None)), "column at is"),
    "empty": (in_row(1, first=None), "row 2: first is empty"),
    "unknown answer": (in_row(0, answer="maybe"), "row 1: it is neither"),
    "neither": (in_row(0, answer=None), "row 1: it is neither"),
    "both": (in_row(3, answer="left"), "row 4: it is neither"),
    "half an undo": (in_row(3, undoes_store=None), "row 4: it is neither"),
    "script": (in_row(0, labeller="<script>"), "row 1: name '<script>'"),
    "blanks": (in_row(0, labeller=" Ann"), "row 1: name ' Ann'"),
    "path": (in_row(0, first="../../../etc/passwd"), "row 1: no clip '../../../etc/passwd'"),
    "other id": (in_row(0, first="0" * 64), "checksum"),
    "same clip": (changed(first=pl.col("second"), first_arrays=pl.col("second_arrays")), "both sides"),
    "damaged clip": (in_row(2, first_arrays=b"x"), "row 3: clip .* damaged"),
    "other clip": (in_row(2, first_arrays=other_arrays()), "row 3: clip .* checksum"),
    "true reward": (in_row(2, first_arrays=other_arrays("true_reward")), "true rewards are not stored"),
    "other length": (changed(length=pl.lit(4, pl.Int64)), "checksum"),
    "no film": (in_row(0, first_film=b"<html>"), "row 1: its first film is no MP4"),
    "nan": (in_row(0, response_seconds=float("nan")), "row 1: response_seconds"),
    "negative": (in_row(0, sequence=-1), "row 1: sequence"),
    "uuid": (in_row(0, store="x"), "row 1: 'x' is no UUID"),
    "long": (in_row(0, asked_by="x" * 10_000_000), "row 1: asked_by has 10000000"),
    "last row": (in_row(5, overlap=0), "row 6: overlap"),
    "two questions in one": (in_row(1, asked_by="other"), "row 2: its question is another one"),
    "undone before": (lambda frame: frame.reverse(), "row 1: it takes back no earlier answer"),
    "undone twice": (
        lambda frame: pl.concat([frame, in_row(0, sequence=7)(frame[3:4])]),
        "row 7: its question is taken back, which does not stand",
    ),
    "undone by another": (in_row(3, labeller="Bob O'Neil"), "row 4: it takes back no earlier answer"),
    "answered twice": (
        lambda frame: pl.concat([frame, in_row(0, sequence=7)(frame[4:5])]),
        "row 7: its question was answered by the same labeller already",
    ),
    "one number twice": (
        lambda frame: pl.concat([frame, in_row(0, answer="left")(frame[4:5])]),
        "row 7: line 5 says something else",
    ),
    "early": (in_row(0, at=datetime(1, 1, 1, tzinfo=UTC)), None),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_changes_nothing(fault, frame, tmp_path):
    change, match = BAD[fault]
    file = tmp_path / "answers.parquet"
    change(frame).write_parquet(file)
    with Store.open(tmp_path / "other") as other:
        (ann,) = let_in(other, "Ann")
        ask(other)
        answer(other, *taken(other, ann), ann)
        before = seen(other)
        if match is None:
            assert import_parquet(other, file) == 6
            return
        with pytest.raises(InputError, match=match) as caught:
            import_parquet(other, file)
        message = str(caught.value)
        assert "\n" not in message and len(message) < 500 + len(str(file)) and str(file) in message
        assert seen(other) == before


@pytest.mark.parametrize("content", [b"", b"no parquet", None])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "answers.parquet"
    if content is not None:
        path.write_bytes(content)
    with Store.open(tmp_path / "other") as other, pytest.raises(InputError) as caught:
        import_parquet(other, path)
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_refused(file, tmp_path):
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with (
        Store.open(tmp_path / "other") as other,
        pytest.raises(InputError, match="cannot be read as parquet"),
    ):
        import_parquet(other, file)


def test_an_empty_store_is_an_empty_file(tmp_path):
    path = tmp_path / "answers.parquet"
    with Store.open(tmp_path / "a") as store, Store.open(tmp_path / "b") as other:
        assert export_parquet(store, path) == 0 and import_parquet(other, path) == 0


def test_hundreds_of_lines(tmp_path):
    path = tmp_path / "answers.parquet"
    with Store.open(tmp_path / "a") as store, Store.open(tmp_path / "b") as other:
        pair = (add_clips(store, 1)[0], store.add_clip(some_arrays(), env="cheetah", length=3, film=None))
        store.ask([pair] * 70)
        (ann,) = let_in(store, "Ann")
        for number in taken(store, ann, 70):
            answer(store, number, ann)
        assert export_parquet(store, path) == 70 and import_parquet(other, path) == 70
        assert [one.sequence for one in other.records()] == list(range(1, 71))
        assert uuid.UUID(pl.read_parquet(path)["store"][0])


def test_a_clip_whose_file_is_gone_cannot_be_exported(full, tmp_path):
    full.clip(full.question(1).first).arrays.unlink()
    with pytest.raises(InputError, match="put the file back"):
        export_parquet(full, tmp_path / "answers.parquet")
    assert not list(tmp_path.glob("*.parquet"))
