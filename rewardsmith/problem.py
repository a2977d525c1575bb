"""The waist of the house: what every method of `bilevel` is given and every problem of `problems` gives.

    min over x   φ(x) = f(x, π*(x))      subject to   π*(x) soft-optimal for the reward r_x

A problem is a world, a reward r_x and an upper loss f. The world is a table (`MDP`), where all is exact,
or a simulator (`SimulatedWorld`), where all is sampled; a loss on clips (`ClipLoss`) fits both, so that a
sampled hyper-gradient can be held against the exact one.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, Generic, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree, Shaped

from ._core import InputError, as_numbers, as_whole, said
from .mdp import MDP, Regulariser, Shannon, Transition
from .preferences.models import Judgement, PartialReturn, Prediction, PreferenceModel

RewardAt = Callable[[Any, Any], Array]
# What a teacher said of a tuple of clips, where one was asked.
Label = Float[Array, ""] | Judgement | None


@dataclass(frozen=True)
class SimulatedWorld:
    """A world that can only be stepped.

    Args:
        env_id: the simulator's registered name, such as "HalfCheetah-v5".
        discount: γ per step of the follower, 0 <= γ < 1.
        horizon: steps after which an episode is cut off; None where it never is.

    Raises:
        InputError: a discount outside [0, 1), or a horizon below 1.
    """

    env_id: str
    discount: float
    horizon: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.discount, Real) or not 0 <= self.discount < 1:
            raise InputError(f"discount is {said(self.discount)}; give 0 <= discount < 1, such as 0.99")
        if self.horizon is not None:
            as_whole("horizon", self.horizon)


class ClipLoss(eqx.Module):
    """An upper loss that is an expectation over clips drawn independently under the follower's policy:

        φ(x) = E[l(d_1, …, d_I; x)]

    Abstract: a subclass names I (`num_clips`) and H (`horizon`, steps in a clip) and gives l by `__call__`.

    Attributes:
        num_clips: I.
        horizon: H, steps in a clip.
    """

    num_clips: eqx.AbstractVar[int]
    horizon: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(
        self,
        x: PyTree,
        reward_at: RewardAt,
        observations: Shaped[Array, "I H ..."],
        actions: Shaped[Array, "I H ..."],
        label: Label = None,
    ) -> Float[Array, ""]:
        """l on one tuple of clips; `reward_at(observation, action)` is r_x at one step, `label` what a
        teacher said of these clips, where one was asked: a number, or a `Judgement` where the preference
        model needs more."""

    def to_go(
        self,
        x: PyTree,
        reward_at: RewardAt,
        observations: Shaped[Array, "I H ..."],
        actions: Shaped[Array, "I H ..."],
        label: Label = None,
    ) -> Float[Array, "I H"]:
        """What of l the action at step h of clip i can still change, up to a constant: all of it here.

        A loss that is a sum over steps gives the rest of the sum: same mean of the second term of ∇φ, less
        variance.

        Args:
            x: the leader's parameters.
            reward_at: r_x at one step.
            observations: (I, H, ...).
            actions: (I, H, ...).
            label: as of `__call__`.
        """
        loss = self(x, reward_at, observations, actions, label)
        return jnp.broadcast_to(loss, observations.shape[:2])


class PreferenceLoss(ClipLoss):
    """Cross-entropy of the label against a preference model, for one Bradley–Terry on predicted rewards.

        l = −y log σ(D) − (1−y) log σ(−D),    D = Σ_h r_x(s_h¹, a_h¹) − Σ_h r_x(s_h², a_h²)

    The sums are not discounted (Christiano et al., NeurIPS 2017, arXiv 1706.03741).

    Args:
        horizon: H, steps in a clip.
        target: y = target(observations, actions), arrays (2, H, ...), the probability in [0, 1] that the
            first clip is preferred; for clips that come without a label. None where all have one.
        members: members(x, observation, action) -> (M, ...), what an ensemble says of one step: rewards, or
            vectors where the model is made for them; l is then the mean over members, each with its own D.
            None: the one reward r_x.
        model: how likely an answer is; see `preferences.models`.

    Raises:
        InputError: a horizon below 1; where it is computed, clips without a label and no target.
    """

    num_clips: int = eqx.field(default=2, init=False, static=True)
    horizon: int = eqx.field(static=True)
    target: Callable[[Array, Array], Array] | None = None
    members: Callable[[Any, Any, Any], Array] | None = None
    model: PreferenceModel = PartialReturn()

    def __check_init__(self) -> None:
        as_whole("horizon", self.horizon)

    def __call__(
        self,
        x: PyTree,
        reward_at: RewardAt,
        observations: Shaped[Array, "2 H ..."],
        actions: Shaped[Array, "2 H ..."],
        label: Label = None,
    ) -> Float[Array, ""]:
        """l on one pair of clips.

        Args:
            x: the leader's parameters.
            reward_at: r_x at one step.
            observations: (2, H, ...).
            actions: (2, H, ...).
            label: y in [0, 1] or a `Judgement`; None: `target` says it.

        Raises:
            InputError: neither a label nor a target.
        """
        if label is None:
            if self.target is None:
                raise InputError("these clips have no label; give PreferenceLoss a target, or label them")
            label = self.target(observations, actions)
        told = label if isinstance(label, Judgement) else Judgement(label)
        pair = self.predictions(x, reward_at, observations, actions, told.offset)
        return self.model.loss(*pair, told.label, told.groups)

    def predictions(
        self,
        x: PyTree,
        reward_at: RewardAt,
        observations: Shaped[Array, "2 H ..."],
        actions: Shaped[Array, "2 H ..."],
        offset: Float[Array, "2"] | None = None,
    ) -> tuple[Prediction, Prediction]:
        """What is predicted of the two clips, of which the model makes the probability of an answer.

        Args:
            x: the leader's parameters.
            reward_at: r_x at one step.
            observations: (2, H, ...).
            actions: (2, H, ...).
            offset: of each clip's prediction, (2,); None: 0.
        """
        step = reward_at if self.members is None else partial(self.members, x)
        totals = jax.vmap(jax.vmap(step))(observations, actions).sum(axis=1)
        if self.members is None:
            totals = totals[:, None]
        first, second = (
            Prediction(totals[i], observations.shape[1], None if offset is None else offset[i])
            for i in range(2)
        )
        return first, second


World = TypeVar("World", MDP, SimulatedWorld)


class BilevelProblem(eqx.Module, Generic[World]):
    """World, reward and upper loss: min over x of f(x, π*(x)).

    Args:
        world: an `MDP` or a `SimulatedWorld`.
        reward: on an MDP x -> r_x, table (S, A); on a simulator (x, observation, action) -> scalar, one step.
        upper_loss: f as (x, policy (S, A)) -> scalar, MDP only; or a `ClipLoss`.
        temperature: τ > 0 of the follower, a number, in units of reward; "auto" lets a deep follower tune its
            own, simulators only.
        regulariser: Ω of the follower, MDP only; None: negative entropy, `Shannon()`.
        transition: x -> P, in the form of `world.transition`, where the leader moves the world too; MDP only.
            None: it does not.

    x is any pytree. Make a problem once and keep it: functions are told apart by identity, so a new lambda
    compiles anew.

    Raises:
        InputError: a temperature that is not positive, or parts that do not fit the world.

    Examples:
        Two states, stay or go; the leader pays x for each state, wants the follower in state 1 and would
        rather pay little.

        >>> import jax.numpy as jnp
        >>> import rewardsmith as rs
        >>> P = [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]
        >>> problem = rs.BilevelProblem(
        ...     rs.MDP(P, initial=[1.0, 0.0], discount=0.9),
        ...     reward=lambda x: jnp.broadcast_to(x[:, None], (2, 2)),
        ...     upper_loss=lambda x, policy: 0.1 * x @ x - policy[0, 1] - policy[1, 0],
        ...     temperature=1.0,
        ... )
        >>> problem.reward(jnp.array([0.0, 1.0])).tolist()
        [[0.0, 0.0], [1.0, 1.0]]
    """

    world: World
    reward: Callable[..., Array]
    upper_loss: ClipLoss | Callable[[Any, Any], Array]
    temperature: Array | Literal["auto"]
    regulariser: Regulariser
    transition: Callable[[Any], Any] | None

    def __init__(
        self,
        world: World,
        reward: Callable[..., Array],
        upper_loss: ClipLoss | Callable[[Any, Any], Array],
        temperature: ArrayLike | Literal["auto"],
        *,
        regulariser: Regulariser | None = None,
        transition: Callable[[Any], Any] | None = None,
    ):
        if not isinstance(world, MDP | SimulatedWorld):
            raise InputError(f"world is a {type(world).__name__}; give an MDP or a SimulatedWorld")
        for name, function in (("reward", reward), ("upper_loss", upper_loss)):
            if not callable(function):
                raise InputError(f"{name} is a {type(function).__name__}; give a function")
        if not (transition is None or callable(transition)):
            raise InputError(f"transition is a {type(transition).__name__}; give a function of x, or None")
        if not (regulariser is None or isinstance(regulariser, Regulariser)):
            raise InputError(f"regulariser is a {type(regulariser).__name__}; give one such as Shannon()")
        if isinstance(world, SimulatedWorld) and not isinstance(upper_loss, ClipLoss):
            raise InputError("a simulator has no policy table; give a ClipLoss as upper_loss")
        if isinstance(world, SimulatedWorld) and (regulariser is not None or transition is not None):
            raise InputError("regulariser and transition are for an MDP; leave them out on a simulator")
        self.world, self.reward, self.upper_loss = world, reward, upper_loss
        self.regulariser, self.transition = regulariser or Shannon(), transition
        self.temperature = _checked_temperature(world, temperature)

    @property
    def tau(self) -> Array:
        """τ as a number, for methods that need one.

        Raises:
            InputError: the follower tunes its own.
        """
        if isinstance(self.temperature, str):
            raise InputError('temperature is "auto"; give this method a number, such as 0.1')
        return self.temperature

    def world_at(self, x: PyTree) -> World:
        """The world that the leader's x makes: `world`, with P(x) where the leader moves it."""
        if self.transition is None:
            return self.world
        return moved_world(self.world, self.transition(x))  # pyright: ignore[reportArgumentType, reportReturnType]

    def reward_at(self, x: PyTree, observation: Any, action: Any) -> Float[Array, ""]:
        """r_x at one step: of state and action indices on an MDP, of their arrays on a simulator."""
        if isinstance(self.world, MDP):
            return self.reward(x)[observation, action]
        return self.reward(x, observation, action)

    def clip_loss(
        self,
        x: PyTree,
        observations: Shaped[Array, "I H ..."],
        actions: Shaped[Array, "I H ..."],
        label: Label = None,
    ) -> Float[Array, ""]:
        """l(d_1, …, d_I; x) on one tuple of clips; its gradient in x is the first term of ∇φ.

        Args:
            x: the leader's parameters.
            observations: (I, H, ...).
            actions: (I, H, ...).
            label: what a teacher said, y in [0, 1] or a `Judgement`; None: the loss knows itself.

        Raises:
            InputError: the upper loss is a function of the policy, which clips do not tell.
        """
        return self._on_clips()(x, partial(self.reward_at, x), observations, actions, label)

    def clip_loss_to_go(
        self,
        x: PyTree,
        observations: Shaped[Array, "I H ..."],
        actions: Shaped[Array, "I H ..."],
        label: Label = None,
    ) -> Float[Array, "I H"]:
        """`ClipLoss.to_go` on one tuple of clips; same errors as `clip_loss`.

        Args:
            x: the leader's parameters.
            observations: (I, H, ...).
            actions: (I, H, ...).
            label: what a teacher said, y in [0, 1] or a `Judgement`; None: the loss knows itself.
        """
        return self._on_clips().to_go(x, partial(self.reward_at, x), observations, actions, label)

    def _on_clips(self) -> ClipLoss:
        if not isinstance(self.upper_loss, ClipLoss):
            raise InputError("upper_loss is a function of the policy table; give a ClipLoss to use clips")
        return self.upper_loss


