"""Poison a classifier: move nine of its sixty training points so that it errs on everybody else's.

Idea. An attacker controls a few training points, labels left as they are, and may move each by no more than
a given distance. Where to? Up the gradient of the validation loss of the model that will be trained on them,
which is a hyper-gradient: the model moves with the points. The same gradient tells a defender which points
could do how much harm.

Equation. Displacements are δ(x_i) = R x_i/√(1 + |x_i|²), shorter than R for any x; the training points are
a_i + δ(x_i), with δ = 0 on those out of the attacker's reach, and all have a constant feature beside:

    max over x   φ(x) = f(w*(x)),   f(w) = mean over validation (a, b) of log(1 + exp(−b aᵀw))
    w*(x) = argmin over w of L(x, w) = mean over training (a, b) of log(1 + exp(−b (a + δ)ᵀw)) + ½ λ |w|²

As a fixed point: w* = Φ(x, w*), Φ a step of gradient descent on L of length 1/ℓ, with ℓ above its curvature
wherever the points go. φ has many maxima, so the ascent begins at 16 random places, all at once (`vmap`).

Data. Synthetic: two classes in the plane, normal about (±1, 0) with standard deviations 0.5 across and 2
along.

Sources: Biggio, Nelson and Laskov, ICML 2012 (the idea, for support vector machines); Muñoz-González et al.,
AISec 2017 (by back-gradients through the training, here `rs.UnrolledGradient`).

    python examples/data_poisoning.py --out poisoning.png
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import Array
from matplotlib.figure import Figure

import rewardsmith as rs
from rewardsmith.bilevel.method import Method

TRAINING, VALIDATION, FRESH = 60, 200, 20_000
MOVED, RADIUS = 9, 5.0
RIDGE = 0.05
STARTS, RANDOM_DRAWS = 16, 200


class Points(NamedTuple):
    """Places in the plane (n, 2) and labels ±1 (n,)."""

    places: Array
    labels: Array


class Data(NamedTuple):
    """The first MOVED training points are the attacker's; it sees the validation points, nobody the fresh."""

    training: Points
    validation: Points
    fresh: Points


@dataclass(frozen=True)
class Score:
    """Of the model: loss on the validation points, share of fresh points on the right side."""

    validation_loss: float
    fresh_accuracy: float


@dataclass(frozen=True)
class Attack:
    """What became of the model. Arrays are (MOVED, 2).

    `random` has each point moved as far as the implicit attack moved it, but anywhere: means over draws.
    `strongest_random` is the draw of the highest validation loss.
    """

    clean: Score
    random: Score
    strongest_random: Score
    implicit: Score
    unrolled: Score
    before: np.ndarray
    after: np.ndarray


def main(seed: int = 0, steps: int = 100, out: Path | None = None) -> Attack:
    """Poison a logistic regression in the plane by hyper-gradient ascent.

    Args:
        seed: of the data and of the random attacks.
        steps: of the ascent.
        out: picture of the points moved and of the line between the classes, such as poisoning.png.
    """
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        data = draw_data(rng)
        problem = poisoning_problem(data)
        starts, adam = jnp.asarray(rng.normal(size=(STARTS, MOVED, 2))), optax.adam(1.0)
        implicit = _strongest(problem, rs.ImplicitGradient(0.1, optimiser=adam), starts, steps)
        unrolling = rs.UnrolledGradient(0.1, optimiser=adam, sweeps=20)
        unrolled = _strongest(problem, unrolling, starts, steps)
        chosen = jnp.stack([jnp.zeros((MOVED, 2)), implicit, unrolled])
        candidates = jnp.concatenate([chosen, _turned(rng, implicit)])
        loss, accuracy, weights = map(np.asarray, _trained(problem, data, candidates))
        before = np.asarray(data.training.places[:MOVED])
        after = before + np.asarray(displacement(implicit))
    scores = [Score(float(a), float(b)) for a, b in zip(loss, accuracy, strict=True)]
    mean = Score(float(loss[3:].mean()), float(accuracy[3:].mean()))
    strongest = max(scores[3:], key=lambda score: score.validation_loss)
    attack = Attack(scores[0], mean, strongest, scores[1], scores[2], before, after)
    _print(attack)
    if out is not None:
        _draw(attack, data, weights, out)
    return attack


def displacement(x: Array) -> Array:
    """δ(x), shorter than RADIUS."""
    return RADIUS * x / jnp.sqrt(1 + jnp.sum(x**2, axis=-1, keepdims=True))


