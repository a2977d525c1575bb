"""What lies in the folder of an exported run, and what its networks see of an environment."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._core import ImageSpec, InputError, read_json
from .._core.atomic import writing

FORMAT = 1
CONFIG, REWARD, POLICY = "config.json", "reward.safetensors", "policy.safetensors"
CARD, STANDALONE = "README.md", "standalone.py"
_LONGEST = 2**20
_DAMAGED = "is damaged or was changed: export the run again"


@dataclass(frozen=True, eq=False)
class Spaces:
    """What a reward or policy sees, and how an environment's units become its own.

    Attributes:
        env_id: of the environment it was learned on.
        observation: size of a vector, or the look of a picture.
        low: (a,) least action in the environment's units; None if actions are counted.
        high: (a,) greatest action.
        num_actions: how many actions there are, indices from 0; None if continuous.
    """

    env_id: str
    observation: int | ImageSpec
    low: np.ndarray | None
    high: np.ndarray | None
    num_actions: int | None

    @property
    def discrete(self) -> bool:
        """Whether actions are indices."""
        return self.num_actions is not None

    @property
    def action_size(self) -> int:
        """Length of an action, or how many there are."""
        return len(self.low) if self.low is not None else self.num_actions or 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one observation."""
        return self.observation.shape if isinstance(self.observation, ImageSpec) else (self.observation,)

    def observations(self, batch: np.ndarray) -> np.ndarray:
        """A batch (n, *shape) as networks take it: float32 vectors, or bytes of pictures.

        Raises:
            InputError: another shape, a number that is not finite, or pictures of another dtype.
        """
        if batch.shape[1:] != self.shape or not len(batch):
            raise InputError(
                f"observations have shape {batch.shape}: give a batch (n, {', '.join(map(str, self.shape))}) "
                f"of {self.env_id}, n at least 1"
            )
        if isinstance(self.observation, ImageSpec):
            if batch.dtype != np.uint8:
                raise InputError(f"pictures have dtype {batch.dtype}: give uint8 from 0 to 255")
            return batch
        vectors = batch.astype(np.float32)
        if not np.isfinite(vectors).all():
            raise InputError("an observation is not a finite float32: give finite ones")
        return vectors

    def to_networks(self, actions: np.ndarray, count: int) -> np.ndarray:
        """Actions of an environment as networks take them: in [−1, 1], those beyond the bounds cut; indices.

        Args:
            actions: (count, *action), in the environment's units.
            count: how many there must be.

        Raises:
            InputError: another shape or dtype, a number that is not finite, or an index out of range.
        """
        if self.low is None or self.high is None:
            if actions.shape != (count,) or actions.dtype.kind not in "iu":
                raise InputError(
                    f"actions have shape {actions.shape} and dtype {actions.dtype}: give {count} indices"
                )
            if actions.min() < 0 or actions.max() >= self.action_size:
                raise InputError(f"an action is no index: give 0 to {self.action_size - 1}")
            return actions.astype(np.int32)
        if actions.shape != (count, self.action_size):
            raise InputError(f"actions have shape {actions.shape}: give {(count, self.action_size)}")
        half = (self.high - self.low) / 2
        centred = actions.astype(np.float32) - (self.high + self.low) / 2
        unit = np.divide(centred, half, out=np.zeros_like(centred), where=half > 0)
        if not np.isfinite(unit).all():
            raise InputError("an action is not finite: give finite ones")
        return np.clip(unit, -1.0, 1.0)

    def from_networks(self, actions: np.ndarray) -> np.ndarray:
        """Actions of a policy in the environment's units, of the same shape."""
        if self.low is None or self.high is None:
            return actions.astype(np.int64)
        centre, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return np.clip(centre + half * actions, self.low, self.high)

    def check(self, observation_space: Any, action_space: Any) -> None:
        """Raise InputError unless these Gymnasium spaces are those it was learned on.

        Args:
            observation_space: of a Gymnasium environment.
            action_space: of the same environment.

        Raises:
            InputError: they are others.
        """
        if observation_space.shape != self.shape:
            raise InputError(
                f"observations have shape {observation_space.shape}, those of {self.env_id} {self.shape}: "
                "wrap what it was learned on, as rewardsmith.envs.make_single makes it"
            )
        if isinstance(self.observation, ImageSpec) and observation_space.dtype != np.uint8:
            raise InputError(f"pictures have dtype {observation_space.dtype}: wrap one that shows uint8")
        found = getattr(action_space, "n", None)
        if found != self.num_actions:
            raise InputError(f"the environment has {action_space}, {self.env_id} has {self._told}")
        if self.low is None or self.high is None:
            return
        if not (
            action_space.shape == self.low.shape
            and np.allclose(action_space.low, self.low)
            and np.allclose(action_space.high, self.high)
        ):
            raise InputError(
                f"actions lie in {action_space}, in {self.env_id} in {self._told}: put wrappers that rescale "
                "actions above the learned reward"
            )

    @property
    def _told(self) -> str:
        return f"{self.num_actions} actions" if self.low is None else f"[{self.low}, {self.high}]"

    def to_json(self) -> dict[str, Any]:
        """The entries "observation" and "action" of ``config.json``."""
        observation: dict[str, Any] = {"kind": "vector", "size": self.observation}
        if isinstance(image := self.observation, ImageSpec):
            observation = {"kind": "picture", "height": image.height, "width": image.width}
            observation |= {"channels": image.channels, "stack": image.stack}
        action: dict[str, Any] = {"kind": "discrete", "count": self.num_actions}
        if self.low is not None and self.high is not None:
            action = {"kind": "box", "low": self.low.tolist(), "high": self.high.tolist()}
        return {"observation": observation, "action": action}

    @staticmethod
    def from_json(config: Mapping[str, Any]) -> "Spaces":
        """Back from a whole ``config.json``."""
        seen, acted = config["observation"], config["action"]
        observation: int | ImageSpec
        if seen["kind"] == "picture":
            observation = ImageSpec(*(int(seen[name]) for name in ("height", "width", "channels", "stack")))
        else:
            observation = int(seen["size"])
        env_id = str(config["environment"]["id"])
        if acted["kind"] == "discrete":
            return Spaces(env_id, observation, None, None, int(acted["count"]))
        low, high = (np.asarray(acted[name], np.float32) for name in ("low", "high"))
        if low.shape != high.shape or low.ndim != 1 or not np.isfinite([low, high]).all():
            raise ValueError("bounds")
        return Spaces(env_id, observation, low, high, None)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.json`` with its format and a checksum over all else.

    Args:
        folder: must be there.
        config: plain values, as JSON has them.

    Raises:
        InputError: numbers that are not finite.
    """
    whole = {"format": FORMAT, **config}
    try:
        whole["sha256"] = _checksum(whole)
    except ValueError as error:
        raise InputError("the reward is not finite: export a run that has not diverged") from error
    with writing(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """Read it back.

    Args:
        folder: that `write_config` wrote to.

    Raises:
        InputError: no such folder, a damaged file, or one of another format.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"no {path}: give a folder that rewardsmith export wrote")
    try:
        config = read_json(path, _DAMAGED) if path.stat().st_size <= _LONGEST else None
        right = isinstance(config, dict) and config.pop("sha256") == _checksum(config)
    except (OSError, ValueError, KeyError) as error:
        raise damaged(path) from error
    if not right:
        raise damaged(path)
    assert isinstance(config, dict)
    if "observation" not in config or "action" not in config:
        raise InputError(f"{path} is of no exported run: give a folder that rewardsmith export wrote")
    if config.get("format") != FORMAT:
        raise InputError(f"{path} has format {config.get('format')!r}, not {FORMAT}: export the run again")
    return config


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(path: Path) -> InputError:
    """The error for a file that is not as it was written."""
    return InputError(f"{path} {_DAMAGED}")


def _checksum(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True, allow_nan=False).encode()).hexdigest()