# For what treats both worlds alike.
AnyProblem = BilevelProblem[MDP] | BilevelProblem[SimulatedWorld]


def moved_world(world: MDP, transition: Any) -> MDP:
    """`world` with other transition probabilities of the same form and sizes; terminal states stay.

    Raises:
        InputError: another form or other sizes.
    """
    dense = not isinstance(transition, Transition)
    P = as_numbers("transition(x)", transition, world.initial.dtype) if dense else transition
    shapes = [[leaf.shape for leaf in jax.tree.leaves(form)] for form in (world.transition, P)]
    if jax.tree.structure(P) != jax.tree.structure(world.transition) or shapes[0] != shapes[1]:
        raise InputError(
            f"transition(x) has shapes {shapes[1]}; give the form of world.transition: {shapes[0]}"
        )
    return eqx.tree_at(lambda held: held.transition, world, P)


def _checked_temperature(world: MDP | SimulatedWorld, temperature: Any) -> Array | Literal["auto"]:
    if isinstance(temperature, str):
        if temperature != "auto" or isinstance(world, MDP):
            raise InputError(f'temperature is "{temperature}"; give a number ("auto": simulators only)')
        return "auto"
    # An int would compile apart from a float; a float stays weak, so that float32 worlds stay float32.
    tau = as_numbers("temperature", temperature)
    if isinstance(temperature, int):
        tau = jnp.asarray(float(temperature))
    if tau.shape != ():
        raise InputError(f"temperature has shape {tau.shape}; give one number")
    if not isinstance(tau, Tracer) and not 0 < float(tau) < np.inf:
        raise InputError(f"temperature is {float(tau)}; give a positive number, such as 0.1")
    return tau
