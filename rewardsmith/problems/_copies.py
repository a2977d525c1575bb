"""Several followers in one world, at the price of one."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..mdp import Transition
from ..mdp import expect as expect_under
from ..mdp import probability as probability_of
from ..mdp.transition import under as table_under


class Copies(Transition):
    """`count` copies of one world side by side, between which nothing moves: state c·S + s is s of copy c.

    Followers that live in the same world and differ in reward alone need one kernel, not one each.

    Args:
        transition: of one copy, in any form.
        count: copies.
    """

    transition: Array | Transition
    count: int = eqx.field(static=True)

    @property
    def num_states(self) -> int:
        """S of all copies."""
        return self.count * self.probabilities_of_one.shape[0]

    @property
    def num_actions(self) -> int:
        """A."""
        if isinstance(self.transition, Transition):
            return self.transition.num_actions
        return self.transition.shape[-2]

    @property
    def probabilities_of_one(self) -> Float[Array, "S B K"]:
        """What is to be checked of one copy."""
        if isinstance(self.transition, Transition):
            return self.transition.probabilities
        return self.transition

    @property
    def probabilities(self) -> Float[Array, "S B K"]:
        """See `Transition.probabilities`."""
        return jnp.tile(self.probabilities_of_one, (self.count, 1, 1))

    def expect(self, values: Float[Array, " S"]) -> Float[Array, "S A"]:
        """See `Transition.expect`."""
        apart = values.reshape(self.count, -1)
        return jax.vmap(lambda v: expect_under(self.transition, v))(apart).reshape(self.num_states, -1)

    def under(self, policy: Float[Array, "S A"]) -> Float[Array, "S S"]:
        """See `Transition.under`."""
        apart = policy.reshape(self.count, -1, self.num_actions)
        return jax.scipy.linalg.block_diag(*(table_under(self.transition, part) for part in apart))

    def probability(
        self, states: Int[Array, "*n"], actions: Int[Array, "*n"], successors: Int[Array, "*n"]
    ) -> Float[Array, "*n"]:
        """See `Transition.probability`."""
        one = self.num_states // self.count
        inside = probability_of(self.transition, states % one, actions, successors % one)
        return jnp.where(states // one == successors // one, inside, 0.0)
