"""A run's reward as heads on fixed features of its clips, and the preference loss as they see it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..._core import MLP
from ...preferences.attribution import ScoredNetwork
from ...preferences.models import Mixture, Prediction, ScoreModel
from ...rewards import LearnedReward
from ..experiment import Experiment
from ..leaders import reward_optimiser


class Heads(eqx.Module):
    """M networks of vectors: all of a reward on vectors; of one on pictures, what lies behind the encoder.

    Attributes:
        networks: stacked.
        inputs: what they are given at each step of both clips, one for all members (m = 1) or for each.
        others: of each comparison "label", and what the preference model wants: "action" of discrete ones,
            "offset", "groups"; and "shift" of the score, by the margin.
    """

    networks: MLP
    inputs: Float[Array, "m n T f"]
    others: dict[str, Array]

    @property
    def count(self) -> int:
        """M."""
        return self.networks.biases[0].shape[0]

    def of(self, member: int) -> tuple[MLP, dict[str, Array]]:
        """One member's network and its examples."""
        own = jax.tree.map(lambda leaf: leaf[member], self.networks)
        return own, {"inputs": self.inputs[min(member, len(self.inputs) - 1)], **self.others}

    def bare(self) -> "Heads":
        """Without a margin of before."""
        others = {name: array for name, array in self.others.items() if name != "shift"}
        return Heads(self.networks, self.inputs, others)

    def rows(self, chosen: np.ndarray) -> "Heads":
        """The same networks on some of the comparisons."""
        others = {name: array[chosen] for name, array in self.others.items()}
        return Heads(self.networks, self.inputs[:, chosen], others)


def make_heads(
    experiment: Experiment,
    x: LearnedReward,
    pairs: Mapping[str, np.ndarray],
    others: Mapping[str, np.ndarray],
) -> Heads:
    """The reward's heads on the clips of `pairs`."""
    discrete = experiment.discrete

    @jax.jit
    def program(x: LearnedReward, observations: Any, actions: Any) -> Float[Array, "n m T f"]:
        def step(observation: Array, action: Array) -> Float[Array, "m f"]:
            vectors = x.encoded(observation)
            if discrete:
                return vectors
            return jnp.concatenate([vectors, jnp.broadcast_to(action, (len(vectors), len(action)))], axis=1)

        found = jax.vmap(jax.vmap(jax.vmap(step)))(observations, actions)
        # One for all members, where they have no encoder of their own.
        members = found.shape[3] if experiment.spec.image is not None else 1
        found = jnp.moveaxis(found[:, :, :, :members], 3, 1)
        return found.reshape(*found.shape[:2], -1, found.shape[-1])

    count = len(pairs["actions"])
    found = experiment.in_blocks(partial(program, x), dict(pairs), count)
    more = {name: jnp.asarray(array) for name, array in others.items()}
    if discrete:
        more["action"] = jnp.asarray(pairs["actions"].reshape(count, -1), jnp.int32)
    return Heads(x.networks.head, jnp.moveaxis(jnp.asarray(found), 1, 0), more)


def seen_by(experiment: Experiment, x: LearnedReward) -> ScoredNetwork:
    """How the run's preference loss sees one head."""
    model, width = experiment.preference_model, x.networks.width
    horizon, discrete = experiment.config.clip_length, experiment.discrete
    each: Any = model.each if isinstance(model, Mixture) else model
    assert isinstance(each, ScoreModel)

    def scores(outputs: Float[Array, "T out"], example: Any) -> Float[Array, " k"]:
        said = outputs.reshape(len(outputs), -1, width or 1)
        steps = said[jnp.arange(len(said)), example["action"] if discrete else 0]
        totals = steps[:, 0] if width is None else steps
        offset = example.get("offset")
        first, second = (
            Prediction(
                jnp.sum(totals[side * horizon : (side + 1) * horizon], axis=0)[None],
                horizon,
                None if offset is None else offset[side],
            )
            for side in range(2)
        )
        return each.score(first, second).ravel() - example.get("shift", 0.0)

    def loss(score: Float[Array, " k"], example: Any) -> Float[Array, ""]:
        return jnp.sum(_share(score, example) * each.losses_at(score, example["label"]))

    def weights(score: Float[Array, " k"], example: Any) -> Float[Array, " k"]:
        return _share(score, example) * each.information(score)

    return ScoredNetwork(lambda example: example["inputs"], scores, loss, weights)


