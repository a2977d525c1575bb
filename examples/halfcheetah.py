"""Teach HalfCheetah-v5 to run by comparisons alone: 700 answers to "which of these two clips is better?".

Idea. The simulator's own reward is known to a teacher only, who compares pairs of clips of 25 steps, 1¼ s. A
leader learns a reward network that explains the answers, a soft actor-critic follower learns to run by that
network, and new questions are asked about what it does by then. Beside it, with the same steps: a policy that
has learned nothing, and soft actor-critic on the simulator's own reward, the ceiling.

Equation. y says which clip is better, σ is the logistic function, and the clips are those of the follower:

    min over x   φ(x) = E_π*(x)[l],   l = −y log σ(D) − (1 − y) log σ(−D)
    D = Σ_h r_x(s_h¹,a_h¹) − Σ_h r_x(s_h²,a_h²)
    ∇φ = E[∇_x l] + (1/τ) E[ Σ_i Σ_h (l − b)(∇Q − ∇V)(s_hⁱ,a_hⁱ) ]

with the defaults of `rewardsmith train`: ∇Q − ∇V of one step, the second term no longer than the first.

Sources: the loss, Christiano et al., NeurIPS 2017 (arXiv 1706.03741); the hyper-gradient, SoBiRL, Yang, Gao
and Yuan, AISTATS 2025 (arXiv 2405.19697).

    python -m examples.halfcheetah --out halfcheetah.png
"""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import polars as pl
import tyro
from matplotlib.figure import Figure

from rewardsmith.agents import TanhGaussianPolicy
from rewardsmith.envs import make
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.evaluate import evaluate
from rewardsmith.runs.metrics import read_metrics
from rewardsmith.runs.train import train

METHODS = ("sobirl", "sac")
# To stand still earns 0.
RUNS_FROM = 200.0
# Larger steps than a long run's: 20,000 steps of the simulator are few.
SETTINGS = TrainConfig(
    env="HalfCheetah-v5",
    comparisons=700,
    hidden=(128, 128),
    learning_rate=1e-3,
    reward_learning_rate=1e-3,
    eval_episodes=10,
    snapshot_every=None,
)


@dataclass(frozen=True)
class Outcome:
    """Undiscounted true returns of HalfCheetah-v5.

    Attributes:
        untrained: (20,), episodes of a policy that has learned nothing.
        steps: (evaluations,), of the simulator.
        returns: by method, (seeds, evaluations), each the mean of 10 episodes of the policy's mode.
        accuracy: (seeds,), share of answers that the reward foresaw before it was trained on them, in the
            second half of the steps.
        claim: whether it holds.
    """

    untrained: np.ndarray
    steps: np.ndarray
    returns: dict[str, np.ndarray]
    accuracy: np.ndarray
    claim: bool


def main(
    seed: int = 0,
    steps: int = 20_000,
    out: Path | None = None,
    seeds: int = 1,
    runs: Path | None = None,
    settings: tyro.conf.Suppress[TrainConfig] = SETTINGS,
) -> Outcome:
    """Learn to run from 700 comparisons.

    Args:
        seed: the first of the seeds.
        steps: of the simulator for each policy.
        out: picture of the learning curves, such as halfcheetah.png.
        seeds: how many runs of each method.
        runs: folder to keep the runs in, for `rewardsmith report` and the like; none: they are not kept.
        settings: all others.
    """
    settings = replace(settings, steps=steps, eval_every=max(1, steps // 5))
    with tempfile.TemporaryDirectory() as temporary:
        folder = runs or Path(temporary)
        configs = [replace(settings, seed=seed + i) for i in range(seeds)]
        measured = {
            method: [_run(replace(config, method=method), folder) for config in configs] for method in METHODS
        }
    kept = {
        method: [frame.filter(pl.col("kind") == "eval") for frame in frames]
        for method, frames in measured.items()
    }
    returns = {
        method: np.stack([frame["true_return"].to_numpy() for frame in frames])
        for method, frames in kept.items()
    }
    accuracy = np.array([_accuracy(frame, steps) for frame in measured["sobirl"]])
    untrained = _untrained(seed)
    claim = bool(returns["sobirl"][:, -1].min() > max(RUNS_FROM, untrained.max()))
    outcome = Outcome(untrained, kept["sobirl"][0]["step"].to_numpy(), returns, accuracy, claim)
    _print(outcome)
    if out is not None:
        _draw(outcome, out)
    return outcome


def _run(config: TrainConfig, folder: Path) -> pl.DataFrame:
    comparisons = config.comparisons if config.method != "sac" else 0
    config = replace(config, comparisons=comparisons)
    return read_metrics(train(config, folder / f"{config.method}-{config.seed}").path)


def _accuracy(frame: pl.DataFrame, steps: int) -> float:
    late = frame.filter(pl.col("step") > steps / 2)["preference_accuracy"].drop_nulls()
    return float(late.to_numpy().mean()) if len(late) else float("nan")


def _untrained(seed: int) -> np.ndarray:
    env = make(SETTINGS.env, num_envs=20)
    key = jax.random.key(seed)
    policy = TanhGaussianPolicy(
        env.spec.observation_shape[0], env.spec.action_shape[0], SETTINGS.hidden, key=key
    )
    returns = evaluate(policy, env, seed=seed, sampled=True).returns
    env.close()
    return returns


def _print(outcome: Outcome) -> None:
    names = {"sobirl": f"SoBiRL, {SETTINGS.comparisons} comparisons", "sac": "SAC on the true reward"}
    low, high = outcome.untrained.min(), outcome.untrained.max()
    print(f"{'untrained':28} {outcome.untrained.mean():7.0f}   {low:.0f} … {high:.0f}, 20 episodes")
    for method, name in names.items():
        last = outcome.returns[method][:, -1]
        print(f"{name:28} {last.mean():7.0f}   each seed: {', '.join(f'{value:.0f}' for value in last)}")
    print(f"answers foreseen, second half: {', '.join(f'{share:.0%}' for share in outcome.accuracy)}")
    print(
        "claim: from comparisons alone the cheetah learned to run, with every seed: it earns more than "
        f"{RUNS_FROM:.0f}\n(an untrained one at best {high:.0f}, standing still 0): "
        + ("holds" if outcome.claim else "DOES NOT HOLD")
    )


def _draw(outcome: Outcome, out: Path) -> None:
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    names = {"sac": ("C3", "SAC on the true reward"), "sobirl": ("C0", "SoBiRL, from comparisons")}
    thousands = outcome.steps / 1000
    for method, (colour, name) in names.items():
        rows = outcome.returns[method]
        axes.plot(thousands, rows.T, color=colour, alpha=0.35, linewidth=1)
        axes.plot(thousands, rows.mean(0), color=colour, marker="o", markersize=4, label=f"{name}, mean")
    axes.axhspan(
        outcome.untrained.min(), outcome.untrained.max(), color="0.85", label="untrained, 20 episodes"
    )
    axes.set(xlabel="thousand steps", ylabel="true return", title="HalfCheetah-v5")
    axes.legend(fontsize=8, loc="upper left")
    figure.savefig(out, dpi=130)


if __name__ == "__main__":
    sys.exit(0 if tyro.cli(main).claim else 1)
