"""Gymnasium environments that pay a learned reward, for learners of other libraries."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import Autoreset

from .._core import InputError
from .single import layers

BatchReward = Callable[[np.ndarray, np.ndarray], Any]
"""r(observations (n, *o), actions (n, *a)) -> (n,); actions in the environment's units, or indices from 0."""


@runtime_checkable
class KnowsSpaces(Protocol):
    """A reward that can tell whether an environment is one that it was learned on."""

    def check_spaces(self, observation_space: Any, action_space: Any) -> None:
        """Raise InputError unless these are the spaces of one environment that it was learned on."""
        ...


class LearnedRewardWrapper(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The same environment, paying r_x(s_t, a_t) for action a_t taken on observation s_t.

    The true reward is left out altogether, so that nothing of it leaks, unless it is asked for. Ends of
    episodes are the environment's: where it can terminate, they tell of the true reward.

    Wrap what `gymnasium.make` gives: where wrappers below this one change observations or actions, the reward
    sees the changed ones.

    Args:
        env: with observations of a Box or Discrete space and Discrete or Box actions.
        reward: `BatchReward`, such as `rewardsmith.load_reward` gives.
        keep_true: name in `info` under which the true reward of each step is kept; None: nowhere.

    Raises:
        InputError: spaces that are not understood, or others than the reward was learned on.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], reward: BatchReward, *, keep_true: str | None = None):
        RecordConstructorArgs.__init__(self, reward=reward, keep_true=keep_true)
        gymnasium.Wrapper.__init__(self, env)
        _check(reward, env.observation_space, env.action_space)
        self._reward, self._keep_true = reward, keep_true
        self._observation: np.ndarray | None = None
        self._restarts = any(isinstance(layer, Autoreset) for layer in layers(env))
        self._ended = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A new episode.

        Args:
            seed: as Gymnasium has it: None goes on with the randomness there is.
            options: handed on.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        self._observation, self._ended = np.array(observation), False
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step, paid by the learned reward; by 0 where `gymnasium.wrappers.Autoreset` restarts in it."""
        if self._observation is None:
            raise _not_started(self)
        # Before the step: an environment may write into what it is given.
        restart = self._restarts and self._ended
        paid = 0.0 if restart else self._paid(self._observation, action)
        observation, true_reward, terminated, truncated, info = self.env.step(action)
        self._observation, self._ended = np.array(observation), bool(terminated or truncated)
        if self._keep_true is not None and not restart:
            info = _with(info, {self._keep_true: float(true_reward)})
        return observation, paid, bool(terminated), bool(truncated), info

    def _paid(self, observation: np.ndarray, action: Any) -> float:
        taken = _from_zero(np.asarray(action)[None], self.env.action_space)
        return float(_values(self._reward, observation[None], taken)[0])


class LearnedRewardVectorWrapper(gymnasium.vector.VectorWrapper):
    """`LearnedRewardWrapper` for vector environments, with one call of the reward for all copies.

    All three autoreset modes are understood. With NEXT_STEP the step that restarts a copy ignores its action
    and pays 0; with SAME_STEP and DISABLED no step is lost.

    Args:
        env: see `LearnedRewardWrapper`.
        reward: likewise.
        keep_true: likewise: `info[keep_true]` is an array (n,), with the mask `info["_" + keep_true]`.

    Raises:
        InputError: as there, or an environment that does not say how it restarts.
    """

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        reward: BatchReward,
        *,
        keep_true: str | None = None,
    ):
        super().__init__(env)
        _check(reward, env.single_observation_space, env.single_action_space)
        self._reward, self._keep_true = reward, keep_true
        self._mode = _autoreset_mode(env)
        self._observations: np.ndarray | None = None
        self._ended = np.zeros(env.num_envs, bool)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """New episodes, in all copies or those of `options["reset_mask"]`.

        Args:
            seed: as Gymnasium has it: None goes on with the randomness there is.
            options: handed on.
        """
        # The environment takes it out of the options.
        mask = None if options is None else options.get("reset_mask")
        # Its vectors take a list of seeds too, whatever the base class says.
        observations, info = self.env.reset(seed=seed, options=options)  # pyright: ignore[reportArgumentType]
        self._observations = np.array(observations)
        self._ended = np.zeros(self.num_envs, bool) if mask is None else self._ended & ~np.asarray(mask)
        return observations, info

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of all copies, paid (N,) by the learned reward."""
        if self._observations is None:
            raise _not_started(self)
        restart = self._ended & (self._mode == AutoresetMode.NEXT_STEP)
        taken = _from_zero(np.asarray(actions), self.env.single_action_space)
        paid = np.where(restart, 0.0, _values(self._reward, self._observations, taken))
        observations, true_rewards, terminated, truncated, info = self.env.step(actions)
        self._observations = np.array(observations)
        self._ended = np.asarray(terminated) | np.asarray(truncated)
        if self._keep_true is not None:
            kept = {self._keep_true: np.where(restart, 0.0, true_rewards), f"_{self._keep_true}": ~restart}
            info = _with(info, kept)
        return observations, paid, terminated, truncated, info


def _check(reward: BatchReward, observation_space: Any, action_space: Any) -> None:
    for space, what in ((observation_space, "observations"), (action_space, "actions")):
        if not isinstance(space, Box | Discrete):
            raise InputError(
                f"{what} are a {type(space).__name__}, a learned reward takes Box or Discrete ones: "
                "flatten them with a gymnasium.wrappers wrapper below this one"
            )
    if isinstance(reward, KnowsSpaces):
        reward.check_spaces(observation_space, action_space)


def _from_zero(actions: np.ndarray, space: Any) -> np.ndarray:
    return actions - space.start if isinstance(space, Discrete) else actions


def _values(reward: BatchReward, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    values = np.asarray(reward(observations, actions), np.float64)
    if values.shape != (len(observations),):
        raise InputError(
            f"the reward of {len(observations)} steps has shape {values.shape}: return one number for each"
        )
    if not np.isfinite(values).all():
        raise InputError("the learned reward is not finite: export a run that has not diverged")
    return values


def _autoreset_mode(env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> AutoresetMode:
    # Before Gymnasium 1.4 copies of one class share the metadata: another vector may have changed them.
    mode = getattr(env.unwrapped, "autoreset_mode", None) or env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise InputError(
            'the vector environment does not say how it restarts: set env.metadata["autoreset_mode"] to a '
            "gymnasium.vector.AutoresetMode"
        )
    return mode


def _with(info: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(info.keys() & kept.keys()):
        raise InputError(f"info holds {taken[0]!r} already: give another keep_true")
    return {**info, **kept}


def _not_started(env: Any) -> InputError:
    return InputError(f"{type(env).__name__} has not been started: call reset() first")
