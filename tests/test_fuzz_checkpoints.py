"""Spoilt and hostile checkpoints and exported folders: refused in one line, or read right; no code runs."""

import json
import os
import pickle
import struct
import sys
import zipfile

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rewardsmith._core import InputError, serialise
from rewardsmith._core.serialise import check_tree_file, load_arrays, load_tree, read_metadata, save_tree
from tests.fuzzing import digest, examples, json_texts, refused, spoilt_bytes
from tests.test_serialise import assert_same, example_tree

_LEAVES, _SUM = "rewardsmith.leaves", "rewardsmith.sha256"


def forge(path, tensors, leaves, metadata=None):
    """A file whose checksum is right, whatever it says of its tensors: anyone can compute it."""
    told = {**(metadata or {}), _LEAVES: leaves}
    told[_SUM] = serialise._checksum(sorted(tensors), tensors.__getitem__, told)
    save_file(tensors, path, told)


def parts(path):
    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())


def saved(path):
    save_tree(path, {"queue": example_tree(), "step": 3}, {"step": "3"})
    return path.read_bytes()


def read_all(path):
    """Every way of reading a checkpoint: none may let anything but an `InputError` out."""
    like = {"queue": example_tree(), "step": 3}
    lines = [
        refused(lambda: check_tree_file(path), gigabytes=4),
        refused(lambda: read_metadata(path), gigabytes=4),
        refused(lambda: load_arrays(path, "['queue']"), gigabytes=4),
        refused(lambda: load_tree(path, {"step": 3}, allow_extra=True), gigabytes=4),
    ]
    found = []
    lines.append(refused(lambda: found.append(load_tree(path, like)), gigabytes=4))
    assert all(line is None or str(path) in line for line in lines)
    return found[0] if found else None


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("good") / "good.safetensors")


@examples(60, 6000)
@given(data=st.data())
def test_spoilt_bytes_never_give_another_tree(tmp_path, content, data):
    path = tmp_path / "tree.safetensors"
    path.write_bytes(data.draw(spoilt_bytes(content)))
    loaded = read_all(path)
    if loaded is not None:
        assert_same(loaded, {"queue": example_tree(), "step": 3})


@examples(100, 6000)
@given(data=st.data())
def test_a_hostile_header_is_refused(tmp_path, content, data):
    """Huge shapes, odd offsets, unknown dtypes, deep nests, names given twice, a length beyond the file."""
    path = tmp_path / "tree.safetensors"
    size = struct.unpack("<Q", content[:8])[0]
    header, values = json.loads(content[8 : 8 + size]), content[8 + size :]
    text = data.draw(json_texts(header)).encode("utf-8", "surrogatepass")
    if data.draw(st.booleans()):
        # The last of two of one name, or the first, is not what was meant.
        text = b'{"[\'step\']":{"dtype":"I64","shape":[],"data_offsets":[0,8]},' + text.lstrip(b"{")
    length = data.draw(st.one_of(st.just(len(text)), st.integers(0, 2**64 - 1)))
    path.write_bytes(struct.pack("<Q", length) + text + values)
    loaded = read_all(path)
    if loaded is not None:
        assert_same(loaded, {"queue": example_tree(), "step": 3})
    rewrite_checksum(path)
    read_all(path)


def rewrite_checksum(path):
    """Make the checksum of a file right, where it can be read at all."""
    try:
        tensors, told = parts(path)
        leaves = told.pop(_LEAVES)
        told.pop(_SUM, None)
        forge(path, tensors, leaves, told)
    # What cannot be read cannot be forged either; it was refused before.
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError, OverflowError):
        return


@examples(200, 10000)
@given(data=st.data())
def test_a_forged_description_with_a_right_checksum_is_refused(tmp_path, content, data):
    path = tmp_path / "tree.safetensors"
    path.write_bytes(content)
    tensors, told = parts(path)
    leaves = data.draw(json_texts(json.loads(told[_LEAVES])))
    forge(path, tensors, leaves)
    loaded = read_all(path)
    if loaded is not None:
        assert jax.tree.structure(loaded) == jax.tree.structure({"queue": example_tree(), "step": 3})


dtypes = st.one_of(
    st.sampled_from(
        "O |O object V8 |V0 S0 <U3 M8[s] (2,)f4 f4,i4 float32 <f4 >f4 bfloat16 int4 bytes".split()
    ),
    st.text(max_size=8),
)


