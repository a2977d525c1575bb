"""What is made of a run once its training is done: evaluation, film, curves, report."""

import contextlib
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._core import InputError
from .._core.serialise import load_tree, writing
from ..agents import TanhGaussianPolicy
from ..envs import film, make
from .config import TrainConfig
from .evaluate import evaluate
from .folder import RunFolder
from .plot import plot_runs
from .report import write_report

_FILM_SEED = 0
_FINAL_EPISODES = 20


class _PolicyOnly(eqx.Module):
    """As much of `SACState` as an evaluation reads from a checkpoint."""

    policy: TanhGaussianPolicy


def finish(folder: RunFolder) -> None:
    """Evaluate a finished run, film it, draw its curves, write its report, and print where they are.

    A film that cannot be drawn on this machine is a warning, not the end.
    """
    result = evaluate_run(folder.path, _FINAL_EPISODES, seed=0)
    try:
        film_run(folder.path, _FILM_SEED)
    except InputError as error:
        folder.warn(f"no film: {error}")
        print(f"warning: no film: {error}")
    plot_runs([folder.path], folder.curves_path)
    write_report(folder.path)
    print(
        f"true return {result['mean']:.1f} ± {result['std']:.1f} over {result['episodes']} episodes "
        f"after {result['step']:,} steps"
    )
    for path in (folder.film_path, folder.curves_path, folder.report_path):
        if path.exists():
            print(f"{path.stem:7} {path}")
    print(f"run     {folder.path}")


def evaluate_run(path: Path | str, episodes: int, seed: int) -> dict[str, Any]:
    """Evaluate the newest checkpoint under the true reward, and write the result to ``eval.json``.

    Raises:
        InputError: no run, no checkpoint, or fewer than one episode.
    """
    if episodes < 1:
        raise InputError(f"--episodes is {episodes}: give a whole number of at least 1")
    if seed < 0:
        raise InputError(f"--seed is {seed}: give 0 or a positive whole number")
    folder, config, policy, step = load_policy(path)
    with contextlib.closing(make(config.env, episodes, config.backend)) as env:  # pyright: ignore
        found = evaluate(policy, env, seed)
    result = {
        "step": step,
        "episodes": episodes,
        "seed": seed,
        "mean": float(found.returns.mean()),
        "std": float(found.returns.std()),
        "returns": found.returns.tolist(),
        "lengths": found.lengths.tolist(),
    }
    with writing(folder.eval_path) as temporary:
        temporary.write_text(json.dumps(result, indent=2))
    return result


def film_run(path: Path | str, seed: int) -> Path:
    """Film one episode of the newest checkpoint's policy; the path of the film."""
    folder, config, policy, _ = load_policy(path)
    with contextlib.closing(make(config.env, 1, config.backend)) as env:  # pyright: ignore
        spec = env.spec
    mode = eqx.filter_jit(policy.mode)

    def act(observation: np.ndarray) -> np.ndarray:
        return spec.from_unit(mode(jnp.asarray(observation, jnp.float32)))

    return film(config.env, act, folder.film_path, seed=seed)


def newest_checkpoint(folder: RunFolder) -> Path:
    """The newest good checkpoint of a run; those that were skipped are told.

    Raises:
        InputError: there is none.
    """
    checkpoint, skipped = folder.latest_valid_checkpoint()
    for line in skipped:
        print(line)
    if checkpoint is None:
        raise InputError(
            f"{folder.path} has no checkpoint yet: go on with rewardsmith train --resume {folder.path}"
        )
    return checkpoint


def load_policy(path: Path | str) -> tuple[RunFolder, TrainConfig, TanhGaussianPolicy, int]:
    """The policy of a run's newest good checkpoint, with the run's folder and settings and its step."""
    folder = RunFolder.open(path)
    config = TrainConfig.from_json(folder.config)
    checkpoint = newest_checkpoint(folder)
    with contextlib.closing(make(config.env, 1, config.backend)) as env:  # pyright: ignore
        sizes = env.spec.observation_shape[0], env.spec.action_shape[0]
    like = {
        "follower": _PolicyOnly(TanhGaussianPolicy(*sizes, config.hidden, key=jax.random.key(0))),
        "step": np.asarray(0),
    }
    part = load_tree(checkpoint, like, allow_extra=True)
    return folder, config, part["follower"].policy, int(part["step"])
