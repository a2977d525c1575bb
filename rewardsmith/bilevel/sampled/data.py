"""What a sampled leader is shown: clips, branches, replayed steps and a policy; plain arrays, batched."""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from ...preferences.models import Judgement


@runtime_checkable
class Policy(Protocol):
    """What a leader may ask of a follower's policy π, a pytree of its parameters."""

    def sample(self, observation: Any, key: PRNGKeyArray, /) -> Any:
        """One action a ~ π(·|observation); the same key gives common random numbers."""
        ...

    def log_prob(self, observation: Any, action: Any, /) -> Float[Array, ""]:
        """log π(action|observation), in nats: of a density where actions are continuous."""
        ...


@runtime_checkable
class FinitePolicy(Policy, Protocol):
    """A policy over so few actions that expectations over them are sums."""

    def probabilities(self, observation: Any, /) -> Float[Array, " A"]:
        """π(a|observation) of every action 0 … A − 1."""
        ...


@dataclass(frozen=True)
class Needs:
    """What a leader wants beyond the clips themselves; whoever collects for it reads this.

    Attributes:
        further: T, steps of the same trajectory behind each clip.
        branches: M, steps of each clip from which fresh roll-outs start.
        branch_length: steps of each of these roll-outs.
        visits: replayed transitions a leader step.
        log_prob: whether each action's log-probability under the policy that took it is kept.
        policies: policies that act: the follower and its companions.
        visited: of each policy, steps of its own newest trajectories, a leader step.
    """

    further: int = 0
    branches: int = 0
    branch_length: int = 0
    visits: int = 0
    log_prob: bool = False
    policies: int = 1
    visited: int = 0


def with_log_prob(needs: Needs, wanted: bool) -> Needs:
    """`needs`, with log-probabilities where they are `wanted`."""
    return replace(needs, log_prob=needs.log_prob or wanted)


class Branches(eqx.Module):
    """From M steps of each clip two fresh roll-outs of T steps, which share their random numbers.

    Roll-out 0 starts with the clip's own action at that step, roll-out 1 with a fresh one of the policy.

    Attributes:
        step: (B, I, M), the step of the clip that each pair of roll-outs starts at.
        observations, actions: (B, I, M, 2, T, ...), from that step on.
        valid: false behind the end of the episode.
    """

    step: Int[Array, "B I M"]
    observations: Shaped[Array, "B I M 2 T ..."]
    actions: Shaped[Array, "B I M 2 T ..."]
    valid: Bool[Array, "B I M 2 T"]


class LabelledClips(eqx.Module):
    """B tuples of I clips with their labels; L = H + T, the clip and the steps behind it.

    Attributes:
        observations, actions, valid: false in `valid` behind the end of the episode.
        label: what the teacher said, B numbers or a `Judgement` of B; None where the loss knows itself.
        log_prob: of the clip's actions under the policy that took them, where it was wanted.
        branches: where they were wanted.
        importance: weights that make the tuples stand for those of another policy; None: 1.
    """

    observations: Shaped[Array, "B I L ..."]
    actions: Shaped[Array, "B I L ..."]
    valid: Bool[Array, "B I L"]
    label: Float[Array, " B"] | Judgement | None
    log_prob: Float[Array, "B I H"] | None = None
    branches: Branches | None = None
    importance: Float[Array, " B"] | None = None

    @property
    def count(self) -> int:
        """B."""
        return self.valid.shape[0]

    def take(self, indices: Int[Array, " n"]) -> "LabelledClips":
        """The tuples at `indices`."""
        return jax.tree.map(lambda leaf: leaf[indices], self)


class Visits(eqx.Module):
    """N transitions (s, a, s', terminated), each with a weight; with P policies (P, N) of them.

    Attributes:
        observations, actions, next_observations: s, a and s'.
        terminated: nothing follows s'.
        weights: sum to 1 for draws of a replay; to the 1/(1 − γ) of a discounted occupancy for a policy's
            own.
    """

    observations: Shaped[Array, "..."]
    actions: Shaped[Array, "..."]
    next_observations: Shaped[Array, "..."]
    terminated: Bool[Array, "*P N"]
    weights: Float[Array, "*P N"]


class Follower(eqx.Module):
    """What a leader may know of the follower.

    Attributes:
        policy: π, as it is now.
        temperature: τ, in units of the reward that the follower is paid.
    """

    policy: Policy
    temperature: Float[Array, ""]


class Evidence(eqx.Module):
    """What one leader step sees.

    Attributes:
        clips: a batch of all comparisons.
        recent: a batch of the newest, the nearest there are to clips drawn under π*(x).
        follower: its policy and temperature now.
        visits: replayed transitions of any policy, where `Needs.visits` asks for them.
        visited: (policies, N) steps of each policy's own, weighted like its discounted occupancy, where
            `Needs.visited` asks for them.
    """

    clips: LabelledClips
    recent: LabelledClips
    follower: Follower
    visits: Visits | None = None
    visited: PyTree[Visits] | None = None
