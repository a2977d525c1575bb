"""Networks of an exported run: what is written of them, and how they are built again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._core import ConvEncoder, Encoder, ImageSpec, InputError, Layer
from .._core.serialise import load_tree, save_tree
from ..agents import CategoricalPolicy, Policy, TanhGaussianPolicy
from ..preferences.models import skew_product
from ..rewards import EmbeddingEnsemble, GroupEnsemble, LearnedReward, RewardEnsemble, make_networks
from .layout import Spaces, damaged, file_checksum

_KINDS = {"ensemble": RewardEnsemble, "embedding": EmbeddingEnsemble, "groups": GroupEnsemble}
_POLICIES = {"tanh-gaussian": TanhGaussianPolicy, "categorical": CategoricalPolicy}
_BROKEN = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError, RecursionError)
# Layers of a network that is built: each takes a while to trace.
_DEEPEST = 64


def describe_reward(x: LearnedReward) -> dict[str, Any]:
    """What `build_reward` needs to know, of plain values.

    Args:
        x: a reward of any kind that can be exported.

    Raises:
        InputError: a reward of a kind that cannot be exported.
    """
    kind = _kind_of(x, _KINDS)
    if isinstance(x, EmbeddingEnsemble) and x.compare is not skew_product:
        raise InputError("an embedding that is compared by a function of your own cannot be exported")
    networks: Any = x.networks
    return {
        "kind": kind,
        "members": networks.count,
        "hidden": [bias.shape[-1] for bias in networks.head.biases[:-1]],
        "slope": networks.head.slope,
        "width": networks.width,
        "output": x.output,  # pyright: ignore[reportAttributeAccessIssue]
        "visible": x.visible is not None,
        **_describe_encoder(networks.encoder),
    }


def describe_policy(policy: Policy) -> dict[str, Any]:
    """What `build_policy` needs to know, of plain values.

    Args:
        policy: of either kind.
    """
    return {
        "kind": _kind_of(policy, _POLICIES),
        "hidden": [bias.shape[-1] for bias in policy.trunk.biases[:-1]],
        "slope": policy.trunk.slope,
        **_describe_encoder(policy.encoder),
    }


def build_reward(config: Mapping[str, Any], spaces: Spaces) -> LearnedReward:
    """The structure of the reward that the entry "reward" of ``config.json`` describes, without numbers."""
    kind = _KINDS[config["kind"]]
    options: dict[str, Any] = {
        "hidden": _sizes(config["hidden"]),
        "num_members": _sizes([config["members"]])[0],
        "discrete": spaces.discrete,
        "layers": [Layer(*_sizes(layer)) for layer in config["layers"][:_DEEPEST]],
        "norm": config["norm"],
    }
    output, sizes = config["output"], (spaces.observation, spaces.action_size)

    def make(key: Any) -> LearnedReward:
        if kind is RewardEnsemble:
            return RewardEnsemble(*sizes, **options, output=output, key=key)
        networks = make_networks(*sizes, **options, width=config["width"], key=key)
        if kind is GroupEnsemble:
            return GroupEnsemble(networks, output=output)
        return EmbeddingEnsemble(networks, skew_product, output=output, key=key)

    x = jax.eval_shape(make, jax.random.key(0))
    if config["visible"] and isinstance(spaces.observation, ImageSpec):
        shown = jax.ShapeDtypeStruct((*spaces.observation.shape[:2], 1), jnp.uint8)
        x = eqx.tree_at(lambda r: r.visible, x, shown, is_leaf=lambda leaf: leaf is None)
    return x


def build_policy(config: Mapping[str, Any], spaces: Spaces) -> Policy:
    """The structure of the policy that the entry "policy" of ``config.json`` describes, without numbers."""
    kind = _POLICIES[config["kind"]]
    sizes = _sizes(config["hidden"])
    return jax.eval_shape(
        lambda key: kind(spaces.observation, spaces.action_size, sizes, key=key), jax.random.key(0)
    )


def save_module(folder: Path, file: str, module: Any, described: Mapping[str, Any]) -> dict[str, Any]:
    """Write a module's arrays to ``folder/file``; its entry of ``config.json``.

    Args:
        folder: must be there.
        file: name in it.
        module: whose arrays are written.
        described: what `describe_reward` or `describe_policy` said of it.

    Raises:
        InputError: a number that is not finite.
    """
    path = folder / file
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(module)):
        raise InputError(f"a number of {path.stem} is not finite: export a run that has not diverged")
    save_tree(path, module)
    return {**described, "file": file, "sha256": file_checksum(path)}


def load_module(
    folder: Path,
    config: Mapping[str, Any],
    spaces: Spaces,
    build: Callable[[Mapping[str, Any], Spaces], Any],
    describe: Callable[[Any], dict[str, Any]],
    name: str,
) -> Any:
    """The module of the entry `name` of ``config.json``, by its `build` and `describe`.

    Raises:
        InputError: a file that is missing, damaged or not that of the entry.
    """
    path = folder / name
    entry = dict(config)
    try:
        expected = entry.pop("sha256"), entry.pop("file")
        # Whatever the caller's precision: what was exported is float32.
        with jax.enable_x64(False):
            like = build(entry, spaces)
            same = describe(like) == entry
    except InputError:
        raise
    except _BROKEN as error:
        raise damaged(folder / "config.json") from error
    if not same:
        raise InputError(f"{folder} was written by another version of Rewardsmith: export the run again")
    if not path.is_file():
        raise InputError(f"no {path}: export the run again")
    if (file_checksum(path), name) != expected:
        raise damaged(path)
    return load_tree(path, like)


def in_blocks(program: Callable[..., Any], arrays: tuple[np.ndarray, ...], most: int) -> np.ndarray:
    """A compiled program on rows, at most so many at a time, in few sizes: each size is compiled once."""
    found = []
    for start in range(0, len(arrays[0]), most):
        block = [array[start : start + most] for array in arrays]
        count = len(block[0])
        padding = (1 << (count - 1).bit_length()) - count
        if padding:
            block = [np.concatenate([rows, np.repeat(rows[:1], padding, axis=0)]) for rows in block]
        found.append(np.asarray(program(*block))[:count])
    return np.concatenate(found)


def most_at_once(spaces: Spaces) -> int:
    """Steps in one call of a program."""
    return 128 if isinstance(spaces.observation, ImageSpec) else 4096


def _sizes(found: Any) -> list[int]:
    """Whole numbers of at least 1, not too many; a ValueError for anything else."""
    if (
        not isinstance(found, list)
        or len(found) > _DEEPEST
        or not all(type(n) is int and n > 0 for n in found)
    ):
        raise ValueError("sizes")
    return found


def _kind_of(module: Any, kinds: Mapping[str, type]) -> str:
    for name, kind in kinds.items():
        if type(module) is kind:
            return name
    raise InputError(f"a {type(module).__name__} cannot be exported: give one of {', '.join(kinds)}")


def _describe_encoder(encoder: Encoder) -> dict[str, Any]:
    if not isinstance(encoder, ConvEncoder):
        return {"layers": [], "norm": "none", "encoder_slope": 0.0}
    # The outputs, then kernel × kernel × inputs, behind the members if there are any.
    layers = [[c.weight.shape[-4], c.weight.shape[-2], c.stride] for c in encoder.convolutions]
    norm = "none"
    if encoder.norms:
        norm = "batch" if encoder.norms[0].groups is None else "group"
    return {"layers": layers, "norm": norm, "encoder_slope": encoder.slope}
