"""Parquet files that no store exported: imported whole, or refused by one line with nothing changed."""

import contextlib
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.preferences.store import Store, import_parquet
from tests.fuzzing import digest, examples, refused, refused_command, spoilt_bytes
from tests.spoilt_stores import VALUES, copied, everything

pytest_plugins = "tests.spoilt_stores"
pytestmark = pytest.mark.usefixtures("as_users_have_it")


@examples(60, 1_500)
@given(st.data())
def test_a_parquet_file_of_spoilt_bytes_changes_nothing(good, data):
    content = (good[0] / "answers.parquet").read_bytes()
    _import(good, lambda path: path.write_bytes(data.draw(spoilt_bytes(content))))


@pytest.fixture(scope="module")
def frame(good):
    return pl.read_parquet(good[0] / "answers.parquet")


_MOMENTS = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)]
_TYPES = [pl.Int8, pl.Int32, pl.UInt64, pl.Float32, pl.Float64, pl.String, pl.Binary, pl.Boolean, pl.Date]
_TYPES += [pl.Datetime("ns"), pl.Categorical, pl.List(pl.Int64), pl.Null, pl.Duration]
_VALUES = [*VALUES, *_MOMENTS, float("nan"), True, "right", "x" * 5000, b"x" * 5000, [1], {"a": 1}]


def _spoil(frame, draw):
    """A frame with cells, columns or rows that no store exports."""
    columns = frame.columns
    match draw(
        st.sampled_from(["cell"] * 5 + ["kind", "nested", "gone", "more", "rows", "undo", "moment", "clips"])
    ):
        case "cell":
            column = draw(st.sampled_from(columns))
            row, value = draw(st.integers(0, len(frame) - 1)), draw(st.sampled_from(_VALUES))
            # What cannot be made a frame is no file either.
            with contextlib.suppress(pl.exceptions.PolarsError, TypeError, OverflowError):
                values = frame[column].to_list()
                values[row] = draw(st.sampled_from([value, *values]))
                return frame.with_columns(pl.Series(column, values, frame.schema[column]))
        case "kind":
            column, kind = draw(st.sampled_from(columns)), draw(st.sampled_from(_TYPES))
            with contextlib.suppress(pl.exceptions.PolarsError):
                return frame.with_columns(pl.col(column).cast(kind, strict=False))
        case "nested":
            column = draw(st.sampled_from(columns))
            return frame.with_columns(
                draw(st.sampled_from([pl.struct(column), pl.concat_list(column)])).alias(column)
            )
        case "gone":
            return frame.drop(draw(st.lists(st.sampled_from(columns), min_size=1, max_size=3)))
        case "more":
            return frame.with_columns(
                pl.lit(1).alias(draw(st.sampled_from(["x", "true_reward", "", "a\nb"])))
            )
        case "rows":
            order = draw(st.lists(st.integers(0, len(frame) - 1), max_size=12))
            return frame[order]
        case "undo":
            # Lines that take back later ones, themselves, or each other in a ring.
            rows = draw(st.lists(st.integers(0, len(frame) - 1), min_size=1, max_size=3, unique=True))
            undone = dict(zip(rows, [*rows[1:], rows[0]], strict=True))
            numbers, stores = frame["sequence"].to_list(), frame["store"].to_list()
            changes = {name: frame[name].to_list() for name in ("undoes", "undoes_store", "answer")}
            for row, other in undone.items():
                for name, value in zip(changes, (numbers[other], stores[other], None), strict=True):
                    changes[name][row] = value
            series = [pl.Series(name, values, frame.schema[name]) for name, values in changes.items()]
            return frame.with_columns(series)
        case "moment":
            moment = pl.lit(draw(st.sampled_from([2**62, -(2**62), 0, 2**55]))).cast(pl.Datetime("us", "UTC"))
            return frame.with_columns(moment.alias(draw(st.sampled_from(["at", "asked_at"]))))
        case _:
            name = draw(st.sampled_from(["../../../tmp/x", "/etc/passwd", "0" * 64, "\x00", "A" * 64, "con"]))
            side = draw(st.sampled_from(["first", "second"]))
            return frame.with_columns(pl.lit(name).alias(side))
    return frame.clear()


@examples(80, 2_000)
@given(st.data())
def test_a_parquet_file_of_wrong_rows_changes_nothing(good, frame, data):
    spoilt = frame
    for _ in range(data.draw(st.integers(1, 2))):
        spoilt = _spoil(spoilt, data.draw) if len(spoilt) else spoilt
    _import(good, spoilt.write_parquet)


def _import(good, write):
    """Import what `write` puts into a file, into an empty store and into that which it came from."""
    with copied(good[0] / "store") as place:
        path = place.parent / "import.parquet"
        try:
            write(path)
        except (pl.exceptions.PolarsError, OverflowError):
            return
        for where in (place, place.parent / "empty"):
            with Store.open(where) as store:
                before, files = everything(store), digest(store.clips_folder)
                if refused(lambda: import_parquet(store, path), gigabytes=8.0) is not None:
                    assert everything(store) == before and digest(store.clips_folder) == files
                everything(store)
                names = [found.stem for found in store.clips_folder.iterdir()]
                assert all(len(name) == 64 for name in names)
        found = {path.name for path in place.parent.iterdir()}
        assert found == {"store", "empty", "import.parquet"}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", None])
def test_the_command_refuses_what_it_cannot_import(good, content, capsys, tmp_path):
    path = tmp_path / "import.parquet"
    path.mkdir() if content is None else path.write_bytes(content)
    with copied(good[0] / "store") as place:
        before = digest(place / "clips")
        assert refused_command(capsys, "label", place, "--import", path)
        assert refused_command(capsys, "label", path, "--import", path)
        assert digest(place / "clips") == before
        with Store.open(place, create=False) as store:
            assert len(store.records()) == 6


def test_arrays_that_unpack_to_far_more_are_refused_within_bounds(good, frame, tmp_path):
    """Kilobytes of parquet that hold gigabytes of zeros."""
    rows = frame.head(1).with_columns(pl.lit(bytes(2**24)).alias("first_arrays"))
    bomb = pl.concat([rows] * 64)
    _import(good, lambda path: bomb.write_parquet(path, compression="zstd"))


@pytest.mark.parametrize("moment", [2**62, -(2**62)])
def test_moments_of_no_year_are_refused(good, frame, moment):
    at = pl.lit(moment).cast(pl.Datetime("us", "UTC")).alias("at")
    _import(good, frame.with_columns(at).write_parquet)


def test_a_reader_that_panics_is_told_in_one_line(good, frame, monkeypatch):
    """Polars does at some damaged files; what it raises then is no Exception."""

    def panics(*_, **__):
        raise pl.exceptions.PanicException("assertion failed")

    monkeypatch.setattr(pl, "scan_parquet", panics)
    _import(good, frame.write_parquet)