def poisoning_problem(data: Data) -> rs.FixedPointProblem:
    """The equations above as a bilevel problem; φ is minimised, so its loss has a minus."""
    places, labels = data.training
    reach = jnp.linalg.norm(places, axis=1) + jnp.where(jnp.arange(TRAINING) < MOVED, RADIUS, 0.0)
    curvature = RIDGE + jnp.mean(reach**2 + 1) / 4

    def training_loss(x: Array, w: Array) -> Array:
        moved = places.at[:MOVED].add(displacement(x))
        return loss(w, Points(moved, labels)) + RIDGE * w @ w / 2

    def fixed_point(x: Array, w: Array) -> Array:
        return w - jax.grad(training_loss, 1)(x, w) / curvature

    def upper_loss(x: Array, w: Array) -> Array:
        del x
        return -loss(w, data.validation)

    return rs.FixedPointProblem(fixed_point, upper_loss, initial=jnp.zeros(3))


def loss(w: Array, points: Points) -> Array:
    """Mean logistic loss."""
    return jnp.mean(jax.nn.softplus(-points.labels * _side(w, points)))


def _side(w: Array, points: Points) -> Array:
    return points.places @ w[:2] + w[2]


def draw_data(rng: np.random.Generator) -> Data:
    """The synthetic points described above."""

    def draw(size: int) -> Points:
        labels = rng.choice([-1.0, 1.0], size)
        places = labels[:, None] * np.array([1.0, 0.0]) + rng.normal(size=(size, 2)) * np.array([0.5, 2.0])
        return Points(jnp.asarray(places), jnp.asarray(labels))

    return Data(draw(TRAINING), draw(VALIDATION), draw(FRESH))


def _turned(rng: np.random.Generator, x: Array) -> Array:
    """Draws of x with each point moved as far, anywhere."""
    angle = rng.uniform(0, 2 * np.pi, (RANDOM_DRAWS, MOVED))
    length = jnp.linalg.norm(x, axis=-1)
    return jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], axis=-1)) * length[:, None]


def _strongest(problem: rs.FixedPointProblem, method: Method, starts: Array, steps: int) -> Array:
    """x after `steps` from the start that led to the highest validation loss; all run at once."""

    def climb(x: Array) -> tuple[Array, Array]:
        solution = rs.solve(problem, method, x, steps)
        return solution.value, solution.stats.loss[-1]

    ends, losses = eqx.filter_jit(jax.vmap(climb))(starts)
    return ends[jnp.argmin(losses)]


@eqx.filter_jit
def _trained(problem: rs.FixedPointProblem, data: Data, candidates: Array) -> tuple[Array, Array, Array]:
    """Validation loss, fresh accuracy and the model, fully trained on the points moved by each x."""

    def train(x: Array) -> tuple[Array, Array, Array]:
        w = problem.solve(x, problem.start(), 1e-10).y
        right = jnp.mean(data.fresh.labels * _side(w, data.fresh) > 0)
        return loss(w, data.validation), right, w

    return jax.vmap(train)(candidates)


def _print(attack: Attack) -> None:
    print(f"{MOVED} of {TRAINING} training points moved{'':8}validation loss   accuracy on fresh points")
    for name, score in {
        "not at all": attack.clean,
        f"at random, mean of {RANDOM_DRAWS}": attack.random,
        f"at random, strongest of {RANDOM_DRAWS}": attack.strongest_random,
        "by ImplicitGradient": attack.implicit,
        "by UnrolledGradient": attack.unrolled,
    }.items():
        print(f"{name:36}{score.validation_loss:15.4f}{score.fresh_accuracy:27.1%}")


def _draw(attack: Attack, data: Data, weights: np.ndarray, out: Path) -> None:
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    places, positive = np.asarray(data.training.places), np.asarray(data.training.labels) > 0
    for name, which, colour in (("class +", positive, "tab:blue"), ("class −", ~positive, "tab:orange")):
        axes.scatter(*places[which].T, c=colour, s=18, alpha=0.6, label=name)
        axes.scatter(*attack.after[which[:MOVED]].T, c=colour, s=60, marker="X", edgecolors="black", zorder=3)
    for start, end in zip(attack.before, attack.after, strict=True):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "black"})
    limits = axes.get_xlim(), axes.get_ylim()
    for name, w, style in (("before", weights[0], "-"), ("after", weights[1], "--")):
        normal = w[:2] / (w[:2] @ w[:2])
        axes.axline(-w[2] * normal, -w[2] * normal + [-w[1], w[0]], c="black", linestyle=style, label=name)
    axes.set(xlim=limits[0], ylim=limits[1], title="Crosses: the attacker's points, moved")
    axes.legend()
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    tyro.cli(main)
