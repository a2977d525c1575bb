"""What each preference model can learn from synthetic answers, and what each remedy against noise is worth.

    python -m benchmarks.preference_models

prints the tables of docs/preference-models.md; everything follows from the seeds.
One to two minutes of one core.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rewardsmith.preferences.models import (
    General,
    Mixture,
    Noise,
    PartialReturn,
    Prediction,
    PreferenceModel,
    ScoreModel,
    Thurstone,
    group_sizes,
    min_max_weights,
    responsibilities,
)

from .preference_regret import gradient_without_values, value_of_learned

SEEDS = 20
# The rewards to each of two groups of three things one may do: what either loves, and a compromise.
TASTES = np.array([[1.0, -1.0], [-1.0, 1.0], [0.3, 0.3]])


def fitted(
    loss: Callable[[PyTree], Float[Array, ""]], start: PyTree, steps: int = 200, step_size: float = 0.1
) -> PyTree:
    """`start` moved down `loss` by Adam, whose step falls to 0."""
    adam = optax.adam(optax.cosine_decay_schedule(step_size, steps))

    def step(carry: Any, _: None):
        at, state = carry
        updates, state = adam.update(jax.grad(loss)(at), state)
        return (optax.apply_updates(at, updates), state), None

    return jax.lax.scan(step, (start, adam.init(start)), None, length=steps)[0][0]


def mean_loss(
    model: PreferenceModel, first: Float[Array, "n m"], second: Float[Array, "n m"], label: Float[Array, " n"]
) -> Float[Array, ""]:
    """Of n pairs of clips of one step, predicted alike by m members."""
    return jnp.mean(
        jax.vmap(lambda a, b, y: model.loss(Prediction(a, 1), Prediction(b, 1), y))(first, second, label)
    )


# ---- does the loss lead to what was planted -----------------------------------------------------


def recovery(
    model: ScoreModel, key: PRNGKeyArray, pairs: int = 1500, size: int = 3
) -> tuple[Float[Array, " size"], Float[Array, " size"]]:
    """(θ̂ − θ*, its standard error) where rewards are θ·f and `model` itself gave the answers."""
    truth_key, feature_key, answer_key = jax.random.split(key, 3)
    truth = jax.random.normal(truth_key, (size,))
    features = jax.random.normal(feature_key, (2, pairs, size))

    def loss(theta: Float[Array, " size"]) -> Float[Array, ""]:
        first, second = (features @ theta)[..., None]
        return mean_loss(model, first, second, label)

    first, second = (features @ truth)[..., None]
    chance = jax.vmap(lambda a, b: model.probability(Prediction(a, 1), Prediction(b, 1))[0])(first, second)
    label = jax.random.bernoulli(answer_key, chance).astype(jnp.float32)
    found = fitted(loss, jnp.zeros(size))
    return found - truth, jnp.sqrt(jnp.diag(jnp.linalg.inv(pairs * jax.hessian(loss)(found))))


# ---- cycles -------------------------------------------------------------------------------------


def cycle(model: PreferenceModel, width: int | None, key: PRNGKeyArray) -> Float[Array, ""]:
    """Share of rock, paper and scissors' three answers that is explained; `width` of an embedding."""
    shape = (3, 1) if width is None else (3, 1, width)

    def pair(theta: Array) -> tuple[Array, Array]:
        return theta, jnp.roll(theta, -1, axis=0)

    found = fitted(lambda theta: mean_loss(model, *pair(theta), jnp.ones(3)), jax.random.normal(key, shape))
    chance = jax.vmap(lambda a, b: model.probability(Prediction(a, 1), Prediction(b, 1))[0])(*pair(found))
    return jnp.mean(chance > 0.5)


# ---- groups of labellers ------------------------------------------------------------------------


