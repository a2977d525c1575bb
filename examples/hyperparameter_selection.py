"""Choose sixty regularisation weights at once, by hyper-gradients instead of a grid.

Idea. Logistic regression with a ridge weight for each feature: what helps is kept, what is noise is shrunk
away. A grid over sixty weights is out of reach; the gradient of the held-out loss in all sixty costs about as
much as another training run.

Equation. x holds the logarithms of the weights, w the model, rows a the examples and b = ±1 their labels:

    min over x   φ(x) = f(w*(x)),   f(w) = mean over held-out (a, b) of log(1 + exp(−b aᵀw))
    w*(x) = argmin over w of L(x, w) = mean over training (a, b) of log(1 + exp(−b aᵀw)) + ½ Σ_j exp(x_j) w_j²

As a fixed point: w* = Φ(x, w*) with Φ(x, w) = w − P ∂L/∂w, P = diag 1/(ℓ + exp(x_j)), ℓ = ‖A‖²/(4n) for the
n training examples A. P⁻¹ is never below the Hessian of L, so that Φ contracts whatever x is.

Data. Synthetic, so that it is known what matters: independent standard normal features, of which 6 decide the
label through a logistic model and 54 are useless. 120 examples to train, 300 held out for the leader, and
20,000 that nobody sees, to measure with: sixty weights can overfit the held-out set too.

Sources: Pedregosa, ICML 2016; Franceschi et al., ICML 2018; Grazzi et al., ICML 2020 (arXiv 2006.16218).

    python examples/hyperparameter_selection.py --steps 40 --out weights.png
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

FEATURES, INFORMATIVE = 60, 6
TRAINING, HELD_OUT, FRESH = 120, 300, 20_000
GRID = np.geomspace(1e-3, 10.0, 41)


class Examples(NamedTuple):
    """Features (n, FEATURES) and labels ±1 (n,)."""

    features: Array
    labels: Array


class Data(NamedTuple):
    """What the follower trains on, what the leader looks at, and what nobody sees."""

    training: Examples
    held_out: Examples
    fresh: Examples


@dataclass(frozen=True)
class Score:
    """Of a model: loss on the held-out examples, loss and accuracy on the fresh ones."""

    held_out_loss: float
    fresh_loss: float
    fresh_accuracy: float


@dataclass(frozen=True)
class Outcome:
    """What a method reached, and its cost.

    The errors are ‖estimate − ∇φ‖/‖∇φ‖ at the first and the last x, where ∇φ is small; sweeps of Φ, backward
    ones included, and products with ∂Φ/∂w are counted together.
    """

    score: Score
    log_weights: np.ndarray
    first_error: float
    last_error: float
    sweeps: int
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """The single weight of the grid that is best on the held-out examples, and each method begun from it.

    `pooled` is a rival with more to train on and an oracle: training and held-out examples together, and of
    the grid the single weight that is best on the fresh ones.
    """

    single_weight: float
    single: Score
    pooled: Score
    methods: dict[str, Outcome]


def main(seed: int = 0, steps: int = 40, out: Path | None = None) -> Comparison:
    """Choose sixty regularisation weights by hyper-gradients; compare with the best single weight.

    Args:
        seed: of the data.
        steps: of each method, from the best single weight.
        out: picture of the chosen weights, such as weights.png.
    """
    with jax.enable_x64(True):
        data = draw_data(seed)
        problem = selection_problem(data)
        grid = _scores_of_grid(problem, data)
        single_weight, single = min(grid.items(), key=lambda pair: pair[1].held_out_loss)
        everything = Examples(*(jnp.concatenate(pair) for pair in zip(*data[:2], strict=True)))
        together = data._replace(training=everything)
        pooled = _scores_of_grid(selection_problem(together), together)
        x0 = jnp.full(FEATURES, np.log(single_weight))
        methods = {name: _run(problem, data, m, x0, steps) for name, m in _methods().items()}
    best_pooled = min(pooled.values(), key=lambda score: score.fresh_loss)
    comparison = Comparison(single_weight, single, best_pooled, methods)
    _print(comparison)
    if out is not None:
        _draw(comparison, out)
    return comparison


def loss(w: Array, examples: Examples) -> Array:
    """Mean logistic loss."""
    return jnp.mean(jax.nn.softplus(-examples.labels * (examples.features @ w)))


def training_loss(x: Array, w: Array, training: Examples) -> Array:
    """L(x, w)."""
    return loss(w, training) + jnp.sum(jnp.exp(x) * w**2) / 2


def selection_problem(data: Data) -> rs.FixedPointProblem:
    """The equations above as a bilevel problem."""
    curvature = jnp.linalg.norm(data.training.features, 2) ** 2 / (4 * len(data.training.labels))

    def fixed_point(x: Array, w: Array) -> Array:
        return w - jax.grad(training_loss, 1)(x, w, data.training) / (curvature + jnp.exp(x))

    def upper_loss(x: Array, w: Array) -> Array:
        del x
        return loss(w, data.held_out)

    return rs.FixedPointProblem(fixed_point, upper_loss, initial=jnp.zeros(FEATURES))


@jax.jit
def direct_gradient(x: Array, data: Data) -> Array:
    """∇φ = −(∂²L/∂w∂x)ᵀ (∂²L/∂w²)⁻¹ ∂f/∂w with w* by Newton's method and dense matrices: the reference."""
    slope, hessian = jax.grad(training_loss, 1), jax.hessian(training_loss, 1)

    def newton(_: int, w: Array) -> Array:
        return w - jnp.linalg.solve(hessian(x, w, data.training), slope(x, w, data.training))

    w = jax.lax.fori_loop(0, 20, newton, jnp.zeros(FEATURES))
    adjoint = jnp.linalg.solve(hessian(x, w, data.training), jax.grad(loss)(w, data.held_out))
    return -jax.jacobian(slope)(x, w, data.training).T @ adjoint


