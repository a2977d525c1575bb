"""``python -m benchmarks.chance RUN``: a run's policy against uniformly random actions, from the same starts.

Both play sampled actions in the environment of evaluations; prints mean true returns with 95 % bootstrap
intervals, and of their difference, start by start. docs/atari.md has BeamRider's.
"""

import argparse
import contextlib
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.stats

from rewardsmith import keep_freed_memory
from rewardsmith.agents import CategoricalPolicy
from rewardsmith.runs.evaluate import evaluate
from rewardsmith.runs.loading import load_policy
from rewardsmith.runs.parts import make_env


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chance")
    parser.add_argument("run", type=Path)
    parser.add_argument("--episodes", type=int, default=50, help="of each seed, side by side")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12])
    options = parser.parse_args()
    keep_freed_memory()
    _, config, policy, step = load_policy(options.run)
    if not isinstance(policy, CategoricalPolicy):
        parser.error("chance is uniform over counted actions: give a run with discrete actions")
    played = {f"policy of step {step:,}": policy, "uniform actions": uniform(policy)}
    returns = {name: [] for name in played}
    for seed in options.seeds:
        for name, one in played.items():
            with contextlib.closing(make_env(config, options.episodes, judged=True)) as env:
                returns[name].append(evaluate(one, env, seed, sampled=True).returns)
            print(f"seed {seed}: {name} {returns[name][-1].mean():.1f}", flush=True)
    first, second = (np.concatenate(found) for found in returns.values())
    for name, values in (*zip(returns, (first, second), strict=True), ("difference", first - second)):
        print(f"{name}: {values.mean():.0f} ({spelt(values)}; {len(values)} episodes)")


def uniform(policy: CategoricalPolicy) -> CategoricalPolicy:
    """The same policy with its last layer 0: every action is as likely."""
    return eqx.tree_at(lambda p: (p.trunk.weights[-1], p.trunk.biases[-1]), policy, replace_fn=jnp.zeros_like)


def spelt(values: np.ndarray) -> str:
    found = scipy.stats.bootstrap((values,), np.mean, rng=np.random.default_rng(0)).confidence_interval
    return f"{found.low:.0f} to {found.high:.0f}"


if __name__ == "__main__":
    main()