def answers_of_two_groups(
    key: PRNGKeyArray, labellers: int, each: int
) -> tuple[Array, Array, Array, Array, Array]:
    """(first, second, label, labeller, group): choices between two of `TASTES`, with noise on either."""
    which, answer_key = jax.random.split(key)
    group = jnp.arange(labellers) >= labellers * 0.7
    labeller = jnp.repeat(jnp.arange(labellers), each)
    first, step = jax.random.randint(which, (2, len(labeller)), 0, 3)
    second = (first + 1 + step % 2) % 3
    utility = 3.0 * jnp.asarray(TASTES)
    own = group[labeller].astype(int)
    chance = jax.nn.sigmoid(utility[first, own] - utility[second, own])
    return first, second, jax.random.bernoulli(answer_key, chance).astype(jnp.float32), labeller, group


def two_groups(key: PRNGKeyArray, labellers: int = 20, each: int = 20) -> dict[str, Array]:
    """A mixture by expectation–maximisation, beside one reward for all.

    Seven in ten labellers are of group 0. Returns "belonging", the share of labellers put with their own
    kind, and of either approach the policy over the three things that follows, "mixture" and "one reward".
    """
    start_key, key = jax.random.split(key)
    first, second, label, labeller, group = answers_of_two_groups(key, labellers, each)
    model = Mixture()

    def predicted(theta: Float[Array, "3 2"], index: Array) -> Prediction:
        return Prediction(theta[index][None], 1)

    def alternate(theta: Array, _: None):
        of_each = jax.vmap(
            lambda a, b, y: model.log_likelihoods(predicted(theta, a), predicted(theta, b), y)
        )(first, second, label)
        evidence = jax.ops.segment_sum(of_each, labeller, labellers)
        belonging = responsibilities(evidence, group_sizes(evidence))

        def loss(theta: Array) -> Array:
            losses = jax.vmap(lambda a, b, y, q: model.loss(predicted(theta, a), predicted(theta, b), y, q))(
                first, second, label, belonging[labeller]
            )
            return jnp.mean(losses) + 1e-3 * jnp.sum(theta**2)

        return fitted(loss, theta, 40), belonging

    start = 0.1 * jax.random.normal(start_key, (3, 2))
    rewards, history = jax.lax.scan(alternate, start, None, length=15)
    own = history[-1][:, 1] > 0.5
    agreed = jnp.mean(own == group)
    one = fitted(
        lambda theta: (
            mean_loss(PartialReturn(), theta[first][:, None], theta[second][:, None], label)
            + 1e-3 * jnp.sum(theta**2)
        ),
        jnp.zeros(3),
    )
    return {
        "belonging": jnp.maximum(agreed, 1 - agreed),
        "mixture": max_min_policy(rewards),
        "one reward": jax.nn.softmax(one / 0.05),
    }


def max_min_policy(rewards: Float[Array, "3 K"], rounds: int = 400, temperature: float = 0.05) -> Array:
    """The mean of soft best answers to weights that move towards the group with least."""
    scaled = (rewards - jnp.mean(rewards, axis=0)) / jnp.std(rewards, axis=0)

    def play(weights: Array, _: None):
        policy = jax.nn.softmax(scaled @ weights / temperature)
        return min_max_weights(weights, policy @ scaled, 0.05), policy

    weights = jnp.full(rewards.shape[1], 1.0 / rewards.shape[1])
    return jnp.mean(jax.lax.scan(play, weights, None, length=rounds)[1], axis=0)


# ---- wrong answers ------------------------------------------------------------------------------

REMEDIES: Mapping[str, Noise] = {
    "none": Noise(),
    "smoothing 0.2": Noise(smoothing=0.2),
    "error 0.4": Noise(error=0.4),
    "error 0.1": Noise(error=0.1),
    "margin 0.5": Noise(margin=0.5),
}