def draw_data(seed: int) -> Data:
    """The synthetic examples described above."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(FEATURES)
    truth[:INFORMATIVE] = rng.choice([-1.0, 1.0], INFORMATIVE) * rng.uniform(0.5, 1.5, INFORMATIVE)

    def draw(size: int) -> Examples:
        features = rng.normal(size=(size, FEATURES))
        positive = rng.uniform(size=size) < 1 / (1 + np.exp(-features @ truth))
        return Examples(jnp.asarray(features), jnp.asarray(np.where(positive, 1.0, -1.0)))

    return Data(draw(TRAINING), draw(HELD_OUT), draw(FRESH))


def _methods() -> dict[str, Method]:
    adam = optax.adam(1.0)
    neumann, conjugate = rs.Neumann(20), rs.ConjugateGradient(max_steps=20)
    return {
        "AID, Exact": rs.ImplicitGradient(0.1, optimiser=adam),
        "AID, Neumann(20)": rs.ImplicitGradient(0.1, optimiser=adam, adjoint=neumann, sweeps=20),
        "AID, ConjugateGradient(20)": rs.ImplicitGradient(0.1, optimiser=adam, adjoint=conjugate, sweeps=20),
        "ITD, 20 sweeps": rs.UnrolledGradient(0.1, optimiser=adam, sweeps=20),
        "ITD, 100 sweeps": rs.UnrolledGradient(0.1, optimiser=adam, sweeps=100),
    }


def _scores_of_grid(problem: rs.FixedPointProblem, data: Data) -> dict[float, Score]:
    return {float(weight): _score(problem, data, jnp.full(FEATURES, np.log(weight))) for weight in GRID}


def _score(problem: rs.FixedPointProblem, data: Data, x: Array) -> Score:
    """Of the fully trained model, whatever the method that chose x had at hand."""
    return Score(*(float(number) for number in _measured(problem, data, x)))


@eqx.filter_jit
def _measured(problem: rs.FixedPointProblem, data: Data, x: Array) -> tuple[Array, Array, Array]:
    w = problem.solve(x, problem.start(), 1e-10).y
    right = jnp.mean(data.fresh.labels * (data.fresh.features @ w) > 0)
    return loss(w, data.held_out), loss(w, data.fresh), right


def _run(problem: rs.FixedPointProblem, data: Data, method: Method, x0: Array, steps: int) -> Outcome:
    solution = rs.solve(problem, method, x0, steps)

    def error(x: Array, state=None) -> float:
        estimate = rs.solve(problem, method, x, 1, state=state).state.gradient
        truth = direct_gradient(x, data)
        return float(jnp.linalg.norm(estimate - truth) / jnp.linalg.norm(truth))

    stats = solution.stats
    return Outcome(
        score=_score(problem, data, solution.value),
        log_weights=np.asarray(solution.value),
        first_error=error(x0),
        last_error=error(solution.value, solution.state),
        sweeps=int(jnp.sum(stats.sweeps + stats.linear_iterations)),
        seconds=float(solution.seconds[-1]),
    )


def _print(comparison: Comparison) -> None:
    print(f"{'':28}{'held-out':>9}{'fresh':>8}{'fresh':>10}{'gradient error':>18}{'':>9}")
    print(f"{'':28}{'loss':>9}{'loss':>8}{'accuracy':>10}{'first':>9}{'last':>9}{'sweeps':>9}{'seconds':>9}")

    def row(name: str, score: Score, rest: str = "") -> None:
        losses = f"{score.held_out_loss:9.4f}{score.fresh_loss:8.4f}"
        print(f"{name:28}{losses}{score.fresh_accuracy:10.1%}{rest}")

    row(f"one weight, {comparison.single_weight:.3g}, by grid", comparison.single)
    row("one weight, pooled, oracle", comparison.pooled)
    for name, done in comparison.methods.items():
        errors = f"{done.first_error:9.0e}{done.last_error:9.0e}"
        row(name, done.score, f"{errors}{done.sweeps:9,}{done.seconds:9.2f}")
    weights = np.exp(comparison.methods["AID, Exact"].log_weights)
    kept, useless = np.median(weights[:INFORMATIVE]), np.median(weights[INFORMATIVE:])
    print(f"median weight: {kept:.3g} on the {INFORMATIVE} features that matter, {useless:.3g} on the others")


def _draw(comparison: Comparison, out: Path) -> None:
    weights = np.exp(comparison.methods["AID, Exact"].log_weights)
    colours = np.where(np.arange(FEATURES) < INFORMATIVE, "tab:orange", "tab:grey")
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(np.arange(FEATURES), weights, c=colours.tolist())
    axes.axhline(comparison.single_weight, color="tab:blue", linestyle="--", label="best single weight")
    axes.set(yscale="log", xlabel=f"feature; the first {INFORMATIVE} matter", ylabel="regularisation weight")
    axes.legend(loc="lower right")
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    tyro.cli(main)
