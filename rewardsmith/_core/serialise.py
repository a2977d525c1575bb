"""A pytree as one safetensors file that notices when it has been damaged. No pickle."""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .atomic import writing
from .errors import InputError

_PREFIX = "rewardsmith."
_CHECKSUM = _PREFIX + "sha256"
_LEAVES = _PREFIX + "leaves"
_NATIVE = frozenset("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split())
# What a file of these dtypes is called in its header: BOOL, I8, U8, F16, ...
_SHORT = {re.sub("(?<=[iuf])[a-z]+", "", name).upper(): name for name in sorted(_NATIVE)}
_SCALARS = {"bool": ("bool",), "int": ("int64", "bytes"), "float": ("float64",)}
_ARRAYS = ("jax", "numpy", "numpy scalar")


def save_tree(path: Path, tree: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write `tree` to one file, atomically, with a checksum over names, dtypes, shapes, values and metadata.

    Leaves may be JAX arrays, typed PRNG keys, NumPy arrays and scalars of any fixed-size dtype, and
    Python bools, ints (of any size) and floats. A leaf's name is its `jax.tree_util.keystr` path.

    Args:
        path: the file; a file already there is replaced, in one step.
        tree: any pytree of such leaves. Split functions off first: ``eqx.filter(tree, eqx.is_array)``.
        metadata: text to keep beside the tensors; names must not start with ``rewardsmith.``.

    Raises:
        InputError: a leaf of another type, or a disk that cannot be written.
    """
    own = dict(metadata or {})
    if reserved := [name for name in own if name.startswith(_PREFIX)]:
        raise InputError(f"metadata name {reserved[0]!r} is reserved: choose one without {_PREFIX!r}")
    packed = {name: _pack(name, leaf) for name, leaf in _named_leaves(tree)[0].items()}
    tensors = {name: tensor for name, (_, tensor) in packed.items()}
    own[_LEAVES] = json.dumps({name: form for name, (form, _) in packed.items()}, sort_keys=True)
    own[_CHECKSUM] = _checksum(sorted(tensors), tensors.__getitem__, own)
    with writing(path) as temporary:
        save_file(tensors, temporary, own)


def load_tree(path: Path, like: Any, *, allow_extra: bool = False) -> Any:
    """Read back what `save_tree` wrote.

    Args:
        path: the file.
        like: a tree of the same structure whose leaves have the dtypes and shapes to expect; their values
            are not read, and a `jax.ShapeDtypeStruct` may stand for a JAX array or key.
        allow_extra: read a part of the file: leaves that `like` has not are passed over.

    Returns:
        A tree of the structure of `like`: NumPy leaves where it has NumPy leaves (writable copies), JAX
        where it has JAX, Python scalars where it has those.

    Raises:
        InputError: no such file, a damaged one, or one whose leaves are not those of `like`.
    """
    wanted, structure = _named_leaves(like)
    with _opened(path) as file:
        _, stored = _verified(path, file)
        hint = "load it with the settings and the version it was saved with"
        if missing := sorted(wanted.keys() - stored.keys()):
            raise InputError(f"{path} lacks {_enumerate(missing)}: {hint}")
        extra = sorted(stored.keys() - wanted.keys())
        if extra and not allow_extra:
            raise InputError(f"{path} holds {_enumerate(extra)}, which was not expected: {hint}")
        leaves = []
        for name, leaf in wanted.items():
            found, expected = stored[name], _form(name, leaf)
            if not _alike(found, expected):
                raise InputError(
                    f"{path}: {name or 'the tree'} is {_describe(found)}, not {_describe(expected)}: {hint}"
                )
            leaves.append(_unpack(found, file.get_tensor(name)))
    return jax.tree_util.tree_unflatten(structure, leaves)


def load_arrays(path: Path, within: str) -> dict[str, np.ndarray]:
    """The NumPy arrays of one dictionary of a stored tree, by name, whatever else the file holds.

    Args:
        path: the file.
        within: the dictionary's own name, as `jax.tree_util.keystr` writes it, such as ``"['queue']"``.

    Raises:
        InputError: no such file, or a damaged one.
    """
    with _opened(path) as file:
        _, stored = _verified(path, file)
        # Right below it: what lies deeper has more brackets.
        direct = re.compile(re.escape(within) + r"\['([^\]]*)'\]")
        return {
            match[1]: _unpack(form, file.get_tensor(name))
            for name, form in stored.items()
            if form["kind"] == "numpy" and (match := direct.fullmatch(name))
        }


def read_metadata(path: Path) -> dict[str, str]:
    """The text saved beside the tensors, without our own entries; reads the header only, checks no sum."""
    with _opened(path) as file:
        header = _header(path, file)
    return {name: text for name, text in header.items() if not name.startswith(_PREFIX)}


def check_tree_file(path: Path) -> None:
    """Raise `InputError` unless `path` is whole and unchanged since `save_tree` wrote it."""
    with _opened(path) as file:
        _verified(path, file)


def _named_leaves(tree: Any) -> tuple[dict[str, Any], Any]:
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    named = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
    if len(named) != len(paths):
        raise InputError("two leaves of the tree share one name: give its nodes distinct keys")
    return named, structure


def _form(name: str, leaf: Any) -> dict[str, Any]:
    """What a leaf is: kind, dtype and shape, with the implementation for a key."""
    if isinstance(leaf, bool):
        return {"kind": "bool", "dtype": "bool", "shape": []}
    if isinstance(leaf, int):
        small = -(2**63) <= leaf < 2**63
        return {"kind": "int", "dtype": "int64" if small else "bytes", "shape": []}
    if isinstance(leaf, float) and not isinstance(leaf, np.generic):
        return {"kind": "float", "dtype": "float64", "shape": []}
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        kind = "key" if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else "jax"
        return {"kind": kind, "dtype": str(leaf.dtype), "shape": list(leaf.shape)}
    if isinstance(leaf, np.ndarray | np.generic) and not leaf.dtype.hasobject and leaf.dtype.fields is None:
        kind = "numpy" if isinstance(leaf, np.ndarray) else "numpy scalar"
        return {"kind": kind, "dtype": _dtype_name(leaf.dtype), "shape": list(leaf.shape)}
    raise InputError(
        f"cannot store {name or 'the tree'} of type {type(leaf).__name__}: "
        "keep arrays, keys and numbers in the tree and put text in the metadata"
    )


def _dtype_name(dtype: np.dtype) -> str:
    # Dtypes that other packages add to NumPy (bfloat16 and kin) have a name but no telling `str`.
    return dtype.name if dtype.isbuiltin == 2 else dtype.str


def _pack(name: str, leaf: Any) -> tuple[dict[str, Any], np.ndarray]:
    form = _form(name, leaf)
    if form["dtype"] == "bytes":
        size = leaf.bit_length() // 8 + 1
        return form, np.frombuffer(leaf.to_bytes(size, "little", signed=True), np.uint8)
    if form["kind"] == "key":
        form["implementation"] = str(jax.random.key_impl(leaf))
        return form, np.ascontiguousarray(jax.random.key_data(leaf))
    array = np.asarray(leaf, dtype=form["dtype"] if form["kind"] in ("int", "float", "bool") else None)
    # `ascontiguousarray` would make a 0-d array 1-d.
    return form, _storable(np.require(array, requirements="C"))


def _storable(array: np.ndarray) -> np.ndarray:
    """`array` itself where safetensors knows its dtype, else its bytes along a new last axis."""
    if array.dtype.isnative and array.dtype.name in _NATIVE:
        return array
    return np.frombuffer(array.tobytes(), np.uint8).reshape(*array.shape, array.dtype.itemsize)


def _unpack(form: dict[str, Any], tensor: np.ndarray) -> Any:
    kind, dtype, shape = form["kind"], form["dtype"], tuple(form["shape"])
    if dtype == "bytes":
        return int.from_bytes(tensor.tobytes(), "little", signed=True)
    if kind == "key":
        return jax.random.wrap_key_data(jnp.array(tensor), impl=form["implementation"])
    array = tensor
    if tensor.dtype != np.dtype(dtype) or tensor.shape != shape:
        array = np.ndarray(shape, np.dtype(dtype), tensor.tobytes())
    if kind == "jax":
        return jnp.array(array)
    if kind == "numpy":
        return array.copy() if not array.flags.writeable else array
    return array[()] if kind == "numpy scalar" else array.item()


def _checksum(names: list[str], tensor_of: Callable[[str], np.ndarray], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        tensor = tensor_of(name)
        digest.update(json.dumps([name, tensor.dtype.name, tensor.shape]).encode())
        digest.update(tensor.reshape(-1).view(np.uint8).data)
    texts = {name: text for name, text in metadata.items() if name != _CHECKSUM}
    digest.update(json.dumps(texts, sort_keys=True).encode())
    return digest.hexdigest()


@contextlib.contextmanager
def _opened(path: Path) -> Generator[Any, None, None]:
    if not path.is_file():
        raise InputError(f"no file {path}: give the path of a checkpoint that exists")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error).splitlines()[0]) from error


def _verified(path: Path, file: Any) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Header and leaf forms of an open file, once its checksum was found right."""
    header = _header(path, file)
    try:
        right = _checksum(sorted(file.keys()), file.get_tensor, header) == header[_CHECKSUM]
    # The reader lets these out for a dtype that NumPy has not.
    except (TypeError, AttributeError, KeyError) as error:
        raise _damaged(path, "a tensor of unknown dtype") from error
    if not right:
        raise _damaged(path, "its checksum does not match")
    return header, _forms(path, header, file)


def _forms(path: Path, header: Mapping[str, str], file: Any) -> dict[str, dict[str, Any]]:
    """What each tensor of a file stands for.

    Anyone can compute the checksum, so none of it is taken on trust: an array of Python objects made of
    bytes that another chose would be a way to run code.
    """
    try:
        forms = json.loads(header[_LEAVES])
        if forms.keys() != set(file.keys()):
            raise ValueError("other names")
        for name, form in forms.items():
            stored = file.get_slice(name)
            dtype, shape = _stored_as(form)
            found = _SHORT.get(stored.get_dtype()), stored.get_shape()
            if found != (dtype, shape if form["dtype"] != "bytes" else found[1][:1]):
                raise ValueError("another tensor")
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        raise _damaged(path, "what it says of its tensors is not what they are") from error
    return forms


def _stored_as(form: Mapping[str, Any]) -> tuple[str, list[int]]:
    """Dtype and shape of the tensor that holds a leaf; an error for a leaf that `save_tree` never writes."""
    kind, dtype, shape = form["kind"], form["dtype"], form["shape"]
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("shape")
    if (kind in _SCALARS or kind == "numpy scalar") and shape:
        raise ValueError("a scalar with a shape")
    if kind == "key":
        key = jax.eval_shape(lambda: jax.random.key(0, impl=str(form["implementation"])))
        if str(key.dtype) != dtype:
            raise ValueError("another key")
        return "uint32", [*shape, *jax.eval_shape(jax.random.key_data, key).shape]
    if dtype not in _SCALARS.get(kind, (dtype,)) or kind not in (*_SCALARS, *_ARRAYS):
        raise ValueError("kind")
    if dtype == "bytes" and kind == "int":
        return "uint8", []
    found = np.dtype(dtype)
    named = _dtype_name(found) if kind in ("numpy", "numpy scalar") else found.name
    if named != dtype or found.hasobject or found.fields is not None or found.subdtype is not None:
        raise ValueError("dtype")
    if found.isnative and found.name in _NATIVE:
        return found.name, shape
    return "uint8", [*shape, found.itemsize]


def _header(path: Path, file: Any) -> dict[str, str]:
    header = dict(file.metadata() or {})
    if _CHECKSUM not in header or _LEAVES not in header:
        raise _damaged(path, "it was not written by Rewardsmith")
    return header


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged or no checkpoint of ours ({why}): use an older one or start anew")


def _alike(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    # How a Python int is stored depends on its size, which need not be that of the one in `like`.
    names = ("kind",) if expected["kind"] == "int" else ("kind", "dtype", "shape")
    return all(found[name] == expected[name] for name in names)


def _describe(form: dict[str, Any]) -> str:
    shape = ",".join(map(str, form["shape"]))
    return f"{form['kind']} {form['dtype']}[{shape}]"


def _enumerate(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