@examples(200, 10000)
@given(
    kind=st.sampled_from(["numpy", "numpy scalar", "jax", "key", "int", "float", "bool", "object", "", None]),
    dtype=dtypes,
    shape=st.lists(
        st.one_of(st.integers(-2, 9), st.integers(-(2**70), 2**70), st.floats(), st.none()), max_size=3
    ),
    implementation=st.sampled_from(["threefry2x32", "rbg", "no such", "", None, 3]),
    tensor=st.sampled_from([np.full(8, 0x41, np.uint8), np.zeros((0, 8), np.uint8), np.ones(2)]),
)
def test_no_array_is_made_of_what_numpy_would_take_for_objects(
    tmp_path, kind, dtype, shape, implementation, tensor
):
    """An array of Python objects over chosen bytes would follow them as addresses."""
    path = tmp_path / "tree.safetensors"
    form = {"kind": kind, "dtype": dtype, "shape": shape, "implementation": implementation}
    forge(path, {"['queue']['a']": tensor}, json.dumps({"['queue']['a']": form}))
    found = {}
    refused(lambda: found.update(load_arrays(path, "['queue']")), gigabytes=4)
    for array in found.values():
        assert isinstance(array, jax.Array) or not np.asarray(array).dtype.hasobject
    for like in (jnp.zeros(3), np.zeros(2), 7, 0.5, True, jax.random.key(0)):
        refused(lambda like=like: load_tree(path, {"queue": {"a": like}}), gigabytes=4)


def test_bytes_that_claim_to_be_objects_are_refused(tmp_path):
    path = tmp_path / "tree.safetensors"
    form = {"kind": "numpy", "dtype": "|O", "shape": [1]}
    forge(path, {"['queue']['a']": np.full(8, 0x41, np.uint8)}, json.dumps({"['queue']['a']": form}))
    with pytest.raises(InputError, match="not what they are"):
        load_arrays(path, "['queue']")


class Payload:
    """What a pickle would run when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def pickled(path, marker):
    path.write_bytes(pickle.dumps(Payload(marker)))


def zipped(path, marker):
    """As PyTorch saves: a pickle in an archive."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload(marker)))


def array_of_objects(path, marker):
    np.save(path.with_suffix(".npy"), np.array([Payload(marker)], dtype=object), allow_pickle=True)
    path.with_suffix(".npy").rename(path)


def within_a_tensor(path, marker):
    raw = np.frombuffer(pickle.dumps(Payload(marker)), np.uint8)
    form = {"kind": "numpy", "dtype": "|u1", "shape": [raw.size]}
    forge(path, {"['queue']['a']": raw}, json.dumps({"['queue']['a']": form}), {"note": raw.tobytes().hex()})


def names_with_code_and_paths(path, marker):
    names = [f"['queue']['../../{marker.name}']", "['queue']['__import__(\"os\").system(\"true\")']"]
    form = {"kind": "numpy", "dtype": "<f8", "shape": [2]}
    forge(path, {name: np.ones(2) for name in names}, json.dumps(dict.fromkeys(names, form)))


RUN = (
    "os.system",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "pickle.find_class",
)
RUN += ("exec", "compile", "ctypes.dlopen", "socket.connect", "open for writing")
watching: list[str] | None = None


def watch(event, arguments):
    """An audit hook cannot be taken away again: it does nothing but while a test watches."""
    if watching is None:
        return
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        event = "open for writing"
    if event in RUN:
        watching.append(f"{event} {str(arguments)[:200]}")


@pytest.mark.parametrize(
    "make", [pickled, zipped, array_of_objects, within_a_tensor, names_with_code_and_paths]
)
def test_reading_a_hostile_checkpoint_runs_no_code(tmp_path, content, make):
    """Seen by Python's own audit events: no exec, compile, process, pickle, library or file for writing."""
    global watching
    good, path, marker = tmp_path / "good.safetensors", tmp_path / "x.safetensors", tmp_path / "marker"
    good.write_bytes(content)
    make(path, marker)
    before = digest(tmp_path)
    # What is imported and compiled at first use is not the file's.
    read_all(good)
    read_all(path)
    if watch not in hooked:
        sys.addaudithook(watch)
        hooked.append(watch)
    watching = []
    try:
        read_all(path)
        seen, watching = watching, []
        pickle.loads(pickle.dumps(Payload(marker)))
        assert any("os.system" in event for event in watching) and marker.exists()
    finally:
        watching = None
    marker.unlink()
    assert not seen
    assert digest(tmp_path) == before


hooked: list[object] = []
