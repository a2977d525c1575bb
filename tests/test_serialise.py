"""A tree comes back as it was saved, or not at all."""

import json
import os
import resource
import stat

import equinox as eqx
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from safetensors import safe_open
from safetensors.numpy import save_file

from rewardsmith._core import InputError
from rewardsmith._core.serialise import check_tree_file, load_tree, read_metadata, save_tree

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
numpy_dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(sizes=(64, 128)),
)
numpy_leaves = numpy_dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0)))
leaves = st.one_of(
    numpy_leaves,
    hnp.arrays(st.sampled_from(["float32", "int32", "uint8", "bool"]), hnp.array_shapes(min_side=0)).map(
        jnp.asarray
    ),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.integers(0, 2**32 - 1).map(jax.random.key),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=6,
)


def example_tree():
    return {
        "params": [jnp.arange(6.0).reshape(2, 3), jnp.ones(2, jnp.bfloat16)],
        "keys": jax.random.split(jax.random.key(3, impl="rbg"), 2),
        "replay": (np.arange(5, dtype=np.int64), np.array([True, False]), np.zeros((0, 4))),
        "view": np.arange(6).reshape(2, 3).T,
        "extra": np.array([1.5, -2], ml_dtypes.bfloat16),
        "scalar": np.float32(2.5),
        "step": 7,
        "wide": 2**127 + 1,
        "rate": 0.1,
        "done": False,
        "nothing": None,
    }


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert isinstance(b, jax.Array) if isinstance(a, jax.Array) else type(a) is type(b)
        if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert a.dtype == b.dtype
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        if type(a) is int:
            assert a == b
            continue
        x, y = np.asarray(a), np.asarray(b)
        assert x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


@quick
@given(tree=trees)
def test_any_tree_comes_back_bit_by_bit(tmp_path, tree):
    path = tmp_path / "tree.safetensors"
    save_tree(path, tree)
    assert_same(tree, load_tree(path, tree))


def test_example_tree_and_its_metadata_come_back(tmp_path):
    path = tmp_path / "tree.safetensors"
    tree = example_tree()
    save_tree(path, tree, {"step": "7", "note": "naïve \n \u2192"})
    loaded = load_tree(path, tree)
    assert_same(tree, loaded)
    assert read_metadata(path) == {"step": "7", "note": "naïve \n \u2192"}
    assert loaded["replay"][0].flags.writeable
    assert jax.random.uniform(loaded["keys"][1]) == jax.random.uniform(tree["keys"][1])
    assert [entry.name for entry in tmp_path.iterdir()] == ["tree.safetensors"]


def test_values_come_from_the_file_and_only_types_from_like(tmp_path):
    path = tmp_path / "tree.safetensors"
    save_tree(path, {"a": jnp.arange(3.0), "n": 2**80, "k": jax.random.key(5)})
    like = jax.eval_shape(lambda: {"a": jnp.zeros(3), "k": jax.random.key(0)}) | {"n": 0}
    loaded = load_tree(path, like)
    np.testing.assert_array_equal(loaded["a"], [0, 1, 2])
    assert loaded["n"] == 2**80
    assert jax.random.key_data(loaded["k"]).tolist() == jax.random.key_data(jax.random.key(5)).tolist()


def test_module_without_its_functions(tmp_path):
    path = tmp_path / "tree.safetensors"
    network = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    with pytest.raises(InputError, match="activation"):
        save_tree(path, network)
    arrays, static = eqx.partition(network, eqx.is_array)
    save_tree(path, arrays)
    restored = eqx.combine(load_tree(path, arrays), static)
    np.testing.assert_array_equal(restored(jnp.ones(2)), network(jnp.ones(2)))


def test_names_are_keystr_paths(tmp_path):
    save_tree(tmp_path / "t.safetensors", {"net": [1, jnp.ones(2)]})
    with safe_open(tmp_path / "t.safetensors", "numpy") as file:
        assert set(file.keys()) == {"['net'][0]", "['net'][1]"}


@pytest.mark.parametrize(
    ("like", "says"),
    [
        ({"a": jnp.zeros(3), "b": 0, "c": 1}, r"lacks \['c'\]"),
        ({"a": jnp.zeros(3)}, r"holds \['b'\]"),
        ({"a": jnp.zeros(4), "b": 0}, r"\['a'\] is jax float32\[3\], not jax float32\[4\]"),
        ({"a": jnp.zeros(3, jnp.int32), "b": 0}, r"not jax int32\[3\]"),
        ({"a": np.zeros(3, np.float32), "b": 0}, "not numpy"),
        ({"a": jnp.zeros(3), "b": True}, "not bool"),
        ({"a": jnp.zeros(3), "b": 0.0}, "not float"),
    ],
)
def test_another_tree_is_refused(tmp_path, like, says):
    path = tmp_path / "tree.safetensors"
    save_tree(path, {"a": jnp.zeros(3), "b": 1})
    with pytest.raises(InputError, match=says) as caught:
        load_tree(path, like)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_key_of_another_implementation_is_refused(tmp_path):
    path = tmp_path / "tree.safetensors"
    save_tree(path, jax.random.key(0, impl="rbg"))
    with pytest.raises(InputError, match="key"):
        load_tree(path, jax.random.key(0))