def under_flips(
    noise: Noise, key: PRNGKeyArray, flips: float | Array, pairs: int = 400, size: int = 10
) -> Float[Array, ""]:
    """Correlation of the learned with the planted reward; `flips` of an oracle's answers are wrong.

    Clips differ by much or little: features have Student's t distribution with 2 degrees of freedom.
    """
    truth_key, feature_key, flip_key = jax.random.split(key, 3)
    truth = jax.random.normal(truth_key, (size,))
    normal_key, scale_key = jax.random.split(feature_key)
    scale = jnp.sqrt(jax.random.exponential(scale_key, (2, pairs, size)))
    first, second = jax.random.normal(normal_key, (2, pairs, size)) / scale
    better = first @ truth > second @ truth
    label = jnp.where(jax.random.bernoulli(flip_key, flips, (pairs,)), ~better, better).astype(jnp.float32)
    model = PartialReturn(noise)

    def loss(theta: Array) -> Array:
        one, other = (jnp.stack([clips @ theta], axis=1) for clips in (first, second))
        return mean_loss(model, one, other, label) + 1e-3 * jnp.sum(theta**2)

    found = fitted(loss, jnp.zeros(size))
    return jnp.vdot(found, truth) / jnp.linalg.norm(found) / jnp.linalg.norm(truth)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95 % t interval."""
    mean, error = float(values.mean()), float(scipy.stats.sem(values))
    half = error * float(scipy.stats.t.ppf(0.975, len(values) - 1))
    return mean, mean - half, mean + half


def over_seeds(experiment: Callable[[PRNGKeyArray], Any], seeds: int = SEEDS) -> Any:
    """`experiment` of each seed, stacked."""
    return jax.device_get(jax.jit(jax.vmap(experiment))(jax.random.split(jax.random.key(0), seeds)))


# ---- the tables ---------------------------------------------------------------------------------


def told(values: np.ndarray) -> str:
    """Mean and interval in Markdown."""
    mean, low, high = interval(values)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Measure all, and print it."""
    print("| planted and learned by | bias in standard errors | spread in standard errors |\n|---|---|---|")
    kinds = {
        "partial-return": PartialReturn(),
        "thurstone": Thurstone(),
        "partial-return, error 0.2": PartialReturn(Noise(error=0.2)),
    }
    for name, model in kinds.items():
        error, deviation = over_seeds(partial(recovery, model))
        score = error / deviation
        print(f"| {name} | {told(score.mean(axis=1))} | {score.std():.2f} |")
    print("\n| rock, paper, scissors | answers explained |\n|---|---|")
    for name, model, width in (("partial-return", PartialReturn(), None), ("general", General(), 2)):
        print(f"| {name} | at most {over_seeds(partial(cycle, model, width)).max():.2f} |")
    groups = over_seeds(two_groups)
    print("\n| 14 labellers of one taste, 6 of the opposite | the worse-off group's reward |\n|---|---|")
    for name in ("one reward", "mixture"):
        print(f"| {name} | {told((groups[name] @ TASTES).min(axis=1))} |")
    print(f"\nlabellers put with their own kind: {groups['belonging'].mean():.3f}\n")
    flips = (0.0, 0.1, 0.2, 0.3)
    print(
        "| remedy | "
        + " | ".join(f"{share:.0%} wrong" for share in flips)
        + " |\n|---|"
        + "---|" * len(flips)
    )
    for name, noise in REMEDIES.items():
        found = over_seeds(lambda key, n=noise: jax.vmap(partial(under_flips, n, key))(jnp.asarray(flips)))
        print(f"| {name} | " + " | ".join(told(values) for values in found.T) + " |")
    print("\n| model | people who judge by regret | people who judge by return |\n|---|---|---|")
    found = value_of_learned(12)
    for name in dict.fromkeys(name for name, _ in found):
        print(f"| {name} | {told(found[name, True])} | {told(found[name, False])} |")
    cosines = np.array([gradient_without_values(seed, jax.random.key(seed)) for seed in range(12)])
    print(f"\ncosine of the gradient with values held still and the exact one: {told(cosines)}")


if __name__ == "__main__":
    main()