def _share(score: Float[Array, " k"], example: Any) -> Float[Array, " k"]:
    """How much each score counts: of a mixture, how likely the labeller belongs to each group."""
    groups = example.get("groups")
    return jnp.ones_like(score) if groups is None else groups.astype(score.dtype)


def score_all(seen: ScoredNetwork, heads: Heads) -> Float[Array, "M n k"]:
    """D of every member and comparison."""
    return jnp.stack([_scores(seen, *heads.of(member)) for member in range(heads.count)])


@partial(jax.jit, static_argnums=0)
def _scores(seen: ScoredNetwork, network: MLP, examples: dict[str, Array]) -> Float[Array, "n k"]:
    return jax.lax.map(lambda example: seen.scores_of(network, example), examples, batch_size=64)


def with_margin(experiment: Experiment, seen: ScoredNetwork, heads: Heads) -> Heads:
    """The margin of the preference model, held still as the members' scores have it now."""
    share, bare = _margin(experiment), heads.bare()
    if not share:
        return bare
    shift = share * jnp.mean(score_all(seen, bare), axis=0)
    return Heads(bare.networks, bare.inputs, bare.others | {"shift": shift})


def _margin(experiment: Experiment) -> float:
    model = experiment.preference_model
    each: Any = model.each if isinstance(model, Mixture) else model
    return each.noise.margin


class Fit(eqx.Module):
    """Heads and the state of their optimiser."""

    networks: MLP
    optimiser: Any


def fresh(experiment: Experiment, like: MLP, key: PRNGKeyArray) -> Fit:
    """Heads that have learned nothing yet."""
    sizes = [like.weights[0].shape[2], *(weight.shape[1] for weight in like.weights)]
    keys = jax.random.split(key, like.biases[0].shape[0])
    return started(experiment, jax.vmap(lambda key: MLP(sizes, slope=like.slope, key=key))(keys))


def started(experiment: Experiment, networks: MLP) -> Fit:
    """Heads to be fitted further."""
    optimiser = reward_optimiser(experiment.config)
    return Fit(networks, optimiser.init(eqx.filter(networks, eqx.is_inexact_array)))


def fitter(experiment: Experiment, seen: ScoredNetwork, steps: int) -> Any:
    """(fit, heads, key) -> `fit` after `steps` of the run's optimiser on minibatches of the examples."""
    optimiser, batch = reward_optimiser(experiment.config), experiment.config.leader_batch_size

    share = _margin(experiment)

    def member_scores(network: MLP, inputs: Array, others: dict[str, Array]) -> Float[Array, "n k"]:
        examples = {"inputs": inputs, **others}
        return jax.vmap(lambda example: seen.scores_of(network, example))(examples)

    @jax.jit
    def run(fit: Fit, inputs: Array, others: dict[str, Array], key: PRNGKeyArray) -> Fit:
        def step(state: Fit, key: PRNGKeyArray) -> tuple[Fit, None]:
            rows = jax.random.randint(key, (batch,), 0, inputs.shape[1])
            picked = {name: array[rows] for name, array in others.items()}

            def loss(networks: Any) -> Float[Array, ""]:
                shared = None if len(inputs) == 1 else 0
                own = inputs[0, rows] if shared is None else inputs[:, rows]
                scores = jax.vmap(member_scores, (0, shared, None))(networks, own, picked)
                if share:
                    scores = scores - share * jax.lax.stop_gradient(jnp.mean(scores, axis=0))
                return jnp.mean(jax.vmap(lambda each: jax.vmap(seen.loss)(each, picked))(scores))

            now: Any = state.networks
            updates, optimised = optimiser.update(jax.grad(loss)(now), state.optimiser, now)
            return Fit(eqx.apply_updates(now, updates), optimised), None

        return jax.lax.scan(step, fit, jax.random.split(key, steps))[0]

    return lambda fit, heads, key: run(fit, heads.inputs, heads.bare().others, key)