@quick
@given(data=st.data())
def test_a_flipped_bit_never_gives_another_tree(tmp_path, data):
    path = tmp_path / "tree.safetensors"
    tree = example_tree()
    save_tree(path, tree, {"step": "7"})
    content = bytearray(path.read_bytes())
    values_at = 8 + int.from_bytes(content[:8], "little")
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        loaded = load_tree(path, tree)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        # Only the header has bytes without a meaning: blanks, and cases of escaped digits.
        assert at < values_at
        assert_same(tree, loaded)
        assert read_metadata(path) == {"step": "7"}


def test_each_flipped_byte_of_a_tensor_or_of_metadata_is_noticed(tmp_path):
    path = tmp_path / "tree.safetensors"
    save_tree(path, {"a": np.arange(4), "b": jnp.ones(2)}, {"step": "1234567"})
    content = path.read_bytes()
    values_at = 8 + int.from_bytes(content[:8], "little")
    for at in [content.index(b"1234567"), *range(values_at, len(content))]:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(InputError, match="damaged"):
            check_tree_file(path)
    path.write_bytes(content)
    check_tree_file(path)


@quick
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "tree.safetensors"
    save_tree(path, example_tree())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    for read in (lambda: load_tree(path, example_tree()), lambda: check_tree_file(path)):
        with pytest.raises(InputError, match="damaged"):
            read()


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 100, b"PK\x03\x04" * 50])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "tree.safetensors"
    path.write_bytes(content)
    for read in (lambda: load_tree(path, 1), lambda: read_metadata(path), lambda: check_tree_file(path)):
        with pytest.raises(InputError, match="damaged"):
            read()


def test_safetensors_of_others_and_no_file_are_refused(tmp_path):
    path = tmp_path / "tree.safetensors"
    with pytest.raises(InputError, match="no file"):
        load_tree(path, 1)
    save_file({"a": np.ones(2)}, path)
    with pytest.raises(InputError, match="not written by Rewardsmith"):
        load_tree(path, {"a": np.ones(2)})


@pytest.mark.parametrize("leaf", ["text", object(), np.array([object()]), 1j, max])
def test_a_leaf_that_cannot_be_stored_is_refused_and_the_old_file_stays(tmp_path, leaf):
    path = tmp_path / "tree.safetensors"
    save_tree(path, 1)
    with pytest.raises(InputError, match=r"\['a'\]"):
        save_tree(path, {"a": leaf})
    assert load_tree(path, 0) == 1


def test_reserved_metadata_is_refused(tmp_path):
    with pytest.raises(InputError, match="reserved"):
        save_tree(tmp_path / "t.safetensors", 1, {"rewardsmith.sha256": "x"})


def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path):
    path = tmp_path / "tree.safetensors"
    save_tree(path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(InputError, match="free some space") as caught:
            save_tree(path, np.zeros(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert load_tree(path, 0) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_nothing_but_a_file_is_replaced(tmp_path):
    """As root, a rename over /dev/null would put a file in its place."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="something else than a file"):
        save_tree(pipe, {"a": np.zeros(2)})
    assert stat.S_ISFIFO(pipe.stat().st_mode) and [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_the_checksum_covers_names_dtypes_and_shapes(tmp_path):
    """Files with the same bytes, of which something else is changed behind the checksum's back."""
    path = tmp_path / "tree.safetensors"
    save_tree(path, {"a": np.arange(4, dtype=np.int32)})
    with safe_open(path, "numpy") as file:
        header, values = dict(file.metadata()), file.get_tensor("['a']")
    for name, forged in [
        ("['b']", values),
        ("['a']", values.view(np.uint32)),
        ("['a']", values.reshape(2, 2)),
    ]:
        save_file({name: forged}, path, header)
        with pytest.raises(InputError, match="checksum"):
            check_tree_file(path)
    forms = json.loads(header["rewardsmith.leaves"])
    forms["['a']"]["kind"] = "jax"
    save_file({"['a']": values}, path, header | {"rewardsmith.leaves": json.dumps(forms)})
    with pytest.raises(InputError, match="checksum"):
        check_tree_file(path)
