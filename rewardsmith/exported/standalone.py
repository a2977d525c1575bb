"""The reward and the policy beside this file, in NumPy alone: for where there is no Rewardsmith.

    import standalone                                     # with the folder on the path
    reward, policy = standalone.load_reward("FOLDER"), standalone.load_policy("FOLDER")
    reward(observations, actions)                         # (n, o), (n, a) in the environment's units -> (n,)
    policy(observations)                                  # (n, o) -> (n, a): its mode

The same numbers as Rewardsmith's own, to the accuracy of float32.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES = {"F32": np.float32, "U8": np.uint8}


class Reward:
    """r_x on batches; see `load_reward`."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, np.ndarray]):
        self.config, self._tensors = config, tensors

    def __call__(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """(n,) float32 of observations (n, *o) and actions (n, a) in the environment's units, or indices."""
        entry, tensors = self.config["reward"], self._tensors
        taken = _to_networks(self.config["action"], np.asarray(actions))
        seen = _checked(self.config, observations)
        if ".visible" in tensors:
            seen = seen * tensors[".visible"]
        members = [_said(_member(tensors, m), entry, seen, taken) for m in range(entry["members"])]
        said, mean, deviation = np.stack(members), tensors[".mean"], tensors[".deviation"]
        if entry["kind"] == "embedding":
            u, v = said, tensors[".against"][:, None]
            said = np.sum(u[..., ::2] * v[..., 1::2] - u[..., 1::2] * v[..., ::2], axis=-1)
        reward = said.mean(axis=0)
        if entry["output"] == "normalise":
            reward = (reward - mean) / deviation
        elif entry["output"] == "clamp":
            reward = np.clip(reward, -1, 1)
        if entry["kind"] == "groups":
            weights = tensors[".weights"]
            reward = reward @ (weights / weights.sum())
        return reward.astype(np.float32)


class Policy:
    """The policy's mode on batches; see `load_policy`."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, np.ndarray]):
        self.config, self._tensors = config, tensors

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """(n, a) float32 in the environment's units, or (n,) indices, of observations (n, *o)."""
        seen = _encoded(self._tensors, self.config["policy"], _checked(self.config, observations))
        outputs = _mlp(self._tensors, ".trunk", seen, self.config["policy"]["slope"])
        action = self.config["action"]
        if action["kind"] == "discrete":
            return outputs.argmax(axis=1)
        low, high = (np.asarray(action[name], np.float32) for name in ("low", "high"))
        unit = np.tanh(outputs[:, : len(low)])
        return np.clip((high + low) / 2 + (high - low) / 2 * unit, low, high)


def load_reward(folder: Path | str) -> Reward:
    """The reward in a folder; ValueError where a file is damaged or there is no reward."""
    config, tensors = _loaded(Path(folder), "reward")
    return Reward(config, tensors)


def load_policy(folder: Path | str) -> Policy:
    """The policy in a folder; ValueError where a file is damaged."""
    config, tensors = _loaded(Path(folder), "policy")
    return Policy(config, tensors)


def _loaded(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        config = _config(folder)
        if config[name] is None:
            raise ValueError(f"{folder} holds a policy alone")
        return config, _tensors(folder, config[name])
    # Files with right checksums that another wrote may say anything.
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{folder} is damaged or was changed") from error


def _config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    found = config.pop("sha256")
    if found != hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest():
        raise ValueError(f"{folder}/config.json is damaged or was changed")
    return config


def _tensors(folder: Path, entry: dict[str, Any]) -> dict[str, np.ndarray]:
    """A safetensors file: the length of a header, the header, then the numbers it points to."""
    raw = (folder / Path(entry["file"]).name).read_bytes()
    if hashlib.sha256(raw).hexdigest() != entry["sha256"]:
        raise ValueError(f"{folder}/{entry['file']} is damaged or was changed")
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, told in header.items():
        first, last = told["data_offsets"]
        flat = np.frombuffer(raw[start + first : start + last], _DTYPES[told["dtype"]])
        found[name] = flat.reshape(told["shape"])
    return found


def _checked(config: dict[str, Any], observations: np.ndarray) -> np.ndarray:
    told = config["observation"]
    if told["kind"] == "vector":
        seen, shape = np.asarray(observations, np.float32), (told["size"],)
    else:
        seen = np.asarray(observations)
        shape = told["height"], told["width"], told["channels"] * told["stack"]
    if seen.shape[1:] != shape or (told["kind"] == "picture" and seen.dtype != np.uint8):
        raise ValueError(f"observations have shape {seen.shape} and dtype {seen.dtype}, not (n, *{shape})")
    return seen


def _to_networks(action: dict[str, Any], actions: np.ndarray) -> np.ndarray:
    if action["kind"] == "discrete":
        return actions.astype(np.int64)
    low, high = (np.asarray(action[name], np.float32) for name in ("low", "high"))
    if actions.shape[1:] != low.shape:
        raise ValueError(f"actions have shape {actions.shape}, not (n, {len(low)})")
    centred, half = actions.astype(np.float32) - (high + low) / 2, (high - low) / 2
    return np.clip(np.divide(centred, half, out=np.zeros_like(centred), where=half > 0), -1, 1)


def _member(tensors: dict[str, np.ndarray], m: int) -> dict[str, np.ndarray]:
    within = ".networks"
    return {name[len(within) :]: t[m] for name, t in tensors.items() if name.startswith(within)}


def _said(
    own: dict[str, np.ndarray], entry: dict[str, Any], seen: np.ndarray, taken: np.ndarray
) -> np.ndarray:
    """What one member says of each step: (n,), or (n, width)."""
    vector, width = _encoded(own, entry, seen), entry["width"]
    if ".kept" in own:
        vector = vector * own[".kept"]
    if taken.ndim == 1:
        said = _mlp(own, ".head", vector, entry["slope"])
        said = said.reshape(len(said), -1, width or 1)[np.arange(len(said)), taken]
    else:
        said = _mlp(own, ".head", np.concatenate([vector, taken], axis=1), entry["slope"])
    return said[:, 0] if width is None else said


def _mlp(own: dict[str, np.ndarray], name: str, x: np.ndarray, slope: float) -> np.ndarray:
    last = sum(key.startswith(f"{name}.weights[") for key in own) - 1
    for layer in range(last + 1):
        x = x @ own[f"{name}.weights[{layer}]"].T + own[f"{name}.biases[{layer}]"]
        if layer < last:
            x = np.where(x > 0, x, np.float32(slope) * x)
    return x


def _encoded(own: dict[str, np.ndarray], entry: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Vectors as they are; of pictures the convolutions, then all of it flat."""
    slope = np.float32(entry["encoder_slope"])
    for layer, (_, kernel, stride) in enumerate(entry["layers"]):
        name = f".encoder.convolutions[{layer}]"
        weight = own[f"{name}.weight"] / np.float32(255 if layer == 0 else 1)
        windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))
        # (n, h, w, in, k, k) with (out, k, k, in).
        patches = windows[:, ::stride, ::stride].astype(np.float32)
        x = np.tensordot(patches, weight, axes=([3, 4, 5], [3, 1, 2])) + own[f"{name}.bias"]
        if entry["norm"] != "none":
            x = _normed(own, f".encoder.norms[{layer}]", entry["norm"], x)
        x = np.where(x > 0, x, slope * x)
    return x.reshape(len(x), -1)


def _normed(own: dict[str, np.ndarray], name: str, kind: str, x: np.ndarray) -> np.ndarray:
    mean, variance = own[f"{name}.mean"], own[f"{name}.variance"]
    if kind == "group":
        channels = x.shape[-1]
        grouped = x.reshape(*x.shape[:3], next(n for n in (4, 2, 1) if channels % n == 0), -1)
        size = grouped.shape[-1]
        mean, variance = (
            np.repeat(f(grouped, axis=(1, 2, 4)), size, axis=1)[:, None, None] for f in (np.mean, np.var)
        )
    scale = own[f"{name}.scale"] / np.sqrt(variance + np.float32(1e-5))
    return (x - mean) * scale + own[f"{name}.offset"]
